//! Formats and decisions of rekindle: no clock, no I/O, no async, no locks.
//!
//! Everything in this crate runs in a unit test. A caller passes `now`, bytes and events and gets effects back;
//! guest data never travels through events. What must not be known here: files, sockets, threads, time.

pub mod bytes;
pub mod hydrate;
pub mod log;
pub mod moment;
pub mod nbd;
pub mod repo;
pub mod usage;
pub mod volume;
