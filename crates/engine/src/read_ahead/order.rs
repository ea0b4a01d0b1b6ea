//! In which order a backup reads: what the usage map calls hot first, a pack's worth at a time and by offset inside it,
//! then the rest by offset. So the packs of an incremental lie hottest first, and reads stay nearly sequential.

use rekindle_core::volume::ExtentRange;

/// Extents of one hot bucket: about one pack.
const BUCKET: usize = 1024;
/// Extents of a hot list that are looked at; the rest goes by offset.
const HOT_MAX: usize = 1 << 20;

/// Joins ascending lists of ranges into one: ascending, disjoint, not touching, not empty.
pub(crate) fn join(a: &[ExtentRange], b: &[ExtentRange]) -> Vec<ExtentRange> {
    let mut all: Vec<ExtentRange> = a.iter().chain(b).copied().filter(|r| r.start < r.end).collect();
    all.sort_unstable_by_key(|r| r.start);
    let mut out: Vec<ExtentRange> = Vec::with_capacity(all.len());
    for r in all {
        match out.last_mut() {
            Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
            _ => out.push(r),
        }
    }
    out
}

/// The stretches of `0..extents` that are not in `ranges` (as `join` gives them), in order.
pub(crate) fn gaps(ranges: &[ExtentRange], extents: u64) -> impl Iterator<Item = ExtentRange> {
    let starts = std::iter::once(0).chain(ranges.iter().map(|r| r.end));
    let ends = ranges.iter().map(|r| r.start).chain(std::iter::once(extents));
    starts.zip(ends).map(|(start, end)| ExtentRange { start, end }).filter(|r| r.start < r.end)
}

/// Yields stretches of extents to read, each wanted extent once.
pub(crate) struct ReadOrder {
    wanted: Vec<ExtentRange>,
    /// Wanted hot extents with their bucket, by bucket and offset.
    hot: Vec<(u32, u64)>,
    /// The same extents by offset.
    hot_by_offset: Vec<u64>,
    next_hot: usize,
    /// Where the second pass is: range, next extent in it, next hot extent to leave out.
    range: usize,
    at: u64,
    skip: usize,
}

impl ReadOrder {
    /// `wanted` as `join` gives it; `hot` in restore order. Whatever a damaged list says (unwanted, twice, beyond the
    /// end) changes the order only.
    pub(crate) fn new(wanted: Vec<ExtentRange>, hot: &[u64]) -> Self {
        let is_wanted = |e: u64| {
            let i = wanted.partition_point(|r| r.end <= e);
            wanted.get(i).is_some_and(|r| r.start <= e)
        };
        let mut found: Vec<(u64, u32)> = hot
            .iter()
            .take(HOT_MAX)
            .filter(|e| is_wanted(**e))
            .enumerate()
            .map(|(i, e)| (*e, (i / BUCKET) as u32))
            .collect();
        found.sort_unstable();
        found.dedup_by_key(|(e, _)| *e);
        let hot_by_offset = found.iter().map(|(e, _)| *e).collect();
        let mut hot: Vec<(u32, u64)> = found.into_iter().map(|(e, bucket)| (bucket, e)).collect();
        hot.sort_unstable();
        let at = wanted.first().map_or(0, |r| r.start);
        ReadOrder { wanted, hot, hot_by_offset, next_hot: 0, range: 0, at, skip: 0 }
    }
}

impl Iterator for ReadOrder {
    type Item = ExtentRange;

    fn next(&mut self) -> Option<ExtentRange> {
        if let Some((bucket, start)) = self.hot.get(self.next_hot).copied() {
            let mut end = start;
            while self.hot.get(self.next_hot) == Some(&(bucket, end)) {
                self.next_hot += 1;
                end += 1;
            }
            return Some(ExtentRange { start, end });
        }
        loop {
            let range = self.wanted.get(self.range)?;
            while self.at < range.end && self.hot_by_offset.get(self.skip) == Some(&self.at) {
                self.skip += 1;
                self.at += 1;
            }
            if self.at >= range.end {
                self.range += 1;
                self.at = self.wanted.get(self.range)?.start;
                continue;
            }
            let start = self.at;
            self.at = self.hot_by_offset.get(self.skip).map_or(range.end, |h| range.end.min(*h));
            return Some(ExtentRange { start, end: self.at });
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

    #[test]
    fn hot_first_by_bucket_then_by_offset() {
        let hot: Vec<u64> = [7, 3, 8, 99, 3, 40].into();
        let order: Vec<_> = ReadOrder::new(vec![r(0, 10), r(40, 42)], &hot).collect();
        assert_eq!(order, [r(3, 4), r(7, 9), r(40, 41), r(0, 3), r(4, 7), r(9, 10), r(41, 42)]);
        let many: Vec<u64> = (0..3000).rev().collect();
        let order: Vec<_> = ReadOrder::new(vec![r(0, 5000)], &many).collect();
        assert_eq!(order, [r(1976, 3000), r(952, 1976), r(0, 952), r(3000, 5000)]);
    }

    proptest! {
        #[test]
        fn each_wanted_extent_once(
            a in prop::collection::vec((0u64..200, 0u64..9), 0..12),
            b in prop::collection::vec((0u64..200, 0u64..9), 0..12),
            hot in prop::collection::vec(0u64..220, 0..60),
        ) {
            let ranges = |v: &[(u64, u64)]| v.iter().map(|(s, n)| r(*s, s + n)).collect::<Vec<_>>();
            let joined = join(&ranges(&a), &ranges(&b));
            prop_assert!(joined.windows(2).all(|w| w[0].end < w[1].start) && joined.iter().all(|r| r.start < r.end));
            let mut want: Vec<u64> = ranges(&a).iter().chain(&ranges(&b)).flat_map(|r| r.iter()).collect();
            want.sort_unstable();
            want.dedup();
            let mut got: Vec<u64> = joined.iter().flat_map(|r| r.iter()).collect();
            prop_assert_eq!(&got, &want);
            let rest: Vec<u64> = gaps(&joined, 300).flat_map(|r| r.iter()).collect();
            let mut all = [got, rest].concat();
            all.sort_unstable();
            prop_assert_eq!(all, (0..300).collect::<Vec<_>>());
            let order = ReadOrder::new(joined, &hot);
            got = order.flat_map(|r| r.iter()).collect();
            got.sort_unstable();
            prop_assert_eq!(got, want);
        }
    }
}
