//! Tests of the live volume.

mod basics;
mod history;
mod world;
