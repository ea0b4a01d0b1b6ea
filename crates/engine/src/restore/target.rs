//! The target of a restoring volume: the destination, except for its first and last MiB.
//!
//! A half-restored destination must not be mistaken for a volume: partition table, superblock and the tail of a GPT are
//! hot, so they would be there first. Until the hand-over they live in the edges file beside the state, which is their
//! place for reads, fill and mover alike; the destination carries a label instead, flushed before the first byte of data
//! goes there. `write_back` puts them in place, last of all.
//!
//! Only fill and mover write here, each extent under its claim.

use rekindle_core::volume::ByteRange;
use rekindle_io::block::{Allocation, Block, BlockExt, Op};
use rekindle_io::logfile::LogFile;
use rekindle_io::{Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes at either end that stay in the edges file.
pub const EDGE: u64 = 1 << 20;

/// How the label begins.
pub const LABEL: &str = "rekindle: this is not a volume yet";

/// The destination with its edges apart.
pub struct Target {
    block: Arc<dyn Block>,
    edges: Arc<dyn LogFile>,
    size: u64,
    label: String,
    labelled: Mutex<bool>,
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
        label: String,
        pristine: bool,
    ) -> Self {
        Target {
            block,
            edges,
            size,
            label,
            labelled: Mutex::new(false),
            edges_dirty: AtomicBool::new(true),
            flushing: Mutex::new(()),
            pristine: AtomicBool::new(pristine),
        }
    }
    /// The destination itself.
    pub fn block(&self) -> &Arc<dyn Block> {
        &self.block
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
        let tail = self.size.saturating_sub(EDGE).max(EDGE);
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
        let mut rest = out;
        self.split(ByteRange::new(offset, rest.len() as u64), |at, len, edge| {
            let (part, tail) = std::mem::take(&mut rest).split_at_mut(len as usize);
            rest = tail;
            if edge { self.edges.read_at(at, part) } else { self.block.read_at(at, part) }
        })
    }
    /// Writes `data` at `offset`.
    pub fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut rest = data;
        let done = self.split(ByteRange::new(offset, data.len() as u64), |at, len, edge| {
            let (part, tail) = rest.split_at(len as usize);
            rest = tail;
            if edge {
                self.edges_dirty.store(true, Release);
                return self.edges.write_at(at, &[part]);
            }
            self.label()?;
            self.block.write_at(at, part)
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
            self.label()?;
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
    /// Whether this may be the destination that `restore` wrote to: the label of another restore says that it is not. No
    /// label proves nothing: it may be torn, or a hand-over had begun to put the volume's own first bytes there.
    pub fn is_ours(&self, restore: &str) -> Result<bool> {
        if self.size <= 2 * EDGE {
            return Ok(true);
        }
        let mut there = vec![0; 4096];
        self.block.read_at(0, &mut there)?;
        let text = String::from_utf8_lossy(&there);
        let mut names = text.lines().filter_map(|l| l.strip_prefix("restore "));
        // A label longer than a sector may be torn in the midst of that line: zeros follow then.
        let same = |r: &str| r.split('\0').next().is_some_and(|r| restore.starts_with(r));
        Ok(!text.starts_with(LABEL) || names.all(same))
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
    /// The label is in the destination and durable, before the first data; once in the life of this process.
    fn label(&self) -> Result<()> {
        let mut done = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if !*done {
            let block = u64::from(self.block.info().logical_block).max(4096);
            let head = EDGE.min(self.size);
            // What a used device had there must not look like a volume either.
            self.zero_block(0, head, true)?;
            if self.size > EDGE {
                let tail = self.size.saturating_sub(EDGE).max(EDGE);
                self.zero_block(tail, self.size - tail, true)?;
            }
            if head >= block {
                let mut text = vec![b'\n'; block as usize];
                let n = self.label.len().min(text.len() - 1);
                text[..n].copy_from_slice(&self.label.as_bytes()[..n]);
                self.block.write_at(0, &text)?;
            }
            self.block.flush()?;
            *done = true;
        }
        Ok(())
    }
    /// The edges go into the destination and become durable there: the last step before the hand-over.
    pub fn write_back(&self) -> Result<()> {
        const STEP: u64 = 64 << 10;
        let tail = self.size.saturating_sub(EDGE).max(EDGE);
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
    /// After a hand-over that was begun and given up: the label has to go back before more is written.
    pub fn not_written_back(&self) {
        *self.labelled.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

fn zero_file(file: &dyn LogFile, at: u64, len: u64) -> Result<()> {
    const STEP: u64 = 64 << 10;
    let zeros = vec![0; STEP.min(len) as usize];
    (0..len)
        .step_by(STEP as usize)
        .try_for_each(|o| file.write_at(at + o, &[&zeros[..STEP.min(len - o) as usize]]))
}
