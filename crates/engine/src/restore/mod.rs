//! Restore volume: a moment opened writable, which becomes a live volume.
//!
//! A guest's byte: `volume` (the device) -> `write_log` (answered there) -> `mover` -> `target`. A byte of the moment:
//! holder -> `fetch` (one flight an extent, asked by reads and by `fill`) -> `target`. Who may touch an extent of the target
//! says `claims`; what survives of that is in `pages`; `plan` is the record that makes it a restore, `stamp` ties it to the
//! destination. `waiting` holds writes that found the log full; `instant` is a backup meanwhile; `verify` reads back;
//! `handover` ends it. `set` begins and resumes, `threads` loops over the steps, `status` and `damage` tell.
//!
//! | at once with | guest write | read | fill lands | mover moves | settling |
//! |---|---|---|---|---|---|
//! | guest write | one order: the log's append lock | log first | log lies above | only durable records, named again by sequence | marks taken with or after it |
//! | read | | | state after log | holds what it resolved | segments are held |
//! | fill lands | | | one flight | the claim, looked at again | taken before the flush, or the next time |
//! | mover moves | | | | one mover | one thread does both |

mod claims;
mod damage;
mod fetch;
mod fill;
mod handover;
mod instant;
mod landing;
mod mover;
mod pages;
mod parts;
mod pending;
mod plan;
mod set;
#[cfg(all(test, feature = "shuttle"))]
mod shuttle_tests;
mod stamp;
mod status;
mod sync;
mod target;
mod threads;
mod verify;
mod volume;
mod waiting;
mod work;
mod write_log;
mod zeros;

pub use damage::RestoreDamage;
pub use fetch::FetchObserver;
pub use fill::{Away, Fill, FillOptions, FillStatus, FillStep, FillVolume, FreeSpace};
pub use handover::{Adopt, HandOver, Settling, clear};
pub use mover::{MoverPace, Step};
pub use pages::missing;
pub use parts::GuestUse;
pub use plan::{Phase, PlanRecord, PlannedVolume, peek};
pub use set::{NewVolume, RestoreOptions, RestoreSet, VolumeParts};
pub use stamp::{is_destination, would_go_on};
pub use status::{RestoreState, RestoreStatus, VolumeStatus};
pub use target::Heat;
pub use verify::Verifier;
pub use volume::RestoreVolume;
pub use write_log::LogLimits;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. A panic elsewhere while it was held is a bug that was reported there; what the locks here protect is
/// kept consistent by assertions before anything is changed.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
