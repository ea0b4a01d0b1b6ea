//! How fast to copy in the background: use the whole link while nobody waits, and add little to the wait of those who do.
//!
//! Window = bytes asked for and not yet answered. Its bound is 2 x bandwidth x minimum latency, at least two chunks (with
//! one bandwidth x latency a link with a little jitter is a third idle). At the beginning it doubles with each round trip
//! (`start`). Then it follows delay below its bound, as LEDBAT does: it grows a chunk per round trip while requests take
//! hardly longer than the windowed minimum, and shrinks when the queue this makes delays them, for the same queue delays
//! demand reads. Never on raw p99: a store's own tail would hold it at the floor for ever. The target is a quarter of the
//! minimum latency.
//!
//! A minimum that is only ever measured with our own queue standing creeps upwards, so every [`PROBE`] the window falls to
//! its least for two round trips and the queue drains: costs about a thousandth of the time.
//!
//! Answers that are late without any queue (a store with a tail, a machine too busy to read them) hold such a window at its
//! floor on an idle link; so what it brings is tried as well (`gain`), and what that proves is never taken back for delay.
//!
//! The guaranteed floor: two chunks are always allowed, whatever delay says, and a twentieth of the bandwidth beyond that
//! (as long as answers come at all), so that completion stays bounded under a guest that saturates the link. A limit of
//! the user (bytes per second) and a pause stand above all of it; neither touches demand reads, which only report here.
//!
//! Pure: the caller passes `now` from a monotonic clock and reports every fetch, demand too (they measure the link best).

use super::gain::{Gain, Window};
use super::link::{Link, Meter};
use super::start::{Look, Start};
use std::time::Duration;

/// How often the minimum latency is measured afresh with a drained queue.
pub const PROBE: Duration = Duration::from_secs(20);
/// The window's bound whatever the link: what is on the way is memory.
pub const WINDOW_MAX: u64 = 24 << 20;
/// Queueing delay aimed at, as a share of the minimum latency.
const TARGET: f64 = 0.25;
/// No queue is noticed below this: timer and scheduler noise.
const TARGET_MIN: Duration = Duration::from_micros(100);
/// A guest that waited for a demand read so lately is still at it.
const AWAITED: Duration = Duration::from_secs(1);
/// Least and steps of the window are of chunks, and a chunk is never taken for smaller than this: two extents of a disk that
/// compresses thirty times are nothing to any link, and in steps of one a window would take minutes to open.
const GRAIN: f64 = 32.0 * 1024.0;
/// Share of the bandwidth that fill gets whatever delay says.
const FLOOR: f64 = 0.05;

/// Paces the background copies of one set from one link.
#[derive(Clone, Debug)]
pub struct Throttle {
    extent: f64,
    /// Background fetches that came, up to 64: the extent's size is their mean.
    came: u32,
    window: f64,
    in_flight: u64,
    /// The window, and nothing else, kept us from asking for more when we last could.
    full: bool,
    link: Meter,
    /// While it lasts the window doubles.
    start: Option<Start>,
    gain: Gain,
    /// The last demand fetch came.
    demand_at: Option<Duration>,
    shrunk: Duration,
    probe_next: Duration,
    probe_end: Duration,
    floor: f64,
    limit: Option<u64>,
    tokens: f64,
    refilled: Duration,
    paused: bool,
}

impl Throttle {
    /// `extent_stored` is what a fetch of one extent moves, about (it is followed from then on).
    pub fn new(extent_stored: u64, now: Duration) -> Self {
        let extent = extent_stored.max(1) as f64;
        Throttle {
            extent,
            came: 0,
            window: 2.0 * extent.max(GRAIN),
            in_flight: 0,
            full: false,
            link: Meter::new(now),
            start: Some(Start::new(now)),
            gain: Gain::new(now),
            demand_at: None,
            shrunk: now,
            probe_next: now + PROBE,
            probe_end: Duration::ZERO,
            floor: 0.0,
            limit: None,
            tokens: 0.0,
            refilled: now,
            paused: false,
        }
    }
    /// `--limit`, `tune --limit`: bytes per second of background copies; `None`: no limit.
    pub fn set_limit(&mut self, limit: Option<u64>, now: Duration) {
        self.refill(now);
        self.limit = limit;
        self.tokens = 0.0;
    }
    /// The limit in force.
    pub fn limit(&self) -> Option<u64> {
        self.limit
    }
    /// `pause`, `resume`: what is on the way still comes.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }
    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.paused
    }
    /// What a fetch of one extent moves, on average of late.
    pub fn extent_stored(&self) -> u64 {
        self.extent as u64
    }
    /// The most bytes one request should ask for: one extent, or an eighth of what the link moves in its least latency. A
    /// longer one would be late by its own length, as late as the queue that is aimed at.
    pub fn chunk(&self) -> u64 {
        let pipe = self.link.rate().zip(self.link.latency_min()).map_or(0.0, |(rate, min)| rate * min);
        self.extent.max(pipe / 8.0) as u64
    }
    /// Bytes of background fetches that may be started now. At least one request may start when nothing is under way, even
    /// if it is larger. 0: wait for a completion or for [`Throttle::wait`].
    pub fn allowance(&mut self, now: Duration) -> u64 {
        if self.paused {
            return 0;
        }
        self.refill(now);
        let window = if now < self.probe_end { self.least() } else { self.window };
        let mut free = (window - self.in_flight as f64).max(0.0);
        self.full = free < self.extent;
        if free < self.extent && self.floor >= self.extent && (self.in_flight as f64) < 2.0 * self.bound() {
            free = self.extent;
        }
        match self.limit {
            Some(_) if self.tokens <= 0.0 => 0,
            Some(_) => free.min(self.tokens.max(self.extent)) as u64,
            None => free as u64,
        }
    }
    /// How long until the limit allows the next fetch, if that is what holds it back.
    pub fn wait(&self) -> Option<Duration> {
        let limit = self.limit.filter(|_| self.tokens <= 0.0 && !self.paused)?;
        Some(Duration::from_secs_f64(((1.0 - self.tokens) / limit as f64).clamp(0.000_1, 60.0)))
    }
    /// A background fetch of about `bytes` was started.
    pub fn started(&mut self, bytes: u64) {
        self.in_flight += bytes;
        self.full = self.in_flight as f64 > self.window - self.extent;
        self.floor -= bytes as f64;
        if self.limit.is_some() {
            self.tokens -= bytes as f64;
        }
    }
    /// A background fetch ended without bytes (failed, cancelled).
    pub fn ended(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }
    /// A background fetch came after `latency`: `asked` is what [`Throttle::started`] was told, `bytes` what moved.
    pub fn came(&mut self, now: Duration, asked: u64, bytes: u64, latency: Duration) {
        self.ended(asked);
        if self.limit.is_some() {
            self.tokens -= bytes as f64 - asked as f64; // What was asked is an estimate; the limit is of what moved.
        }
        if bytes == 0 {
            return; // All zeros, as it turned out: nothing came over the link.
        }
        // The mean at first: what it was created with is a guess, and one ten times too large holds two requests on the way.
        self.came = (self.came + 1).min(64);
        self.extent += (bytes as f64 - self.extent) / f64::from(self.came);
        let min = self.measure(now, bytes, latency);
        self.steer(now, bytes as f64, latency, min);
    }
    /// A demand fetch of `bytes` came after `latency`: measures the link, moves no window.
    pub fn demand_came(&mut self, now: Duration, bytes: u64, latency: Duration) {
        self.demand_at = Some(now);
        if bytes > 0 {
            self.measure(now, bytes, latency);
        }
    }
    /// What is known of the link.
    pub fn link(&self) -> Link {
        Link {
            bytes_per_s: self.link.rate().unwrap_or(0.0) as u64,
            latency_min: Duration::from_secs_f64(self.link.latency_min().unwrap_or(0.0)),
            window: self.window as u64,
        }
    }

    /// What the window steps by.
    fn grain(&self) -> f64 {
        self.extent.max(GRAIN)
    }
    /// What is always allowed.
    fn least(&self) -> f64 {
        2.0 * self.grain()
    }
    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        self.refilled = self.refilled.max(now);
        let earned = self.link.rate_best().unwrap_or(0.0) * FLOOR * passed;
        self.floor = (self.floor.max(0.0) + earned).min(2.0 * self.extent);
        if let Some(limit) = self.limit {
            // A tenth of a second may come in one burst, or one extent.
            let most = (limit as f64 / 10.0).max(self.extent);
            self.tokens = (self.tokens + limit as f64 * passed).min(most);
        }
    }
    /// Returns the least latency, seconds.
    fn measure(&mut self, now: Duration, bytes: u64, latency: Duration) -> f64 {
        let seconds = self.link.came(now, bytes, latency, self.start.is_some());
        if now >= self.probe_next {
            let min = Duration::from_secs_f64(seconds);
            (self.probe_end, self.probe_next) = (now + 2 * min, now + PROBE.max(200 * min));
        }
        seconds
    }
    fn steer(&mut self, now: Duration, bytes: f64, latency: Duration, min: f64) {
        let target = (min * TARGET).max(TARGET_MIN.as_secs_f64());
        let off = (target - (latency.as_secs_f64() - min)) / target;
        if let Some(start) = &mut self.start {
            let look = Look { window: &mut self.window, full: self.full, late: off <= 0.0 };
            if !start.came(now, bytes, latency, look) {
                self.window = self.window.clamp(self.least(), self.least().max(WINDOW_MAX as f64));
                return;
            }
            self.start = None;
            // What the link takes with the queue that is aimed at.
            self.window = self.window.min(self.link.rate().unwrap_or(f64::MAX) * (min + target));
        } else if self.try_gain(now, bytes, latency.as_secs_f64(), off, min, target) {
            return;
        } else {
            self.follow_delay(now, bytes, latency.as_secs_f64(), off);
        }
        let least = self.least().max(self.gain.proven);
        self.window = self.window.clamp(least, self.bound().max(least));
    }
    /// What a wider window brings is tried now and then; `true` while a trial holds the window.
    fn try_gain(&mut self, now: Duration, bytes: f64, latency: f64, off: f64, min: f64, target: f64) -> bool {
        let at = Window {
            window: self.window,
            full: self.full,
            extent: self.grain(),
            least: self.least(),
            most: WINDOW_MAX as f64,
            awaited: self.demand_at.is_some_and(|at| now.saturating_sub(at) < AWAITED),
            held: off < 0.0 || self.window >= self.bound(),
            late: min + target,
            very_late: min + 4.0 * target,
        };
        if let Some(window) = self.gain.came(now, bytes, latency, at) {
            self.window = window;
        }
        self.gain.is_trying()
    }
    /// `off`: how far the delay is from its target, 1 (none) to minus infinity.
    fn follow_delay(&mut self, now: Duration, bytes: f64, latency: f64, off: f64) {
        if off < -1.0 && now.saturating_sub(self.shrunk).as_secs_f64() > latency {
            // Far above the target: a tenth at once, very far (the link became another): half; but once per round trip.
            self.window *= if off < -4.0 { 0.5 } else { 0.9 };
            self.shrunk = now;
        } else if off < 0.0 || self.full {
            // A chunk per window of bytes, scaled by how far off the target.
            self.window += off.clamp(-1.0, 1.0) * self.grain() * bytes / self.window;
        }
    }
    /// 2 x bandwidth x minimum latency. The time a chunk itself is on the wire is in the measured latency but is no
    /// latency of the link: without it; but never less than one chunk over what was achieved (or it could not grow), nor
    /// than two. What was achieved took a little longer than the least latency: the twelfth makes the chunk a whole one.
    fn bound(&self) -> f64 {
        let (least, grain) = (self.least(), self.grain());
        match (self.link.rate(), self.link.latency_min()) {
            (Some(rate), Some(min)) => {
                let full = (rate * min + grain) * 1.08;
                (2.0 * (rate * min - grain)).max(full).min(WINDOW_MAX as f64).max(least)
            }
            _ => (WINDOW_MAX as f64).max(least),
        }
    }
}

#[cfg(test)]
mod tests;
