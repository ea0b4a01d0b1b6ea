//! Fetching extents from the holder: one flight per extent however many wait, demand first, and what comes is filled in.
//!
//! A flight is a mark, not a claim: nobody waits for the holder because of it but those who read the extent. When the
//! bytes come they go to the waiting reads first, then, under the claim and after another look at the state, into the
//! target. Reads keep what they had resolved before they began to wait, so a write that came meanwhile is none of their
//! concern. The bytes are written as they came: what the guest wrote lies above them in the log, which is asked first.
//!
//! When the holder is away, flights that somebody waits for stay and are tried again; the others are forgotten and the
//! fill plans them anew. A wait ends at the stall limit with an error. What is damaged is an error at once (`damage`).

use super::landing::{Arrival, RUN_BYTES};
use super::lock;
use super::parts::{Parts, Volume};
use super::pending::Missing;
use super::target::Heat;
use super::work::Work;
use rekindle_io::holder::{FetchSink, Fetched, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

/// Bytes on their way with which a hint is declined: a guest may give as many as it likes.
const HINTED_MAX: u64 = 16 << 20;

/// Hears how fetches go: the fill steers by it.
pub trait FetchObserver: Send + Sync {
    /// The guest asked for an extent that was not here: its neighbours are likely to be next.
    fn missed(&self, volume: u16, extent: u64);
    /// A fetch ended: bytes moved, or why not. `at`: when the answer was there, which is before it was opened and written.
    /// `demand`: somebody waited for it.
    fn arrived(
        &self,
        volume: u16,
        extent: u64,
        at: Duration,
        demand: bool,
        outcome: std::result::Result<u32, Error>,
    );
}

/// An extent on its way.
pub(super) struct Flight {
    pub(super) waiting: Vec<(Duration, Missing)>,
    urgency: Urgency,
    pub(super) heat: Heat,
    /// Parked after a failure, until then.
    pub(super) retry_at: Option<Duration>,
    pub(super) failures: u32,
}

impl Flight {
    fn new(waiting: Vec<(Duration, Missing)>, urgency: Urgency, heat: Heat) -> Self {
        Flight { waiting, urgency, heat, retry_at: None, failures: 0 }
    }
    /// Somebody waits for it.
    pub(super) fn is_awaited(&self) -> bool {
        self.urgency == Urgency::Demand || !self.waiting.is_empty()
    }
}

/// A run is being written; it ends however that ends.
struct Landing<'a>(&'a Mutex<Work>);

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        lock(self.0).landing -= 1;
    }
}

/// Where the holder's answers come in.
struct Arrivals {
    parts: Weak<Parts>,
    volume: u16,
    /// The answers come on the asking thread and are worked off there.
    inline: bool,
    /// Answers that come while the asker still asks, to be worked off together.
    together: Mutex<Option<Vec<Arrival>>>,
}

impl FetchSink for Arrivals {
    fn fetched(&self, extent: u64, what: Result<Fetched>) {
        let Some(parts) = self.parts.upgrade() else { return };
        let arrival = Arrival { volume: self.volume, extent, at: parts.clock.now(), what };
        let awaited = parts.is_awaited(&arrival);
        // Who waits is not kept waiting for what else was asked for.
        if !awaited && let Some(together) = &mut *lock(&self.together) {
            together.push(arrival);
        } else if self.inline || !parts.threaded.load(Acquire) {
            parts.arrived(vec![arrival]);
        } else {
            // Opening and writing are for our threads, not for the holder's.
            let full = parts.full_run(self.volume);
            if lock(&parts.work).came(arrival, awaited, full) {
                parts.work_came.notify_one();
            }
        }
    }
}

impl Parts {
    /// A read needs `missing` of `extent`, which was absent when it looked. Returns true if a fetch has to be started.
    pub fn join(&self, volume: &Volume, extent: u64, missing: Missing) -> bool {
        let now = self.clock.now();
        let mut flights = lock(&volume.flights);
        if let Some(f) = flights.get_mut(&extent) {
            f.waiting.push((now, missing));
            return false;
        }
        if volume.claims.fetch(extent) {
            let waiting = vec![(now, missing)];
            flights.insert(extent, Flight::new(waiting, Urgency::Demand, Heat::Hot));
            return true;
        }
        drop(flights);
        // It came between the look and now.
        missing.take_here(volume, extent, volume.claims.state(extent).place());
        false
    }
    /// With nothing absent any more: what reads still wait for, because the holder is away, the guest has overwritten since.
    /// They take it from where it is; nobody asks the holder again, nor ends their wait.
    pub fn end_flights(&self) {
        for volume in &self.volumes {
            let flights = std::mem::take(&mut *lock(&volume.flights));
            for (extent, flight) in &flights {
                // What came last counts as here a moment before its claim ends.
                let place = volume.claims.claim(*extent).place();
                flight.waiting.iter().for_each(|(_, m)| m.take_here(volume, *extent, place));
            }
        }
    }
    /// Starts the fetches a read asked for.
    pub fn demand(self: &Arc<Self>, volume: &Volume, extents: Vec<u64>) {
        if let Some(o) = self.observer.get() {
            extents.iter().for_each(|e| o.missed(volume.at, *e));
        }
        self.ask_aside(volume, extents, Urgency::Demand);
    }
    /// Starts background fetches, damaged or not, of those of `extents` that are absent, not under way, and not covered whole by the log.
    /// Returns how many were started. Waits for a holder that answers inline.
    pub fn fetch_background(self: &Arc<Self>, volume: &Volume, extents: &[u64], heat: Heat) -> usize {
        let start = self.mark(volume, extents, Urgency::Background, heat);
        self.ask(volume, &start, Urgency::Background);
        start.len()
    }
    /// The same for whoever must not wait for the holder.
    pub fn fetch_aside(self: &Arc<Self>, volume: &Volume, extents: &[u64], urgency: Urgency) {
        let start = self.mark(volume, extents, urgency, Heat::Hot);
        self.ask_aside(volume, start, urgency);
    }
    /// Marks those of `extents` that are to be fetched.
    fn mark(&self, volume: &Volume, extents: &[u64], urgency: Urgency, heat: Heat) -> Vec<u64> {
        let mut start = Vec::with_capacity(extents.len());
        for &extent in extents {
            let range = volume.geometry.extent_bytes(extent);
            if !volume.claims.state(extent).needs_holder() || self.log.covers(volume.at, range, u64::MAX) {
                continue;
            }
            let mut flights = lock(&volume.flights);
            if !flights.contains_key(&extent) && volume.claims.fetch(extent) {
                flights.insert(extent, Flight::new(Vec::new(), urgency, heat));
                start.push(extent);
            }
        }
        start
    }
    /// Asks the holder. One that answers on the asking thread may be slow there, or hang: it is asked by the workers, and
    /// guest, mover and log go on.
    fn ask_aside(self: &Arc<Self>, volume: &Volume, extents: Vec<u64>, urgency: Urgency) {
        if !self.threaded.load(Acquire) || !volume.holder.answers_inline() {
            return self.ask(volume, &extents, urgency);
        }
        if extents.is_empty() {
            return;
        }
        let mut work = lock(&self.work);
        let queue = if urgency == Urgency::Demand { &mut work.demand } else { &mut work.background };
        queue.push_back((volume.at, extents));
        drop(work);
        self.work_came.notify_one();
    }
    fn ask(self: &Arc<Self>, volume: &Volume, extents: &[u64], urgency: Urgency) {
        if extents.is_empty() {
            return;
        }
        let inline = volume.holder.answers_inline();
        let together = urgency == Urgency::Background && (inline || !self.threaded.load(Acquire));
        let arrivals = Arc::new(Arrivals {
            parts: Arc::downgrade(self),
            volume: volume.at,
            inline,
            together: Mutex::new(together.then(Vec::new)),
        });
        let sink: Arc<dyn FetchSink> = arrivals.clone();
        volume.holder.clone().fetch(extents, urgency, &sink);
        let came = lock(&arrivals.together).take();
        self.arrived(came.unwrap_or_default());
    }
    /// One piece of work for a worker thread; false if there was none.
    pub fn work_step(self: &Arc<Self>) -> bool {
        let mut work = lock(&self.work);
        if let Some((volume, extents, urgency)) = work.asked() {
            drop(work);
            self.ask(&self.volumes[volume as usize], &extents, urgency);
            return true;
        }
        if let Some(one) = work.awaited() {
            drop(work);
            self.arrived(vec![one]);
            return true;
        }
        let Some(run) = work.run(|v| self.full_run(v)) else { return false };
        drop(work);
        let _landing = Landing(&self.work);
        self.arrived(run);
        true
    }
    /// Answers of a volume in a full run.
    fn full_run(&self, volume: u16) -> usize {
        ((RUN_BYTES >> self.volumes[volume as usize].geometry.extent.shift()) as usize).max(1)
    }
    /// Somebody waits for it.
    fn is_awaited(&self, a: &Arrival) -> bool {
        let flights = lock(&self.volumes[a.volume as usize].flights);
        flights.get(&a.extent).is_some_and(Flight::is_awaited)
    }

    /// Tries parked flights again and ends waits that have lasted too long; the timer calls it.
    pub fn retry_parked(self: &Arc<Self>) {
        let (now, limit) = (self.clock.now(), self.stall_limit());
        for volume in &self.volumes {
            let mut again = Vec::new();
            let mut ended = Vec::new();
            let mut flights = lock(&volume.flights);
            flights.retain(|extent, f| {
                let keep = |m: &(Duration, Missing)| now < m.0 + limit && !m.1.is_abandoned();
                let (stay, end) = std::mem::take(&mut f.waiting).into_iter().partition(keep);
                f.waiting = stay;
                let end: Vec<_> = end;
                ended.extend(end);
                if f.retry_at.is_some_and(|at| now >= at) {
                    if f.waiting.is_empty() {
                        volume.claims.fetched(*extent);
                        return false;
                    }
                    f.retry_at = None;
                    again.push(*extent);
                }
                true
            });
            drop(flights);
            let gone =
                Error::new(Kind::Unavailable, format!("{}: the backup did not answer in time", volume.name));
            ended.iter().for_each(|(_, m)| m.fail(&gone));
            self.ask_aside(volume, again, Urgency::Demand);
        }
    }
    /// So much is on its way that what nobody waits for can wait.
    pub fn is_busy(&self, volume: &Volume) -> bool {
        (lock(&volume.flights).len() as u64) << volume.geometry.extent.shift() >= HINTED_MAX
    }
    /// Reads waiting for the holder, all volumes.
    pub fn reads_waiting(&self) -> usize {
        self.volumes.iter().map(|v| lock(&v.flights).values().map(|f| f.waiting.len()).sum::<usize>()).sum()
    }
    /// Waits until there may be work for a worker.
    pub fn wait_for_work(&self, at_most: Duration) {
        let work = lock(&self.work);
        if work.is_empty(|v| self.full_run(v)) {
            let _ = self.work_came.wait_timeout(work, at_most);
        }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::super::{NewVolume, RestoreOptions, RestoreSet, VolumeParts};
    use super::*;
    use rekindle_core::volume::{ExtentBytes, ExtentRange, Geometry, Uuid};
    use rekindle_io::block::{Block, BlockExt, MemBlock};
    use rekindle_io::clock::ManualClock;
    use rekindle_io::holder::MemHolder;
    use rekindle_io::logfile::MemDir;

    const E: u64 = 16 << 10;

    /// The counters say that nothing is missing before the byte of the last extent says where that is.
    #[test]
    fn flights_end_with_what_is_here_when_the_claim_ends() {
        let g = Geometry::new(256 * E, ExtentBytes::new(E).unwrap(), 512, 4096).unwrap();
        let holder = MemHolder::from_pattern(g, &[ExtentRange { start: 0, end: 256 }], 1);
        holder.hold();
        let target: Arc<dyn Block> = MemBlock::new(g.size);
        let parts = VolumeParts { holder: holder.clone(), target, fresh: true, usage: None };
        let (name, destination) = ("data".into(), "disk".into());
        let volume = NewVolume { name, volume: Uuid([1; 16]), origin: None, destination, parts };
        let clock = Arc::new(ManualClock::default());
        let set =
            RestoreSet::create(MemDir::new(), "s", vec![volume], RestoreOptions::default(), clock).unwrap();
        let (tell, heard) = std::sync::mpsc::channel();
        let device = set.volumes()[0].clone();
        // Not waited for: it waits for ever if nobody answers.
        std::thread::spawn(move || {
            let mut out = [0; 512];
            let _ = tell.send(device.read_at(100 * E, &mut out).map(|()| out));
        });
        while holder.held() == 0 {
            std::thread::yield_now();
        }
        let v = &set.parts.volumes[0];
        let claim = v.claims.claim(100);
        v.target.write(100 * E, &[7; E as usize], Heat::Hot).unwrap();
        let parts = set.parts.clone();
        let ends = std::thread::spawn(move || parts.end_flights());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!ends.is_finished());
        claim.release(rekindle_core::hydrate::Place::Local);
        assert_eq!(heard.recv_timeout(Duration::from_secs(10)).unwrap().unwrap(), [7; 512]);
        holder.release(1);
        assert!(!set.is_absent(0, 100) && !set.parts.volumes[0].claims.state(100).is_fetching());
    }
}
