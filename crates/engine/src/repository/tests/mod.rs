//! The repository against a plain model: what a snapshot reads is what was put, whatever happened between.

mod crash;
mod damage;
mod drills;
mod kit;
mod model;
mod protocol;
mod upload;
