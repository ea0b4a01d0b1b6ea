//! Plain copies of a snapshot: to a file, a device, or a stream. The way out that needs no server; and what differs.
//!
//! - **Order**: in the holder's cheap order (pack by pack), many at a time, by a few threads that fetch, open
//!   (authenticate, decrypt, decompress) and write. Zeros are never fetched: holes in a fresh file, made zero elsewhere.
//! - **Half a copy is not a volume**: the first and last MiB are zeroed first, durably, and written last, the last one
//!   before the first, each after the rest is durable.
//! - **Resuming** needs no state: a destination that exists is compared by id with the snapshot, and what is equal
//!   stays. So an interrupted copy goes on where it was, and a copy over an old version of the volume moves the
//!   difference only.
//! - **Reading back** happens while the rest is copied, where the destination reads past the page cache; what is left is
//!   `verify`'s.
//! - **A store that is away** is waited for, up to the caller's patience.
//! - **Damage** costs what it hits: zeros are written there, the copy goes on, and its report names those bytes. The same
//!   copy again asks for them again; what the destination has right already needs no pack. In a file that still is called
//!   otherwise (`is_apart`) nothing is overwritten but by the moment's own bytes: a repository that went on losing
//!   objects takes nothing of what an earlier copy saved.
//! - Anything else ends the copy.

mod diff;
mod edges;
#[cfg(test)]
mod order_tests;
mod plan;
mod read_back;
mod stream;
#[cfg(test)]
mod tests;
mod verify;
mod worker;

pub use diff::{DiffSummary, diff_bytes, diff_snapshots};
pub use stream::copy_to_stream;
pub use verify::verify;

use crate::damage::{Damage, Damaged};
use crate::extents::Extents;
use crate::progress::{Done, Progress};
use crate::repository::{Id, SnapshotHolder};
use plan::{Batch, Planner};
use read_back::{READERS, ReadBack};
use rekindle_core::volume::{ExtentRange, Geometry};
use rekindle_io::destination::Destination;
use rekindle_io::holder::Holder;
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use worker::Worker;

/// Batches that wait for a worker.
const QUEUE: usize = 32;
/// Damaged ranges that a report names.
const RANGES_MAX: usize = 10_000;
/// Time between two words to the watcher.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// Knows extents by their ids, so that equal ones need not be fetched.
pub trait Compare: Sync {
    /// The ids of extents.
    fn ids(&self, extents: ExtentRange) -> Result<Vec<Id>>;
    /// The id that `bytes` would have as one extent; zeros have `Id::ZERO`.
    fn id_of(&self, bytes: &[u8]) -> Id;
}

impl Compare for SnapshotHolder {
    fn ids(&self, extents: ExtentRange) -> Result<Vec<Id>> {
        SnapshotHolder::ids(self, extents.start, extents.count())
    }
    fn id_of(&self, bytes: &[u8]) -> Id {
        if rekindle_core::bytes::is_zero(bytes) { Id::ZERO } else { SnapshotHolder::id_of(self, bytes) }
    }
}

/// How to copy.
#[derive(Clone, Copy, Debug)]
pub struct CopyOptions {
    /// Threads that fetch, open and write.
    pub threads: usize,
    /// How long a store may be away, without anything coming, before the copy is given up.
    pub patience: Duration,
    /// Bytes a second that may be fetched.
    pub limit: Option<u64>,
    /// What is durable is read back and compared while the rest is copied: `verify` then has less to do.
    pub read_back: bool,
}

impl Default for CopyOptions {
    fn default() -> Self {
        CopyOptions { threads: 2, patience: Duration::from_secs(60), limit: None, read_back: false }
    }
}

/// What a copy did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CopyReport {
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Bytes written to the destination.
    pub written_bytes: u64,
    /// Bytes that were there already.
    pub equal_bytes: u64,
    /// Bytes of zeros: holes, or made zero.
    pub zero_bytes: u64,
    /// Bytes that came from the repository.
    pub fetched_bytes: u64,
    /// What could not be had: it reads as zeros. A copy that has any is not the volume.
    pub damage: Damage,
    /// From beginning to durable.
    pub took: Duration,
    damaged: Damaged,
    /// Read back already, and how many of those are wrong.
    checked: Extents,
    wrong: u64,
}

/// Copies the volume that `holder` holds to `to`. With `compare`, what a destination that is not fresh has already is
/// left alone, and what is written can be read back meanwhile. Durable when it returns; whole if the report says so.
pub fn copy(
    holder: &Arc<dyn Holder>,
    compare: Option<&dyn Compare>,
    to: &dyn Destination,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport> {
    let geometry = holder.geometry();
    let read_back = compare.filter(|_| options.read_back && to.reads_medium());
    let compare = compare.filter(|_| !to.is_fresh());
    let shared = Shared::new(geometry, options, progress);
    let edges = edges::Edges::of(&geometry);
    // What is there already is looked at, unless its edges have to go first.
    let had = compare.filter(|_| to.is_apart());
    if !to.is_fresh() && !to.is_apart() {
        edges.ranges().try_for_each(|r| to.zero(r))?;
        to.flush()?;
    }
    run(holder, Planner::new(holder.as_ref(), compare, to, edges.middle()), to, &shared, read_back)?;
    to.flush()?;
    for extents in edges.extents() {
        run(holder, Planner::new(holder.as_ref(), had, to, extents), to, &shared, None)?;
        if !to.is_fresh() && !to.is_apart() {
            to.flush()?;
        }
    }
    to.flush()?;
    progress.update(shared.done());
    Ok(shared.report())
}

/// Plans on one thread, works on others, reads back on others if asked to; tells the watcher from this one.
fn run(
    holder: &Arc<dyn Holder>,
    planner: Planner<'_>,
    to: &dyn Destination,
    shared: &Shared<'_>,
    read_back: Option<&dyn Compare>,
) -> Result<()> {
    let (batches, waiting) = mpsc::sync_channel::<Batch>(QUEUE);
    let waiting = Mutex::new(waiting);
    let (ended, ends) = mpsc::channel();
    let (written, back) = read_back.map(|compare| ReadBack::new(compare, to, shared)).unzip();
    std::thread::scope(|s| {
        let plan_ended = ended.clone();
        s.spawn(move || {
            let planned = planner.run(shared, &batches);
            drop(batches);
            // The receiver waits until all have ended.
            let _ = plan_ended.send(planned);
        });
        for _ in 0..shared.options.threads.max(1) {
            let (ended, waiting, written) = (ended.clone(), &waiting, written.clone());
            s.spawn(move || {
                let worked = Worker::new(holder, to, shared, written).run(waiting);
                let failed = worked.is_err();
                // Told before the others stop, so that the cause is heard before its consequences.
                let _ = ended.send(worked);
                if failed {
                    shared.stop.store(true, Ordering::Relaxed);
                    // The planner may wait for room: give it some until it has seen the stop.
                    let rest = waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    while rest.recv().is_ok() {}
                }
            });
        }
        for back in back.iter().flat_map(|back| [back; READERS]) {
            let ended = ended.clone();
            s.spawn(move || drop(ended.send(back.run())));
        }
        // Readers end when the last worker did.
        drop((ended, written));
        watch(&ends, shared)
    })
}

/// Waits for all threads and gives the first failure; meanwhile tells the watcher, and stops when he wants it.
fn watch(ends: &mpsc::Receiver<Result<()>>, shared: &Shared<'_>) -> Result<()> {
    let mut result = Ok(());
    loop {
        match ends.recv_timeout(TELL_EVERY) {
            Ok(end) => {
                if end.is_err() && result.is_ok() {
                    shared.stop.store(true, Ordering::Relaxed);
                    result = end;
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return result,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        shared.progress.update(shared.done());
        if shared.progress.cancelled() {
            shared.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// What the threads of a copy share.
struct Shared<'a> {
    options: CopyOptions,
    progress: &'a dyn Progress,
    begin: Instant,
    geometry: Geometry,
    damaged: Mutex<Damaged>,
    /// Read back, and how many of those are wrong.
    checked: Mutex<(Extents, u64)>,
    lost: AtomicU64,
    stop: AtomicBool,
    written: AtomicU64,
    equal: AtomicU64,
    zero: AtomicU64,
    fetched: AtomicU64,
}

impl<'a> Shared<'a> {
    fn new(geometry: Geometry, options: &CopyOptions, progress: &'a dyn Progress) -> Self {
        let n = || AtomicU64::new(0);
        Shared {
            options: *options,
            progress,
            begin: Instant::now(),
            geometry,
            damaged: Mutex::default(),
            checked: Mutex::default(),
            lost: n(),
            stop: AtomicBool::new(false),
            written: n(),
            equal: n(),
            zero: n(),
            fetched: n(),
        }
    }
    fn done(&self) -> Done {
        let all = [&self.written, &self.equal, &self.zero, &self.lost];
        let moved_bytes = self.fetched.load(Ordering::Relaxed);
        let done_bytes = all.iter().map(|n| n.load(Ordering::Relaxed)).sum();
        Done { done_bytes, total_bytes: self.geometry.size, moved_bytes }
    }
    fn report(&self) -> CopyReport {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (checked, wrong) = self.checked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        CopyReport {
            size_bytes: self.geometry.size,
            written_bytes: self.written.load(Ordering::Relaxed),
            equal_bytes: self.equal.load(Ordering::Relaxed),
            zero_bytes: self.zero.load(Ordering::Relaxed),
            fetched_bytes: self.fetched.load(Ordering::Relaxed),
            damage: damaged.report(&self.geometry, RANGES_MAX, |_| true),
            took: self.begin.elapsed(),
            damaged,
            checked,
            wrong,
        }
    }
    /// `extents` were read back; so many of them are wrong.
    fn checked(&self, extents: &[u64], wrong: u64) {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        for extent in extents {
            checked.0.insert(*extent);
        }
        checked.1 += wrong;
    }
    /// `extent` cannot be had: zeros are its place in the copy, or what an earlier one left there. That may be right,
    /// though what would prove it is lost by now.
    fn lost(&self, extent: u64, e: &Error, to: &dyn Destination) -> Result<()> {
        let range = self.geometry.extent_bytes(extent);
        if !to.is_fresh() && !to.is_apart() {
            to.zero(range)?;
        }
        if self.damaged.lock().unwrap_or_else(PoisonError::into_inner).add(extent, e) {
            self.lost.fetch_add(range.len, Ordering::Relaxed);
        }
        Ok(())
    }
    /// Waits until what was fetched is within the limit.
    fn keep_pace(&self) -> Result<()> {
        let Some(limit) = self.options.limit else { return Ok(()) };
        let due = || {
            let moved = self.fetched.load(Ordering::Relaxed) as f64;
            Duration::from_secs_f64(moved / limit.max(1) as f64).saturating_sub(self.begin.elapsed())
        };
        while !due().is_zero() {
            self.check()?;
            std::thread::sleep(due().min(TELL_EVERY));
        }
        Ok(())
    }
    /// An error once the copy was stopped or another thread failed.
    fn check(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(
                Kind::Cancelled,
                "the copy was stopped; the destination is no volume yet, a copy begun again goes on from here",
            ));
        }
        Ok(())
    }
}
