//! The ends of a restore: handed over, or thrown away.

use super::Restoring;
use super::adopt::Adopting;
use super::drill::{self, Started};
use super::state::{App, Found, StatePlace};
use crate::dest;
use crate::errors::{Exit, Failure, Outcome};
use crate::serve::control::CutoverSummary;
use crate::serve::live::Live;
use rekindle_engine::repository::{ReleaseReason, Repository};
use rekindle_engine::restore::{PlanRecord, clear, is_destination};
use rekindle_io::block::FileBlock;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::LogDir;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
    /// The files that go when it is thrown away; refused if one of them is another by now.
    pub fn discardable(&self) -> Outcome<Vec<PathBuf>> {
        removable(&*self.dir, &self.app, &self.set.plan(), |i| Ok(self.volumes[i].block.clone()))
    }
    /// Throws it away: nothing is served any more. Files it made are removed; a device keeps a label that says what it was.
    /// What its guest's start demanded is kept with the volume. Gives what there is to say, a line each.
    pub fn discard(&self) -> Outcome<Vec<String>> {
        // Once more: its clients had time to leave, and somebody to put another file there.
        let files = self.discardable()?;
        self.end_threads();
        self.set.stop().map_err(|e| self.cannot("stop", &e))?;
        let sources = self.volumes.iter().zip(&self.app.source_volumes);
        let started = sources.filter_map(|(v, s)| Some(Started::of(v.usage.map()?, &self.snapshot, s)));
        let started = started.collect();
        throw_away(&*self.dir, &self.state, &files, &self.destinations())?;
        let mut text = removed(&self.app);
        text.extend(drill::keep(&self.repository, started));
        self.release();
        Ok(text)
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

fn removed(app: &App) -> Vec<String> {
    app.made.iter().map(|p| format!("removed   {}", p.display())).collect()
}

/// Throws away a restore that no process serves; what there is to say. The repository lets the snapshot go and keeps what
/// the guest's start demanded; with it away neither is done, and both are said.
pub fn discard_at_rest(
    found: &Found,
    place: &StatePlace,
    repository: Outcome<Repository>,
) -> Outcome<Vec<String>> {
    let dir = place.open()?;
    let volumes = &found.plan.volumes;
    let open = |i: usize| dest::open(Path::new(&volumes[i].destination), true, Some(volumes[i].blocks.0));
    let files = removable(&*dir, &found.app, &found.plan, open)?;
    let started = repository.as_ref().map_or(Vec::new(), |r| drill::at_rest(found, r));
    throw_away(&*dir, place, &files, &found.destinations())?;
    let mut text = removed(&found.app);
    match repository {
        Ok(repository) => {
            text.extend(drill::keep(&repository, started));
            release(&repository, &found.app);
        }
        Err(away) => {
            text.push(drill::not_kept(&away));
            text.push(format!(
                "held      {} stays in the repository for it: hold {}",
                found.app.snapshot, found.app.hold
            ));
        }
    }
    Ok(text)
}

/// The files a restore made, as far as they are there. What took the place of one of them is somebody's: refused.
fn removable(
    dir: &dyn LogDir,
    app: &App,
    plan: &PlanRecord,
    open: impl Fn(usize) -> Outcome<Arc<FileBlock>>,
) -> Outcome<Vec<PathBuf>> {
    let there: Vec<PathBuf> = app.made.iter().filter(|p| p.symlink_metadata().is_ok()).cloned().collect();
    for path in &there {
        let Some(i) = plan.volumes.iter().position(|v| Path::new(&v.destination) == path) else { continue };
        let block = open(i)?;
        if let Err(e) = same_file(path, &block).and_then(|()| is_destination(dir, plan, i, block)) {
            return Err(Failure::refused(
                format!("{} was not discarded", plan.set),
                format!(
                    "{} would be removed, and it is not what was made for this: {}",
                    path.display(),
                    e.what
                ),
                format!("move it to another place, then: rekindle discard {0} --yes {0}", plan.set),
            ));
        }
    }
    Ok(there)
}

/// Files first: a crash in between leaves a record that says what is missing, not half a disk without one.
fn throw_away(dir: &dyn LogDir, place: &StatePlace, files: &[PathBuf], destinations: &[PathBuf]) -> Outcome {
    for path in files {
        std::fs::remove_file(path)
            .map_err(|e| Failure::system(format!("cannot remove {}", path.display()), &e))?;
    }
    clear(dir).map_err(|e| Failure::io(format!("cannot throw away {}", place.path.display()), &e))?;
    place.remove(destinations);
    Ok(())
}

/// The name may lead to another file than the one that is open.
fn same_file(path: &Path, open: &FileBlock) -> rekindle_io::Result<()> {
    let error = |e: std::io::Error| rekindle_io::Error::os(path.display().to_string(), &e);
    let (named, open) = (path.symlink_metadata().map_err(error)?, open.file().metadata().map_err(error)?);
    if (named.dev(), named.ino()) == (open.dev(), open.ino()) {
        return Ok(());
    }
    Err(rekindle_io::Error::new(rekindle_io::Kind::Invalid, "another file has that name now"))
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
