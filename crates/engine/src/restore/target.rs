//! The target of a restoring volume: the destination, except for its first and last MiB.
//!
//! A half-restored destination must not be mistaken for a volume: partition table, superblock and the tail of a GPT are
//! hot, so they would be there first. Until the hand-over they live in the edges file beside the state, which is their
//! place for reads, fill and mover alike; the destination carries a label instead, for people, and its stamps (`stamp`),
//! durable before the restore exists. `write_back` puts the edges in place, last of all.
//!
//! Only fill and mover write data here, each extent under its claim.

use super::stamp::{Owner, SECTOR, Stamp};
use rekindle_core::volume::ByteRange;
use rekindle_io::block::{Allocation, Block, BlockExt, Op};
use rekindle_io::logfile::LogFile;
use rekindle_io::{Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

/// Whether bytes are expected to be read soon after they were written: then they belong in the page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heat {
    /// The guest uses them, or was seen to.
    Hot,
    /// Nothing is known of anybody who would.
    Cold,
}

/// Bytes at either end that stay in the edges file.
pub const EDGE: u64 = 1 << 20;

/// How the label begins.
pub const LABEL: &str = "rekindle: this is not a volume yet";

/// What a destination says of itself until the hand-over.
pub struct Label {
    /// Whose stamps it carries.
    pub owner: Owner,
    /// For people.
    pub text: String,
}

/// The destination with its edges apart.
pub struct Target {
    block: Arc<dyn Block>,
    edges: Arc<dyn LogFile>,
    size: u64,
    label: Label,
    edges_dirty: AtomicBool,
    /// Mover and verification both flush: who finds the edges clean must not return while the other still syncs them.
    flushing: Mutex<()>,
    /// Since this process opened the destination nothing but zeros can lie where nothing was restored.
    pristine: AtomicBool,
}

impl Target {
    /// `size` is the volume's; the destination may be larger. `pristine`: it is known to read as zeros everywhere.
    pub fn new(
        block: Arc<dyn Block>,
        edges: Arc<dyn LogFile>,
        size: u64,
        label: Label,
        pristine: bool,
    ) -> Self {
        Target {
            block,
            edges,
            size,
            label,
            edges_dirty: AtomicBool::new(true),
            flushing: Mutex::new(()),
            pristine: AtomicBool::new(pristine),
        }
    }
    /// The destination itself.
    pub fn block(&self) -> &Arc<dyn Block> {
        &self.block
    }
    /// The fill begins.
    pub fn fills(&self) {
        self.block.expect_cold(true);
    }
    /// The fill is over for good: the destination is any disk from now on.
    pub fn filled(&self) {
        self.block.expect_cold(false);
    }
    /// Nothing but zeros lies where nothing was restored.
    pub fn is_pristine(&self) -> bool {
        self.pristine.load(Acquire)
    }
    /// The destination is asked for this range as it is, nothing of it lies in the edges file.
    pub fn is_plain(&self, range: ByteRange) -> bool {
        range.start >= EDGE && range.end() <= self.size.saturating_sub(EDGE)
    }
    /// The destination has nothing allocated there: it reads as zeros without being read.
    pub fn is_hole(&self, range: ByteRange) -> bool {
        let mut out = Vec::new();
        self.is_plain(range)
            && self.block.allocation(range, &mut out).is_ok()
            && out.first().is_some_and(|a: &Allocation| a.zero && a.hole && a.range.covers(&range))
    }
    /// Splits a range: (offset in the edges file or in the destination, length, whether in the edges file).
    fn split(&self, range: ByteRange, mut each: impl FnMut(u64, u64, bool) -> Result<()>) -> Result<()> {
        let tail = self.tail();
        let mut at = range.start;
        while at < range.end() {
            let (end, place, edge) = match at {
                a if a < EDGE => (EDGE, a, true),
                a if a < tail => (tail, a, false),
                a => (self.size, a - tail + EDGE, true),
            };
            let len = end.min(range.end()) - at;
            each(place, len, edge)?;
            at += len;
        }
        Ok(())
    }
    /// Fills `out` with what lies at `offset`.
    pub fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_by(offset, out, |at, part, edge| {
            if edge { self.edges.read_at(at, part) } else { self.block.read_at(at, part) }
        })
    }
    /// As `read`, from the medium, whatever is cached of it.
    pub fn read_medium(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.read_by(offset, out, |at, part, edge| {
            if edge { self.edges.read_medium(at, part) } else { self.block.read_medium(at, part) }
        })
    }
    /// `read` is told whether the place is one in the edges file.
    fn read_by(
        &self,
        offset: u64,
        out: &mut [u8],
        read: impl Fn(u64, &mut [u8], bool) -> Result<()>,
    ) -> Result<()> {
        let mut rest = out;
        self.split(ByteRange::new(offset, rest.len() as u64), |at, len, edge| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(len as usize);
            rest = tail;
            read(at, part, edge)
        })
    }
    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8], heat: Heat) -> Result<()> {
        let mut rest = data;
        let done = self.split(ByteRange::new(offset, data.len() as u64), |at, len, edge| {
            let (part, tail) = rest.split_at(len as usize);
            rest = tail;
            if edge {
                self.edges_dirty.store(true, Release);
                return self.edges.write_at(at, &[part]);
            }
            match heat {
                Heat::Hot => self.block.write_at(at, part),
                Heat::Cold => self.block.write_cold(at, part),
            }
        });
        self.tainted_by(done)
    }
    /// Makes `range` read as zeros; `keep` keeps its space allocated.
    pub fn zero(&self, range: ByteRange, keep: bool) -> Result<()> {
        let done = self.split(range, |at, len, edge| {
            if edge {
                self.edges_dirty.store(true, Release);
                return zero_file(&*self.edges, at, len);
            }
            self.zero_block(at, len, keep)
        });
        self.tainted_by(done)
    }
    fn zero_block(&self, at: u64, len: u64, keep: bool) -> Result<()> {
        match self.block.run(at, Op::Zero { len, fua: false, no_hole: keep, fast: false }) {
            Err(e) if e.kind == Kind::Unsupported => {
                const STEP: u64 = 1 << 20;
                let zeros = vec![0; STEP.min(len) as usize];
                let mut parts = (0..len).step_by(STEP as usize);
                parts.try_for_each(|o| self.block.write_at(at + o, &zeros[..STEP.min(len - o) as usize]))
            }
            done => done.map(drop),
        }
    }
    /// A write that failed may have left anything behind: what was never restored need not be zeros any more.
    fn tainted_by(&self, done: Result<()>) -> Result<()> {
        if done.is_err() {
            self.pristine.store(false, Release);
        }
        done
    }
    /// Makes everything written here durable.
    pub fn flush(&self) -> Result<()> {
        let _one = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        self.block.flush()?;
        if self.edges_dirty.swap(false, AcqRel) {
            self.edges.sync().inspect_err(|_| self.edges_dirty.store(true, Release))?;
        }
        Ok(())
    }
    /// Whose destination it is.
    pub fn owner(&self) -> Owner {
        self.label.owner
    }
    /// The unit stamps are written in: their place must be the same wherever the destination is moved to.
    fn label_block(&self) -> u64 {
        u64::from(self.block.info().logical_block).max(4096)
    }
    /// It is large enough for a label and two stamps.
    pub fn has_stamps(&self) -> bool {
        self.size >= 3 * self.label_block()
    }
    /// The stamps that lie there, of this restore and volume; and whose is there, if only others are.
    pub fn stamps(&self) -> Result<(Vec<Stamp>, Option<Owner>)> {
        let (mut ours, mut other, mut unread) = (Vec::new(), None, None);
        for copy in [1, 2].into_iter().filter(|_| self.has_stamps()) {
            let mut raw = vec![0; self.label_block() as usize];
            if let Err(e) = self.block.read_at(copy * self.label_block(), &mut raw) {
                unread = Some(e);
                continue;
            }
            match Stamp::decode(&raw) {
                Some((owner, stamp)) if owner == self.owner() => ours.push(stamp),
                Some((owner, _)) => other = Some(owner),
                None => {}
            }
        }
        // One copy that cannot be read is what there are two for.
        match unread {
            Some(e) if ours.is_empty() => Err(e),
            _ => Ok((ours, other)),
        }
    }
    /// Writes both stamps, at once; durable with the next flush.
    pub fn stamp(&self, stamp: Stamp) -> Result<()> {
        if !self.has_stamps() {
            return Ok(());
        }
        let block = self.label_block() as usize;
        let mut raw = vec![0; 2 * block];
        let sector = stamp.encode(self.owner());
        raw[..SECTOR].copy_from_slice(&sector);
        raw[block..block + SECTOR].copy_from_slice(&sector);
        self.block.write_at(block as u64, &raw)
    }
    /// Writes the whole label; `over` something else: zeros over both edges first, what a used device or a hand-over that
    /// was given up left there must not look like a volume. Durable with the next flush.
    pub fn write_label(&self, stamp: Stamp, over: bool) -> Result<()> {
        if over {
            self.zero_block(0, EDGE.min(self.size), true)?;
            if self.size > EDGE {
                let tail = self.tail();
                self.zero_block(tail, self.size - tail, true)?;
            }
        }
        if self.size >= self.label_block() {
            let mut raw = vec![b'\n'; self.label_block() as usize];
            let text = self.label.text.as_bytes();
            let n = text.len().min(raw.len() - 1);
            raw[..n].copy_from_slice(&text[..n]);
            self.block.write_at(0, &raw)?;
        }
        self.stamp(stamp)
    }
    fn tail(&self) -> u64 {
        self.size.saturating_sub(EDGE).max(EDGE)
    }
    /// What a crash in `write_back`, or in the labelling after it, can leave: each sector of both edges is as in the edges
    /// file, or zero. The blocks of label and stamps may be anything.
    pub fn is_half_written_back(&self) -> Result<bool> {
        const STEP: u64 = 64 << 10;
        let (mut there, mut ours) = (vec![0; STEP as usize], vec![0; STEP as usize]);
        let tail = self.tail();
        let head = ByteRange::new(3 * self.label_block(), EDGE.min(self.size) - 3 * self.label_block());
        for part in [head, ByteRange::new(tail, self.size.saturating_sub(tail))] {
            for o in (0..part.len).step_by(STEP as usize) {
                let n = STEP.min(part.len - o) as usize;
                let (there, ours) = (&mut there[..n], &mut ours[..n]);
                self.block.read_at(part.start + o, there)?;
                self.read(part.start + o, ours)?;
                let pairs = there.chunks(SECTOR).zip(ours.chunks(SECTOR));
                if pairs.into_iter().any(|(t, o)| t != o && t.iter().any(|b| *b != 0)) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }
    /// The edges go into the destination and become durable there: the last step before the hand-over.
    pub fn write_back(&self) -> Result<()> {
        const STEP: u64 = 64 << 10;
        let tail = self.tail();
        let mut buf = vec![0; STEP as usize];
        // The tail first: while the head still carries the label, nothing takes this for a volume.
        for part in
            [ByteRange::new(tail, self.size.saturating_sub(tail)), ByteRange::new(0, EDGE.min(self.size))]
        {
            for i in (0..part.len.div_ceil(STEP)).rev() {
                let o = i * STEP;
                let buf = &mut buf[..STEP.min(part.len - o) as usize];
                self.read(part.start + o, buf)?;
                self.block.write_at(part.start + o, buf)?;
            }
            self.block.flush()?;
        }
        Ok(())
    }
}

fn zero_file(file: &dyn LogFile, at: u64, len: u64) -> Result<()> {
    const STEP: u64 = 64 << 10;
    let zeros = vec![0; STEP.min(len) as usize];
    (0..len)
        .step_by(STEP as usize)
        .try_for_each(|o| file.write_at(at + o, &[&zeros[..STEP.min(len - o) as usize]]))
}
