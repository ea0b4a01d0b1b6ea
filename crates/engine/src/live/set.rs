//! The volumes that share one order of writes and one instant.

use super::instant::{FleeceOptions, Hooks, take};
use super::sync::{AtomicBool, SeqCst};
use super::volume::LiveVolume;
use crate::backup::SetInstant;
use rekindle_io::Result;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Time between two `step`s of the set's thread.
const STEP_EVERY: Duration = Duration::from_secs(1);

/// A live set. Dropping it ends its thread; only `close` is a clean stop.
pub struct LiveSet {
    name: String,
    volumes: Vec<Arc<LiveVolume>>,
    busy: Arc<AtomicBool>,
    thread: Mutex<Option<(Arc<Stop>, JoinHandle<()>)>>,
}

#[derive(Default)]
struct Stop {
    now: Mutex<bool>,
    changed: Condvar,
}

impl LiveSet {
    /// A set of these volumes, in this order; its upkeep is called by hand (`step`) or by `start`.
    pub fn new(name: &str, volumes: Vec<Arc<LiveVolume>>) -> LiveSet {
        LiveSet { name: name.into(), volumes, busy: Arc::default(), thread: Mutex::new(None) }
    }
    /// Starts the thread that calls `step` once a second. A second call does nothing.
    pub fn start(&self) -> Result<()> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_some() {
            return Ok(());
        }
        let (stop, volumes, name) = (Arc::new(Stop::default()), self.volumes.clone(), self.name.clone());
        let theirs = stop.clone();
        let handle = std::thread::Builder::new()
            .name("rekindle-live".into())
            .spawn(move || {
                let mut now = theirs.now.lock().unwrap_or_else(PoisonError::into_inner);
                while !*now {
                    drop(now);
                    for v in &volumes {
                        if let Err(e) = v.tick() {
                            tracing::warn!("{name}: a checkpoint failed, a crash would compare more: {e}");
                        }
                    }
                    now = theirs.now.lock().unwrap_or_else(PoisonError::into_inner);
                    if !*now {
                        let waited = theirs.changed.wait_timeout(now, STEP_EVERY);
                        now = waited.unwrap_or_else(PoisonError::into_inner).0;
                    }
                }
            })
            .map_err(|e| rekindle_io::Error::os("starting the set's thread", &e))?;
        *thread = Some((stop, handle));
        Ok(())
    }
    /// What people call it.
    pub fn name(&self) -> &str {
        &self.name
    }
    /// The volumes, in the set's order.
    pub fn volumes(&self) -> &[Arc<LiveVolume>] {
        &self.volumes
    }
    /// Upkeep: pulses and checkpoints that are due. The first error; all volumes are tried.
    pub fn step(&self) -> Result<()> {
        self.volumes.iter().map(|v| v.tick()).fold(Ok(()), Result::and)
    }
    /// One instant of all volumes: everything answered before it is in it, nothing that was issued after. While it
    /// lives no other can be taken (`Kind::Busy`).
    pub fn instant(&self, hooks: &dyn Hooks, fleece: &FleeceOptions) -> Result<Box<dyn SetInstant>> {
        Ok(Box::new(take(&self.volumes, &self.busy, hooks, fleece)?))
    }
    /// A backup is running.
    pub fn is_backing_up(&self) -> bool {
        self.busy.load(SeqCst)
    }
    /// Clean stop of all volumes: later writes fail. The first error; all volumes are tried.
    pub fn close(&self) -> Result<()> {
        self.stop();
        self.volumes.iter().map(|v| v.close()).fold(Ok(()), Result::and)
    }
    fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((stop, handle)) = thread {
            *stop.now.lock().unwrap_or_else(PoisonError::into_inner) = true;
            stop.changed.notify_all();
            // A panic there was reported by the panic hook; the volumes are closed all the same.
            handle.join().ok();
        }
    }
}

impl Drop for LiveSet {
    fn drop(&mut self) {
        self.stop();
    }
}
