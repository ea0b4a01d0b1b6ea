//! A copy read back from the medium and compared with the snapshot, by ids: nothing is fetched for it.

use super::{Compare, CopyOptions, CopyReport, Shared, plan, watch, worker};
use crate::progress::Progress;
use crate::repository::Id;
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::Result;
use rekindle_io::destination::Destination;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;

/// Reads back what `copy` wrote to `to`, past the page cache; how many extents are not what the snapshot holds. What the
/// copy could not have is left out.
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
    let (next, wrong) = (AtomicU64::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        let mut buf = Vec::new();
        loop {
            let start = next.fetch_add(plan::LEAF, Relaxed);
            if start >= geometry.extents() {
                return Ok(());
            }
            let leaf = ExtentRange { start, end: (start + plan::LEAF).min(geometry.extents()) };
            wrong.fetch_add(verify_leaf(leaf, compare, to, copied, &shared, &mut buf)?, Relaxed);
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

/// The extents of one leaf; how many are wrong.
fn verify_leaf(
    leaf: ExtentRange,
    compare: &dyn Compare,
    to: &dyn Destination,
    copied: &CopyReport,
    shared: &Shared<'_>,
    buf: &mut Vec<u8>,
) -> Result<u64> {
    let mut wrong = 0;
    if leaf.iter().all(|e| copied.damaged.contains(e)) {
        // Its ids may be lost too.
        return Ok(0);
    }
    let ids = worker::patiently(shared, || compare.ids(leaf))?;
    let start = shared.geometry.extent_bytes(leaf.start).start;
    let whole = ByteRange::new(start, shared.geometry.extent_bytes(leaf.end - 1).end() - start);
    if ids.iter().all(|id| *id == Id::ZERO) && to.is_hole(whole) {
        shared.equal.fetch_add(whole.len, Relaxed);
        return Ok(0);
    }
    for (extent, id) in leaf.iter().zip(&ids).filter(|(e, _)| !copied.damaged.contains(*e)) {
        shared.check()?;
        let range = shared.geometry.extent_bytes(extent);
        buf.resize(range.len as usize, 0);
        to.read(range.start, buf)?;
        if compare.id_of(buf) != *id {
            tracing::error!("{}: extent {extent} is not what was written", to.place());
            wrong += 1;
        }
        shared.equal.fetch_add(range.len, Relaxed);
    }
    Ok(wrong)
}
