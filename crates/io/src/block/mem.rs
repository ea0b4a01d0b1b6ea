//! A device in memory that can lose power, answer late, and be as large as 16 TiB.

use super::{Allocation, Answer, Block, BlockExt, Completion, CompletionSink, Info, Op, Request};
use crate::fault::Crash;
use crate::image::Image;
use crate::{Error, Kind, Result};
use rekindle_core::volume::ByteRange;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// When answers come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// Everything is `Answer::Done`.
    Never,
    /// Everything is `Answer::Later`, soon, from another thread.
    Soon,
    /// Everything is `Answer::Later` and waits for `MemBlock::let_go`.
    Held,
}

/// One waiting request; a write owns a copy of its bytes.
struct Job {
    token: u64,
    offset: u64,
    what: What,
    sink: Arc<dyn CompletionSink>,
}

enum What {
    Read(usize),
    Write(Vec<u8>, bool),
    Zero { len: u64, keep: bool, fua: bool },
    Flush,
    Nothing,
}

struct State {
    image: Image,
    late: Late,
    queue: VecDeque<Job>,
    worker: bool,
    gone: bool,
    writes_dropped: u64,
    cold: Vec<ByteRange>,
    expects_cold: bool,
    from_medium: Vec<ByteRange>,
}

struct Shared {
    info: Info,
    state: Mutex<State>,
    work: Condvar,
}

/// The device. Size, blocks and abilities are chosen when made; contents start as zeros, nothing allocated.
pub struct MemBlock {
    shared: Arc<Shared>,
}

impl MemBlock {
    /// A writable device of `size` bytes with 512-byte blocks that can trim and zero fast.
    pub fn new(size: u64) -> Arc<Self> {
        let info = Info {
            size,
            logical_block: 512,
            physical_block: 4096,
            read_only: false,
            rotational: false,
            trim: true,
            fast_zero: true,
        };
        MemBlock::with_info(info)
    }
    /// A device with the abilities stated.
    pub fn with_info(info: Info) -> Arc<Self> {
        MemBlock::with_image(info, Image::default())
    }
    fn with_image(info: Info, image: Image) -> Arc<Self> {
        let state = State {
            image,
            late: Late::Never,
            queue: VecDeque::new(),
            worker: false,
            gone: false,
            writes_dropped: 0,
            cold: Vec::new(),
            expects_cold: false,
            from_medium: Vec::new(),
        };
        let shared = Shared { info, state: Mutex::new(state), work: Condvar::new() };
        Arc::new(MemBlock { shared: Arc::new(shared) })
    }
    /// What is found after the machine went down now; requests still waiting were never executed.
    pub fn crash(&self, crash: Crash) -> Arc<MemBlock> {
        MemBlock::with_image(self.shared.info, self.shared.lock().image.crash(crash, false))
    }
    /// The same bytes behind other abilities (e.g. read-only).
    pub fn reopened_as(&self, info: Info) -> Arc<MemBlock> {
        MemBlock::with_image(info, self.shared.lock().image.clone())
    }
    /// What was written cold so far, in order.
    pub fn written_cold(&self) -> Vec<ByteRange> {
        self.shared.lock().cold.clone()
    }
    /// What it was told last.
    pub fn expects_cold(&self) -> bool {
        self.shared.lock().expects_cold
    }
    /// What was read from the medium so far, in order.
    pub fn read_from_medium(&self) -> Vec<ByteRange> {
        self.shared.lock().from_medium.clone()
    }
    /// From now on answers come like this.
    pub fn set_late(&self, late: Late) {
        let mut s = self.shared.lock();
        s.late = late;
        if late == Late::Soon && !s.worker {
            s.worker = true;
            let shared = self.shared.clone();
            std::thread::spawn(move || shared.work_off());
        }
        self.shared.work.notify_all();
    }
    /// Executes and completes the oldest `n` held requests; how many there were.
    pub fn let_go(&self, n: usize) -> usize {
        (0..n).take_while(|_| self.shared.one()).count()
    }
    /// Requests waiting.
    pub fn held(&self) -> usize {
        self.shared.lock().queue.len()
    }
    /// Bytes allocated.
    pub fn allocated_bytes(&self) -> u64 {
        self.shared.lock().image.allocated()
    }
    /// Waiting writes that were dropped because their connection was gone.
    pub fn writes_dropped(&self) -> u64 {
        self.shared.lock().writes_dropped
    }
    /// All bytes, for comparison in tests of small devices.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.shared.info.size as usize];
        self.shared.lock().image.read(0, &mut out);
        out
    }
}

impl Drop for MemBlock {
    fn drop(&mut self) {
        self.shared.lock().gone = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn work_off(&self) {
        loop {
            let mut s = self.lock();
            while s.late != Late::Soon || s.queue.is_empty() {
                if s.gone {
                    return;
                }
                s = self.work.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
            drop(s);
            self.one();
        }
    }
    /// Runs the oldest waiting request.
    fn one(&self) -> bool {
        let mut s = self.lock();
        let Some(job) = s.queue.pop_front() else { return false };
        let is_write = matches!(job.what, What::Write(..) | What::Zero { .. });
        let result = if is_write && job.sink.abandoned() {
            s.writes_dropped += 1;
            Err(Error::new(Kind::Cancelled, "the connection is gone"))
        } else {
            Ok(s.execute(job.offset, job.what))
        };
        // Under the lock: completions leave in the order of execution.
        job.sink.complete(Completion { token: job.token, result });
        true
    }
}

impl State {
    fn execute(&mut self, offset: u64, what: What) -> Vec<u8> {
        match what {
            What::Read(len) => {
                let mut out = vec![0; len];
                self.image.read(offset, &mut out);
                return out;
            }
            What::Write(data, fua) => {
                self.image.write(offset, &data);
                self.sync_if(fua);
            }
            What::Zero { len, keep, fua } => {
                self.image.zero(offset, len, keep);
                self.sync_if(fua);
            }
            What::Flush => self.image.sync(),
            What::Nothing => {}
        }
        Vec::new()
    }
    fn sync_if(&mut self, fua: bool) {
        if fua {
            self.image.sync();
        }
    }
    fn now(&mut self, offset: u64, op: &mut Op<'_>) {
        match op {
            Op::Read(buf) => self.image.read(offset, buf),
            Op::Write { data, fua } => {
                self.image.write(offset, data);
                self.sync_if(*fua);
            }
            other => drop(self.execute(offset, What::of(other))),
        }
    }
}

impl What {
    fn of(op: &Op<'_>) -> What {
        match op {
            Op::Read(buf) => What::Read(buf.len()),
            Op::Write { data, fua } => What::Write(data.to_vec(), *fua),
            Op::Zero { len, fua, no_hole, .. } => What::Zero { len: *len, keep: *no_hole, fua: *fua },
            Op::Trim { len, fua } => What::Zero { len: *len, keep: false, fua: *fua },
            Op::Flush => What::Flush,
            Op::Cache { .. } => What::Nothing,
        }
    }
}

/// What every device checks before it touches anything.
pub(crate) fn check(info: &Info, r: &Request<'_>) -> Result<()> {
    let (range, block) = (r.range(), u64::from(info.logical_block));
    let inside = range.start.checked_add(range.len).is_some_and(|end| end <= info.size);
    if !inside || !range.start.is_multiple_of(block) || !range.len.is_multiple_of(block) {
        let what = format!("{} bytes at {} of {}, in {block}-byte blocks", range.len, range.start, info.size);
        return Err(Error::new(Kind::Invalid, what));
    }
    match r.op {
        Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. } if info.read_only => {
            Err(Error::new(Kind::ReadOnly, "opened read-only"))
        }
        Op::Zero { fast: true, .. } if !info.fast_zero => {
            Err(Error::new(Kind::Unsupported, "zeroing would have to write"))
        }
        _ => Ok(()),
    }
}

impl Block for MemBlock {
    fn info(&self) -> Info {
        self.shared.info
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        let mut s = self.shared.lock();
        for r in batch {
            if let Err(e) = check(&self.shared.info, r) {
                answers.push(Answer::Done(Err(e)));
                continue;
            }
            // A write never overtakes a waiting one; a flush waits for nothing: it covers what was answered.
            let is_write = matches!(r.op, Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. });
            if s.late == Late::Never && (s.queue.is_empty() || !is_write) {
                s.now(r.offset, &mut r.op);
                answers.push(Answer::Done(Ok(())));
            } else {
                let job = Job { token: r.token, offset: r.offset, what: What::of(&r.op), sink: sink.clone() };
                s.queue.push_back(job);
                answers.push(Answer::Later);
                self.shared.work.notify_one();
            }
        }
        if s.late == Late::Never && !s.queue.is_empty() && s.worker {
            // Left over from `Soon`: the worker only runs in that mode, so finish here.
            drop(s);
            while self.shared.one() {}
        }
    }
    fn expect_cold(&self, expected: bool) {
        self.shared.lock().expects_cold = expected;
    }
    fn write_cold(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.shared.lock().cold.push(ByteRange::new(offset, data.len() as u64));
        self.write_at(offset, data)
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.shared.lock().from_medium.push(ByteRange::new(offset, buf.len() as u64));
        self.read_at(offset, buf)
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        let s = self.shared.lock();
        let mut at = range.start;
        while at < range.end() {
            let rest = ByteRange::new(at, range.end() - at);
            let data = s.image.next_data(rest).unwrap_or(ByteRange::new(range.end(), 0));
            if data.start > at {
                let hole = ByteRange::new(at, data.start - at);
                out.push(Allocation { range: hole, hole: true, zero: true });
            }
            if data.len > 0 {
                out.push(Allocation { range: data, hole: false, zero: false });
            }
            at = data.end();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::BlockExt;
    use super::*;

    #[test]
    fn conforms() {
        super::super::kit::check(|| MemBlock::new(super::super::kit::SIZE));
        super::super::kit::check(|| {
            let b = MemBlock::new(super::super::kit::SIZE);
            b.set_late(Late::Soon);
            b
        });
    }

    #[test]
    fn sixteen_tebibytes_cost_nothing() {
        let b = MemBlock::new(16 << 40);
        b.write_at((16 << 40) - 512, &[7; 512]).unwrap();
        b.zero_at(0, 16 << 40).unwrap();
        b.write_at(8 << 40, &[7; 4096]).unwrap();
        b.flush().unwrap();
        let mut out = Vec::new();
        b.allocation(ByteRange::new(0, 16 << 40), &mut out).unwrap();
        assert_eq!(out.iter().filter(|a| !a.hole).map(|a| a.range.len).sum::<u64>(), 4096);
        assert_eq!(out.iter().map(|a| a.range.len).sum::<u64>(), 16 << 40);
        assert_eq!(b.allocated_bytes(), 4096);
    }

    #[test]
    fn power_cut_loses_only_what_was_not_flushed() {
        let b = MemBlock::new(1 << 20);
        b.write_at(0, &[1; 4096]).unwrap();
        b.flush().unwrap();
        b.write_at(0, &[2; 4096]).unwrap();
        b.run(4096, Op::Write { data: &[3; 4096], fua: true }).unwrap();
        b.trim_at(0, 4096).unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..60 {
            let after = b.crash(Crash::Power { seed }).bytes();
            assert!(after[4096..8192].iter().all(|x| *x == 3), "FUA");
            seen.insert(after[0]);
        }
        // FUA synced the write before it as well; the trim may or may not have happened.
        assert_eq!(seen, [0, 2].into());
        assert_eq!(b.crash(Crash::Kill).bytes()[0], 0);
    }
}
