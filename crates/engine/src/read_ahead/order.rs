//! In which order a backup reads: what the usage map calls hot first, a pack's worth at a time and by offset inside it,
//! then the rest by offset. So the packs of an incremental lie hottest first, and reads stay nearly sequential.

use rekindle_core::volume::{ExtentRange, ExtentSet};
use std::sync::Arc;

/// Extents of one hot bucket: about one pack.
const BUCKET: usize = 1024;
/// Hot extents that go first (16 GiB of 64 KiB); the rest goes by offset.
const HOT_MAX: usize = 1 << 18;

/// Bits of a hot extent's number; above them its bucket. (A volume has 2^49 extents at most.)
const EXTENT_BITS: u32 = 50;
const _: () = assert!((HOT_MAX / BUCKET) as u64 <= 1 << (64 - EXTENT_BITS));

/// Yields stretches of extents to read, each wanted extent once.
pub(crate) struct ReadOrder {
    wanted: Arc<ExtentSet>,
    /// Wanted hot extents under their bucket, by bucket and offset.
    hot: Vec<u64>,
    /// The same extents by offset.
    hot_by_offset: Vec<u64>,
    next_hot: usize,
    /// Where the second pass is: next extent, next hot extent to leave out.
    at: u64,
    skip: usize,
}

impl ReadOrder {
    /// `hot` in restore order. Whatever a damaged list says (unwanted, twice, beyond the end) changes the order only.
    pub(crate) fn new(wanted: Arc<ExtentSet>, hot: &[u64]) -> Self {
        let is_wanted = |e: &&u64| **e < 1 << EXTENT_BITS && wanted.contains(**e);
        let mut by_offset: Vec<(u64, u32)> = hot
            .iter()
            .filter(is_wanted)
            .take(HOT_MAX)
            .enumerate()
            .map(|(i, e)| (*e, (i / BUCKET) as u32))
            .collect();
        by_offset.sort_unstable();
        by_offset.dedup_by_key(|(e, _)| *e);
        let hot_by_offset = by_offset.iter().map(|(e, _)| *e).collect();
        let mut hot: Vec<u64> =
            by_offset.iter().map(|(e, bucket)| u64::from(*bucket) << EXTENT_BITS | e).collect();
        hot.sort_unstable();
        ReadOrder { wanted, hot, hot_by_offset, next_hot: 0, at: 0, skip: 0 }
    }
}

impl Iterator for ReadOrder {
    type Item = ExtentRange;

    fn next(&mut self) -> Option<ExtentRange> {
        if let Some(first) = self.hot.get(self.next_hot).copied() {
            let mut end = first;
            while self.hot.get(self.next_hot) == Some(&end) {
                self.next_hot += 1;
                end += 1;
            }
            let start = first & ((1 << EXTENT_BITS) - 1);
            return Some(ExtentRange { start, end: start + (end - first) });
        }
        loop {
            let hot = self.hot_by_offset.get(self.skip).copied();
            let before = ExtentRange { start: self.at, end: hot.unwrap_or(u64::MAX) };
            if let Some(stretch) = self.wanted.first_in(before) {
                self.at = stretch.end;
                return Some(stretch);
            }
            self.at = hot? + 1;
            self.skip += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn r(start: u64, end: u64) -> ExtentRange {
        ExtentRange { start, end }
    }
    fn set(ranges: &[ExtentRange]) -> Arc<ExtentSet> {
        Arc::new(ranges.iter().copied().collect())
    }

    #[test]
    fn hot_first_by_bucket_then_by_offset() {
        let hot: Vec<u64> = [7, 3, 8, 99, 3, 40].into();
        let order: Vec<_> = ReadOrder::new(set(&[r(0, 10), r(40, 42)]), &hot).collect();
        assert_eq!(order, [r(3, 4), r(7, 9), r(40, 41), r(0, 3), r(4, 7), r(9, 10), r(41, 42)]);
        let many: Vec<u64> = (0..3000).rev().collect();
        let order: Vec<_> = ReadOrder::new(set(&[r(0, 5000)]), &many).collect();
        assert_eq!(order, [r(1976, 3000), r(952, 1976), r(0, 952), r(3000, 5000)]);
    }

    /// A TiB that is read whole, with hot extents all over: a stretch costs what it is long, not what is left.
    #[test]
    fn much_that_is_hot_costs_no_more_than_it_is() {
        let extents = 1 << 24;
        let hot: Vec<u64> = (0..HOT_MAX as u64).map(|i| i * 64).collect();
        let order = ReadOrder::new(set(&[r(0, extents)]), &hot);
        let begun = std::time::Instant::now();
        assert_eq!(order.map(|r| r.count()).sum::<u64>(), extents);
        // Under a second; many minutes if each stretch looked for the end of the range it is part of.
        assert!(begun.elapsed().as_secs() < 30);
    }

    proptest! {
        #[test]
        fn each_wanted_extent_once(
            a in prop::collection::vec((0u64..200, 0u64..9), 0..12),
            hot in prop::collection::vec(0u64..220, 0..60),
        ) {
            let ranges: Vec<_> = a.iter().map(|(s, n)| r(*s, s + n)).collect();
            let mut want: Vec<u64> = ranges.iter().flat_map(|r| r.iter()).collect();
            want.sort_unstable();
            want.dedup();
            let order = ReadOrder::new(set(&ranges), &hot);
            let mut got: Vec<u64> = order.flat_map(|r| r.iter()).collect();
            got.sort_unstable();
            prop_assert_eq!(got, want);
        }
    }
}
