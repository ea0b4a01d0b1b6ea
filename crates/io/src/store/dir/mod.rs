//! A store in a directory: the embedded default, also over NFS and other network file systems.
//!
//! An object is a file at its own name under the root. What is not an object yet lies in `tmp/` and becomes one by a
//! single atomic step after its bytes are durable ([`create`]). Folders are made as needed and never removed, so that
//! nobody's create can lose its folder. Everything goes through the root's descriptor: the store stays the same
//! directory whatever is mounted or renamed above it.
//!
//! On a crash: an object is there whole or not at all; a file left in `tmp/` is removed by a later open once nobody
//! writes it. After a failed flush of a folder nothing tells which names are durable, so creates fail until reopened.

mod create;
mod draft;
mod files;
mod list;
#[cfg(test)]
mod tests;

use super::mem::{ends_early, gone};
use super::{Draft, Entry, GetDone, Part, Put, Store, check_name};
use crate::{Error, Kind, Result};
use files::Files;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o777); // The user's umask decides.
/// Where unfinished objects lie; no object name begins so.
const TMP: &str = "tmp";

/// A directory as a store. Cheap reads on the asking thread; safe for many processes at once.
pub struct DirStore {
    path: PathBuf,
    root: OwnedFd,
    files: Files,
    /// Folders whose own entries are known to be durable up to the root. Grows with the fan-out of names, not with size.
    durable_folders: Mutex<HashSet<String>>,
    /// This file system has no rename that refuses to replace (NFS): link and unlink instead.
    by_link: AtomicBool,
    /// A folder's flush failed.
    failed: AtomicBool,
    #[cfg(test)]
    hook: tests::Hook,
}

impl DirStore {
    /// Opens an existing directory; `Kind::Gone` if there is none. Needs no right to write until something is created.
    pub fn open(path: &Path) -> Result<Arc<Self>> {
        let store = Self::open_root(path)?;
        store.remove_leftovers(create::LEFTOVER_AGE);
        Ok(Arc::new(store))
    }

    /// Makes the directory (and those above it) if need be, durably, and opens it.
    pub fn create(path: &Path) -> Result<Arc<Self>> {
        let mut missing: Vec<&Path> =
            path.ancestors().take_while(|p| !p.as_os_str().is_empty() && !p.exists()).collect();
        while let Some(folder) = missing.pop() {
            match std::fs::create_dir(folder) {
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                    return Err(Error::os(folder.display().to_string(), &e));
                }
                _ => {}
            }
            let above = match folder.parent() {
                Some(p) if !p.as_os_str().is_empty() => p,
                _ => Path::new("."),
            };
            std::fs::File::open(above)
                .and_then(|d| d.sync_all())
                .map_err(|e| Error::os(above.display().to_string(), &e))?;
        }
        Self::open(path)
    }

    fn open_root(path: &Path) -> Result<Self> {
        let root = fs::open(path, FOLDER, Mode::empty()).map_err(|e| match e {
            Errno::NOTDIR => Error::new(Kind::Invalid, format!("{} is not a directory", path.display())),
            e => Error::os(path.display().to_string(), &e.into()),
        })?;
        Ok(DirStore {
            path: path.to_path_buf(),
            root,
            files: Files::default(),
            durable_folders: Mutex::default(),
            by_link: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            #[cfg(test)]
            hook: tests::Hook::default(),
        })
    }

    /// An error of the system about the object or folder `name`.
    fn error(&self, name: &str, e: Errno) -> Error {
        Error::os(self.path.join(name).display().to_string(), &e.into())
    }

    /// Announces the step that follows; tests record steps, let them fail, or let the process "die" there.
    #[inline]
    fn step(&self, _step: Step) -> Result<(), Errno> {
        #[cfg(test)]
        self.hook.step(_step)?;
        Ok(())
    }

    fn read(&self, name: &str, part: Part) -> Result<Vec<u8>> {
        let file = self.files.get(&self.root, name).map_err(|e| self.open_error(name, e))?;
        let range = match part {
            Part::All => rekindle_core::volume::ByteRange::new(0, file.size),
            Part::Tail(n) => {
                rekindle_core::volume::ByteRange::new(file.size - n.min(file.size), n.min(file.size))
            }
            Part::Range(r) if r.start.checked_add(r.len).is_some_and(|end| end <= file.size) => r,
            Part::Range(r) => {
                return Err(ends_early(&self.path.join(name).display().to_string(), file.size, r));
            }
        };
        file.read(range).or_else(|_| {
            // A descriptor can go stale (NFS after its server restarted): once more with a fresh one.
            self.files.forget(name);
            let file = self.files.get(&self.root, name).map_err(|e| self.open_error(name, e))?;
            file.read(range).map_err(|e| match e {
                files::ReadError::Ended(at) => {
                    ends_early(&self.path.join(name).display().to_string(), at, range)
                }
                files::ReadError::System(e) => self.error(name, e),
            })
        })
    }

    fn open_error(&self, name: &str, e: Errno) -> Error {
        match e {
            // A folder or an object on the way: no object has this name.
            Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => gone(name).at(self.path.display()),
            e => self.error(name, e),
        }
    }

    fn size_of(&self, name: &str) -> Result<Option<u64>> {
        match fs::statat(&self.root, name, AtFlags::empty()) {
            Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::RegularFile => {
                Ok(Some(s.st_size as u64))
            }
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(e) => Err(self.error(name, e)),
        }
    }
}

/// The steps that change something, in the vocabulary of the tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), allow(dead_code))] // Only tests look into them.
enum Step {
    MakeFolder,
    CreateTmp,
    LockTmp,
    WriteTmp,
    FlushTmp,
    Name,
    RemoveTmp,
    FlushFolder,
    Remove,
}

impl Store for DirStore {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
        check_name(name)?;
        self.files.drop_deleted();
        self.create_object(name, parts)
    }

    fn begin(&self, name: &str) -> Result<Option<Box<dyn Draft + '_>>> {
        check_name(name)?;
        self.files.drop_deleted();
        Ok(Some(Box::new(self.draft(name)?)))
    }

    fn start_get(&self, name: &str, part: Part, done: GetDone) {
        done(check_name(name).and_then(|()| self.read(name, part)));
    }

    fn head(&self, name: &str) -> Result<Option<u64>> {
        check_name(name)?;
        self.size_of(name)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>> {
        self.files.drop_deleted();
        list::list(&self.root, prefix, after, limit).map_err(|(name, e)| self.error(&name, e))
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.files.forget(name);
        let removed = self.step(Step::Remove).and_then(|()| fs::unlinkat(&self.root, name, AtFlags::empty()));
        match removed {
            Ok(()) => {}
            // ISDIR: a folder, so no object. NOENT: perhaps removed a moment ago by one who died before its flush.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR) if !self.folder_exists(name) => return Ok(()),
            Err(Errno::NOENT | Errno::ISDIR) => {}
            Err(e) => return Err(self.error(name, e)),
        }
        self.flush_folder(folder_of(name))
    }

    fn answers_inline(&self) -> bool {
        true
    }
}

impl DirStore {
    fn folder_exists(&self, name: &str) -> bool {
        fs::statat(&self.root, here(folder_of(name)), AtFlags::empty())
            .is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory)
    }

    /// Makes the entries of a folder durable; a failure fails the store for writing until it is reopened.
    fn flush_folder(&self, folder: &str) -> Result<()> {
        let flushed = self
            .step(Step::FlushFolder)
            .and_then(|()| fs::openat(&self.root, here(folder), FOLDER, Mode::empty()))
            .and_then(fs::fsync);
        // INVAL: a file system whose folders cannot be flushed (9p, some FUSE); there is nothing more to ask for.
        let flushed = if flushed == Err(Errno::INVAL) { Ok(()) } else { flushed };
        flushed.map_err(|e| {
            self.failed.store(true, Ordering::SeqCst);
            self.error(folder, e).at("cannot make names durable")
        })
    }
}

/// The folder part of a name; empty for the root.
fn folder_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// A folder as the system calls want it.
fn here(folder: &str) -> &str {
    if folder.is_empty() { "." } else { folder }
}
