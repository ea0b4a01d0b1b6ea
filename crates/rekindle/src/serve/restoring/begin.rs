//! Beginning a restore, and going on with one.
//!
//! Order: hold on the snapshot (nothing it needs may be collected), destinations, state, record. A crash in between leaves
//! a hold that names us and a file full of holes (`left_over`); the record makes it a restore.

use super::settle::remove_state;
use super::state::{App, Found, StatePlace, point};
use super::upkeep::MAP;
use super::{Restoring, RestoringVolume, Wishes};
use crate::dest;
use crate::errors::{Exit, Failure, Outcome};
use crate::repositories::failure;
use crate::serve::backup::host;
use crate::serve::counting::Counting;
use crate::serve::live::LABEL;
use crate::serve::record;
use rekindle_engine::repository::{HoldOwner, ReleaseReason, Repository, Snapshot, VolumeRecord};
use rekindle_engine::restore::{NewVolume, RestoreOptions, RestoreSet, VolumeParts};
use rekindle_io::Kind;
use rekindle_io::block::{Block, FileBlock};
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::holder::Holder;
use rekindle_io::logfile::{LogDir, RealDir};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

/// A destination that consent was given for.
pub struct NewDest {
    /// The volume's name in the new set.
    pub name: String,
    /// The volume in the snapshot.
    pub record: VolumeRecord,
    /// Absolute.
    pub path: PathBuf,
    /// A device: nothing is known of what lies there.
    pub device: bool,
    /// There was no file.
    pub made: bool,
}

/// Everything a restore begins with.
pub struct Begin {
    /// The set's name from now on.
    pub name: String,
    /// Goes by another name than its source: a volume of its own, with an identity of its own.
    pub renamed: bool,
    /// Where from.
    pub repository: Repository,
    /// What.
    pub snapshot: Snapshot,
    /// Where to, in the set's order.
    pub dests: Vec<NewDest>,
    /// Where the state goes.
    pub state: StatePlace,
    /// How.
    pub wishes: Wishes,
    /// When the command began.
    pub begun: Instant,
}

/// Begins. When it returns the restore survives any crash, and can be served.
pub fn begin(b: Begin) -> Outcome<Arc<Restoring>> {
    let cannot = format!("cannot restore {}", b.name);
    record::remember_restore(&b.name, &b.state.path)?;
    let dir = b.state.open()?;
    let owner = HoldOwner {
        host: host(),
        restore: b.name.clone(),
        restore_uuid: rekindle_io::random::uuid(),
        pid: std::process::id(),
        time_ns: SystemClock::new().wall_ns(),
    };
    let hold = b.repository.hold(b.snapshot.info(), owner).map_err(|e| {
        leave_nothing(&b, &dir);
        failure(&cannot, &e)
    })?;
    let app = App {
        repository: PathBuf::from(b.repository.place()),
        hold: hold.uuid.to_string(),
        source_set: b.snapshot.info().commit.set.clone(),
        snapshot: b.snapshot.info().commit.snapshot.to_string(),
        source_volumes: b.dests.iter().map(|d| d.record.name.clone()).collect(),
        made: b.dests.iter().filter(|d| d.made).map(|d| d.path.clone()).collect(),
    };
    b.wishes.keep(&b.state);
    let made = create(&b, &dir, &app, &cannot);
    if made.is_err() {
        let now = SystemClock::new().wall_ns();
        if let Err(e) = b.repository.release_hold(hold.uuid, ReleaseReason::Done, now) {
            tracing::warn!("the hold {} stays in the repository: {e}", hold.uuid);
        }
        leave_nothing(&b, &dir);
    }
    let (set, volumes) = made?;
    Ok(assemble(b.name, set, volumes, b.state, dir, b.repository, b.snapshot, app, b.wishes, b.begun))
}

/// After a beginning that failed: what was made for it goes, unless its record makes it a restore.
fn leave_nothing(b: &Begin, dir: &RealDir) {
    if !matches!(b.state.look(), Ok(None)) {
        return;
    }
    let destinations: Vec<PathBuf> = b.dests.iter().map(|d| d.path.clone()).collect();
    remove_state(dir, &b.state, &destinations);
    for d in b.dests.iter().filter(|d| d.made) {
        if std::fs::File::open(&d.path).is_ok_and(|f| is_bare(&f)) {
            let _ = std::fs::remove_file(&d.path);
        }
    }
}

/// A file of holes, or one that holds nothing but the label yet: made by us, never served.
fn is_bare(file: &std::fs::File) -> bool {
    let mut head = [0; LABEL.len()];
    let mut labelled = || file.read_exact_at(&mut head, 0).is_ok() && head == *LABEL;
    file.metadata().is_ok_and(|m| m.is_file() && (m.blocks() == 0 || labelled()))
}

type Made = (Arc<RestoreSet>, Vec<RestoringVolume>);

fn create(b: &Begin, dir: &Arc<rekindle_io::logfile::RealDir>, app: &App, cannot: &str) -> Outcome<Made> {
    let mut new = Vec::new();
    let mut volumes = Vec::new();
    for d in &b.dests {
        let size = d.record.geometry.size;
        if !d.device {
            prepare_file(&d.path, d.made, size)?;
        }
        let block = dest::open(&d.path, false, (!d.device).then_some(d.record.geometry.logical_block))?;
        forget_usage(&b.name, &d.name)?;
        let usage = Arc::new(Counting::default());
        let holder = b.snapshot.holder(&d.record.name).map_err(|e| failure(cannot, &e))?;
        new.push(NewVolume {
            name: d.name.clone(),
            volume: if b.renamed { rekindle_io::random::uuid() } else { d.record.uuid },
            origin: Some((d.record.tracking, d.record.generation)),
            destination: d.path.display().to_string(),
            parts: parts(holder, &block, !d.device, &usage),
        });
        volumes.push(RestoringVolume { name: d.name.clone(), path: d.path.clone(), block, usage });
    }
    let others: Vec<PathBuf> = b.dests.iter().filter(|d| !d.device).map(|d| d.path.clone()).skip(1).collect();
    point(&b.state, &others)?;
    let app = serde_json::to_value(app).expect("our types are always JSON");
    let options = RestoreOptions { app, ..RestoreOptions::default() };
    let clock = Arc::new(SystemClock::new());
    let set = RestoreSet::create(dir.clone(), &b.name, new, options, clock);
    Ok((set.map_err(|e| Failure::io(cannot, &e))?, volumes))
}

/// A map that an earlier restore of this name left is not this one's.
fn forget_usage(set: &str, volume: &str) -> Outcome {
    let folder = record::volume_folder(set, volume)?;
    RealDir::open(&folder)
        .and_then(|dir| dir.remove(MAP))
        .map_err(|e| Failure::io("cannot begin the usage map anew", &e))
}

/// An empty file of the right size: what was there is gone (consent was given), all of it is holes.
fn prepare_file(path: &Path, made: bool, size: u64) -> Outcome {
    // Consent was given to what lies there, not to cutting a disk from under whoever uses it now.
    if !made
        && let Err(f) = dest::open(path, false, None)
        && f.exit == Exit::Busy
    {
        return Err(f);
    }
    let cannot = |e: &std::io::Error| Failure::system(format!("cannot make {}", path.display()), e);
    let new = std::fs::File::options().read(true).write(true).create_new(true).open(path);
    let file = match new {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            let file = std::fs::File::options().read(true).write(true).open(path).map_err(|e| cannot(&e))?;
            // Empty when it was looked at, or left by a beginning of ours; or nothing was there then.
            if made && !is_bare(&file) {
                return Err(Failure::refused(
                    format!("cannot restore to {}", path.display()),
                    "another file appeared there meanwhile",
                    "name another destination, or run the same command again and see what it says",
                ));
            }
            file
        }
        new => new.map_err(|e| cannot(&e))?,
    };
    file.set_len(0).and_then(|()| file.set_len(size)).map_err(|e| cannot(&e))?;
    // The engine labels and flushes it before it says that there is a restore; the name is left to us.
    dest::sync_folder_of(path).map_err(|e| cannot(&e))
}

fn parts(holder: Arc<dyn Holder>, block: &Arc<FileBlock>, fresh: bool, usage: &Arc<Counting>) -> VolumeParts {
    VolumeParts { holder, target: block.clone() as Arc<dyn Block>, fresh, usage: Some(usage.clone()) }
}

/// Goes on with the restore that `state` holds.
pub fn resume(
    state: StatePlace,
    found: &Found,
    repository: Repository,
    wishes: Wishes,
    begun: Instant,
) -> Outcome<Arc<Restoring>> {
    let name = found.plan.set.clone();
    let cannot = format!("cannot go on with the restore of {name}");
    let id = found.app.snapshot.parse().map_err(|e| {
        Failure::new(Exit::Failed, &cannot, e, "its record is damaged; restore to another place")
    })?;
    let snapshot = repository.snapshot_by_uuid(id).map_err(|e| failure(&cannot, &e))?;
    let dir = state.open()?;
    let mut volumes: Vec<RestoringVolume> = Vec::new();
    let mut sources = found.app.source_volumes.iter();
    let mut refused: Option<Failure> = None;
    let app = serde_json::to_value(&found.app).expect("our types are always JSON");
    let options = RestoreOptions { app, ..RestoreOptions::default() };
    let set = RestoreSet::resume(dir.clone(), options, Arc::new(SystemClock::new()), |p| {
        let source = sources.next().unwrap_or(&p.name);
        let path = PathBuf::from(&p.destination);
        if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
            refused = Some(found.gone(&path, &state));
        }
        let device = path.metadata().is_ok_and(|m| !m.is_file());
        let block = dest::open(&path, false, (!device).then_some(p.blocks.0)).map_err(|f| {
            let e = rekindle_io::Error::new(rekindle_io::Kind::Failed, f.to_string());
            refused.get_or_insert(f);
            e
        })?;
        let usage = Arc::new(Counting::default());
        let holder = snapshot.holder(source)?;
        volumes.push(RestoringVolume {
            name: p.name.clone(),
            path,
            block: block.clone(),
            usage: usage.clone(),
        });
        Ok(parts(holder, &block, false, &usage))
    });
    let set = set.map_err(|e| match e.kind {
        _ if refused.is_some() => refused.take().expect("looked at"),
        // State and destination are not a pair: nothing was changed.
        Kind::Invalid => found.no_pair(&e),
        _ => Failure::io(&cannot, &e),
    })?;
    let app = found.app.clone();
    wishes.keep(&state);
    Ok(assemble(name, set, volumes, state, dir, repository, snapshot, app, wishes, begun))
}

#[allow(clippy::too_many_arguments)] // the fields of one struct, once
fn assemble(
    name: String,
    set: Arc<RestoreSet>,
    volumes: Vec<RestoringVolume>,
    state: StatePlace,
    dir: Arc<rekindle_io::logfile::RealDir>,
    repository: Repository,
    snapshot: Snapshot,
    app: App,
    wishes: Wishes,
    begun: Instant,
) -> Arc<Restoring> {
    let c = &snapshot.info().commit;
    let moment = format!("{}@{}", c.set, c.snapshot.short());
    Arc::new(Restoring {
        name,
        set,
        volumes,
        moment,
        state,
        dir,
        repository,
        snapshot,
        app,
        wishes: Mutex::new(wishes),
        begun,
        online_after: OnceLock::new(),
        fill: OnceLock::new(),
        early: Default::default(),
        verified_bytes: Default::default(),
        stop: Default::default(),
        upkeep: Default::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What appears between the look and the beginning was in nobody's mind.
    #[test]
    fn a_file_that_appeared_meanwhile_is_not_cut() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("disk.raw");
        prepare_file(&path, true, 4096).unwrap();
        // Made by us and left: nothing but holes, or our label.
        prepare_file(&path, true, 8192).unwrap();
        std::fs::write(&path, LABEL).unwrap();
        prepare_file(&path, true, 8192).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 8192]);
        std::fs::write(&path, "").unwrap();
        prepare_file(&path, true, 8192).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(prepare_file(&path, true, 8192).unwrap_err().exit, Exit::Refused);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        // That was there when consent was given.
        prepare_file(&path, false, 8192).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 8192]);
    }
}
