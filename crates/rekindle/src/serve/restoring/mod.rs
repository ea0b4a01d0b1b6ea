//! A set being restored: the engine's restore set and fill, with what only this process knows: repository, hold,
//! destinations, where the state lies, who asked for what.

mod adopt;
mod begin;
mod drill;
mod interrupted;
mod left_over;
mod settle;
mod state;
mod status;
mod upkeep;
mod wishes;

pub use begin::{Begin, NewDest, begin, resume};
pub use interrupted::{interrupted, unsettled};
pub use left_over::is_left_over;
pub use settle::{discard_at_rest, move_map, remove_state};
pub use state::{App, Found, StatePlace, find, holding};
pub use wishes::{Asked, Wishes};

use super::counting::Counting;
use crate::errors::{Failure, Outcome};
use rekindle_core::volume::Uuid;
use rekindle_engine::repository::{Repository, Snapshot};
use rekindle_engine::restore::{Fill, RestoreSet};
use rekindle_engine::usage::UsageMap;
use rekindle_io::block::FileBlock;
use rekindle_io::logfile::RealDir;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One volume of it.
pub struct RestoringVolume {
    /// Inside its set.
    pub name: String,
    /// The destination.
    pub path: PathBuf,
    /// The destination, open.
    pub block: Arc<FileBlock>,
    /// Its usage.
    pub usage: Arc<Counting>,
}

/// Something to be done to the fill.
type Steer = Box<dyn FnOnce(&Fill) + Send>;

/// The restore.
pub struct Restoring {
    /// The set's name.
    pub name: String,
    /// The engine's part.
    pub set: Arc<RestoreSet>,
    /// In the set's order.
    pub volumes: Vec<RestoringVolume>,
    /// `shop@3f9c2a1e`.
    pub moment: String,
    /// Where log and state lie.
    pub state: StatePlace,
    dir: Arc<RealDir>,
    repository: Repository,
    snapshot: Snapshot,
    app: App,
    wishes: Mutex<Wishes>,
    begun: Instant,
    online_after: OnceLock<Duration>,
    fill: OnceLock<Arc<Fill>>,
    /// Steered before the fill was there.
    early: Mutex<Vec<Steer>>,
    verified_bytes: AtomicU64,
    stop: AtomicBool,
    upkeep: Mutex<Option<JoinHandle<()>>>,
}

impl Restoring {
    /// The exports may appear. The first time it is true, the time is kept.
    pub fn online(&self) -> bool {
        let online = self.set.is_online();
        if online {
            let _ = self.online_after.set(self.begun.elapsed());
        }
        online
    }
    /// How long that took.
    pub fn online_after(&self) -> Option<Duration> {
        self.online_after.get().copied()
    }
    /// The next backup can build upon the moment: they are the volumes it knows, not copies under another name.
    pub fn has_parent(&self) -> bool {
        let known = &self.snapshot.info().commit;
        let plan = self.set.plan();
        let knows = |v: Option<Uuid>| known.volumes.iter().any(|k| Some(k.uuid) == v);
        plan.set == known.set && plan.volumes.iter().all(|v| knows(v.volume().ok()))
    }
    /// The usage maps that are there, by volume uuid.
    pub fn maps(&self) -> Vec<(Uuid, Arc<UsageMap>)> {
        let plan = self.set.plan();
        let uuids = plan.volumes.iter().map(|v| v.volume().ok());
        uuids.zip(&self.volumes).filter_map(|(u, v)| Some((u?, v.usage.map()?.clone()))).collect()
    }
    /// The usage maps that are there, by volume name.
    pub fn usage(&self) -> Vec<(String, Arc<UsageMap>)> {
        self.volumes.iter().filter_map(|v| Some((v.name.clone(), v.usage.map()?.clone()))).collect()
    }
    /// Does something to the fill, now or as soon as there is one.
    pub fn with_fill(&self, act: impl FnOnce(&Fill) + Send + 'static) {
        let mut early = self.early.lock().unwrap_or_else(PoisonError::into_inner);
        match self.fill.get() {
            Some(fill) => act(fill),
            None => early.push(Box::new(act)),
        }
    }
    /// What is asked of it now.
    pub fn wishes(&self) -> Wishes {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Something else is asked of it, by whoever goes on with it too.
    pub fn wish(&self, change: impl FnOnce(&mut Wishes)) {
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut wishes);
        // Its folder is gone once it is settled.
        if !self.stop.load(std::sync::atomic::Ordering::Acquire) {
            wishes.keep(&self.state);
        }
    }
    /// Lets go of everything; what is acknowledged is durable then, and the same command goes on.
    pub fn close(&self) -> Vec<String> {
        self.end_threads();
        let stopped = self.set.stop().map_err(|e| format!("the write log of {}: {e}", self.name));
        let maps = self.maps();
        let maps = maps.iter().map(|(_, m)| m.close().map_err(|e| format!("usage of {}: {e}", self.name)));
        std::iter::once(stopped).chain(maps).filter_map(Result::err).collect()
    }
    fn end_threads(&self) {
        self.stop.store(true, std::sync::atomic::Ordering::Release);
        if let Some(fill) = self.fill.get() {
            fill.stop();
        }
        let upkeep = self.upkeep.lock().unwrap_or_else(PoisonError::into_inner).take();
        if upkeep.is_some_and(|t| t.join().is_err()) {
            tracing::error!("a thread of the restore panicked");
        }
    }
    fn cannot(&self, what: &str, e: &rekindle_io::Error) -> Failure {
        Failure::io(format!("cannot {what} {}", self.name), e)
    }
    /// Where its volumes go.
    fn destinations(&self) -> Vec<PathBuf> {
        self.volumes.iter().map(|v| v.path.clone()).collect()
    }
    /// Its devices: the same objects before and after the hand-over.
    pub fn devices(&self) -> Vec<(Arc<dyn rekindle_io::block::Block>, u64)> {
        let one = |v: &Arc<rekindle_engine::restore::RestoreVolume>| {
            (v.clone() as Arc<dyn rekindle_io::block::Block>, v.geometry().extent.get())
        };
        self.set.volumes().iter().map(one).collect()
    }
    /// Starts threads of mover, log and fetches, then usage, fill and verification behind.
    pub fn start(self: &Arc<Self>) -> Outcome {
        if self.wishes().online_at.is_empty() {
            self.set.set_online();
        }
        self.set.start(upkeep::FETCHERS).map_err(|e| self.cannot("restore", &e))?;
        let mine = self.clone();
        let thread = std::thread::Builder::new().name("rk-upkeep".into()).spawn(move || mine.upkeep());
        let thread = thread.map_err(|e| Failure::system(format!("cannot restore {}", self.name), &e))?;
        *self.upkeep.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }
}
