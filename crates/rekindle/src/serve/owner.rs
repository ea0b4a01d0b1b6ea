//! The owner lock: one process serves a set.
//!
//! `NAME.lock` in the runtime directory, locked with flock for the life of the process; inside it says who holds it and
//! which disks it has, so that whoever is refused can be told. The kernel drops the lock when the process dies, however
//! it dies; the text is then stale and nobody believes it, because belief follows the lock.

use crate::errors::{Exit, Failure, Outcome};
use crate::places;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// What the lock file says of its holder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The set.
    pub name: String,
    /// The process.
    pub pid: u32,
    /// `serve` or `restore`.
    pub doing: String,
    /// The disks it has, as absolute paths.
    pub disks: Vec<PathBuf>,
}

/// The lock, held until dropped.
#[derive(Debug)]
pub struct OwnerLock {
    _file: File,
    socket: PathBuf,
}

impl OwnerLock {
    /// Takes the set, or says who has it (exit code 11).
    pub fn take(name: &str, doing: &str, disks: &[PathBuf]) -> Outcome<OwnerLock> {
        let dir = places::runtime_dir()?;
        let path = dir.join(format!("{name}.lock"));
        let cannot = |e: std::io::Error| Failure::system(format!("cannot lock {}", path.display()), &e);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(cannot)?;
        if let Err(e) = lock(&file) {
            let busy = e == rustix::io::Errno::WOULDBLOCK;
            return Err(if busy { held(name, read(&mut file)) } else { cannot(e.into()) });
        }
        let holder = Holder {
            name: name.into(),
            pid: std::process::id(),
            doing: doing.into(),
            disks: disks.iter().map(|d| std::path::absolute(d).unwrap_or_else(|_| d.clone())).collect(),
        };
        let text = serde_json::to_vec(&holder).expect("our types are always JSON");
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(&text))
            .map_err(cannot)?;
        Ok(OwnerLock { _file: file, socket: socket_in(&dir, name) })
    }
    /// Where this owner's control socket belongs.
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

/// The control socket of a set, whether or not somebody listens.
pub fn socket(name: &str) -> Outcome<PathBuf> {
    Ok(socket_in(&places::runtime_path()?, name))
}

fn socket_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("{name}.sock"))
}

/// Names of all sets with a lock file whose lock is held.
pub fn alive() -> Outcome<Vec<Holder>> {
    let dir = places::runtime_path()?;
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::system(format!("cannot list {}", dir.display()), &e)),
    };
    let mut held: Vec<Holder> = entries
        .flatten()
        .filter(|e| e.path().extension().is_some_and(|x| x == "lock"))
        .filter_map(|e| File::open(e.path()).ok())
        .filter_map(|mut f| {
            // A lock we can share is held by nobody; the text is left from a dead owner.
            match flock(&f, FlockOperation::NonBlockingLockShared) {
                Ok(()) => None,
                Err(_) => read(&mut f),
            }
        })
        .collect();
    held.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(held)
}

/// Fails if some process has the set, as taking it would.
pub fn must_be_free(name: &str) -> Outcome {
    alive()?.into_iter().find(|h| h.name == name).map_or(Ok(()), |h| Err(held(name, Some(h))))
}

/// Who of the living has this disk; somebody else before ourselves.
pub fn owner_of(disk: &Path) -> Option<Holder> {
    let has = |h: &Holder| h.disks.iter().any(|d| places::same(d, disk));
    alive().ok()?.into_iter().filter(has).min_by_key(|h| h.pid == std::process::id())
}

/// The failure of an open that found its disk in use: names the holder where one of ours has it.
pub fn disk_busy(disk: &Path, cause: &str) -> Failure {
    // Our own lock names the disk before the disk is opened: it is not what was in the way.
    let (cause, cure) = match owner_of(disk).filter(|h| h.pid != std::process::id()) {
        Some(h) => (
            format!("process {} serves it as {} (rekindle {})", h.pid, h.name, h.doing),
            format!("use that one, or stop it first: kill {}", h.pid),
        ),
        None => (
            cause.to_string(),
            format!("find who has it with `fuser -v {}` and stop that first", disk.display()),
        ),
    };
    Failure::new(Exit::Busy, format!("{} is in use", disk.display()), cause, cure)
}

/// `alive` asks by taking the lock for a moment, so one refusal proves nothing.
fn lock(file: &File) -> rustix::io::Result<()> {
    for _ in 0..5 {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(std::time::Duration::from_millis(10)),
            other => return other,
        }
    }
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn held(name: &str, holder: Option<Holder>) -> Failure {
    let (cause, cure) = match holder {
        Some(h) => (
            format!("process {} has it (rekindle {})", h.pid, h.doing),
            format!("steer that one (`rekindle status {name}`), or stop it first: kill {}", h.pid),
        ),
        None => ("another process holds its lock".into(), format!("look with `rekindle status {name}`")),
    };
    Failure::new(Exit::Busy, format!("{name} is served already"), cause, cure)
}
