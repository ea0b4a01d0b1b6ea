//! The primitives of the protocols that shuttle explores: its own under the feature `shuttle`, else the standard ones.

#[cfg(feature = "shuttle")]
pub(super) use shuttle::{
    sync::atomic::{AtomicU8, AtomicU64},
    thread::yield_now,
};
#[cfg(not(feature = "shuttle"))]
pub(super) use std::{
    sync::atomic::{AtomicU8, AtomicU64},
    thread::yield_now,
};
