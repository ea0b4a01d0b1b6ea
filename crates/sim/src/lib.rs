//! One seed, one world: a guest, background work and crashes on one thread, checked against a plain model.
//!
//! What is simulated is the engine itself over ports in memory that lose power as disks do. Threads are not: claims and
//! reader epochs are explored elsewhere, by interleavings.

pub mod model;
mod parts;
pub mod rng;
pub mod world;
