//! Fetching extents from the holder: one flight per extent however many wait, demand first, and what comes is filled in.
//!
//! A flight is a mark, not a claim: nobody waits for the holder because of it but those who read the extent. When the
//! bytes come they go to the waiting reads first, then, under the claim and after another look at the state, into the
//! target. Reads keep what they had resolved before they began to wait, so a write that came meanwhile is none of their
//! concern. The bytes are written as they came: what the guest wrote lies above them in the log, which is asked first.
//!
//! When the holder is away, flights that somebody waits for stay and are tried again; the others are forgotten and the
//! fill plans them anew. A wait ends at the stall limit with an error. What is damaged is an error at once (`damage`).

use super::lock;
use super::parts::{Parts, Volume};
use super::pending::Missing;
use super::target::Heat;
use rekindle_core::hydrate::Place;
use rekindle_core::volume::ExtentRange;
use rekindle_io::destination::Aligned;
use rekindle_io::holder::{FetchSink, Fetched, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::collections::VecDeque;
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Weak};
use std::time::Duration;

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
    waiting: Vec<(Duration, Missing)>,
    urgency: Urgency,
    heat: Heat,
    /// Parked after a failure, until then.
    retry_at: Option<Duration>,
    failures: u32,
}

impl Flight {
    fn new(waiting: Vec<(Duration, Missing)>, urgency: Urgency, heat: Heat) -> Self {
        Flight { waiting, urgency, heat, retry_at: None, failures: 0 }
    }
    /// Somebody waits for it.
    fn is_awaited(&self) -> bool {
        self.urgency == Urgency::Demand || !self.waiting.is_empty()
    }
}

/// What worker threads take from.
#[derive(Default)]
pub(super) struct Work {
    demand: VecDeque<(u16, Vec<u64>)>,
    /// Answers that a guest waits for: before all others, which may be a window of them.
    awaited: VecDeque<Arrival>,
    arrivals: VecDeque<Arrival>,
}

/// An answer of the holder.
struct Arrival {
    volume: u16,
    extent: u64,
    /// When it was there: what follows is our own work and says nothing of the link.
    at: Duration,
    what: Result<Fetched>,
}

/// Where the holder's answers come in.
struct Arrivals {
    parts: Weak<Parts>,
    volume: u16,
    /// The answers come on the asking thread and are worked off there.
    inline: bool,
}

impl FetchSink for Arrivals {
    fn fetched(&self, extent: u64, what: Result<Fetched>) {
        let Some(parts) = self.parts.upgrade() else { return };
        let arrival = Arrival { volume: self.volume, extent, at: parts.clock.now(), what };
        if self.inline || !parts.threaded.load(Acquire) {
            parts.arrived(arrival);
        } else {
            // Opening and writing are for our threads, not for the holder's.
            let awaited = parts.is_awaited(&arrival);
            let mut work = lock(&parts.work);
            let queue = if awaited { &mut work.awaited } else { &mut work.arrivals };
            queue.push_back(arrival);
            drop(work);
            parts.work_came.notify_one();
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
        // It came between the look and now: take it from where it is.
        let start = volume.geometry.extent_bytes(extent).start + missing.within.start;
        let local = volume.claims.state(extent).place() == Place::Local;
        missing.fill(|out| {
            if local {
                return volume.target.read(start, out);
            }
            out.fill(0);
            Ok(())
        });
        false
    }
    /// Starts the fetches a read asked for.
    pub fn demand(self: &Arc<Self>, volume: &Volume, extents: Vec<u64>) {
        if let Some(o) = self.observer.get() {
            extents.iter().for_each(|e| o.missed(volume.at, *e));
        }
        if self.threaded.load(Acquire) && volume.holder.answers_inline() {
            lock(&self.work).demand.push_back((volume.at, extents));
            self.work_came.notify_one();
        } else {
            self.ask(volume, &extents, Urgency::Demand);
        }
    }
    /// Starts background fetches, damaged or not, of those of `extents` that are absent, not under way, and not covered whole by the log.
    /// Returns how many were started.
    pub fn fetch_background(
        self: &Arc<Self>,
        volume: &Volume,
        extents: &[u64],
        urgency: Urgency,
        heat: Heat,
    ) -> usize {
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
        self.ask(volume, &start, urgency);
        start.len()
    }
    fn ask(self: &Arc<Self>, volume: &Volume, extents: &[u64], urgency: Urgency) {
        if extents.is_empty() {
            return;
        }
        let inline = volume.holder.answers_inline();
        let sink: Arc<dyn FetchSink> =
            Arc::new(Arrivals { parts: Arc::downgrade(self), volume: volume.at, inline });
        volume.holder.clone().fetch(extents, urgency, &sink);
    }
    /// One piece of work for a worker thread; false if there was none.
    pub fn work_step(self: &Arc<Self>) -> bool {
        let mut work = lock(&self.work);
        if let Some((volume, extents)) = work.demand.pop_front() {
            drop(work);
            self.ask(&self.volumes[volume as usize], &extents, Urgency::Demand);
            return true;
        }
        let Some(arrival) = work.awaited.pop_front().or_else(|| work.arrivals.pop_front()) else {
            return false;
        };
        drop(work);
        self.arrived(arrival);
        true
    }
    /// Somebody waits for it.
    fn is_awaited(&self, a: &Arrival) -> bool {
        let flights = lock(&self.volumes[a.volume as usize].flights);
        flights.get(&a.extent).is_some_and(Flight::is_awaited)
    }

    /// The holder's answer for one extent: serves who waits, then fills it in.
    fn arrived(self: &Arc<Self>, arrival: Arrival) {
        let Arrival { volume, extent, at, what } = arrival;
        let volume = &self.volumes[volume as usize];
        let mut bytes = Aligned::new(volume.geometry.extent_bytes(extent).len as usize);
        let opened = what.and_then(|f| match f {
            Fetched::Zero => Ok((0, true)),
            Fetched::Sealed(s) => s.open(&mut bytes).map(|()| (s.stored(), false)),
        });
        let (stored, zero) = match opened {
            Ok(o) => o,
            Err(e) => return self.not_arrived(volume, extent, at, e),
        };
        self.health.away.store(false, Release);
        *lock(&self.health.away_since) = None;
        let (mut demand, heat) = self.serve(volume, extent, &bytes, false);
        let landed = self.land(volume, extent, if zero { None } else { Some(&bytes) }, demand, heat);
        demand |= self.serve(volume, extent, &bytes, true).0;
        if let Err(e) = &landed {
            self.target_trouble(volume, e.clone());
        }
        if let Some(o) = self.observer.get() {
            o.arrived(volume.at, extent, at, demand, landed.map(|()| stored));
        }
    }
    /// Serves the reads that wait for `extent`; `last`: the flight ends. Whether the guest wanted it, and may want it again.
    fn serve(&self, volume: &Volume, extent: u64, bytes: &[u8], last: bool) -> (bool, Heat) {
        let mut flights = lock(&volume.flights);
        let Some(flight) = flights.get_mut(&extent) else { return (false, Heat::Cold) };
        let demand = flight.is_awaited();
        let heat = if demand { Heat::Hot } else { flight.heat };
        let waiting = std::mem::take(&mut flight.waiting);
        if last {
            flights.remove(&extent);
            volume.claims.fetched(extent);
        }
        drop(flights);
        waiting.iter().for_each(|(_, m)| m.serve(bytes));
        (demand, heat)
    }
    /// Puts what came into the target, unless something newer is there or will be.
    fn land(
        &self,
        volume: &Volume,
        extent: u64,
        bytes: Option<&[u8]>,
        demand: bool,
        heat: Heat,
    ) -> Result<()> {
        let range = volume.geometry.extent_bytes(extent);
        if self.failed().is_some() {
            return Ok(());
        }
        let claim = volume.claims.claim(extent);
        if claim.place() != Place::Absent {
            return Ok(());
        }
        if !demand && self.log.covers(volume.at, range, u64::MAX) {
            // The guest has overwritten all of it: the mover brings that, and this is not worth a write.
            return Ok(());
        }
        match bytes {
            Some(bytes) => volume.target.write(range.start, bytes, heat)?,
            None if volume.target.is_pristine() => {}
            None => volume.target.zero(range, false)?,
        }
        self.changed(volume.at, ExtentRange { start: extent, end: extent + 1 }, Place::Local);
        claim.release(Place::Local);
        volume.came(extent);
        Ok(())
    }
    fn not_arrived(self: &Arc<Self>, volume: &Volume, extent: u64, at: Duration, e: Error) {
        let passing = matches!(e.kind, Kind::Retry | Kind::Unavailable);
        let now = self.clock.now();
        if passing {
            self.health.away.store(true, Release);
            lock(&self.health.away_since).get_or_insert(now);
        }
        let mut flights = lock(&volume.flights);
        let mut failed = Vec::new();
        let mut demand = false;
        if let Some(f) = flights.get_mut(&extent) {
            demand = f.is_awaited();
            if passing && !f.waiting.is_empty() {
                f.failures += 1;
                f.retry_at = Some(now + Duration::from_millis(100 << f.failures.min(5)));
            } else {
                failed = std::mem::take(&mut f.waiting);
                flights.remove(&extent);
                volume.claims.fetched(extent);
            }
        }
        drop(flights);
        failed.iter().for_each(|(_, m)| m.fail(&e));
        if e.is_loss() {
            self.lost(volume, extent, &e);
        } else if !passing {
            *lock(&self.health.trouble) = Some(e.clone().at(&volume.name));
        }
        if let Some(o) = self.observer.get() {
            o.arrived(volume.at, extent, at, demand, Err(e));
        }
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
            self.ask(volume, &again, Urgency::Demand);
        }
    }
    /// Reads waiting for the holder, all volumes.
    pub fn reads_waiting(&self) -> usize {
        self.volumes.iter().map(|v| lock(&v.flights).values().map(|f| f.waiting.len()).sum::<usize>()).sum()
    }
    /// Waits until there may be work for a worker.
    pub fn wait_for_work(&self, at_most: Duration) {
        let work = lock(&self.work);
        if work.demand.is_empty() && work.awaited.is_empty() && work.arrivals.is_empty() {
            let _ = self.work_came.wait_timeout(work, at_most);
        }
    }
}
