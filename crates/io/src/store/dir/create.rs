//! How bytes become an object: written to a file of their own under `tmp/`, made durable, given the name by one step
//! that fails if the name is taken, and the folder made durable. Answered after all of it.
//!
//! The step is a rename that refuses to replace; where the file system has none (NFS), a hard link and an unlink. Over
//! a network its answer can be lost and the repeated request then finds the name taken by ourselves: whether the name
//! leads to the very file we hold open tells.
//!
//! A file in `tmp/` is locked by its writer for as long as it is one, so whoever gets the lock knows that the writer
//! is gone and removes it. Where locks are not shared between machines, age (an hour) stands in for that; a writer whose
//! file was taken away all the same gets an error and nothing else happens: clocks decide liveness only.

use super::super::Put;
use super::{DirStore, FOLDER, FOLDER_MODE, Step, TMP, folder_of, here};
use crate::{Error, Kind, Result};
use rustix::fs::{self, AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

const FILE_MODE: Mode = Mode::from_raw_mode(0o666); // The user's umask decides.
/// Leftovers younger than this stay, see above.
pub(super) const LEFTOVER_AGE: Duration = Duration::from_secs(3600);

impl DirStore {
    pub(super) fn create_object(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
        self.check_failed()?;
        if self.size_of(name)?.is_some() {
            return self.exists(name);
        }
        let mut draft = self.draft(name)?;
        draft.append(parts)?;
        draft.give_name()
    }

    pub(super) fn check_failed(&self) -> Result<()> {
        if !self.failed.load(Ordering::SeqCst) {
            return Ok(());
        }
        let what = format!("{}: an earlier flush failed; reopen the store", self.path.display());
        Err(Error::new(Kind::Failed, what))
    }

    /// The name is taken. Made durable before it is told: the one who made it may have died before its flush, and the
    /// caller will build upon it.
    pub(super) fn exists(&self, name: &str) -> Result<Put> {
        self.flush_folder(folder_of(name))?;
        Ok(Put::Exists)
    }

    /// A fresh file under `tmp/`, locked.
    pub(super) fn new_tmp(&self) -> Result<(String, OwnedFd), Errno> {
        loop {
            let tmp = format!("{TMP}/{}", crate::random::uuid());
            self.step(Step::CreateTmp)?;
            let create = || {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                fs::openat(&self.root, tmp.as_str(), flags, FILE_MODE)
            };
            let file = match create() {
                Err(Errno::NOENT) => {
                    ignore_existing(fs::mkdirat(&self.root, TMP, FOLDER_MODE))?;
                    create()?
                }
                other => other?,
            };
            // Without working locks (ENOLCK) age alone protects the file.
            let locked = self.step(Step::LockTmp).map(|()| fs::flock(&file, FlockOperation::LockExclusive));
            // Between create and lock somebody may have taken it for a leftover and removed it.
            match locked.and_then(|_| fs::fstat(&file)) {
                Ok(stat) if stat.st_nlink > 0 => return Ok((tmp, file)),
                Ok(_) => {}
                Err(e) => {
                    self.remove_tmp(&tmp);
                    return Err(e);
                }
            }
        }
    }

    /// Makes `folder` and those above it, and makes sure (once per folder) that their own names are durable: who made
    /// them may have died before doing so.
    pub(super) fn make_folders(&self, folder: &str) -> Result<()> {
        if folder.is_empty() || self.known_durable(folder) {
            return Ok(());
        }
        let above = folder_of(folder);
        self.make_folders(above)?;
        self.step(Step::MakeFolder)
            .and_then(|()| ignore_existing(fs::mkdirat(&self.root, folder, FOLDER_MODE)))
            .map_err(|e| match e {
                Errno::NOTDIR => Error::new(
                    Kind::Invalid,
                    format!("{}: an object is in the way", self.path.join(folder).display()),
                ),
                e => self.error(folder, e),
            })?;
        self.flush_folder(above)?;
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).insert(folder.to_string());
        Ok(())
    }

    fn known_durable(&self, folder: &str) -> bool {
        self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).contains(folder)
    }

    /// The atomic step.
    pub(super) fn give_name(&self, tmp: &str, file: &OwnedFd, name: &str) -> Result<Put> {
        let named = self.step(Step::Name).and_then(|()| self.rename_or_link(tmp, name));
        match named {
            Ok(()) => Ok(Put::Created),
            // NOENT: the repeated request of a rename that had taken place finds `tmp` gone.
            Err(e @ (Errno::EXIST | Errno::NOENT)) => match self.leads_to(name, file) {
                Ok(true) => {
                    self.remove_tmp(tmp);
                    Ok(Put::Created)
                }
                Ok(false) if e == Errno::EXIST && self.size_of(name)?.is_some() => Ok(Put::Exists),
                Ok(false) if e == Errno::EXIST => Err(Error::new(
                    Kind::Invalid,
                    format!("{}: something that is no object is in the way", self.path.join(name).display()),
                )),
                // Our file was taken for a leftover, or the folder was removed by hand.
                _ => {
                    self.durable_folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    Err(Error { kind: Kind::Retry, ..self.error(name, e) })
                }
            },
            Err(Errno::NOTDIR) => Err(Error::new(
                Kind::Invalid,
                format!("{}: an object is in the way", self.path.join(name).display()),
            )),
            Err(e) => Err(self.error(name, e)),
        }
    }

    fn rename_or_link(&self, tmp: &str, name: &str) -> Result<(), Errno> {
        if !self.by_link.load(Ordering::Relaxed) {
            match fs::renameat_with(&self.root, tmp, &self.root, name, RenameFlags::NOREPLACE) {
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    self.by_link.store(true, Ordering::Relaxed)
                }
                other => return other,
            }
        }
        fs::linkat(&self.root, tmp, &self.root, name, AtFlags::empty())?;
        self.remove_tmp(tmp);
        Ok(())
    }

    /// Whether `name` is the very file we hold open.
    fn leads_to(&self, name: &str, file: &OwnedFd) -> Result<bool, Errno> {
        let ours = fs::fstat(file)?;
        match fs::statat(&self.root, name, AtFlags::empty()) {
            Ok(s) => Ok((s.st_dev, s.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A file that stays is a leftover: it costs space until a later open, no more.
    pub(super) fn remove_tmp(&self, tmp: &str) {
        let _ = self.step(Step::RemoveTmp).and_then(|()| fs::unlinkat(&self.root, tmp, AtFlags::empty()));
    }

    /// Removes what crashed writers left under `tmp/`. Whatever stands in the way waits for the next open.
    pub(super) fn remove_leftovers(&self, age: Duration) {
        let Ok(entries) = fs::openat(&self.root, here(TMP), FOLDER, Mode::empty()).and_then(Dir::read_from)
        else {
            return;
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name.starts_with('.') {
                continue;
            }
            let _ = self.remove_leftover(&format!("{TMP}/{name}"), age);
        }
    }

    fn remove_leftover(&self, path: &str, age: Duration) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let file = fs::openat(&self.root, path, flags, Mode::empty())?;
        let stat = fs::fstat(&file)?;
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        let old = SystemTime::now().duration_since(written).is_ok_and(|past| past > age);
        if !old || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) | Err(Errno::NOLCK | Errno::OPNOTSUPP) => {}
            Err(e) => return Err(e),
        }
        tracing::info!(store = %self.path.display(), file = path, "removing what a crashed writer left");
        self.remove_tmp(path);
        // Only now: a writer that gets the lock after us looks at the link count and sees that its file is gone.
        drop(file);
        Ok(())
    }
}

fn ignore_existing(made: Result<(), Errno>) -> Result<(), Errno> {
    match made {
        Err(Errno::EXIST) => Ok(()),
        other => other,
    }
}
