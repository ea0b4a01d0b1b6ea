//! Tests of the live volume.

mod adopt;
mod basics;
mod fleece;
mod history;
mod world;
