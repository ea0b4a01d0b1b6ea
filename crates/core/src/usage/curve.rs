//! How concentrated use is: a histogram, and the coverage curve (so many bytes cover such a share of the use).
//!
//! Extents are counted into logarithmic buckets, so that memory does not grow with the volume; within a bucket all
//! extents count as its mean, which errs by at most 2 % of a bucket's share.

use super::facts::{Facts, LATE, RATE_HALF_LIFE_TICKS, SCORE_HALF_LIFE_TICKS};
use super::order::Order;

const SUB: f64 = 32.0;
const BUCKETS: usize = 4096;

/// Extents of one measure, counted.
#[derive(Clone, Debug)]
pub struct Coverage {
    by: Order,
    tick: u32,
    buckets: Vec<(u64, f64)>,
}

/// A point of the curve.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Point {
    /// The hottest so many extents ...
    pub extents: u64,
    /// ... cover this share of all use, 0 to 1.
    pub share: f64,
}

/// A bar of the histogram.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bar {
    /// Values from here ...
    pub from: f64,
    /// ... to below here (for ranks: the rank and the next).
    pub to: f64,
    /// Extents in it.
    pub extents: u64,
    /// Their share of all use, 0 to 1.
    pub share: f64,
}

impl Coverage {
    /// Measures by `by`, at `tick`. `auto` and `linear` measure the weight of [`Facts::weight`]; `trace` counts every
    /// extent of the newest set once, in the order of rank.
    pub fn new(by: Order, tick: u32) -> Self {
        Coverage { by, tick, buckets: vec![(0, 0.0); BUCKETS] }
    }
    /// Counts one extent.
    pub fn add(&mut self, f: &Facts) {
        let value = match self.by {
            Order::Auto | Order::Linear => f.weight() as f64,
            Order::Trace => {
                if let Some(rank) = f.rank() {
                    self.count(usize::from(LATE - rank), 1.0);
                }
                return;
            }
            Order::Count => f64::from(f.reads) + f64::from(f.writes),
            Order::Rate => f.rate.at(self.tick, RATE_HALF_LIFE_TICKS),
            Order::Score => f.score.at(self.tick, SCORE_HALF_LIFE_TICKS),
        };
        if value > 0.0 {
            let at = (value.log2() * SUB + BUCKETS as f64 / 2.0).clamp(0.0, BUCKETS as f64 - 1.0);
            self.count(at as usize, value);
        }
    }
    fn count(&mut self, bucket: usize, value: f64) {
        self.buckets[bucket].0 += 1;
        self.buckets[bucket].1 += value;
    }
    /// Extents with any use by this measure.
    pub fn extents(&self) -> u64 {
        self.buckets.iter().map(|b| b.0).sum()
    }
    fn total(&self) -> f64 {
        self.buckets.iter().map(|b| b.1).sum()
    }
    /// The curve, hottest first, one point per bucket in use, from (0, 0) to (all, 1).
    pub fn curve(&self) -> Vec<Point> {
        let total = self.total().max(f64::MIN_POSITIVE);
        let mut points = vec![Point { extents: 0, share: 0.0 }];
        let (mut extents, mut sum) = (0, 0.0);
        for (n, value) in self.buckets.iter().rev().filter(|b| b.0 > 0) {
            extents += n;
            sum += value;
            points.push(Point { extents, share: (sum / total).min(1.0) });
        }
        points
    }
    /// How many of the hottest extents cover `share` of the use; all of them when it is not reached before.
    pub fn extents_for(&self, share: f64) -> u64 {
        let mut last = Point { extents: 0, share: 0.0 };
        for p in self.curve() {
            if p.share >= share {
                let step = (share - last.share) / (p.share - last.share).max(f64::MIN_POSITIVE);
                return last.extents + ((p.extents - last.extents) as f64 * step).ceil() as u64;
            }
            last = p;
        }
        last.extents
    }
    /// The histogram in powers of two (for `trace`: by rank), smallest first, without empty ends.
    pub fn histogram(&self) -> Vec<Bar> {
        let total = self.total().max(f64::MIN_POSITIVE);
        let width = if self.by == Order::Trace { 1 } else { SUB as usize };
        let mut bars: Vec<Bar> = Vec::new();
        for (i, group) in self.buckets.chunks(width).enumerate() {
            let (from, to) = if self.by == Order::Trace {
                (f64::from(LATE) - i as f64, f64::from(LATE) - i as f64 + 1.0)
            } else {
                let exp = (i * width) as f64 / SUB - BUCKETS as f64 / 2.0 / SUB;
                (exp.exp2(), (exp + 1.0).exp2())
            };
            let extents = group.iter().map(|b| b.0).sum();
            let share = group.iter().map(|b| b.1).sum::<f64>() / total;
            if extents > 0 || !bars.is_empty() {
                bars.push(Bar { from, to, extents, share });
            }
        }
        while bars.last().is_some_and(|b| b.extents == 0) {
            bars.pop();
        }
        bars
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Touch;
    use super::*;
    use proptest::prelude::*;

    fn counted(n: u32) -> Facts {
        let mut f = Facts::default();
        f.fold(0, Touch { reads: n, ..Touch::default() }, 0);
        f
    }

    #[test]
    fn the_curve_of_a_skewed_disk() {
        let mut c = Coverage::new(Order::Count, 0);
        for n in [900, 50, 25, 25] {
            c.add(&counted(n));
        }
        c.add(&Facts::default());
        assert_eq!(c.extents(), 4);
        let shares: Vec<(u64, i64)> =
            c.curve().iter().map(|p| (p.extents, (p.share * 1000.0).round() as i64)).collect();
        assert_eq!(shares, [(0, 0), (1, 900), (2, 950), (4, 1000)]);
        assert_eq!((c.extents_for(0.9), c.extents_for(0.95), c.extents_for(1.0)), (1, 2, 4));
        let bars: Vec<(f64, u64)> =
            c.histogram().iter().map(|b| (b.from, b.extents)).filter(|b| b.1 > 0).collect();
        assert_eq!(bars, [(16.0, 2), (32.0, 1), (512.0, 1)]);
    }

    #[test]
    fn the_trace_is_counted_by_rank() {
        let mut c = Coverage::new(Order::Trace, 0);
        for rank in [0, 0, 3] {
            let mut f = counted(1);
            f.enter(rank);
            c.add(&f);
        }
        c.add(&counted(9));
        assert_eq!(c.curve().iter().map(|p| p.extents).collect::<Vec<_>>(), [0, 2, 3]);
        let bars = c.histogram();
        assert_eq!((bars[0].from, bars[0].extents), (3.0, 1));
        assert_eq!((bars[3].from, bars[3].extents), (0.0, 2));
    }

    #[test]
    fn an_empty_map_has_a_curve_too() {
        let c = Coverage::new(Order::Auto, 0);
        assert_eq!(c.curve(), [Point { extents: 0, share: 0.0 }]);
        assert_eq!((c.extents_for(0.9), c.histogram().len()), (0, 0));
    }

    proptest! {
        #[test]
        fn a_curve_rises_and_bends_down(counts in prop::collection::vec(1u32..100_000, 1..200)) {
            let mut c = Coverage::new(Order::Count, 0);
            counts.iter().for_each(|&n| c.add(&counted(n)));
            let curve = c.curve();
            let last = curve[curve.len() - 1];
            prop_assert_eq!(last.extents, counts.len() as u64);
            prop_assert!((last.share - 1.0).abs() < 1e-9);
            let slopes: Vec<f64> = curve
                .windows(2)
                .map(|w| (w[1].share - w[0].share) / (w[1].extents - w[0].extents) as f64)
                .collect();
            prop_assert!(slopes.windows(2).all(|s| s[1] <= s[0] * 1.000_001));
            let (mut sorted, total) = (counts.clone(), counts.iter().map(|&n| f64::from(n)).sum::<f64>());
            sorted.sort_unstable_by(|a, b| b.cmp(a));
            let half = c.extents_for(0.5) as usize;
            let got = sorted[..half].iter().map(|&n| f64::from(n)).sum::<f64>() / total;
            prop_assert!(got > 0.45, "the promised number of extents covers what was promised: {got}");
        }
    }
}
