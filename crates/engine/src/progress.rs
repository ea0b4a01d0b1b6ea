//! How long work tells where it is, and how it is told to stop: backup, copy, verification, fill.

use std::collections::VecDeque;
use std::time::Duration;

/// Where the work is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Bytes dealt with, whatever that took.
    pub done_bytes: u64,
    /// Bytes to deal with in all. May shrink or grow while more becomes known.
    pub total_bytes: u64,
    /// Bytes that moved to or from the repository for it.
    pub moved_bytes: u64,
}

/// Who watches long work. Called from one thread at a time, some hundred times a second at most.
pub trait Progress: Sync {
    /// The work came so far.
    fn update(&self, done: Done);
    /// The work shall stop: it ends soon with `Kind::Cancelled`, leaving nothing half visible.
    fn cancelled(&self) -> bool {
        false
    }
}

/// Nobody watches.
pub struct Unwatched;

impl Progress for Unwatched {
    fn update(&self, _: Done) {}
}

/// Speed of late and the time that is left, from samples of (time, bytes). Fed by whoever shows progress.
#[derive(Clone, Debug, Default)]
pub struct Pace {
    samples: VecDeque<(Duration, u64)>,
}

impl Pace {
    /// How far back speed looks: long enough to bridge a slow pack, short enough to follow a throttle.
    const WINDOW: Duration = Duration::from_secs(10);
    /// Samples closer together than this are one.
    const STEP: Duration = Duration::from_millis(250);

    /// Nothing known yet.
    pub fn new() -> Self {
        Pace::default()
    }
    /// At `now` (since any fixed start) `done` bytes were dealt with.
    pub fn sample(&mut self, now: Duration, done: u64) {
        let n = self.samples.len();
        if self.samples.back().is_some_and(|(_, last)| *last > done) {
            // Begun anew (a resumed count): what was known says nothing.
            self.samples.clear();
        } else if n > 1 && now.saturating_sub(self.samples[n - 2].0) < Self::STEP {
            // The newest sample moves along until it is a step away from the one before.
            self.samples.pop_back();
        }
        self.samples.push_back((now, done));
        // One sample older than the window stays, so that there is always something to measure from.
        while self.samples.len() > 2 && now.saturating_sub(self.samples[1].0) > Self::WINDOW {
            self.samples.pop_front();
        }
    }
    /// Bytes per second of late; `None` until half a second was seen.
    pub fn bytes_per_s(&self) -> Option<f64> {
        let (first, last) = (self.samples.front()?, self.samples.back()?);
        let time = last.0.saturating_sub(first.0);
        (time >= Duration::from_millis(500)).then(|| (last.1 - first.1) as f64 / time.as_secs_f64())
    }
    /// Time left for `rest` more bytes; `None` while nothing moves.
    pub fn remaining(&self, rest: u64) -> Option<Duration> {
        let seconds = rest as f64 / self.bytes_per_s().filter(|r| *r > 0.0)?;
        // Beyond a year it is no forecast.
        (seconds < 31_536_000.0).then(|| Duration::from_secs_f64(seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pace_follows_the_last_seconds_only() {
        let mut p = Pace::new();
        assert_eq!((p.bytes_per_s(), p.remaining(1)), (None, None));
        let at = Duration::from_millis;
        (0..=100).for_each(|i| p.sample(at(i * 100), i * 10));
        assert_eq!(p.bytes_per_s().map(f64::round), Some(100.0));
        // Ten times as fast for twenty seconds: the slow start is forgotten.
        (1..=200).for_each(|i| p.sample(at(10_000 + i * 100), 1000 + i * 100));
        assert_eq!(p.bytes_per_s().map(f64::round), Some(1000.0));
        assert_eq!(p.remaining(5000).map(|d| d.as_secs_f64().round()), Some(5.0));
        assert!(p.samples.len() < 60);
        // Standing still: no forecast.
        (1..=200).for_each(|i| p.sample(at(30_000 + i * 100), 21_000));
        assert_eq!(p.remaining(1), None);
        p.sample(at(60_000), 5);
        assert_eq!(p.bytes_per_s(), None);
    }
}
