//! How fast to copy in the background: use the whole link while nobody waits, and add little to the wait of those who do.
//!
//! Window = bytes asked for and not yet here. Its bound is 2 x bandwidth x latency, at least two chunks (with one
//! bandwidth x latency a link with a little jitter is a third idle). At the beginning it doubles with each round trip
//! until a queue stands. Then it follows delay below its bound, as LEDBAT does: it grows while requests take hardly longer
//! than they would without us, and shrinks when the queue this makes delays them, for the same queue delays demand reads.
//! The queue aimed at adds a quarter, or as much as latency varies anyway.
//!
//! How long requests take without us is measured with the window at its least (`round`): every [`PROBE`] it falls to that for
//! one round and the queue drains, which costs less than a hundredth of the time; what is only ever measured with our own
//! queue standing creeps upwards. Answers are late without any queue of ours too: where a store has a tail, where others use
//! the link, and where a busy machine reads them late. That delays some, a queue all: so the quickest third says whether a
//! queue stands, how far answers vary is no delay to be avoided, and the mean says how much must be on the way. Taken for a
//! queue, such delay would hold the window at its least for ever; but there it is found out, and the window opens again.
//! Never steered by a single late answer, nor by p99: a tail would do the same.
//!
//! What has come and is being opened and written is not on the link any more, and comes on top ([`Landing`]).
//!
//! The guaranteed floor: two chunks are always allowed, whatever delay says, and a twentieth of the bandwidth beyond that
//! (as long as answers come at all), so that completion stays bounded under a guest that saturates the link. A limit of
//! the user (bytes per second) and a pause stand above all of it; neither touches demand reads, which only report here.
//!
//! Pure: the caller passes `now` from a monotonic clock and reports every fetch, demand too (they measure the link best).

use super::link::{Link, Meter};
use super::round::{Round, Took, latency};
use std::ops::Range;
use std::time::Duration;

/// How often the latency without us is measured afresh, with a drained queue; on long links less often.
pub const PROBE: Duration = Duration::from_secs(1);
/// The window's bound whatever the link: what is on the way is memory.
pub const WINDOW_MAX: u64 = 24 << 20;
/// Queueing delay aimed at, as a share of the latency without us.
const TARGET: f64 = 0.25;
/// No queue is noticed below this: timer and scheduler noise.
const TARGET_MIN: Duration = Duration::from_micros(100);
/// Least and steps of the window are of chunks, and a chunk is never taken for smaller than this: two extents of a disk that
/// compresses thirty times are nothing to any link, and in steps of one a window would take minutes to open.
const GRAIN: f64 = 32.0 * 1024.0;
/// With no delay the window grows by such a share in a round, at least by a chunk.
const GROWTH: f64 = 0.125;
/// Most bytes that may lie between the answer and the destination beside the window: two runs of a megabyte.
const LANDING_MAX: f64 = (2 << 20) as f64;
/// How long these are averaged.
const LANDING: Duration = Duration::from_millis(50);
/// Share of the bandwidth that fill gets whatever delay says.
const FLOOR: f64 = 0.05;

/// What the window does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The beginning: it doubles with each round trip.
    Start,
    /// It is held at its least, to measure.
    Probe,
    /// It follows delay.
    Follow,
}

/// What came and has not been heard of: it is being opened and written, or its thread waits for a processor. Counted as on
/// the way, it would keep the link idle.
#[derive(Clone, Copy, Default, Debug)]
struct Landing {
    /// On average of late.
    bytes: f64,
    /// Byte seconds since then.
    sum: f64,
    since: Duration,
}

impl Landing {
    fn landed(&mut self, now: Duration, bytes: u64, came: Duration) {
        self.sum += bytes as f64 * now.saturating_sub(came).as_secs_f64();
        let passed = now.saturating_sub(self.since);
        if passed >= LANDING {
            let lately = (self.sum / passed.as_secs_f64()).min(LANDING_MAX);
            self.bytes += (lately - self.bytes) / 2.0;
            (self.sum, self.since) = (0.0, now);
        }
    }
}

/// Paces the background copies of one set from one link.
#[derive(Clone, Debug)]
pub struct Throttle {
    extent: f64,
    /// Background fetches that came, up to 64: the extent's size is their mean.
    came: u32,
    window: f64,
    in_flight: u64,
    landing: Landing,
    /// The window, and nothing else, kept us from asking for more when we last could.
    full: bool,
    link: Meter,
    phase: Phase,
    /// The beginning ended last; what was measured of the rate by then is that of lesser windows.
    start_ended: Duration,
    /// What requests take without our own queue, once measured.
    base: Option<Took>,
    round: Round,
    /// How far the delay of the round before was from its target.
    off_before: f64,
    probe_next: Duration,
    /// What requests take without us was measured last.
    probed: Duration,
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
            landing: Landing::default(),
            full: false,
            link: Meter::new(now),
            phase: Phase::Start,
            start_ended: now,
            base: None,
            round: Round::new(now),
            off_before: 0.0,
            probe_next: now + PROBE,
            probed: now,
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
        let window = self.open(now) + self.landing.bytes;
        let mut free = (window - self.in_flight as f64).max(0.0);
        self.full = free < self.extent;
        if self.phase != Phase::Probe
            && free < self.extent
            && self.floor >= self.extent
            && (self.in_flight as f64) < 2.0 * self.bound()
        {
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
        self.full = self.in_flight as f64 > self.window + self.landing.bytes - self.extent;
        self.floor -= bytes as f64;
        if self.limit.is_some() {
            self.tokens -= bytes as f64;
        }
    }
    /// A background fetch ended without bytes (failed, cancelled).
    pub fn ended(&mut self, bytes: u64) {
        self.in_flight = self.in_flight.saturating_sub(bytes);
    }
    /// A background fetch came: `asked` is what [`Throttle::started`] was told, `bytes` what moved, `took` from when it was
    /// asked for until the answer was there.
    pub fn came(&mut self, now: Duration, asked: u64, bytes: u64, took: Range<Duration>) {
        self.ended(asked);
        self.landing.landed(now, asked, took.end);
        if self.limit.is_some() {
            self.tokens -= bytes as f64 - asked as f64; // What was asked is an estimate; the limit is of what moved.
        }
        if bytes == 0 {
            return; // All zeros, as it turned out: nothing came over the link.
        }
        // The mean at first: what it was created with is a guess, and one ten times too large holds two requests on the way.
        self.came = (self.came + 1).min(64);
        self.extent += (bytes as f64 - self.extent) / f64::from(self.came);
        self.link.came(bytes, &took, self.phase == Phase::Start);
        self.steer(now, bytes as f64, &took);
    }
    /// A demand fetch of `bytes` came, `took` as in [`Throttle::came`]: measures the link, moves no window.
    pub fn demand_came(&mut self, bytes: u64, took: Range<Duration>) {
        if bytes > 0 {
            self.link.came(bytes, &took, self.phase == Phase::Start);
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

    /// The window as it is to be used now: least while measuring, then it opens by and by, or all of it would be asked for at
    /// once and a demand read would stand behind that.
    fn open(&self, now: Duration) -> f64 {
        if self.phase == Phase::Probe {
            return self.least();
        }
        let since = now.saturating_sub(self.probed).as_secs_f64();
        self.window.min(self.least() + 2.0 * self.link.rate().unwrap_or(f64::MAX) * since)
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
    fn without_us(&self) -> Took {
        let least = self.link.latency_min().unwrap_or(0.0);
        self.base.unwrap_or(Took { mean: least, low: least, noise: 0.0 })
    }
    /// Latency without us and the delay aimed at beyond it, seconds: a queue within the noise is hardly felt.
    fn aim(&self) -> (f64, f64) {
        let Took { low, noise, .. } = self.without_us();
        (low, (low * TARGET).max(noise).max(TARGET_MIN.as_secs_f64()))
    }
    fn steer(&mut self, now: Duration, bytes: f64, took: &Range<Duration>) {
        self.round.came(took);
        let (base, target) = self.aim();
        if self.phase == Phase::Start && self.full && latency(took) < base + target {
            self.window += bytes;
        }
        let at_least =
            self.phase == Phase::Probe || self.phase == Phase::Follow && self.window <= self.least();
        let round = if at_least { self.round.agreed() } else { self.round.over() };
        if let Some(took) = round {
            match self.phase {
                Phase::Start => self.started_enough(now, took),
                _ if at_least => self.measured(now, took),
                _ => self.follow(now, took),
            }
            self.round = Round::new(now);
        }
        let least = self.least();
        let bounded = self.phase != Phase::Start && self.link.sampled_since(self.start_ended);
        let most = if bounded { self.bound() } else { WINDOW_MAX as f64 };
        self.window = self.window.clamp(least, most.max(least));
    }
    /// Ends the beginning when a round was late: a queue stands.
    fn started_enough(&mut self, now: Duration, took: Took) {
        let (base, target) = self.aim();
        if took.low > base + target {
            // What the link takes with the queue that is aimed at (Little's law).
            self.window *= (base + target) / took.mean;
            self.start_ended = now;
            // The least latency so far may be that of what waited for metadata, and behind what it asked for itself.
            self.phase = if self.base.is_none() { Phase::Probe } else { Phase::Follow };
        }
    }
    /// So long requests take without us.
    fn measured(&mut self, now: Duration, took: Took) {
        self.probed = now;
        // Drained and opened again in a few round trips: a hundredth of the time.
        self.probe_next = now + PROBE.max(Duration::from_secs_f64(400.0 * took.low));
        // What was taken for a queue may be none, and what was one is gone: as at the beginning.
        let again = self.base.is_none() || self.window <= self.least();
        self.phase = if again { Phase::Start } else { Phase::Follow };
        match &mut self.base {
            Some(base) => base.approach(took),
            None => self.base = Some(took),
        }
    }
    /// They took so long in this window.
    fn follow(&mut self, now: Duration, took: Took) {
        // Behind our own queue, and yet sooner than without it.
        if let Some(base) = self.base.as_mut().filter(|base| took.low < base.low - base.noise) {
            base.approach(took);
        }
        let (base, target) = self.aim();
        // How far the delay is from its target: 1 (none) to minus infinity.
        let off = (target - (took.low - base)) / target;
        if let Some(base) = &mut self.base {
            // Some are late and others not: that is no queue, and so much more is on the way.
            base.mean += (base.low + took.mean - took.low - base.mean) / 8.0;
        }
        self.follow_delay(off);
        if now >= self.probe_next {
            self.phase = Phase::Probe;
        }
    }
    fn follow_delay(&mut self, off: f64) {
        let grain = self.grain();
        // One round that is late alone is a busy machine's: a queue stays.
        let lately = if off < 0.0 { off.max(self.off_before).min(0.0) } else { off };
        self.off_before = off;
        match lately {
            // Far above it: a tenth at once, very far (the link became another): half.
            off if off < -4.0 => self.window *= 0.5,
            off if off < -1.0 => self.window *= 0.9,
            off if off < 0.0 => self.window += off * grain,
            off if self.full => self.window += off * grain.max(self.window * GROWTH),
            _ => {}
        }
    }
    /// 2 x bandwidth x latency. The time a chunk itself is on the wire is in the measured latency but is no latency of the
    /// link: without it; but never less than one chunk over what was achieved (or it could not grow), nor than two. What was
    /// achieved took a little longer than the least latency: the twelfth makes the chunk a whole one.
    fn bound(&self) -> f64 {
        let (least, grain) = (self.least(), self.grain());
        let Some(rate) = self.link.rate() else { return (WINDOW_MAX as f64).max(least) };
        let pipe = rate * self.without_us().mean;
        let full = (pipe + grain) * 1.08;
        (2.0 * (pipe - grain)).max(full).min(WINDOW_MAX as f64).max(least)
    }
}

#[cfg(test)]
mod tests;
