//! Finding content that is stored already, beyond the same place in the parent: what this session stored, within a bound.
//!
//! Two generations of a map: when the younger is full, the older is forgotten. A miss costs space, never correctness.

use rekindle_core::repo::{Id, Place};
use std::collections::HashMap;

/// Entries of one generation: 85 bytes each; this many fill 64 Ki buckets, so both
/// generations are about 11 MiB. Few under test.
pub(super) const GENERATION_MAX: usize = if cfg!(test) { 16 } else { 56 << 10 };

/// Content: its id and its plain length, because a short last extent has the id of a whole one that ends in zeros.
pub(super) type Key = (Id, u32);

/// What is known to be stored, or on its way.
#[derive(Default)]
pub(super) struct Seen {
    young: HashMap<Key, Option<Place>>,
    old: HashMap<Key, Option<Place>>,
}

impl Seen {
    /// `Some(None)`: on its way, it will have a place once everything before is laid down.
    pub(super) fn get(&self, key: &Key) -> Option<Option<Place>> {
        self.young.get(key).or_else(|| self.old.get(key)).copied()
    }
    /// Content that is on its way, or has its place now.
    pub(super) fn insert(&mut self, key: Key, place: Option<Place>) {
        if self.young.len() >= GENERATION_MAX && !self.young.contains_key(&key) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, place);
    }
}
