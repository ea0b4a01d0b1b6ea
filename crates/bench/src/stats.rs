//! Medians with their range, ratios within a round, percentiles of latencies.

use hdrhistogram::Histogram;
use std::time::Duration;

/// Latencies from 1 us to an hour, three digits.
#[derive(Clone, Debug)]
pub struct Percentiles(Histogram<u64>);

impl Percentiles {
    /// Empty.
    pub fn new() -> Self {
        // The bounds are constants that the crate accepts: 1 us .. 1 h at 3 digits.
        Percentiles(Histogram::new_with_bounds(1, 3_600_000_000, 3).unwrap_or_else(|_| unreachable!()))
    }

    /// Adds one latency.
    pub fn add(&mut self, latency: Duration) {
        self.0.saturating_record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(1));
    }

    /// The given percentile (0 to 100), in microseconds.
    pub fn at(&self, percentile: f64) -> u64 {
        self.0.value_at_percentile(percentile)
    }

    /// How many were added.
    pub fn count(&self) -> u64 {
        self.0.len()
    }
}

/// Values of the same thing, one a round.
#[derive(Clone, Debug, Default)]
pub struct Rounds(pub Vec<f64>);

impl Rounds {
    /// The middle one; of an even number the mean of the middle two. NaN when empty.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[n / 2],
            n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        }
    }

    /// Smallest and largest.
    pub fn range(&self) -> (f64, f64) {
        self.0.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(*v), hi.max(*v)))
    }

    /// This over `other`, round by round: only cells of one round may be compared.
    pub fn ratio(&self, other: &Rounds) -> Rounds {
        Rounds(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }

    /// The smaller of the two, round by round; of one when the other was not measured.
    pub fn least(&self, other: &Rounds) -> Rounds {
        match (self.0.is_empty(), other.0.is_empty()) {
            (true, _) => other.clone(),
            (_, true) => self.clone(),
            _ => Rounds(self.0.iter().zip(&other.0).map(|(a, b)| a.min(*b)).collect()),
        }
    }

    /// `median [low-high]` with so many decimals.
    pub fn show(&self, decimals: usize) -> String {
        if self.0.is_empty() {
            return "-".into();
        }
        let (low, high) = self.range();
        format!("{:.decimals$} [{low:.decimals$}-{high:.decimals$}]", self.median())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios() {
        let a = Rounds(vec![3.0, 1.0, 2.0]);
        assert_eq!(a.median(), 2.0);
        assert_eq!(Rounds(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(a.show(1), "2.0 [1.0-3.0]");
        assert_eq!(a.ratio(&Rounds(vec![1.5, 1.0, 4.0])).0, [2.0, 1.0, 0.5]);
        assert_eq!(a.least(&Rounds(vec![1.5, 4.0, 4.0])).0, [1.5, 1.0, 2.0]);
        assert_eq!(a.least(&Rounds::default()).0, a.0);
        assert!(Rounds::default().median().is_nan());
    }
}
