//! Latency by rounds: what requests took that were all asked for in one window.
//!
//! A queue delays them all; a busy machine, or a store with a tail, delays some. So a round is judged by what the
//! quickest third took at most, and how far the others lie from that is noise.

use std::ops::Range;
use std::time::Duration;

/// Answers a round is judged by: fewer are noise.
const ANSWERS: usize = 16;
/// So few are enough where they agree.
const ANSWERS_ALIKE: usize = 4;
/// They agree when their deviation, over the root of their number, is below this share of what they took.
const ALIKE: f64 = 0.1;
/// What one round counts for beside all before it.
const SHARE: f64 = 0.25;

/// Requests asked for since it began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Round {
    began: Duration,
    answers: usize,
    /// Seconds, of the first so many answers.
    took: [f64; ANSWERS],
}

impl Round {
    pub(super) fn new(now: Duration) -> Round {
        Round { began: now, answers: 0, took: [0.0; ANSWERS] }
    }
    /// An answer came. What was asked for before the round saw another window.
    pub(super) fn came(&mut self, took: &Range<Duration>) {
        if took.start >= self.began && self.answers < ANSWERS {
            self.took[self.answers] = latency(took);
            self.answers += 1;
        }
    }
    /// What they took, when there are answers enough.
    pub(super) fn over(&self) -> Option<Took> {
        (self.answers == ANSWERS).then(|| self.took())
    }
    /// The same, and sooner where they agree.
    pub(super) fn agreed(&self) -> Option<Took> {
        let took = self.took();
        let alike = took.noise < ALIKE * took.low * (self.answers as f64).sqrt();
        (self.answers == ANSWERS || self.answers >= ANSWERS_ALIKE && alike).then_some(took)
    }
    fn took(&self) -> Took {
        let mut took = self.took;
        let took = &mut took[..self.answers];
        took.sort_unstable_by(f64::total_cmp);
        let Some(&low) = took.get(took.len() / 3) else { return Took { mean: 0.0, low: 0.0, noise: 0.0 } };
        let n = took.len() as f64;
        let mean = took.iter().sum::<f64>() / n;
        let squares: f64 = took.iter().map(|t| (t - low).powi(2)).sum();
        Took { mean, low, noise: (squares / n).sqrt() }
    }
}

/// Seconds from when it was asked for until it was here.
pub(super) fn latency(took: &Range<Duration>) -> f64 {
    took.end.saturating_sub(took.start).as_secs_f64()
}

/// What requests take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// Seconds, their mean: what is on the way is as much as comes in so long (Little's law).
    pub(super) mean: f64,
    /// Seconds, what the quickest third of them took at most.
    pub(super) low: f64,
    /// Seconds, how far they deviate from it.
    pub(super) noise: f64,
}

impl Took {
    /// Follows what was seen of late by and by: one round may have been lucky, or not. That rounds differ is noise as well.
    pub(super) fn approach(&mut self, lately: Took) {
        let off = lately.low - self.low;
        let variance = self.noise.powi(2) * (1.0 - SHARE) + SHARE * (lately.noise.powi(2) + off.powi(2));
        self.low += off * SHARE;
        self.mean += (lately.mean - self.mean) * SHARE;
        self.noise = variance.sqrt();
    }
}
