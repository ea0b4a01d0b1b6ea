//! The ports of rekindle and their real implementations.
//!
//! One folder a port: the trait (`mod.rs`), the real one, the one in memory, the one that fails on purpose, and the
//! conformance kit that all of them pass. `io` knows `core`; it knows nothing of volumes being live or restored.

pub mod background;
pub mod block;
pub mod clock;
pub mod destination;
pub mod error;
pub mod fault;
pub mod holder;
mod image;
mod latch;
pub mod logfile;
mod paced;
mod past_cache;
pub mod random;
pub mod seal;
pub mod store;

pub use error::{Error, Kind, Result};
