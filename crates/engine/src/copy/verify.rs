//! A copy read back from the medium and compared with the snapshot, by ids: nothing is fetched for it.

use super::{Compare, CopyOptions, CopyReport, Shared, plan, watch, worker};
use crate::progress::Progress;
use crate::repository::Id;
use rekindle_core::volume::{ExtentRange, Geometry};
use rekindle_io::Result;
use rekindle_io::destination::{Aligned, Destination};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;

/// Bytes read at once.
const READ_BYTES: u64 = 1 << 20;

/// Reads back what `copy` wrote to `to`, past the page cache; how many extents are not what the snapshot holds. What the
/// copy could not have is left out, and what it has read back already is not read again.
pub fn verify(
    geometry: &Geometry,
    compare: &dyn Compare,
    to: &dyn Destination,
    copied: &CopyReport,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<u64> {
    to.uncache()?;
    let shared = Shared::new(*geometry, options, progress);
    let (next, wrong) = (AtomicU64::new(0), AtomicU64::new(copied.wrong));
    let work = || -> Result<()> {
        let mut checker = Checker::new(compare, to, &shared);
        loop {
            let start = next.fetch_add(plan::LEAF, Relaxed);
            if start >= geometry.extents() {
                return Ok(());
            }
            let leaf = ExtentRange { start, end: (start + plan::LEAF).min(geometry.extents()) };
            let open = |e: &u64| !copied.damaged.contains(*e) && !copied.checked.contains(*e);
            let extents: Vec<u64> = leaf.iter().filter(open).collect();
            // With nothing to compare its ids are not asked for: they may be lost too.
            if !extents.is_empty() {
                wrong.fetch_add(checker.check(&extents)?, Relaxed);
            }
            shared.equal.fetch_add(geometry.bytes_of(leaf).len, Relaxed);
        }
    };
    let (ended, ends) = mpsc::channel();
    std::thread::scope(|s| {
        for _ in 0..options.threads.max(1) {
            let ended = ended.clone();
            // The receiver waits until all have ended.
            s.spawn(move || drop(ended.send(work())));
        }
        drop(ended);
        watch(&ends, &shared)
    })?;
    progress.update(shared.done());
    Ok(wrong.into_inner())
}

/// Compares what the destination holds.
pub(super) struct Checker<'a> {
    compare: &'a dyn Compare,
    to: &'a dyn Destination,
    shared: &'a Shared<'a>,
    buf: Aligned,
}

impl<'a> Checker<'a> {
    pub fn new(compare: &'a dyn Compare, to: &'a dyn Destination, shared: &'a Shared<'a>) -> Self {
        let buf = Aligned::new(READ_BYTES.max(shared.geometry.extent.get()) as usize);
        Checker { compare, to, shared, buf }
    }

    /// Reads `extents`, which ascend and lie in one leaf; how many are wrong.
    pub fn check(&mut self, extents: &[u64]) -> Result<u64> {
        let (Some(first), Some(last)) = (extents.first(), extents.last()) else { return Ok(0) };
        let all = ExtentRange { start: *first, end: last + 1 };
        let ids = worker::patiently(self.shared, || self.compare.ids(all))?;
        let id = |extent: &u64| &ids[(extent - all.start) as usize];
        let mut wrong = 0;
        for run in extents.chunk_by(|a, b| a + 1 == *b && id(a).is_zero() == id(b).is_zero()) {
            let run = ExtentRange { start: run[0], end: run[run.len() - 1] + 1 };
            if id(&run.start).is_zero() && self.to.is_hole(self.shared.geometry.bytes_of(run)) {
                continue;
            }
            let ids = &ids[(run.start - all.start) as usize..][..run.count() as usize];
            wrong += self.read(run, ids)?;
        }
        Ok(wrong)
    }

    /// Neighbours; how many have not these ids.
    fn read(&mut self, run: ExtentRange, ids: &[Id]) -> Result<u64> {
        let extent_bytes = self.shared.geometry.extent.get() as usize;
        let at_once = self.buf.len() / extent_bytes;
        let mut wrong = 0;
        for (start, ids) in (run.start..).step_by(at_once).zip(ids.chunks(at_once)) {
            self.shared.check()?;
            let range = self.shared.geometry.bytes_of(ExtentRange { start, end: start + ids.len() as u64 });
            let bytes = &mut self.buf[..range.len as usize];
            self.to.read(range.start, bytes)?;
            for (extent, (id, bytes)) in (start..).zip(ids.iter().zip(bytes.chunks(extent_bytes))) {
                if self.compare.id_of(bytes) != *id {
                    tracing::error!("{}: extent {extent} is not what was written", self.to.place());
                    wrong += 1;
                }
            }
        }
        Ok(wrong)
    }
}
