//! What is known of a link: its least latency and the best bandwidth it showed, both of late.

use super::round::latency;
use std::ops::Range;
use std::time::Duration;

/// Minima older than this are forgotten.
const MIN_WINDOW: Duration = Duration::from_secs(60);
/// Bandwidth is the best of the samples of this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Length of one bandwidth sample, at least; longer on slow links (four round trips).
const SAMPLE: Duration = Duration::from_millis(50);
/// The same while the window doubles: the rate of four round trips ago would be that of another window. Not shorter than
/// this, for a busy machine reads in bursts what came evenly.
const SAMPLE_STARTING: Duration = Duration::from_millis(2);

/// What status shows.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Link {
    /// Best bandwidth lately seen, bytes per second; 0: not known yet.
    pub bytes_per_s: u64,
    /// Windowed minimum latency; zero: not known yet.
    pub latency_min: Duration,
    /// Bytes that may be on the way.
    pub window: u64,
}

/// The extreme of a sliding window, in two buckets: exact enough, and two numbers.
#[derive(Clone, Copy, Debug)]
struct Sliding {
    began: Duration,
    now: Option<f64>,
    before: Option<f64>,
    largest: bool,
}
impl Sliding {
    fn new(largest: bool) -> Self {
        Sliding { began: Duration::ZERO, now: None, before: None, largest }
    }
    fn better(&self, a: Option<f64>, b: Option<f64>) -> Option<f64> {
        match (a, b) {
            (Some(a), Some(b)) => Some(if self.largest { a.max(b) } else { a.min(b) }),
            (a, b) => a.or(b),
        }
    }
    fn add(&mut self, now: Duration, window: Duration, v: f64) {
        if now.saturating_sub(self.began) > window / 2 {
            (self.before, self.now, self.began) = (self.now, None, now);
        }
        self.now = self.better(self.now, Some(v));
    }
    fn get(&self) -> Option<f64> {
        self.better(self.now, self.before)
    }
}

/// Measures a link by what comes over it.
#[derive(Clone, Debug)]
pub(super) struct Meter {
    latency_min: Sliding,
    rate: Sliding,
    /// Best bandwidth of the last minute: a fill that is held back sees little of it, and its floor must not follow.
    rate_best: Sliding,
    /// The last whole sample began then.
    sample_before: Duration,
    sample_began: Duration,
    sampled: u64,
}

impl Meter {
    pub(super) fn new(now: Duration) -> Self {
        Meter {
            latency_min: Sliding::new(false),
            rate: Sliding::new(true),
            rate_best: Sliding::new(true),
            sample_before: now,
            sample_began: now,
            sampled: 0,
        }
    }
    /// `bytes` came; `took`: from when they were asked for until they were here. `starting`: the window doubles.
    pub(super) fn came(&mut self, bytes: u64, took: &Range<Duration>, starting: bool) {
        // By when it was here: heard of together, answers would all count for the time until more is heard.
        let now = took.end;
        self.latency_min.add(now, MIN_WINDOW, latency(took).max(1e-6));
        self.sampled += bytes;
        let min = Duration::from_secs_f64(self.latency_min.get().unwrap_or(0.0));
        let passed = now.saturating_sub(self.sample_began);
        let length = if starting { SAMPLE_STARTING.max(min) } else { SAMPLE.max(4 * min) };
        if passed >= length {
            let rate = self.sampled as f64 / passed.as_secs_f64();
            self.rate.add(now, RATE_WINDOW.max(16 * min), rate);
            self.rate_best.add(now, MIN_WINDOW, rate);
            (self.sampled, self.sample_before, self.sample_began) = (0, self.sample_began, now);
        }
    }
    /// A whole sample of the rate was taken since `then`.
    pub(super) fn sampled_since(&self, then: Duration) -> bool {
        self.sample_before > then
    }
    /// Least latency of the last minute, seconds.
    pub(super) fn latency_min(&self) -> Option<f64> {
        self.latency_min.get()
    }
    /// Best bandwidth of the last seconds, bytes a second.
    pub(super) fn rate(&self) -> Option<f64> {
        self.rate.get()
    }
    /// Best bandwidth of the last minute.
    pub(super) fn rate_best(&self) -> Option<f64> {
        self.rate_best.get()
    }
}
