//! The live volume: the user's own disk served unchanged, changes tracked, an instant taken under load.
//!
//! What must hold: an incremental equals a full backup of the same instant, whatever happened
//! between. Who guarantees which part:
//!
//! | threat | mechanism |
//! |---|---|
//! | power cut brings an unflushed write without its mark | region durable in the activity log before the write (`activity_log`) |
//! | power cut takes back what a snapshot read from the cache | regions leave the log only after a flush (`tracking`) |
//! | a failed backup, several repositories, forgotten parents | generations, never cleared (`marks`) |
//! | writes behind our back, another image, an old state folder | possession (`possession`), else everything is compared |
//! | generations run out | a fresh tracking uuid (`volume`) |
//! | a write during the backup | copy-before-write under the extent's claim (`cut`, `fleece`) |
//! | a write across the instant | gates of all volumes closed, running writes ended (`gate`, `instant`) |
//!
//! A state folder that fails fails the guest's first write into a new region, not silently the next backup.

mod activity_log;
mod adopt;
mod bits;
mod cut;
mod fleece;
mod gate;
mod instant;
mod marks;
mod opening;
mod possession;
mod record;
mod set;
mod sync;
mod tracking;
mod volume;

#[cfg(all(test, feature = "shuttle"))]
#[allow(clippy::unwrap_used)]
mod explore;
#[cfg(all(test, not(feature = "shuttle")))]
#[allow(clippy::unwrap_used)] // helpers of tests, beside the tests themselves
mod tests;

pub use adopt::{Adopted, LiveState};
pub use instant::{FleeceOptions, Hooks, NoHooks};
pub use set::LiveSet;
pub use volume::{Image, LiveVolume};

use rekindle_core::volume::{ByteRange, ExtentBytes};
use rekindle_io::block::Discard;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::LogDir;
use std::sync::Arc;

/// Looks on at every request of the guest. Called on the connection's thread: a few nanoseconds, no locks.
pub trait Observer: Send + Sync {
    /// The guest read these bytes.
    fn read(&self, range: ByteRange);
    /// The guest wrote or zeroed these bytes.
    fn write(&self, range: ByteRange);
}

/// How to open a live volume.
#[derive(Clone)]
pub struct LiveOptions {
    /// Label inside its set, at most 255 bytes.
    pub name: String,
    /// The volume's own state folder, nobody else's.
    pub state: Arc<dyn LogDir>,
    /// Counts usage.
    pub observer: Option<Arc<dyn Observer>>,
    /// Serve without writing: nothing is tracked, a backup compares everything.
    pub read_only: bool,
    /// Fixed when first served; `None`: what it has, or 64 KiB.
    pub extent: Option<ExtentBytes>,
    /// For files: 512 or 4096; `None`: what it had, or 512.
    pub logical_block: Option<u32>,
    /// What a trim does.
    pub discard: Discard,
    /// `LiveState::adopt` was called by this process and the image has been in its hands since.
    pub adopted: bool,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl LiveOptions {
    /// The usual way.
    pub fn new(name: &str, state: Arc<dyn LogDir>) -> Self {
        LiveOptions {
            name: name.into(),
            state,
            observer: None,
            read_only: false,
            extent: None,
            logical_block: None,
            discard: Discard::Auto,
            adopted: false,
            clock: Arc::new(SystemClock::new()),
        }
    }
}

impl Observer for crate::usage::UsageMap {
    fn read(&self, range: ByteRange) {
        crate::usage::UsageMap::read(self, range);
    }
    fn write(&self, range: ByteRange) {
        crate::usage::UsageMap::write(self, range);
    }
}
