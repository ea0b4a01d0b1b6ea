//! Where the old bytes go while a backup reads: one sparse file a volume, each extent at its own offset, punched as the
//! backup takes it; one budget for the whole set. It dies with the backup, so nothing of it is synced.
//! (A file by offset needs no map; the price is the file system's largest file, 16 TiB on ext4: beyond, the backup is
//! given up when such an extent is first overwritten.)

use super::sync::{AtomicBool, AtomicU64, Mutex, SeqCst, lock};
use rekindle_core::bytes::is_zero;
use rekindle_core::volume::ByteRange;
use rekindle_io::logfile::{LogDir, LogFile};
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;

/// The budget and the fate of one backup: shared by all its volumes.
pub(super) struct Fate {
    given_up: AtomicBool,
    why: Mutex<Option<Error>>,
    used: AtomicU64,
    limit: u64,
}

impl Fate {
    pub(super) fn new(limit: u64) -> Arc<Fate> {
        Arc::new(Fate {
            given_up: AtomicBool::new(false),
            why: Mutex::new(None),
            used: AtomicU64::new(0),
            limit,
        })
    }
    /// The backup stops, the guest never.
    pub(super) fn give_up(&self, e: Error) {
        lock(&self.why).get_or_insert(e);
        self.given_up.store(true, SeqCst);
    }
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(SeqCst)
    }
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_given_up() {
            return Ok(());
        }
        let why = lock(&self.why).clone();
        Err(why.unwrap_or_else(|| Error::new(Kind::Cancelled, "the backup was given up")))
    }
}

/// The file of one volume.
pub(super) struct Fleece {
    dir: Arc<dyn LogDir>,
    name: String,
    file: Arc<dyn LogFile>,
    fate: Arc<Fate>,
}

impl Fleece {
    pub(super) fn create(dir: &Arc<dyn LogDir>, name: String, fate: &Arc<Fate>) -> Result<Fleece> {
        // What an earlier process left is worth nothing.
        dir.remove(&name)?;
        let file = dir.create(&name)?;
        Ok(Fleece { dir: dir.clone(), name, file, fate: fate.clone() })
    }
    /// Keeps the old bytes of an extent. `false`: they are zeros and take no room, the file has a hole there.
    pub(super) fn keep(&self, at: ByteRange, old: &[u8]) -> Result<bool> {
        if is_zero(old) {
            return Ok(false);
        }
        let used = self.fate.used.fetch_add(at.len, SeqCst) + at.len;
        if used > self.fate.limit {
            let what = format!(
                "the guest overwrote more than the {} MiB kept for it while the backup ran (in {}): give it more, or back up when less is written",
                self.fate.limit >> 20,
                self.dir.place()
            );
            return Err(Error::new(Kind::Full, what));
        }
        self.file.write_at(at.start, &[old]).map_err(|e| e.at("keeping what the guest overwrites"))?;
        Ok(true)
    }
    pub(super) fn read(&self, at: ByteRange, out: &mut [u8]) -> Result<()> {
        self.file.read_at(at.start, out).map_err(|e| e.at("reading what the guest overwrote"))
    }
    /// Gives the room of an extent back that took some.
    pub(super) fn drop_kept(&self, at: ByteRange) {
        // A hint: where it fails the room comes back when the file goes.
        if self.file.punch(at.start, at.len).is_ok() {
            self.fate.used.fetch_sub(at.len, SeqCst);
        }
    }
}

impl Drop for Fleece {
    fn drop(&mut self) {
        if let Err(e) = self.dir.remove(&self.name) {
            tracing::warn!("{} in {} stays behind: {e}", self.name, self.dir.place());
        }
    }
}
