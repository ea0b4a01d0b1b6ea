//! A set of extents: a bit each where there are any, in chunks. At most an eighth of a byte for an extent of the volume.

use std::collections::BTreeMap;

/// Extents of a chunk.
const CHUNK: u64 = 2048;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Extents {
    chunks: BTreeMap<u64, Box<[u64; (CHUNK / 64) as usize]>>,
}

impl Extents {
    /// True if it was not there.
    pub fn insert(&mut self, extent: u64) -> bool {
        let chunk = self.chunks.entry(extent / CHUNK).or_insert_with(|| Box::new([0; (CHUNK / 64) as usize]));
        let (word, bit) = (&mut chunk[(extent % CHUNK / 64) as usize], 1 << (extent % 64));
        let news = *word & bit == 0;
        *word |= bit;
        news
    }
    pub fn remove(&mut self, extent: u64) {
        if let Some(chunk) = self.chunks.get_mut(&(extent / CHUNK)) {
            chunk[(extent % CHUNK / 64) as usize] &= !(1 << (extent % 64));
            if chunk.iter().all(|w| *w == 0) {
                self.chunks.remove(&(extent / CHUNK));
            }
        }
    }
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
    /// Chunks in memory.
    #[cfg(test)]
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }
    pub fn contains(&self, extent: u64) -> bool {
        let chunk = self.chunks.get(&(extent / CHUNK));
        chunk.is_some_and(|c| c[(extent % CHUNK / 64) as usize] & (1 << (extent % 64)) != 0)
    }
    /// All of them from `first` on, ascending.
    pub fn from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        let words = self.chunks.range(first / CHUNK..).flat_map(|(at, chunk)| {
            let at = at * CHUNK;
            chunk.iter().enumerate().filter(|(_, w)| **w != 0).map(move |(i, w)| (at + i as u64 * 64, *w))
        });
        words
            .flat_map(|(at, word)| (0..64).filter(move |b| word & (1 << b) != 0).map(move |b| at + b))
            .filter(move |e| *e >= first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_in_is_there_in_order() {
        let mut set = Extents::default();
        for extent in [4096, 0, 63, 64, 2047, 2048, 1 << 40] {
            assert!(set.insert(extent) && !set.insert(extent));
        }
        assert!(set.contains(2048) && !set.contains(2049) && !set.contains(1 << 39));
        assert_eq!(set.from(0).collect::<Vec<_>>(), [0, 63, 64, 2047, 2048, 4096, 1 << 40]);
        assert_eq!(set.from(64).collect::<Vec<_>>(), [64, 2047, 2048, 4096, 1 << 40]);
    }
}
