//! Restoring: what to copy next, how fast, when to go online, how long it takes (DESIGN 5, 6).

mod state;

pub use state::{Place, State};
