//! A backup of a set that is still being restored: its instant is a sequence of the write log.
//!
//! With requests held, the next generation becomes durable, then, between two records, the log's index is copied and
//! writes are marked with the new generation. From there the guest goes on at once; before anything is read the log is
//! flushed: a snapshot must not hold what a power cut then takes from the disk, with no mark to say so. The copy keeps
//! the files of its segments, so that overwritten records stay readable even when the log has let go of them; and the
//! mover moves nothing newer than the instant while it is open, so that under the copy lies what lay there: target,
//! zeros, or the holder's bytes. An extent that is absent and unmarked is named by the parent and never read here.
//!
//! If the log runs full while the mover is held back, the instant is given up, never the guest: it says so from then on,
//! also of what was read while that happened. One instant is open at a time; a hand-over waits for its end.
//! Memory: 32 bytes a piece of the log, 16 MiB at most, while it is open.

use super::lock;
use super::parts::{InstantMark, Parts, Volume};
use super::plan::PlannedVolume;
use super::set::RestoreSet;
use super::verify::fetch_now;
use super::write_log::{FrozenLog, Held};
use crate::backup::{Changed, InstantVolume, SetInstant, VolumeIdentity};
use rekindle_core::hydrate::Place;
use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Generation, Geometry, Uuid};
use rekindle_io::holder::Presence;
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, PoisonError};

/// With the log this full (thousandths), records newer than an open instant have to be moved: it is given up.
const GIVE_UP_AT: u64 = 800;
/// Marks are one byte: so many generations fit one restore.
const GENERATION_MAX: u8 = u8::MAX;

impl Parts {
    /// How far the mover may go: up to `sequence`, or up to the open instant. Gives the instant up when the log needs it.
    pub fn move_limit(&self, sequence: u64) -> u64 {
        let open = lock(&self.instant);
        let Some(mark) = open.as_ref().filter(|m| !m.broken.load(Acquire)) else { return sequence };
        let full = self.log.fullness();
        // A write may also wait for the next segment to be prepared; that is no reason.
        if full >= GIVE_UP_AT || full >= 500 && !self.waiting.is_empty() {
            tracing::warn!("the backup of a restoring set is given up: the write log needs its space");
            mark.broken.store(true, Release);
            return sequence;
        }
        sequence.min(mark.last)
    }
}

/// One instant of a restoring set.
struct RestoreInstant {
    parts: Arc<Parts>,
    mark: Arc<InstantMark>,
    volumes: Vec<OneVolume>,
}

struct OneVolume {
    parts: Arc<Parts>,
    mark: Arc<InstantMark>,
    log: Arc<FrozenLog>,
    at: u16,
    identity: VolumeIdentity,
    origin: Option<(Uuid, Generation)>,
    /// Generations ran out: nothing can be told from marks.
    overflow: bool,
}

impl RestoreSet {
    /// Takes an instant of all volumes: what a backup reads. `Kind::Busy` while another is open.
    pub fn instant(&self) -> Result<Box<dyn SetInstant>> {
        let parts = &self.parts;
        let gate = parts.gate.write().unwrap_or_else(PoisonError::into_inner);
        if parts.volumes.iter().any(|v| v.settled.get().is_some()) {
            return Err(Error::new(Kind::Gone, "the set was handed over: its live volumes give the instant"));
        }
        let mut open = lock(&parts.instant);
        if open.is_some() {
            return Err(Error::new(Kind::Busy, "a backup of this set is running"));
        }
        let mut plan = lock(&self.parts.plan);
        let closed = plan.1.generation;
        let overflow = closed == GENERATION_MAX;
        if !overflow {
            // Durable before a write can be marked with it: after a crash no mark is newer than the record knows.
            plan.1.generation = closed + 1;
            if let Err(e) = plan.0.store(&plan.1) {
                plan.1.generation = closed;
                return Err(e);
            }
        }
        let next = plan.1.generation;
        let log = Arc::new(parts.log.freeze(|| parts.generation.store(next, Release)));
        let mark = Arc::new(InstantMark { last: log.last, broken: AtomicBool::new(false) });
        *open = Some(mark.clone());
        drop(gate);
        // The other copy too, or a damaged sector would bring the older generation back, and writes would be marked with
        // one that a backup has closed. The guest does not wait for it.
        if let Err(e) = plan.0.store(&plan.1) {
            tracing::warn!("the second copy of the restore record was not written: {e}");
        }
        let volumes = parts.volumes.iter().zip(&plan.1.volumes).map(|(v, p)| {
            let (parts, mark, log) = (parts.clone(), mark.clone(), log.clone());
            let identity = identity(p, closed, overflow)?;
            Ok(OneVolume { parts, mark, log, at: v.at, identity, origin: p.origin()?, overflow })
        });
        let volumes = volumes.collect::<Result<Vec<_>>>();
        if volumes.is_err() {
            *open = None;
        }
        let instant = RestoreInstant { parts: parts.clone(), mark, volumes: volumes? };
        // Neither the guest nor the mover waits for the flush.
        drop((open, plan));
        parts.log.flush()?;
        Ok(Box::new(instant))
    }
}

fn identity(p: &PlannedVolume, closed: u8, overflow: bool) -> Result<VolumeIdentity> {
    Ok(VolumeIdentity {
        name: p.name.clone(),
        uuid: p.volume()?,
        // A history of its own when generations ran out: no later instant can be taken for its continuation.
        tracking: if overflow { rekindle_io::random::uuid() } else { p.tracking()? },
        generation: Generation(u16::from(closed)),
    })
}

impl Drop for RestoreInstant {
    fn drop(&mut self) {
        *lock(&self.parts.instant) = None;
        self.parts.mover_signal.ring();
    }
}

impl SetInstant for RestoreInstant {
    fn volumes(&self) -> Vec<&dyn InstantVolume> {
        self.volumes.iter().map(|v| v as &dyn InstantVolume).collect()
    }
    fn intact(&self) -> Result<()> {
        intact(&self.mark)
    }
}

fn intact(mark: &InstantMark) -> Result<()> {
    if mark.broken.load(Acquire) {
        return Err(Error::new(Kind::Full, "the write log filled up during the backup; its instant is gone"));
    }
    Ok(())
}

impl OneVolume {
    fn volume(&self) -> &Volume {
        &self.parts.volumes[self.at as usize]
    }
    /// A snapshot closed the generation that this instant closes, or a later one: the state is a copy that was put back, and
    /// what is marked so may have been written before that snapshot or after it. No later instant may take it for a
    /// parent, also if this backup fails or the process ends: from the next one on generations count in another history.
    /// The restored moment stays a parent.
    fn begin_history(&self) {
        let mut plan = lock(&self.parts.plan);
        let ours = self.identity.tracking.to_string();
        if plan.1.volumes[self.at as usize].tracking != ours {
            return;
        }
        plan.1.volumes[self.at as usize].tracking = rekindle_io::random::uuid().to_string();
        // Both copies, or a damaged sector would bring the old history back. Every later record has the new one too.
        if let Err(e) = plan.0.store(&plan.1).and_then(|()| plan.0.store(&plan.1)) {
            tracing::warn!("that the state is older than a snapshot would be forgotten in a crash: {e}");
        }
    }
    /// What lies under the log, unless the log has all of it.
    fn read_base(&self, extent: u64, range: ByteRange, out: &mut [u8]) -> Result<()> {
        let v = self.volume();
        {
            // Under the claim neither fill nor mover is in the midst of a write here.
            let claim = v.claims.claim(extent);
            match claim.place() {
                Place::Local => return v.target.read(range.start, out),
                Place::Zero => {
                    out.fill(0);
                    return Ok(());
                }
                Place::Absent => {}
            }
        }
        // What the fill brings meanwhile are the same bytes.
        fetch_now(&v.holder, extent, out)
    }
}

impl InstantVolume for OneVolume {
    fn identity(&self) -> VolumeIdentity {
        self.identity.clone()
    }
    fn geometry(&self) -> Geometry {
        self.volume().geometry
    }
    fn changed(&self, tracking: Uuid, generation: Generation) -> Changed {
        let since = if Some((tracking, generation)) == self.origin {
            Generation(0)
        } else if tracking == self.identity.tracking && generation < self.identity.generation {
            generation
        } else {
            if tracking == self.identity.tracking {
                self.begin_history();
            }
            return Changed::CompareAll("the parent is of another history than this restore".into());
        };
        if self.overflow && since.0 > 0 {
            return Changed::CompareAll("more backups during one restore than generations".into());
        }
        // What was written since the instant is marked newer and may have been changed before it too: it is read.
        let mut marked = ExtentSet::default();
        self.volume().claims.each_marked(|e, g| {
            if Generation(g.into()) > since {
                marked.insert(ExtentRange { start: e, end: e + 1 });
            }
        });
        Changed::Since { marked, compare: ExtentSet::default() }
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        const STEP: u64 = 1024;
        let v = self.volume();
        let g = v.geometry;
        let mut known = Vec::new();
        let mut extent = from >> g.extent.shift();
        while extent < g.extents() {
            let n = STEP.min(g.extents() - extent);
            known.clear();
            v.holder.presence(extent, n, &mut known)?;
            let data = |(e, p): (u64, &Presence)| *p != Presence::Zero || v.claims.marked(e) != 0;
            if let Some(first) = (extent..).zip(&known).position(data) {
                let start = extent + first as u64;
                let len = (start..).zip(&known[first..]).take_while(|x| data(*x)).count() as u64;
                let from = g.extent_bytes(start).start.max(from);
                return Ok(Some(ByteRange::new(from, g.extent_bytes(start + len - 1).end() - from)));
            }
            extent += n;
        }
        Ok(None)
    }
    fn read(&self, extent: u64, out: &mut [u8]) -> Result<()> {
        let range = self.geometry().extent_bytes(extent);
        let mut held: Vec<Held> = Vec::new();
        self.log.resolve(self.at, range, &mut held);
        if held.iter().map(|h| h.piece.range.len).sum::<u64>() < range.len {
            self.read_base(extent, range, out)?;
        }
        for h in &held {
            let at = (h.piece.range.start - range.start) as usize;
            h.read(0, &mut out[at..at + h.piece.range.len as usize])?;
        }
        // Newer records may have been moved under our hands: then this is no instant's data.
        intact(&self.mark)
    }
    fn taken(&self, _: ExtentRange) {
        // What the instant keeps are files of the log, shared by all extents: they go when it ends.
    }
}
