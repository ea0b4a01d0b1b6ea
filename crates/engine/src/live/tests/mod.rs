//! Tests of the live volume.

mod activity;
mod adopt;
mod basics;
mod fleece;
mod history;
mod world;
