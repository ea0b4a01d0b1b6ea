//! The ends of a restore: handed over, or thrown away.

use super::Restoring;
use super::adopt::Adopting;
use super::state::{App, Found, StatePlace};
use crate::errors::{Exit, Failure, Outcome};
use crate::serve::control::CutoverSummary;
use crate::serve::live::Live;
use rekindle_engine::repository::{ReleaseReason, Repository};
use rekindle_engine::restore::clear;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::LogDir;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use super::adopt::move_map;

impl Restoring {
    /// It may be handed over now.
    pub fn is_ready(&self, no_verify: bool) -> bool {
        let status = self.set.status().state;
        use rekindle_engine::restore::RestoreState::{Complete, Verified};
        status == Verified || (status == Complete && (no_verify || self.wishes().no_verify))
    }
    /// Hands the set over: from now on it is live. The hold ends, the state is removed.
    pub fn cut_over(&self, no_verify: bool) -> Outcome<(Arc<Live>, CutoverSummary)> {
        if let Some(fill) = self.fill.get() {
            fill.stop();
        }
        let adopting = Adopting { restoring: self, made: Mutex::default() };
        let done = self.set.hand_over(&adopting, no_verify || self.wishes().no_verify);
        let done = done.map_err(|e| self.cannot("settle", &e))?;
        let volumes = adopting.made.into_inner().unwrap_or_else(PoisonError::into_inner);
        let live = Arc::new(Live::of(&self.name, volumes, self.maps())?);
        self.end_threads();
        self.release();
        remove_state(&*self.dir, &self.state, &self.destinations());
        let size = self.set.volumes().iter().map(|v| v.geometry().size).sum();
        let summary = CutoverSummary {
            pause_ms: done.pause.as_secs_f64() * 1e3,
            size_bytes: size,
            log_bytes: done.log_bytes,
            verified: done.verified,
        };
        Ok((live, summary))
    }
    /// Throws it away: nothing is served any more. Files it made are removed; a device keeps a label that says what it was.
    pub fn discard(&self) -> Outcome<Vec<PathBuf>> {
        self.end_threads();
        self.set.stop().map_err(|e| self.cannot("stop", &e))?;
        throw_away(&*self.dir, &self.state, &self.app, &self.destinations())?;
        self.release();
        Ok(self.app.made.clone())
    }
    fn release(&self) {
        release(&self.repository, &self.app);
    }
    /// The failure of a cutover whose restore failed.
    pub fn failed(&self) -> Option<Failure> {
        let why = self.set.status().failed?;
        let cure = "stop the process and run the same command again: it goes on from what is durable";
        Some(Failure::new(Exit::Failed, format!("the restore of {} has failed", self.name), why, cure))
    }
}

/// Throws away a restore that no process serves. The repository is needed to let the snapshot go.
pub fn discard_at_rest(found: &Found, place: &StatePlace, repository: &Repository) -> Outcome<Vec<PathBuf>> {
    let dir = place.open()?;
    throw_away(&*dir, place, &found.app, &found.destinations())?;
    release(repository, &found.app);
    Ok(found.app.made.clone())
}

/// Files first: a crash in between leaves a record that says what is missing, not half a disk without one.
fn throw_away(dir: &dyn LogDir, place: &StatePlace, app: &App, destinations: &[PathBuf]) -> Outcome {
    for path in &app.made {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::system(format!("cannot remove {}", path.display()), &e));
            }
            _ => {}
        }
    }
    clear(dir).map_err(|e| Failure::io(format!("cannot throw away {}", place.path.display()), &e))?;
    place.remove(destinations);
    Ok(())
}

/// Lets the snapshot go. A hold that stays costs space and is said; it is never wrong.
fn release(repository: &Repository, app: &App) {
    let released = app.hold.parse().map_err(|e| format!("{e}")).and_then(|hold| {
        let now = SystemClock::new().wall_ns();
        repository.release_hold(hold, ReleaseReason::Done, now).map_err(|e| e.to_string())
    });
    if let Err(e) = released {
        tracing::warn!("the hold {} stays in the repository: {e}", app.hold);
    }
}

/// Removes what a settled restore left. It is void already, so a failure is only said.
pub fn remove_state(dir: &dyn LogDir, place: &StatePlace, destinations: &[PathBuf]) {
    match clear(dir) {
        Ok(()) => place.remove(destinations),
        Err(e) => tracing::warn!("{} is left behind: {e}", place.path.display()),
    }
}
