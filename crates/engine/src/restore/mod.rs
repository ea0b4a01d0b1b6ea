//! Restore volume: read path, write log, mover, fill, verification, hand-over.

mod claims;
mod fetch;
mod fill;
mod handover;
mod instant;
mod mover;
mod pages;
mod parts;
mod plan;
mod set;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod sync;
mod target;
mod verify;
mod volume;
mod waiting;
mod write_log;

pub use fetch::FetchObserver;
pub use fill::{Away, Fill, FillOptions, FillStatus, FillStep, FillVolume, FreeSpace};
pub use handover::{Adopt, HandOver, Settling, clear};
pub use mover::{MoverPace, Step};
pub use parts::{GuestUse, Uncache};
pub use plan::{Phase, PlanRecord, PlannedVolume, peek};
pub use set::{
    NewVolume, RestoreOptions, RestoreSet, RestoreState, RestoreStatus, VolumeParts, VolumeStatus,
};
pub use verify::Verifier;
pub use volume::RestoreVolume;
pub use write_log::LogLimits;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. A panic elsewhere while it was held is a bug that was reported there; what the locks here protect is
/// kept consistent by assertions before anything is changed.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
