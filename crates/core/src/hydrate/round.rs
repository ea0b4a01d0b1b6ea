//! Latency by rounds: the mean of requests that were all asked for in one window.

use std::ops::Range;
use std::time::Duration;

/// Answers a round is judged by, at least: fewer are noise.
const ANSWERS: u32 = 16;
/// So few are enough where they agree.
const ANSWERS_ALIKE: u32 = 4;
/// They agree when the standard error of their mean is below this share of it.
const ALIKE: f64 = 0.1;

/// Requests asked for since it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    began: Duration,
    answers: u32,
    mean: f64,
    /// Sum of the squared differences from the mean (Welford 1962).
    spread: f64,
}

impl Round {
    pub(super) fn new(now: Duration) -> Round {
        Round { began: now, answers: 0, mean: 0.0, spread: 0.0 }
    }
    /// An answer came. What was asked for before the round saw another window.
    pub(super) fn came(&mut self, took: &Range<Duration>) {
        if took.start >= self.began {
            let seconds = latency(took);
            let off = seconds - self.mean;
            self.answers += 1;
            self.mean += off / f64::from(self.answers);
            self.spread += off * (seconds - self.mean);
        }
    }
    /// What they took, when there are answers enough.
    pub(super) fn over(&self) -> Option<Took> {
        (self.answers >= ANSWERS).then(|| self.took())
    }
    /// The same, and sooner where they agree.
    pub(super) fn agreed(&self) -> Option<Took> {
        let took = self.took();
        let alike = took.noise < ALIKE * took.mean * f64::from(self.answers).sqrt();
        (self.answers >= ANSWERS || self.answers >= ANSWERS_ALIKE && alike).then_some(took)
    }
    fn took(&self) -> Took {
        let variance = self.spread / f64::from(self.answers.max(2) - 1);
        Took { mean: self.mean, noise: variance.sqrt() }
    }
}

/// Seconds from when it was asked for until it was here.
pub(super) fn latency(took: &Range<Duration>) -> f64 {
    took.end.saturating_sub(took.start).as_secs_f64()
}

/// What requests take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// Seconds, their mean.
    pub(super) mean: f64,
    /// Seconds, their standard deviation.
    pub(super) noise: f64,
}

impl Took {
    /// Follows what was seen of late by and by: one round may have been lucky.
    pub(super) fn approach(&mut self, lately: Took) {
        self.mean += (lately.mean - self.mean) / 8.0;
        self.noise += (lately.noise - self.noise) / 8.0;
    }
}
