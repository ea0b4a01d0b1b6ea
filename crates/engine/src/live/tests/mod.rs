//! Tests of the live volume.

mod basics;
mod fleece;
mod history;
mod world;
