//! What the rooms of a restore share: the log, the volumes, presence changes that are not yet durable, health.
//!
//! Locks, in the order they may be taken: gate, open instant, plan, waiting writes, flights of a volume, the log's own. A claim is held
//! across none of them but the log's index and a write to the target.

use super::claims::Claims;
use super::fetch::{FetchObserver, Flight};
use super::lock;
use super::pages::Pages;
use super::plan::{PlanRecord, PlanSlot};
use super::target::Target;
use super::waiting::WaitingWrites;
use super::work::Work;
use super::write_log::WriteLog;
use crate::damage::Damaged;
use rekindle_core::hydrate::Place;
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::block::Block;
use rekindle_io::clock::Clock;
use rekindle_io::destination::Aligned;
use rekindle_io::holder::Holder;
use rekindle_io::{Error, Kind};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

/// Counts what the guest does; our own reads never come here.
pub trait GuestUse: Send + Sync {
    /// The guest read `range`.
    fn read(&self, range: ByteRange);
    /// The guest wrote, zeroed or trimmed `range`.
    fn write(&self, range: ByteRange);
}

/// One volume of the set.
pub(super) struct Volume {
    pub at: u16,
    pub name: String,
    pub geometry: Geometry,
    pub holder: Arc<dyn Holder>,
    pub target: Target,
    pub claims: Claims,
    pub pages: Mutex<Pages>,
    pub flights: Mutex<HashMap<u64, Flight>>,
    pub usage: Option<Arc<dyn GuestUse>>,
    /// What the holder could not give.
    pub damaged: Mutex<Damaged>,
    /// What verification could not compare, because the holder cannot say any more what it is.
    pub uncompared: Mutex<Damaged>,
    /// How many of those were named in the log.
    pub losses_said: AtomicU64,
    /// After the hand-over: the live volume that serves from now on.
    pub settled: OnceLock<Arc<dyn Block>>,
}

/// A run of extents that changed place in memory; durable only after a flush of the target that began later.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub volume: u16,
    pub extents: ExtentRange,
    pub place: Place,
}

/// What a person or a status line should know of the background work.
#[derive(Default)]
pub(super) struct Health {
    /// Since when the holder does not answer.
    pub away_since: Mutex<Option<Duration>>,
    /// The restore cannot go on until it is opened again.
    pub failed: Mutex<Option<Error>>,
    /// Background work met this and tries again (no space).
    pub trouble: Mutex<Option<Error>>,
    /// The last answer of the holder was a failure.
    pub away: AtomicBool,
}

/// Wakes whoever waits for work.
#[derive(Default)]
pub(super) struct Signal {
    rung: Mutex<bool>,
    came: Condvar,
}

impl Signal {
    pub fn ring(&self) {
        *lock(&self.rung) = true;
        self.came.notify_all();
    }
    pub fn wait(&self, at_most: Duration) {
        let mut rung = lock(&self.rung);
        if !*rung {
            rung = self.came.wait_timeout(rung, at_most).unwrap_or_else(PoisonError::into_inner).0;
        }
        *rung = false;
    }
}

/// All of it.
pub(super) struct Parts {
    pub log: Arc<WriteLog>,
    pub volumes: Vec<Volume>,
    /// The record and where it is kept.
    pub plan: Mutex<(PlanSlot, PlanRecord)>,
    /// The stamps of this opening are not durable in the destinations yet: a settling is due.
    pub stamps_due: AtomicBool,
    pub pending: Mutex<Vec<Pending>>,
    /// Rises whenever extents change place: what the mover left behind may be movable now.
    pub landed: AtomicU64,
    pub waiting: WaitingWrites,
    pub clock: Arc<dyn Clock>,
    /// What guest writes are marked with: from 1, one more at each backup instant.
    pub generation: AtomicU8,
    pub work: Mutex<Work>,
    pub work_came: Condvar,
    /// Buffers of runs that landed.
    pub spare: Mutex<Vec<Aligned>>,
    /// Worker threads run: fetches may be left to them.
    pub threaded: AtomicBool,
    pub observer: OnceLock<Arc<dyn FetchObserver>>,
    pub health: Health,
    /// Requests hold it shared; an instant and the hand-over hold it alone.
    pub gate: RwLock<()>,
    pub stall_limit_ns: AtomicU64,
    pub mover_signal: Signal,
    pub flush_queue: Mutex<Vec<(u64, Arc<dyn rekindle_io::block::CompletionSink>)>>,
    pub flush_signal: Signal,
    pub stopping: AtomicBool,
    /// The backup instant that is open, if any: the mover moves nothing newer than it.
    pub instant: Mutex<Option<Arc<InstantMark>>>,
}

/// The open instant, as the mover sees it.
pub(super) struct InstantMark {
    /// The last record of the instant.
    pub last: u64,
    /// The log could not wait any longer: newer records were moved, the instant is no more.
    pub broken: AtomicBool,
}

impl Parts {
    /// Extents `extents` of `volume` are now at `place` in memory, their bytes written to the target. Called under their
    /// claims, before the place can be seen: whatever relies on it is then settled with it or after it.
    pub fn changed(&self, volume: u16, extents: ExtentRange, place: Place) {
        let mut pending = lock(&self.pending);
        match pending.last_mut() {
            Some(p) if p.volume == volume && p.place == place && p.extents.end == extents.start => {
                p.extents.end = extents.end;
            }
            _ => pending.push(Pending { volume, extents, place }),
        }
        let many = pending.len() == PENDING_MAX;
        drop(pending);
        self.landed.fetch_add(1, AcqRel);
        if many || !self.waiting.is_empty() {
            self.mover_signal.ring();
        }
    }
    /// The restore stops changing anything until it is opened again; reads go on as far as they can.
    pub fn fail(&self, e: Error) {
        tracing::error!("restore failed: {e}");
        lock(&self.health.failed).get_or_insert(e);
    }
    /// What failed, if anything.
    pub fn failed(&self) -> Option<Error> {
        let own = lock(&self.health.failed).clone();
        own.or_else(|| self.log.check().err())
    }
    /// How long reads wait for a holder that is away.
    pub fn stall_limit(&self) -> Duration {
        Duration::from_nanos(self.stall_limit_ns.load(Relaxed))
    }
    /// A background write to the target failed: no space is waited out, anything else needs a reopening.
    pub fn target_trouble(&self, volume: &Volume, e: Error) {
        let e = e.at(&volume.name);
        if e.kind == Kind::Full {
            *lock(&self.health.trouble) = Some(e);
        } else {
            self.fail(e);
        }
    }
}

/// So many runs of changes may wait for a settling (16 MiB would be 2^19 runs; this is far below).
pub(super) const PENDING_MAX: usize = 1 << 16;
/// The mover moves often when the log is this full, in thousandths.
pub(super) const MOVE_AT: u64 = 125;
/// And settles.
pub(super) const SETTLE_AT: u64 = 250;
/// And does both without a pause.
pub(super) const HURRY_AT: u64 = 500;
