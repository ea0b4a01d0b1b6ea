//! How each request is carried out, and on which thread.

use super::allocation::AllocationCache;
use super::change::{Change, is_aligned};
use super::cold::Cold;
use super::flush::GroupFlush;
use super::queue::Queue;
use super::{Medium, sys};
use crate::block::mem::check;
use crate::block::order::{Ticket, WriteOrder};
use crate::block::{Allocation, Answer, Completion, CompletionSink, Info, Op, Request};
use crate::destination::Aligned;
use crate::latch::Latch;
use crate::{Error, Kind, Result};
use rekindle_core::volume::ByteRange;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A write that took longer is the disk throttling: the kernel makes writers sleep 10 ms and more. At 2 ms it was as
/// often the scheduler of a busy machine, and the writer thread then cost a fifth of all random writes.
const SLOW: Duration = Duration::from_millis(10);
/// How long the writer thread stays in charge after a slow write.
const SLOW_FOR: Duration = Duration::from_millis(500);
/// Zeroing and trimming more than this at once goes to the writer thread.
const RANGE_INLINE_MAX: u64 = 16 << 20;
const READERS: usize = 4;

/// A queued change.
struct Late {
    token: u64,
    offset: u64,
    change: Change<Vec<u8>>,
    fua: bool,
    sink: Arc<dyn CompletionSink>,
}

enum ReadJob {
    Read { token: u64, range: ByteRange, sink: Arc<dyn CompletionSink> },
    Near(ByteRange),
}

/// Called with the offset of each change, to stall or slow the medium.
#[cfg(test)]
pub(super) type Hook = Box<dyn Fn(u64) + Send>;

pub(super) struct Core {
    pub(super) file: File,
    pub(super) place: String,
    pub(super) info: Info,
    pub(super) cold: Cold,
    pub(super) medium: Medium,
    pub(super) latch: Arc<Latch>,
    /// RWF_NOWAIT reads work here.
    nowait: AtomicBool,
    /// Answers owed through sinks.
    late: AtomicU64,
    /// Writer-thread mode until this many nanoseconds after `start`.
    slow_until_ns: AtomicU64,
    /// Writes are watched until then.
    watched_until_ns: AtomicU64,
    start: Instant,
    order: WriteOrder<Late>,
    flush: GroupFlush,
    holes: AllocationCache,
    readers: Queue<ReadJob>,
    writers: Queue<(Ticket, Late)>,
    flushers: Queue<()>,
    #[cfg(test)]
    pub(super) before_write: std::sync::Mutex<Option<Hook>>,
}

impl Core {
    pub(super) fn new(file: File, place: String, info: Info, medium: Medium, latch: Arc<Latch>) -> Self {
        Core {
            cold: Cold::default(),
            file,
            place,
            info,
            medium,
            latch,
            nowait: AtomicBool::new(!medium.direct),
            late: AtomicU64::new(0),
            slow_until_ns: AtomicU64::new(0),
            watched_until_ns: AtomicU64::new(0),
            start: Instant::now(),
            order: WriteOrder::default(),
            flush: GroupFlush::default(),
            holes: AllocationCache::default(),
            readers: Queue::new("rekindle-read", READERS),
            // A buffered file serialises its writers anyway.
            writers: Queue::new("rekindle-write", if medium.direct { 4 } else { 1 }),
            flushers: Queue::new("rekindle-flush", 1),
            #[cfg(test)]
            before_write: std::sync::Mutex::default(),
        }
    }
    pub(super) fn close(&self) {
        // Writers may still ask for a flush, so the flusher ends last.
        self.writers.close();
        self.readers.close();
        self.flushers.close();
    }
    pub(super) fn os(&self, e: &std::io::Error) -> Error {
        Error::os(self.place.as_str(), e)
    }

    pub(super) fn submit(
        self: &Arc<Self>,
        batch: &mut [Request<'_>],
        answers: &mut Vec<Answer>,
        sink: &Arc<dyn CompletionSink>,
    ) {
        // Alone: this connection has nothing else to do meanwhile, so the thread may as well wait here.
        let alone = batch.len() == 1 && self.late.load(Relaxed) == 0;
        for r in batch {
            let done = match check(&self.info, r) {
                Err(e) => Some(Err(e)),
                Ok(()) => self.start(r, alone, sink),
            };
            answers.push(done.map_or(Answer::Later, Answer::Done));
        }
    }
    /// `None`: the sink will hear.
    fn start(
        self: &Arc<Self>,
        r: &mut Request<'_>,
        alone: bool,
        sink: &Arc<dyn CompletionSink>,
    ) -> Option<Result<()>> {
        let (token, offset, range) = (r.token, r.offset, r.range());
        match &mut r.op {
            Op::Read(buf) => self.read(token, offset, buf, alone, sink),
            Op::Write { data, fua } => self.change(token, offset, Change::Write(*data), *fua, alone, sink),
            Op::Zero { len, fua, no_hole, fast } => {
                let change = Change::Zero { len: *len, no_hole: *no_hole, fast: *fast };
                self.change(token, offset, change, *fua, alone, sink)
            }
            Op::Trim { len, fua } => {
                self.change(token, offset, Change::Trim { len: *len }, *fua, alone, sink)
            }
            Op::Flush if alone => Some(self.flush_now()),
            Op::Flush => {
                self.flush_later(token, sink.clone());
                None
            }
            Op::Cache { .. } => {
                self.push_read(ReadJob::Near(range));
                Some(Ok(()))
            }
        }
    }

    fn read(
        self: &Arc<Self>,
        token: u64,
        offset: u64,
        buf: &mut [u8],
        alone: bool,
        sink: &Arc<dyn CompletionSink>,
    ) -> Option<Result<()>> {
        if self.nowait.load(Relaxed) {
            let slice = &mut [IoSliceMut::new(buf)];
            match rustix::io::preadv2(&self.file, slice, offset, ReadWriteFlags::NOWAIT) {
                Ok(n) if n == buf.len() => return Some(Ok(())),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => self.nowait.store(false, Relaxed),
                Err(e) => return Some(Err(self.os(&e.into()))),
            }
        }
        // Where NOWAIT is refused nothing tells a miss from a hit; such files (tmpfs) have no misses.
        if alone || (!self.medium.direct && !self.nowait.load(Relaxed)) {
            return Some(self.read_now(offset, buf));
        }
        self.late.fetch_add(1, Relaxed);
        self.push_read(ReadJob::Read {
            token,
            range: ByteRange::new(offset, buf.len() as u64),
            sink: sink.clone(),
        });
        None
    }
    fn read_now(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if self.medium.direct && !is_aligned(buf, self.info.logical_block) {
            let mut bounce = Aligned::new(buf.len());
            self.read_exact(offset, &mut bounce)?;
            buf.copy_from_slice(&bounce);
            return Ok(());
        }
        self.read_exact(offset, buf)
    }
    fn read_exact(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|e| self.unread(&e))
    }
    fn unread(&self, e: &std::io::Error) -> Error {
        match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                Error::new(Kind::Failed, format!("{}: became shorter while it was served", self.place))
            }
            _ => self.os(e),
        }
    }
    /// Reads from the medium, on this thread, now.
    pub(super) fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check(&self.info, &Request { token: 0, offset, op: Op::Read(&mut *buf) })?;
        if self.medium.direct {
            return self.read_now(offset, buf);
        }
        let read = self.cold.past_cache(&self.file).read_medium(&self.file, offset, buf);
        read.map_err(|e| self.unread(&e))
    }
    fn push_read(self: &Arc<Self>, job: ReadJob) {
        let core = self.clone();
        let back = self.readers.push(job, move |b| {
            let core = core.clone();
            b.spawn(move || core.readers.work(|job| core.run_read(job)))
        });
        if let Some(job) = back {
            self.run_read(job);
        }
    }
    fn run_read(self: &Arc<Self>, job: ReadJob) {
        match job {
            ReadJob::Read { token, sink, .. } if sink.abandoned() => {
                let gone = Error::new(Kind::Cancelled, "the connection is gone");
                self.complete(&sink, token, Err(gone));
            }
            ReadJob::Read { token, range, sink } => {
                let mut out = vec![0; range.len as usize];
                let result = self.read_now(range.start, &mut out).map(|()| out);
                self.complete(&sink, token, result);
            }
            ReadJob::Near(r) if !self.medium.direct => {
                let len = std::num::NonZeroU64::new(r.len);
                // A hint: whether it helped or not is nobody's concern.
                rustix::fs::fadvise(&self.file, r.start, len, rustix::fs::Advice::WillNeed).ok();
            }
            ReadJob::Near(_) => {}
        }
    }
    fn complete(&self, sink: &Arc<dyn CompletionSink>, token: u64, result: Result<Vec<u8>>) {
        self.late.fetch_sub(1, Relaxed);
        sink.complete(Completion { token, result });
    }

    fn change(
        self: &Arc<Self>,
        token: u64,
        offset: u64,
        change: Change<&[u8]>,
        fua: bool,
        alone: bool,
        sink: &Arc<dyn CompletionSink>,
    ) -> Option<Result<()>> {
        if let Err(e) = self.latch.check(&self.place) {
            return Some(Err(e));
        }
        let len = change.len();
        let park = || self.park(token, offset, &change, fua, sink);
        let ticket = self.order.enter(ByteRange::new(offset, len), park)?;
        let large = len > RANGE_INLINE_MAX && !matches!(change, Change::Write(_));
        if (self.medium.direct && !alone) || large || self.is_slow() {
            self.push_write(ticket, park());
            return None;
        }
        let result = self.perform(offset, &change);
        self.leave(ticket);
        match result {
            Ok(()) if fua && alone => Some(self.flush_now()),
            Ok(()) if fua => {
                self.flush_later(token, sink.clone());
                None
            }
            r => Some(r),
        }
    }
    /// A change that waits: its answer is owed through `sink`.
    fn park(
        &self,
        token: u64,
        offset: u64,
        change: &Change<&[u8]>,
        fua: bool,
        sink: &Arc<dyn CompletionSink>,
    ) -> Late {
        self.late.fetch_add(1, Relaxed);
        Late { token, offset, change: change.to_owned(), fua, sink: sink.clone() }
    }
    /// Writes `data` past the cache, on this thread, now. What overlaps it goes first: then it waits its turn, and goes
    /// through the cache.
    pub(super) fn write_cold(
        self: &Arc<Self>,
        offset: u64,
        data: &[u8],
        sink: &Arc<dyn CompletionSink>,
    ) -> Option<Result<()>> {
        let request = Request { token: 0, offset, op: Op::Write { data, fua: false } };
        if let Err(e) = check(&self.info, &request).and_then(|()| self.latch.check(&self.place)) {
            return Some(Err(e));
        }
        let park = || self.park(0, offset, &Change::Write(data), false, sink);
        let ticket = self.order.enter(request.range(), park)?;
        let done = self.write_past_cache(offset, data);
        self.holes.changed();
        self.leave(ticket);
        Some(done)
    }
    /// The writer thread is in charge: a write was slow lately, or writes still wait there.
    fn is_slow(&self) -> bool {
        let until = self.slow_until_ns.load(Relaxed);
        if until == 0 {
            return false;
        }
        if (self.start.elapsed().as_nanos() as u64) < until || !self.writers.is_empty() {
            return true;
        }
        self.slow_until_ns.store(0, Relaxed);
        false
    }
    fn leave(self: &Arc<Self>, ticket: Ticket) {
        for (ticket, late) in self.order.leave(ticket) {
            self.push_write(ticket, late);
        }
    }
    fn push_write(self: &Arc<Self>, ticket: Ticket, late: Late) {
        let core = self.clone();
        let back = self.writers.push((ticket, late), move |b| {
            let core = core.clone();
            b.spawn(move || core.writers.work(|(ticket, late)| core.run_write(ticket, late)))
        });
        if let Some((ticket, late)) = back {
            self.run_write(ticket, late);
        }
    }
    fn run_write(self: &Arc<Self>, ticket: Ticket, late: Late) {
        let result = if late.sink.abandoned() {
            Err(Error::new(Kind::Cancelled, "the connection is gone"))
        } else {
            self.latch.check(&self.place).and_then(|()| match &late.change {
                Change::Write(data) => self.perform(late.offset, &Change::Write(data.as_slice())),
                Change::Zero { len, no_hole, fast } => {
                    self.perform(late.offset, &Change::Zero { len: *len, no_hole: *no_hole, fast: *fast })
                }
                Change::Trim { len } => self.perform(late.offset, &Change::Trim { len: *len }),
            })
        };
        self.leave(ticket);
        if late.fua && result.is_ok() {
            self.late.fetch_sub(1, Relaxed);
            self.flush_later(late.token, late.sink);
        } else {
            self.complete(&late.sink, late.token, result.map(|()| Vec::new()));
        }
    }

    /// Changes the bytes, on this thread, now.
    fn perform(&self, offset: u64, change: &Change<&[u8]>) -> Result<()> {
        let begun = Instant::now();
        let watched = (begun - self.start).as_nanos() as u64 <= self.watched_until_ns.load(Relaxed);
        let waits = watched.then(sys::waits_of_this_thread);
        #[cfg(test)]
        if let Some(f) = &*self.before_write.lock().unwrap() {
            f(offset);
        }
        let result = match change {
            Change::Write(data) => self.write(offset, data),
            Change::Zero { len, no_hole, fast } => self.zero(offset, *len, *no_hole, *fast),
            Change::Trim { len } => self.trim(offset, *len),
        };
        // After the change and before its answer, see `allocation`.
        self.holes.changed();
        if begun.elapsed() > SLOW {
            let until = (self.start.elapsed() + SLOW_FOR).as_nanos() as u64;
            self.watched_until_ns.store(until, Relaxed);
            if waits.is_some_and(|before| sys::waits_of_this_thread() > before) {
                self.slow_until_ns.store(until, Relaxed);
            }
        }
        result
    }
    fn sync(&self) -> Result<()> {
        self.latch.check(&self.place)?;
        if self.info.read_only {
            return Ok(());
        }
        rustix::fs::fdatasync(&self.file).map_err(|e| self.os(&e.into()))
    }
    fn flush_now(self: &Arc<Self>) -> Result<()> {
        let (result, more) = self.flush.wait(&self.latch, || self.sync());
        if more {
            self.lead_flush();
        }
        result
    }
    /// Has a thread of its own: a flush waits neither for misses nor for writes.
    fn lead_flush(self: &Arc<Self>) {
        let core = self.clone();
        let back = self.flushers.push((), move |b| {
            let core = core.clone();
            b.spawn(move || core.flushers.work(|()| core.flush.lead(&core.latch, || core.sync())))
        });
        if back.is_some() {
            self.flush.lead(&self.latch, || self.sync());
        }
    }
    fn flush_later(self: &Arc<Self>, token: u64, sink: Arc<dyn CompletionSink>) {
        self.late.fetch_add(1, Relaxed);
        let core = self.clone();
        let then = move |r: Result<()>| core.complete(&sink, token, r.map(|()| Vec::new()));
        if self.flush.add(Box::new(then)) {
            self.lead_flush();
        }
    }
    pub(super) fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        if self.medium.is_device {
            out.push(Allocation { range, hole: false, zero: false });
            return Ok(());
        }
        self.holes.look(&self.file, self.info.size, range, out).map_err(|e| e.at(&self.place))
    }
    #[cfg(test)]
    pub(super) fn writer_mode(&self) -> bool {
        self.is_slow()
    }
}
