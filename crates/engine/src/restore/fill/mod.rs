//! The fill: brings everything the guest has not fetched itself, hottest first, without being in its way.
//!
//! One step looks at what came, decides (core: `SetSchedule` what, `Throttle` how much, `Online` when to open), and starts
//! fetches; opening and writing what comes is the fetch workers' part, under the claims. A holder that answers inline (a
//! local directory) is asked from the fill's own threads, an extent at a time, so two threads read, open and write at once.
//!
//! | what happens | what the fill does |
//! |---|---|
//! | holder away | one probe at a time, 100 ms to 10 s apart; the first answer to anybody ends it |
//! | a damaged extent | the set notes it; when nothing else is left a few are asked for every ten seconds, all when told (`retry_damaged`) |
//! | no space, or less than the floor | stands still, looks again every second; the guest goes on |
//! | the set failed | stands still until it is opened again |
//! | the guest overwrites an extent | it is no longer wanted: the look before every fetch sees it |
//!
//! Nothing here is durable: after a crash the state pages say what is local, and the hot list is the caller's again.

mod inbox;
mod metadata;
mod rest;
mod run;
mod state;
mod status;
#[cfg(test)]
mod tests;

pub use run::Fill;
pub use status::{Away, FillStatus};

use rekindle_core::hydrate::{Online, WEIGHT};
use rekindle_io::Result;
use std::sync::Arc;
use std::time::Duration;

/// How one volume is filled.
#[derive(Clone, Debug)]
pub struct FillVolume {
    /// The hot list: extents in restore order with their usage weights (0 where unknown).
    pub hot: Vec<(u64, u8)>,
    /// Share among the volumes of the set.
    pub weight: u32,
    /// The rest goes from the first extent to the last, not in the holder's order.
    pub linear: bool,
}

impl Default for FillVolume {
    fn default() -> Self {
        FillVolume { hot: Vec::new(), weight: WEIGHT, linear: false }
    }
}

/// A floor under the free space of a destination.
#[derive(Clone)]
pub struct FreeSpace {
    /// For people: what lies there.
    pub place: String,
    /// Free bytes now.
    pub free: Arc<dyn Fn() -> Result<u64> + Send + Sync>,
    /// The fill stands still below this.
    pub floor: u64,
}

/// What may be chosen for a fill.
#[derive(Clone, Default)]
pub struct FillOptions {
    /// In the set's order; missing ones are filled without a hot list.
    pub volumes: Vec<FillVolume>,
    /// When the set goes online.
    pub online: Online,
    /// Background bytes per second.
    pub limit: Option<u64>,
    /// Destinations (or the state folder) with a floor.
    pub space: Vec<FreeSpace>,
    /// How long earlier runs of this restore took.
    pub elapsed_before: Duration,
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FillStep {
    /// Something: step again.
    Worked,
    /// Nothing can be done for so long, unless something comes.
    Wait(Duration),
    /// Everything is local, zeros included.
    Complete,
}
