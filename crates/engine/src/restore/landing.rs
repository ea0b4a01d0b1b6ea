//! What becomes of the holder's answers: opened, given to whoever waits, and written into the target, unless something newer
//! is there or will be.
//!
//! Answers that lie side by side and that nobody is known to use soon are written at once, up to [`RUN_BYTES`]: a write past
//! the page cache costs a trip to the medium, and a file system may let one at a time allocate. Nobody waits for a run to
//! fill: what is here is taken, and the slower the medium, the more has come when the next one looks.

use super::claims::Claim;
use super::lock;
use super::parts::{Parts, Volume};
use super::target::Heat;
use rekindle_core::hydrate::Place;
use rekindle_core::volume::{ByteRange, ExtentRange};
use rekindle_io::destination::Aligned;
use rekindle_io::holder::Fetched;
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Most bytes written at once.
pub(super) const RUN_BYTES: u64 = 1 << 20;
/// Buffers kept for the next runs: as many as there are threads that land, and few enough to be forgotten.
const SPARE: usize = 4;

/// An answer of the holder.
pub(super) struct Arrival {
    pub volume: u16,
    pub extent: u64,
    /// When it was there: what follows is our own work and says nothing of the link.
    pub at: Duration,
    pub what: Result<Fetched>,
}

/// An answer that was opened.
struct Opened {
    extent: u64,
    at: Duration,
    /// Bytes that moved.
    stored: u32,
    zero: bool,
    /// Somebody waited for it.
    demand: bool,
    heat: Heat,
}

impl Opened {
    /// May be written in one go with its neighbour `other`.
    fn joins(&self, other: &Opened) -> bool {
        (self.zero, self.heat) == (other.zero, other.heat) && self.heat == Heat::Cold
    }
}

impl Parts {
    /// Answers of one volume, of no extent twice.
    pub(super) fn arrived(self: &Arc<Self>, mut arrivals: Vec<Arrival>) {
        arrivals.sort_unstable_by_key(|a| a.extent);
        let Some(volume) = arrivals.first().map(|a| &self.volumes[a.volume as usize]) else { return };
        let extent_bytes = volume.geometry.extent.get() as usize;
        let mut buf = self.buffer(volume);
        let mut run: Vec<Opened> = Vec::new();
        for Arrival { extent, at, what, .. } in arrivals {
            let full = (run.len() + 1) * extent_bytes > buf.len();
            if full || run.last().is_some_and(|last| last.extent + 1 != extent) {
                self.came(volume, &mut run, &buf);
            }
            let len = volume.geometry.extent_bytes(extent).len as usize;
            let out = &mut buf[run.len() * extent_bytes..][..len];
            let opened = what.and_then(|fetched| match fetched {
                Fetched::Zero => {
                    out.fill(0);
                    Ok((0, true))
                }
                Fetched::Sealed(s) => s.open(out).map(|()| (s.stored(), false)),
            });
            match opened {
                Ok((stored, zero)) => {
                    // Nobody is kept waiting for the rest of the run.
                    let (demand, heat) = self.serve(volume, extent, out, false);
                    run.push(Opened { extent, at, stored, zero, demand, heat });
                }
                Err(e) => self.not_arrived(volume, extent, at, e),
            }
        }
        self.came(volume, &mut run, &buf);
        self.put_back(buf);
    }
    /// Room for a run of extents of `volume`.
    pub(super) fn buffer(&self, volume: &Volume) -> Aligned {
        let extent_bytes = volume.geometry.extent.get() as usize;
        // A set may have volumes of extents larger than a run.
        let spare = lock(&self.spare).pop().filter(|b| b.len() >= extent_bytes);
        spare.unwrap_or_else(|| Aligned::new(extent_bytes.max(RUN_BYTES as usize)))
    }
    /// For the next run.
    pub(super) fn put_back(&self, buf: Aligned) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE {
            spare.push(buf);
        }
    }
    /// The extents of `run`, whose bytes lie one behind the other in `bytes`, are here; empties it.
    fn came(&self, volume: &Volume, run: &mut Vec<Opened>, bytes: &[u8]) {
        if run.is_empty() {
            return;
        }
        self.health.away.store(false, Release);
        *lock(&self.health.away_since) = None;
        let shift = volume.geometry.extent.shift();
        let first = run[0].extent;
        let part = |extent: u64| {
            let len = volume.geometry.extent_bytes(extent).len as usize;
            &bytes[((extent - first) as usize) << shift..][..len]
        };
        let (landed, trouble) = self.land(volume, run, bytes);
        if let Some(e) = &trouble {
            self.target_trouble(volume, e.clone());
        }
        for (i, o) in run.drain(..).enumerate() {
            let demand = o.demand | self.serve(volume, o.extent, part(o.extent), true).0;
            let failed = trouble.clone().filter(|_| i >= landed);
            if let Some(observer) = self.observer.get() {
                observer.arrived(volume.at, o.extent, o.at, demand, failed.map_or(Ok(o.stored), Err));
            }
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
    /// Puts what came into the target; how many of `run` this is done for, and why not for the others. Several claims are
    /// held at once, in ascending order.
    fn land(&self, volume: &Volume, run: &[Opened], bytes: &[u8]) -> (usize, Option<Error>) {
        if self.failed().is_some() {
            return (run.len(), None);
        }
        let mut claimed: Vec<_> = run.iter().map(|o| (o, self.wanted(volume, o))).collect();
        let together = |a: &(&Opened, Option<_>), b: &(&Opened, Option<_>)| {
            a.1.is_some() && b.1.is_some() && a.0.joins(b.0)
        };
        let mut landed = 0;
        for part in claimed.chunk_by_mut(together) {
            let (first, last) = (part[0].0, part[part.len() - 1].0);
            let extents = ExtentRange { start: first.extent, end: last.extent + 1 };
            if part[0].1.is_some() {
                let range = volume.geometry.bytes_of(extents);
                let from = (first.extent - run[0].extent) << volume.geometry.extent.shift();
                let bytes = &bytes[from as usize..][..range.len as usize];
                if let Err(e) = self.write(volume, first, range, bytes) {
                    return (landed, Some(e));
                }
                self.changed(volume.at, extents, Place::Local);
                for claim in part.iter_mut().filter_map(|(_, claim)| claim.take()) {
                    claim.release(Place::Local);
                }
                extents.iter().for_each(|e| volume.came(e));
            }
            landed += part.len();
        }
        (landed, None)
    }
    /// Writes a stretch whose extents are all like `first`.
    fn write(&self, volume: &Volume, first: &Opened, range: ByteRange, bytes: &[u8]) -> Result<()> {
        match first.zero {
            false => volume.target.write(range.start, bytes, first.heat),
            true if volume.target.is_pristine() => Ok(()),
            true => volume.target.zero(range, false),
        }
    }
    /// The claim of what is to be written.
    fn wanted<'a>(&self, volume: &'a Volume, o: &Opened) -> Option<Claim<'a>> {
        let claim = volume.claims.claim(o.extent);
        if claim.place() != Place::Absent {
            return None;
        }
        // The guest has overwritten all of it: the mover brings that, and this is not worth a write.
        let range = volume.geometry.extent_bytes(o.extent);
        let covered = !o.demand && self.log.covers(volume.at, range, u64::MAX);
        (!covered).then_some(claim)
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
}
