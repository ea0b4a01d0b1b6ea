//! The hand-over: the restored set becomes a live one, on its destinations, while it is served (cutover *settled*).
//!
//! | step | durable then | crash behind it |
//! |---|---|---|
//! | move and settle until little is left in the log, while serving | | restoring |
//! | hold new requests; let running ones end | | restoring |
//! | the mover empties the log, the destinations are flushed | data, state, marks | restoring |
//! | the record says that label and stamps may be gone | | restoring |
//! | first and last MiB go into the destinations, flushed | the whole volume | restoring: the edges file still counts |
//! | the live side makes its state: tracking from the moment on, the guest's extents marked | activity log | restoring: it is made anew the next time |
//! | the record says live | **the switch** | live: log and state are never read again |
//! | requests go to the live volumes | | live |
//!
//! Nothing is written to a destination directly before the record is durable. If a step fails before it, the restore goes
//! on where it was; if the record itself fails, nobody knows which of the two is found the next time, so it stays failed
//! until it is opened again: no write goes to the log any more, and none to the destination.

use super::lock;
use super::mover::Step;
use super::parts::Volume;
use super::plan::Phase;
use super::set::RestoreSet;
use super::target::Target;
use super::write_log::WriteLog;
use rekindle_core::volume::{ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::block::Block;
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// What the live side needs of one volume.
pub struct Settling {
    /// Label inside the set.
    pub name: String,
    /// Identity for life.
    pub volume: Uuid,
    /// The moment it was restored to: generation 0 of `tracking`.
    pub moment: Uuid,
    /// Tracking and generation of the snapshot of that moment, if known.
    pub origin: Option<(Uuid, Generation)>,
    /// The history its generations count in; fresh since the restore began.
    pub tracking: Uuid,
    /// The open generation: what the next write is marked with.
    pub generation: Generation,
    /// Its shape.
    pub geometry: Geometry,
    /// The destination, flushed, complete: serve it as it is, do not open it again.
    pub device: Arc<dyn Block>,
    /// Where that is.
    pub destination: String,
    /// Extents the guest changed, ascending, with the generation of the last change. All others are as the moment has
    /// them, so that the next backup is incremental to it.
    pub marks: Vec<(ExtentRange, Generation)>,
}

/// Makes live volumes out of restored ones.
pub trait Adopt {
    /// Makes the live state of all volumes durable, replacing what an earlier attempt left, and returns the devices that
    /// serve from now on. Writes nothing to the destinations.
    fn adopt(&self, volumes: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>>;
}

/// What a hand-over did, for people.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandOver {
    /// How long requests were held.
    pub pause: Duration,
    /// Bytes the log had in use when they were.
    pub log_bytes: u64,
    /// Everything had been read back before.
    pub verified: bool,
}

/// Rounds of the mover before the pause. As in the pre-copy of a live migration: a guest that writes as fast as the mover
/// moves would keep them going for ever.
const ROUNDS_MAX: u32 = 8;
/// A round that took no longer leaves little enough for the pause.
const SHORT: Duration = Duration::from_millis(50);
/// Times the mover may find nothing that it can do, a millisecond apart, while the log is not empty: a fetch that ends holds
/// a claim for a moment, no longer.
const IDLE_MAX: u32 = 1000;

impl RestoreSet {
    /// Hands the set over to `adopt`. Complete it must be; verified too, unless `unverified` says that the caller was told.
    /// Returns when the volumes are served live; the devices an export holds stay the same objects.
    pub fn hand_over(&self, adopt: &dyn Adopt, unverified: bool) -> Result<HandOver> {
        let verified = lock(&self.parts.plan).1.verified;
        let (absent, zero) = self.missing();
        if absent + zero > 0 {
            let what = format!("not complete: {} extents are not in the destination yet", absent + zero);
            return Err(Error::new(Kind::Busy, what));
        }
        if !verified && !unverified {
            return Err(Error::new(
                Kind::Busy,
                "not verified yet; the backup is let go only after verification",
            ));
        }
        let parts = &self.parts;
        if lock(&parts.instant).is_some() {
            return Err(Error::new(
                Kind::Busy,
                "a backup of this set is running; hand over when it has ended",
            ));
        }
        self.approach()?;
        let began = parts.clock.now();
        let log_bytes = parts.log.used();
        // Whoever asks from now on waits here; who is inside has ended when this returns.
        let gate = parts.gate.write().unwrap_or_else(PoisonError::into_inner);
        if lock(&parts.instant).is_some() {
            return Err(Error::new(
                Kind::Busy,
                "a backup of this set has begun; hand over when it has ended",
            ));
        }
        let mut mover = lock(&self.mover);
        let mut idle = 0;
        while !mover.is_clean(parts) || !parts.waiting.is_empty() {
            let stepped = mover.step(parts, true)?;
            // Only waiting writes need room in the log: without them a full disk of the state is no reason to stay on it.
            let prepared = if parts.waiting.is_empty() { Ok(Step::Idle) } else { self.log_step() };
            if prepared.map_err(|e| e.at("waiting writes find no room in the write log"))? == Step::Worked
                || stepped == Step::Worked
            {
                continue;
            }
            idle += 1;
            if idle > IDLE_MAX {
                let why = lock(&parts.health.trouble).clone();
                let e = why.unwrap_or_else(|| Error::new(Kind::Busy, "try again"));
                return Err(e.at("the write log cannot be moved into the destination"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        parts.end_flights();
        let live = self.settle(adopt).inspect_err(|_| self.label_again())?;
        self.switch(live)?;
        drop(mover);
        drop(gate);
        let pause = parts.clock.now().saturating_sub(began);
        self.parts.stopping.store(true, Release);
        // Who asked for a flush before the pause is covered by what the hand-over flushed.
        self.answer_flushes();
        self.leave_nothing();
        Ok(HandOver { pause, log_bytes, verified })
    }
    /// Moves and settles while serving, so that the pause is short: in rounds, until one is short or no longer shorter
    /// than the one before it.
    fn approach(&self) -> Result<()> {
        let clock = &self.parts.clock;
        let mut last = Duration::MAX;
        for _ in 0..ROUNDS_MAX {
            let began = clock.now();
            let first = lock(&self.mover).rounds();
            // The first settling may have begun before this round did.
            while self.mover_step(true)? == Step::Worked && lock(&self.mover).rounds() < first + 2 {}
            let took = clock.now().saturating_sub(began);
            if took <= SHORT || took >= last / 4 * 3 {
                break;
            }
            last = took;
        }
        Ok(())
    }
    /// Mover and guest go on with the edges file: the destinations get their labels back before they write.
    fn label_again(&self) {
        let parts = &self.parts;
        if lock(&parts.plan).1.written_back
            && let Err(e) = parts.label_again()
        {
            parts.fail(e.at("labelling the destination again"));
        }
    }
    /// With everything held and the log empty: the destinations become whole, the live side makes its state.
    fn settle(&self, adopt: &dyn Adopt) -> Result<Vec<Arc<dyn Block>>> {
        // A destination that fails here is failed for the mover too.
        let each = |done: &dyn Fn(&Target) -> Result<()>| {
            let one = |v: &Volume| done(&v.target).inspect_err(|e| self.parts.fail(e.clone().at(&v.name)));
            self.parts.volumes.iter().try_for_each(one)
        };
        each(&Target::flush)?;
        {
            let mut plan = lock(&self.parts.plan);
            plan.1.written_back = true;
            plan.0.store(&plan.1)?;
        }
        each(&Target::write_back)?;
        let plan = lock(&self.parts.plan).1.clone();
        let mut settling = Vec::new();
        for (v, p) in self.parts.volumes.iter().zip(&plan.volumes) {
            settling.push(Settling {
                name: v.name.clone(),
                volume: p.volume()?,
                moment: p.moment()?,
                origin: p.origin()?,
                tracking: p.tracking()?,
                generation: Generation(u16::from(plan.generation)),
                geometry: v.geometry,
                device: v.target.block().clone(),
                destination: p.destination.clone(),
                marks: marks(v),
            });
        }
        let live = adopt.adopt(settling)?;
        assert_eq!(live.len(), self.parts.volumes.len(), "one live device for each volume");
        Ok(live)
    }
    /// The record, and then the first direct write may come.
    fn switch(&self, live: Vec<Arc<dyn Block>>) -> Result<()> {
        let mut plan = lock(&self.parts.plan);
        plan.1.phase = Phase::Live;
        if let Err(e) = plan.0.store(&plan.1) {
            plan.1.phase = Phase::Restoring;
            // The record may say live all the same, and then nobody reads the log: what the guest writes now would be lost.
            self.parts.log.fail();
            self.parts.fail(e.clone().at("hand-over record"));
            return Err(e);
        }
        for (v, device) in self.parts.volumes.iter().zip(live) {
            v.target.filled();
            assert!(v.settled.set(device).is_ok(), "a volume is handed over once");
        }
        Ok(())
    }
    /// Log, state and edges are void: they go, when both copies of the record say so. A failure costs space only, `clear`
    /// does it again.
    fn leave_nothing(&self) {
        lock(&self.parts.spare).clear();
        let again = {
            let plan = lock(&self.parts.plan);
            plan.0.store(&plan.1)
        };
        if let Err(e) = again.and_then(|()| WriteLog::remove(&*self.state)) {
            tracing::warn!("{}: what the restore left could not be removed: {e}", self.state.place());
        }
    }
}

/// Removes what a restore left in its folder: after a hand-over was recorded, or to give a restore up.
pub fn clear(state: &dyn rekindle_io::logfile::LogDir) -> Result<()> {
    for name in state.names()? {
        if name != super::plan::NAME && super::plan::is_ours(&name) {
            state.remove(&name)?;
        }
    }
    // The record last: until it is gone the folder says what it was.
    state.sync_names()?;
    state.remove(super::plan::NAME)?;
    state.sync_names()
}

/// Runs of extents with the same mark.
pub(super) fn marks(v: &Volume) -> Vec<(ExtentRange, Generation)> {
    let mut out: Vec<(ExtentRange, Generation)> = Vec::new();
    v.claims.each_marked(|e, mark| match out.last_mut() {
        Some((r, g)) if r.end == e && g.0 == u16::from(mark) => r.end = e + 1,
        _ => out.push((ExtentRange { start: e, end: e + 1 }, Generation(u16::from(mark)))),
    });
    out
}
