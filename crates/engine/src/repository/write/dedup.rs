//! Finding content that is stored already, beyond the same place in the parent: what this session stored, within a bound.
//!
//! Two generations of a map: when the younger is full, the older is forgotten. A miss costs space, never correctness.

use rekindle_core::repo::{Id, Place};
use std::collections::HashMap;

/// Entries of one generation: 85 bytes each; this many fill 32 Ki buckets, so both
/// generations are about 5 MiB. Few under test.
pub(super) const GENERATION_MAX: usize = if cfg!(test) { 16 } else { 28 << 10 };

/// Content: its id and its plain length, because a short last extent has the id of a whole one that ends in zeros.
pub(super) type Key = (Id, u32);

/// Where content is that was seen.
#[derive(Clone, Copy)]
pub(super) enum Known {
    /// On its way: it will have a place once everything before is laid down.
    Coming,
    /// Laid down by this session, or read by it and equal.
    Sure(Place),
    /// Where the index says: what lies there was not looked at.
    Named(Place),
}

/// What is known to be stored, or on its way.
#[derive(Default)]
pub(super) struct Seen {
    young: HashMap<Key, Known>,
    old: HashMap<Key, Known>,
}

impl Seen {
    pub(super) fn get(&self, key: &Key) -> Option<Known> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }
    /// Content that is on its way, or has its place now.
    pub(super) fn insert(&mut self, key: Key, known: Known) {
        if self.young.len() >= GENERATION_MAX && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, known);
    }
}
