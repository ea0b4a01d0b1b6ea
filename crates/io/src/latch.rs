//! "Failed until reopened", per inode: after one failed flush every user of that file or device fails, not the one
//! handle that saw the error, because the kernel reports a lost write-back to one caller and then marks the page clean.

use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};

/// One life of an inode between openings: shared by all handles opened before a failure.
#[derive(Default, Debug)]
pub struct Latch {
    failed: AtomicBool,
}

impl Latch {
    /// Fails from now on, for good.
    pub fn fail(&self) {
        self.failed.store(true, SeqCst);
    }
    /// Whether it failed.
    pub fn is_failed(&self) -> bool {
        self.failed.load(SeqCst)
    }
    /// `Kind::Failed` once it failed.
    pub fn check(&self, place: &str) -> Result<()> {
        if self.is_failed() { Err(failed(place)) } else { Ok(()) }
    }
}

/// The error every user of a failed inode gets.
pub fn failed(place: &str) -> Error {
    Error::new(Kind::Failed, format!("{place}: a flush failed earlier; failed until it is opened again"))
}

/// (`st_dev`, `st_ino`), or (`st_rdev`, `u64::MAX`) for a device.
pub type Inode = (u64, u64);

// Strong references: a failure is remembered until the next opening even when nobody holds the file any more.
static OPEN: Mutex<BTreeMap<Inode, Arc<Latch>>> = Mutex::new(BTreeMap::new());

/// The latch of an inode that is being opened. The second value tells whether this opening follows a failure: then the
/// page cache must be dropped before anything read from it is believed.
pub fn open(inode: Inode) -> (Arc<Latch>, bool) {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    open.retain(|_, l| Arc::strong_count(l) > 1 || l.is_failed());
    let after_failure = match open.get(&inode) {
        Some(l) if !l.is_failed() => return (l.clone(), false),
        Some(_) => true,
        None => false,
    };
    let latch = Arc::new(Latch::default());
    open.insert(inode, latch.clone());
    (latch, after_failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reaches_every_handle_and_is_remembered_when_all_are_gone() {
        let inode = (u64::MAX, 7);
        let (a, again) = open(inode);
        let (b, _) = open(inode);
        assert!(!again && b.check("x").is_ok());
        a.fail();
        assert_eq!(b.check("x").unwrap_err().kind, Kind::Failed);
        drop((a, b));
        let (c, again) = open(inode);
        assert!(again && c.check("x").is_ok());
        assert!(!open(inode).1);
    }
}
