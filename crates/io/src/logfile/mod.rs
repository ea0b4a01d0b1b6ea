//! The log-file port: our own small durable files (write log, presence, generations, activity log, labels, records).
//!
//! Everything that must survive a crash and is not the user's disk goes through here, so that the simulator can lose
//! unsynced bytes, tear sectors and drop unsynced names.
//!
//! Contract, checked by the conformance kit:
//! - Bytes written are durable after `sync` of the file; before it each 512-byte sector may be old or new after a power
//!   cut (kill -9 loses none).
//! - A created, renamed or removed name is durable after `sync_names`; before it either state may be found.
//! - `replace` is atomic: after it (and `sync_names`) the name holds the new file, before it the old one; never neither.
//! - After one failed `sync` every later write and sync of that file fails until it is opened again.

mod faulty;
pub mod kit;
mod mem;
mod real;
mod two_slot;
mod watched;
pub use faulty::FaultyDir;
pub use mem::MemDir;
pub use real::RealDir;
pub use two_slot::TwoSlot;
pub use watched::{Asked, WatchedDir};

use crate::Result;
use std::sync::Arc;

/// One file.
#[allow(clippy::len_without_is_empty)]
pub trait LogFile: Send + Sync {
    /// Fills `buf`; bytes past the end or never written read as zeros.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// As `read_at`, from the medium: see [`Block::read_medium`](crate::block::Block::read_medium).
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(offset, buf)
    }
    /// Writes the parts end to end from `offset`; the file grows as needed.
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<()>;
    /// Begins to write a range out, so that a `sync` later has less to wait for. A hint that makes nothing durable; what
    /// goes wrong is told by that `sync`.
    fn write_out(&self, offset: u64, len: u64) {
        let _ = (offset, len);
    }
    /// Makes everything written durable (fdatasync).
    fn sync(&self) -> Result<()>;
    /// Current length in bytes.
    fn len(&self) -> Result<u64>;
    /// The first byte from `offset` on that may have been written: all before it reads as zeros. `None`: nothing follows. A
    /// file that cannot tell says `offset` as long as that lies in it.
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        Ok((offset < self.len()?).then_some(offset))
    }
    /// Cuts or extends (with zeros).
    fn set_len(&self, len: u64) -> Result<()>;
    /// Gives the space of a range back; it reads as zeros. A hint where the file system cannot.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;
}

/// A folder of such files. Names are single path parts.
pub trait LogDir: Send + Sync {
    /// Where it is, for people.
    fn place(&self) -> String;
    /// Makes a new empty file; `Kind::Exists` if the name is taken.
    fn create(&self, name: &str) -> Result<Arc<dyn LogFile>>;
    /// Opens a file; `None` if absent.
    fn open(&self, name: &str) -> Result<Option<Arc<dyn LogFile>>>;
    /// Moves `from` over `to`, atomically.
    fn replace(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a name; absent is fine.
    fn remove(&self, name: &str) -> Result<()>;
    /// All names.
    fn names(&self) -> Result<Vec<String>>;
    /// Makes created, moved and removed names durable.
    fn sync_names(&self) -> Result<()>;
    /// Free bytes on the file system, for floors and forecasts.
    fn free_bytes(&self) -> Result<u64>;
}

/// A name is one path part, not empty, at most 200 bytes.
fn check_name(name: &str) -> Result<()> {
    let bad =
        name.is_empty() || name.len() > 200 || name == "." || name == ".." || name.contains(['/', '\0']);
    if bad {
        Err(crate::Error::new(crate::Kind::Invalid, format!("not a file name: {name:?}")))
    } else {
        Ok(())
    }
}
