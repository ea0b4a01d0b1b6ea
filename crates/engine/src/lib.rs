//! Live volumes, backup, restore volumes and the repository: `core` joined to `io`, by threads, without async.
//!
//! Every background activity is a `step` that a test or the simulator can call by hand; a thread only loops over it.

pub mod backup;
pub mod copy;
mod damage;
mod extents;
pub mod live;
pub mod progress;
mod read_ahead;
pub mod repository;
pub mod restore;
mod sparse;
pub mod usage;

pub use damage::{Damage, DamagedRange};
