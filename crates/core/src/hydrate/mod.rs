//! Restoring: what to copy next, how fast, when to go online, how long it takes (DESIGN 5, 6).

mod online;
mod state;

pub use online::{Online, Progress, Reason, Threshold, ThresholdError};
pub use state::{Place, State};
