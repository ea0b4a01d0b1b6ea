//! Does a wider window bring more? Asked by trying, for where delay alone misleads.
//!
//! Delay cannot tell a queue from answers that are late by themselves: a store with a tail, a busy machine that reads them
//! late. Both look like a full link, and a window that follows delay stays at its least, though the link is idle. So now and
//! then the window is made wider for a few round trips: if that brings nearly as much more, no queue stood there, and the
//! wider window is *proven*: delay does not shrink it. If not, it goes back, and a narrower one is tried: what is proven is
//! about the least window that brings what the link has. (The micro-experiments of PCC, Dong et al. 2015, with the rate
//! alone as their measure.)
//!
//! Trials that fail grow rare, and rarer where somebody waits for demand reads, for those wait behind a trial: less than one
//! in a hundred of them.

use std::time::Duration;

/// Answers a trial is judged by, at least: fewer are noise.
const ANSWERS: u32 = 32;
/// Round trips a trial is judged by, at least.
const ROUNDS: u32 = 3;
/// Share of the proportional gain that counts as one.
const ENOUGH: f64 = 0.6;
/// A pause between trials is this many times the last one's length; doubled whenever one fails.
const REST_MIN: u32 = 2;
/// The most it is doubled to.
const REST_MAX: u32 = 256;
/// So many times longer while somebody waits for demand reads: they wait behind a trial.
const AWAITED: u32 = 32;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    /// Delay steers.
    Rest,
    /// The window stands still, to be compared with.
    Base,
    /// It is wider.
    Wider { base: f64 },
    /// It is narrower.
    Narrower { base: f64 },
}

/// The experiments of one throttle.
#[derive(Clone, Debug)]
pub(super) struct Gain {
    phase: Phase,
    /// The window a running trial holds.
    pub(super) trial: f64,
    /// What the trial began from.
    from: f64,
    /// Least window that delay may not shrink; 0: none.
    pub(super) proven: f64,
    /// Bytes a second it brought.
    proven_rate: f64,
    began: Duration,
    /// Answers are counted from here: those before it were asked in the window before.
    counted: Duration,
    bytes: f64,
    answers: u32,
    rest: u32,
    next: Duration,
    /// Latency of late, seconds.
    usual: f64,
}

impl Gain {
    pub(super) fn new(now: Duration) -> Gain {
        Gain {
            phase: Phase::Rest,
            trial: 0.0,
            from: 0.0,
            proven: 0.0,
            proven_rate: 0.0,
            began: now,
            counted: now,
            bytes: 0.0,
            answers: 0,
            rest: REST_MIN,
            next: now,
            usual: 0.0,
        }
    }
    /// A trial holds the window.
    pub(super) fn is_trying(&self) -> bool {
        self.phase != Phase::Rest
    }
    /// An answer of `bytes` came after `latency` (seconds) while the window was `window` as `at` says. Returns the window when a trial ends or begins.
    pub(super) fn came(&mut self, now: Duration, bytes: f64, latency: f64, at: Window) -> Option<f64> {
        self.usual += (latency - self.usual) / 32.0;
        if self.phase == Phase::Rest {
            // Only where something holds the window back, and where answers are late though it is at its least.
            let floor = at.window <= 1.5 * at.least.max(self.proven) && self.usual > at.late;
            let some = at.held && self.usual <= at.very_late;
            if now >= self.next && at.full && (floor || some) {
                return Some(self.begin(Phase::Base, at.window, now, latency));
            }
        }
        if now < self.counted {
            return None;
        }
        self.bytes += bytes;
        self.answers += 1;
        let passed = now.saturating_sub(self.counted).as_secs_f64();
        if self.answers < ANSWERS || passed < f64::from(ROUNDS) * latency {
            return None;
        }
        let rate = self.bytes / passed;
        (self.bytes, self.answers, self.counted) = (0.0, 0, now);
        match self.phase {
            Phase::Rest => {
                if rate < self.proven_rate / 2.0 {
                    // The link became another.
                    (self.proven, self.rest, self.next) = (0.0, REST_MIN, now);
                }
                None
            }
            Phase::Base => {
                self.from = self.trial;
                self.wider(rate, now, latency, at)
            }
            Phase::Wider { base } => {
                if rate >= base * (1.0 + ENOUGH * (self.trial / self.from - 1.0)) {
                    (self.proven, self.proven_rate) = (self.trial, rate);
                    self.rest = REST_MIN;
                    self.from = self.trial;
                    return self.wider(rate, now, latency, at);
                }
                let narrower = (self.from * 0.7).max(at.least);
                if self.from > self.proven || narrower >= self.from {
                    return Some(self.end(self.from, now, at));
                }
                Some(self.begin(Phase::Narrower { base }, narrower, now, latency))
            }
            Phase::Narrower { base } => {
                let costs = rate < base * (1.0 - ENOUGH * (1.0 - self.trial / self.from));
                let window = if costs { self.from } else { self.trial };
                self.proven = if window <= at.least { 0.0 } else { window };
                self.proven_rate = if costs { base } else { rate };
                Some(self.end(window, now, at))
            }
        }
    }
    fn wider(&mut self, base: f64, now: Duration, latency: f64, at: Window) -> Option<f64> {
        let wider = (self.from * 1.5).max(self.from + at.extent).min(at.most);
        if wider <= self.from {
            return Some(self.end(self.from, now, at));
        }
        Some(self.begin(Phase::Wider { base }, wider, now, latency))
    }
    fn begin(&mut self, phase: Phase, window: f64, now: Duration, latency: f64) -> f64 {
        if phase == Phase::Base {
            self.began = now;
        }
        (self.phase, self.trial) = (phase, window);
        // What was asked before is answered by then.
        self.counted = now + Duration::from_secs_f64(latency);
        (self.bytes, self.answers) = (0.0, 0);
        window
    }
    fn end(&mut self, window: f64, now: Duration, at: Window) -> f64 {
        self.phase = Phase::Rest;
        let rest = if at.awaited { self.rest * AWAITED } else { self.rest };
        self.next = now + now.saturating_sub(self.began) * rest;
        self.rest = (self.rest * 2).min(REST_MAX);
        window
    }
}

/// The window a trial begins from.
#[derive(Clone, Copy)]
pub(super) struct Window {
    pub(super) window: f64,
    pub(super) full: bool,
    pub(super) extent: f64,
    pub(super) least: f64,
    pub(super) most: f64,
    /// Somebody waits for demand reads of late.
    pub(super) awaited: bool,
    /// It may not grow: delay or its bound holds it.
    pub(super) held: bool,
    /// Latency (seconds) from which delay shrinks.
    pub(super) late: f64,
    /// Latency (seconds) that is usual only where a queue stands.
    pub(super) very_late: f64,
}
