//! A set of extents that takes at most an eighth of a byte for each extent of the volume, however they lie: ranges take 16
//! bytes each, and a guest that writes here and there makes millions of them.

use super::ExtentRange;
use std::collections::BTreeMap;

const WORDS: usize = 32;
/// Extents of a chunk.
const CHUNK: u64 = WORDS as u64 * 64;

/// The set: a bit each, in chunks, where there are any.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExtentSet {
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
}

impl ExtentSet {
    /// Puts a range in. Each chunk is looked up once: a hole of 16 TiB has 131,000 of them.
    pub fn insert(&mut self, range: ExtentRange) {
        let mut at = range.start;
        while at < range.end {
            let chunk = self.chunks.entry(at / CHUNK).or_insert_with(|| Box::new([0; WORDS]));
            let end = range.end.min((at / CHUNK + 1) * CHUNK);
            while at < end {
                let n = (64 - at % 64).min(end - at);
                chunk[(at % CHUNK / 64) as usize] |= (u64::MAX >> (64 - n)) << (at % 64);
                at += n;
            }
        }
    }
    /// Whether an extent is in it.
    pub fn contains(&self, extent: u64) -> bool {
        let chunk = self.chunks.get(&(extent / CHUNK));
        chunk.is_some_and(|c| c[(extent % CHUNK / 64) as usize] & (1 << (extent % 64)) != 0)
    }
    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
    /// How many extents are in it.
    pub fn count(&self) -> u64 {
        self.chunks.values().flat_map(|c| c.iter()).map(|w| u64::from(w.count_ones())).sum()
    }
    /// This set and another.
    pub fn union(mut self, other: &ExtentSet) -> ExtentSet {
        for (at, theirs) in &other.chunks {
            let ours = self.chunks.entry(*at).or_insert_with(|| Box::new([0; WORDS]));
            ours.iter_mut().zip(theirs.iter()).for_each(|(our, their)| *our |= their);
        }
        self
    }
    /// The first extent of `within` that is in the set, if `inside`, or is not.
    fn next(&self, within: ExtentRange, inside: bool) -> Option<u64> {
        let (mut at, mut chunks) = (within.start, self.chunks.range(within.start / CHUNK..).peekable());
        while at < within.end {
            match chunks.peek() {
                Some((first, chunk)) if **first == at / CHUNK => {
                    let word = chunk[(at % CHUNK / 64) as usize];
                    let word = if inside { word } else { !word } & (u64::MAX << (at % 64));
                    if word != 0 {
                        let found = at / 64 * 64 + u64::from(word.trailing_zeros());
                        return Some(found).filter(|e| *e < within.end);
                    }
                    at = (at / 64 + 1) * 64;
                    if at.is_multiple_of(CHUNK) {
                        chunks.next();
                    }
                }
                _ if !inside => return Some(at),
                Some((first, _)) => at = **first * CHUNK,
                None => return None,
            }
        }
        None
    }
    /// The first range that lies in `within`, cut to it. Looks no further than its end: whoever asks for stretch after
    /// stretch looks at everything once.
    pub fn first_in(&self, within: ExtentRange) -> Option<ExtentRange> {
        let start = self.next(within, true)?;
        let end = self.next(ExtentRange { start, ..within }, false).unwrap_or(within.end);
        Some(ExtentRange { start, end })
    }
    /// The first range at or after `from`, cut there.
    pub fn next_range(&self, from: u64) -> Option<ExtentRange> {
        self.first_in(ExtentRange { start: from, end: u64::MAX })
    }
    /// Ranges, ascending: not empty, not touching.
    pub fn ranges(&self) -> impl Iterator<Item = ExtentRange> + '_ {
        let mut at = 0;
        std::iter::from_fn(move || {
            let range = self.next_range(at)?;
            at = range.end;
            Some(range)
        })
    }
    /// The stretches of `0..extents` that are not in it, ascending.
    pub fn gaps(&self, extents: u64) -> impl Iterator<Item = ExtentRange> + '_ {
        let all = self.ranges().chain([ExtentRange { start: extents, end: extents }]);
        let between = all.scan(0, move |behind, r| {
            let gap = ExtentRange { start: *behind, end: r.start.min(extents) };
            *behind = r.end;
            Some(gap)
        });
        between.filter(|gap| gap.start < gap.end)
    }
}

impl FromIterator<ExtentRange> for ExtentSet {
    fn from_iter<I: IntoIterator<Item = ExtentRange>>(ranges: I) -> Self {
        let mut set = ExtentSet::default();
        ranges.into_iter().for_each(|r| set.insert(r));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_bit_an_extent_where_there_are_any() {
        let mut set = ExtentSet::default();
        assert!(set.is_empty() && set.next_range(0).is_none());
        (0..1 << 20).step_by(2).for_each(|e| set.insert(ExtentRange { start: e, end: e + 1 }));
        assert_eq!((set.count(), set.chunks.len()), (1 << 19, 1 << 9));
        set.insert(ExtentRange { start: 1 << 50, end: (1 << 50) + 1 });
        assert_eq!(set.chunks.len(), (1 << 9) + 1);
        assert_eq!(set.next_range(1 << 20), Some(ExtentRange { start: 1 << 50, end: (1 << 50) + 1 }));
    }

    proptest! {
        #[test]
        fn as_a_plain_set_would_answer(
            a in prop::collection::vec((0u64..9000, 0u64..300), 0..12),
            b in prop::collection::vec((0u64..9000, 0u64..3000), 0..4),
            extents in 1u64..12000,
            (from, len) in (0u64..12000, 0u64..5000),
        ) {
            let ranges = |v: &[(u64, u64)]| v.iter().map(|(s, n)| ExtentRange { start: *s, end: s + n }).collect::<Vec<_>>();
            let (a, b) = (ranges(&a), ranges(&b));
            let set = a.iter().copied().collect::<ExtentSet>().union(&b.iter().copied().collect());
            let plain: BTreeSet<u64> = a.iter().chain(&b).flat_map(ExtentRange::iter).collect();
            prop_assert!((0..13000).all(|e| set.contains(e) == plain.contains(&e)));
            prop_assert_eq!(set.count(), plain.len() as u64);
            let joined: Vec<ExtentRange> = set.ranges().collect();
            prop_assert!(joined.windows(2).all(|w| w[0].end < w[1].start) && joined.iter().all(|r| r.start < r.end));
            prop_assert_eq!(joined.iter().flat_map(ExtentRange::iter).collect::<BTreeSet<_>>(), plain.clone());
            let within = ExtentRange { start: from, end: from + len };
            let first = within.iter().find(|e| plain.contains(e)).map(|start| {
                let end = (start..within.end).find(|e| !plain.contains(e)).unwrap_or(within.end);
                ExtentRange { start, end }
            });
            prop_assert_eq!(set.first_in(within), first);
            let gaps: Vec<u64> = set.gaps(extents).flat_map(|r| r.iter()).collect();
            prop_assert_eq!(gaps, (0..extents).filter(|e| !plain.contains(e)).collect::<Vec<_>>());
            let same: ExtentSet = joined.into_iter().rev().collect();
            prop_assert_eq!(same, set);
        }
    }
}
