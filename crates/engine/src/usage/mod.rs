//! The usage map of served volumes: facts counted on the hot path, kept in a small file, carried by snapshots.
//!
//! Where the bytes are: `touches` (memory, hot path) -> `map` (folds once a tick of served time) -> `file` (slots of the
//! facts file) -> `exchange` (snapshot pages, inheritance, drills, imported traces). What is decided is in
//! `rekindle_core::usage`.

mod exchange;
mod file;
mod map;
#[cfg(test)]
mod tests;
mod touches;

pub use exchange::{Inherited, UsageSnapshot};
pub use map::{FOLD_PAGES, Opened, UsageMap};

impl crate::restore::GuestUse for UsageMap {
    fn read(&self, range: rekindle_core::volume::ByteRange) {
        UsageMap::read(self, range);
    }
    fn write(&self, range: rekindle_core::volume::ByteRange) {
        UsageMap::write(self, range);
    }
}
