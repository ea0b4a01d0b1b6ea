//! Where a restore keeps its write log and state, and what this process adds to the engine's record.
//!
//! Beside a destination file, as `DEST.rekindle/`: the two travel together. For a device in the state directory. A set with
//! several destinations has one log, beside the first.

use crate::errors::{Failure, Outcome};
use crate::places;
use crate::serve::record;
use crate::show;
use rekindle_engine::restore::{Phase, PlanRecord, peek};
use rekindle_io::logfile::RealDir;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The file beside a further destination that names the state's place.
const POINTER: &str = "with";

/// A folder for the state of a restore.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StatePlace {
    /// The folder.
    pub path: PathBuf,
}

/// What this process keeps with the engine's record, to open everything again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct App {
    /// The repository.
    pub repository: PathBuf,
    /// The hold that keeps the snapshot.
    pub hold: String,
    /// The set's name in the repository.
    pub source_set: String,
    /// The snapshot.
    pub snapshot: String,
    /// The volumes' names in the repository, in the set's order.
    pub source_volumes: Vec<String>,
    /// Destination files this restore made; thrown away with it.
    pub made: Vec<PathBuf>,
}

/// A restore that a folder holds.
pub struct Found {
    /// The engine's record.
    pub plan: PlanRecord,
    /// Ours.
    pub app: App,
}

impl StatePlace {
    /// Where the state of a restore to `first` (and others) belongs.
    pub fn of(set: &str, first: &Path, device: bool) -> Outcome<StatePlace> {
        let path = if device {
            places::state_path()?.join("restores").join(set)
        } else {
            beside(&std::path::absolute(first).unwrap_or_else(|_| first.to_path_buf()))
        };
        Ok(StatePlace { path })
    }
    /// Opens it, made if absent; a tmpfs is refused.
    pub fn open(&self) -> Outcome<std::sync::Arc<RealDir>> {
        let made = !self.path.exists();
        places::make_private(&self.path)?;
        if let Err(refused) = places::refuse_volatile(&self.path) {
            // Nothing of a restore that was refused is left.
            if made {
                let _ = std::fs::remove_dir(&self.path);
            }
            return Err(refused);
        }
        RealDir::open(&self.path).map_err(|e| Failure::io("cannot open the state of the restore", &e))
    }
    /// What it holds, without making it.
    pub fn look(&self) -> Outcome<Option<Found>> {
        if !self.path.is_dir() {
            return Ok(None);
        }
        let cannot = |e| Failure::io(format!("cannot read the restore in {}", self.path.display()), &e);
        let dir = RealDir::open(&self.path).map_err(cannot)?;
        let Some(plan) = peek(&*dir).map_err(cannot)? else { return Ok(None) };
        let app = serde_json::from_value(plan.app.clone()).map_err(|e| {
            cannot(rekindle_io::Error::new(rekindle_io::Kind::Corrupt, format!("its record: {e}")))
        })?;
        Ok(Some(Found { plan, app }))
    }
    /// Removes it and the pointers to it, once the engine has cleared its files.
    pub fn remove(&self, destinations: &[PathBuf]) {
        super::Wishes::forget(self);
        let _ = std::fs::remove_dir(&self.path);
        for dir in destinations.iter().map(|d| beside(d)).filter(|d| *d != self.path) {
            let _ = std::fs::remove_file(dir.join(POINTER));
            let _ = std::fs::remove_dir(dir);
        }
    }
}

pub(super) fn beside(dest: &Path) -> PathBuf {
    let mut name = dest.as_os_str().to_owned();
    name.push(".rekindle");
    name.into()
}

/// Where the state is that the pointer beside a destination names.
pub(super) fn pointed_to(dest: &Path) -> Option<PathBuf> {
    let pointer = std::fs::read_to_string(beside(dest).join(POINTER));
    pointer.ok().map(|t| PathBuf::from(t.trim_end()))
}

/// The names this disk may have been given to a restore by: as it is named now, where links lead, and any other name of
/// the same file that is remembered.
fn names_of(disk: &Path) -> Outcome<Vec<PathBuf>> {
    let mut names =
        vec![std::path::absolute(disk).unwrap_or_else(|_| disk.to_path_buf()), places::real(disk)];
    names.extend(record::disks()?.into_iter().filter(|d| places::same(d, disk)));
    names.sort();
    names.dedup();
    Ok(names)
}

/// The restore that `disk` is a destination of, if there is one: its place, and what it holds. Settled ones count too.
pub fn holding(disk: &Path) -> Outcome<Option<(StatePlace, Found)>> {
    let mut places = Vec::new();
    for name in names_of(disk)? {
        // A set's state lies beside its first destination; beside the others a pointer says where.
        places.extend(pointed_to(&name));
        places.push(beside(&name));
    }
    let devices = crate::places::state_path()?.join("restores");
    places.extend(std::fs::read_dir(devices).into_iter().flatten().flatten().map(|e| e.path()));
    for path in places {
        let place = StatePlace { path };
        let found = place.look()?;
        let ours = |f: &Found| f.plan.volumes.iter().any(|v| places::same(Path::new(&v.destination), disk));
        if let Some(found) = found.filter(ours) {
            return Ok(Some((place, found)));
        }
    }
    Ok(None)
}

/// The restore of `set` to a device, whatever the device: its name is taken until that is settled.
fn named(set: &str) -> Outcome<Option<(StatePlace, Found)>> {
    let place = StatePlace { path: places::state_path()?.join("restores").join(set) };
    Ok(place.look()?.map(|found| (place, found)))
}

/// The restore that has this set's name or one of its disks.
pub fn find(set: &str, disks: &[(String, PathBuf)]) -> Outcome<Option<(StatePlace, Found)>> {
    for (_, disk) in disks {
        if let Some(found) = holding(disk)? {
            return Ok(Some(found));
        }
    }
    named(set)
}

/// Leaves pointers beside all destinations but the first.
pub fn point(place: &StatePlace, others: &[PathBuf]) -> Outcome {
    for other in others {
        let dir = beside(other);
        places::make_private(&dir)?;
        let text = format!("{}\n", place.path.display());
        std::fs::write(dir.join(POINTER), text)
            .and_then(|()| std::fs::File::open(&dir)?.sync_all())
            .map_err(|e| Failure::system(format!("cannot write beside {}", other.display()), &e))?;
    }
    Ok(())
}

impl Found {
    /// It was handed over: the destinations are the volumes.
    pub fn is_live(&self) -> bool {
        self.plan.phase == Phase::Live
    }
    /// Where its volumes go.
    pub fn destinations(&self) -> Vec<PathBuf> {
        self.plan.volumes.iter().map(|v| PathBuf::from(&v.destination)).collect()
    }
    /// It is the restore of `set` to exactly these disks.
    pub fn is_of(&self, set: &str, disks: &[(String, PathBuf)]) -> bool {
        let same = |(name, path): &(String, PathBuf), v: &rekindle_engine::restore::PlannedVolume| {
            *name == v.name && places::same(path, Path::new(&v.destination))
        };
        self.plan.set == set
            && disks.len() == self.plan.volumes.len()
            && disks.iter().zip(&self.plan.volumes).all(|(d, v)| same(d, v))
    }
    /// The failure of going on without one of the destinations.
    pub fn gone(&self, destination: &Path, state: &StatePlace) -> Failure {
        Failure::refused(
            format!("cannot go on with the restore of {}", self.plan.set),
            format!(
                "its destination {} is gone; its state, with what was written to it, is still in {}",
                destination.display(),
                state.path.display()
            ),
            format!(
                "put the destination back, or throw away what is left: rekindle discard {0} --yes {0}",
                self.plan.set
            ),
        )
    }
    /// The failure of going on with a destination that does not go with the state.
    pub fn no_pair(&self, e: &rekindle_io::Error) -> Failure {
        Failure::refused(
            format!("cannot go on with the restore of {}", self.plan.set),
            &e.what,
            format!(
                "put back the one that belongs there; or throw the restore away and begin anew: rekindle discard {}",
                self.plan.set
            ),
        )
    }
    /// The failure of using these disks for anything else.
    pub fn refuse(&self, disk: &Path) -> Failure {
        Failure::refused(
            format!("{} cannot be used", disk.display()),
            format!("it is the half-restored destination of {}", self.plan.set),
            format!(
                "go on with it: {}; or throw it away with `rekindle discard {}`",
                self.command(&[]),
                self.plan.set
            ),
        )
    }
    /// The moment it was opened from.
    pub fn moment(&self) -> String {
        let id: String = self.app.snapshot.chars().take(8).collect();
        format!("{}@{id}", self.app.source_set)
    }
    /// The command line that goes on with it, served at these addresses; the options it was begun with are kept.
    pub fn command(&self, listen: &[String]) -> String {
        let set = &self.plan.set;
        let mut words = vec!["rekindle restore".into(), self.moment()];
        if *set != self.app.source_set {
            words.push(format!("--as {set}"));
        }
        let lone = self.plan.volumes.len() == 1;
        for v in &self.plan.volumes {
            let volume = if lone { String::new() } else { format!("{}=", v.name) };
            words.push(format!("--to {}", show::words::shell(&format!("{volume}{}", v.destination))));
        }
        words.extend(listen.iter().map(|l| format!("--listen {}", show::words::shell(l))));
        if listen.is_empty() {
            words.push("--listen ...".into());
        }
        words.push(format!("-r {}", show::words::shell(&self.app.repository.display().to_string())));
        words.join(" ")
    }
}
