//! How fast to copy in the background: use the whole link while nobody waits, and add little to the wait of those who do.
//!
//! Window = bytes asked for and not yet answered. Its bound is 2 x bandwidth x minimum latency, at least two chunks (with
//! one bandwidth x latency a link with a little jitter is a third idle). Below the bound it follows delay, as LEDBAT
//! does: it grows a chunk per round trip while requests take hardly longer than the windowed minimum, and shrinks when the
//! queue this makes delays them, for the same queue delays demand reads. Never on raw p99: a store's own tail would hold it
//! at the floor for ever. The target is a quarter of the minimum latency.
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
use std::time::Duration;

/// How often the minimum latency is measured afresh with a drained queue.
pub const PROBE: Duration = Duration::from_secs(20);
/// Minima older than this are forgotten.
const MIN_WINDOW: Duration = Duration::from_secs(60);
/// Bandwidth is the best of the samples of this long.
const RATE_WINDOW: Duration = Duration::from_secs(5);
/// Length of one bandwidth sample, at least; longer on slow links (four round trips).
const SAMPLE: Duration = Duration::from_millis(50);
/// The window's bound whatever the link: what is on the way is memory.
pub const WINDOW_MAX: u64 = 24 << 20;
/// Queueing delay aimed at, as a share of the minimum latency.
const TARGET: f64 = 0.25;
/// No queue is noticed below this: timer and scheduler noise.
const TARGET_MIN: Duration = Duration::from_micros(100);
/// A guest that waited for a demand read so lately is still at it.
const AWAITED: Duration = Duration::from_secs(1);
/// Share of the bandwidth that fill gets whatever delay says.
const FLOOR: f64 = 0.05;

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

/// Paces the background copies of one set from one link.
#[derive(Clone, Debug)]
pub struct Throttle {
    extent: f64,
    /// Background fetches that came, up to 64: the extent's size is their mean.
    came: u32,
    window: f64,
    in_flight: u64,
    latency_min: Sliding,
    rate: Sliding,
    /// Best bandwidth of the last minute: a fill that is held back sees little of it, and its floor must not follow.
    rate_best: Sliding,
    sample_began: Duration,
    sampled: u64,
    starting: bool,
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
            window: 2.0 * extent,
            in_flight: 0,
            latency_min: Sliding::new(false),
            rate: Sliding::new(true),
            rate_best: Sliding::new(true),
            sample_began: now,
            sampled: 0,
            starting: true,
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
    /// The most bytes one request should ask for: one extent, or a quarter of what the link moves in its least latency.
    pub fn chunk(&self) -> u64 {
        let quarter = self.rate.get().zip(self.latency_min.get()).map_or(0.0, |(rate, min)| rate * min / 4.0);
        self.extent.max(quarter) as u64
    }
    /// Bytes of background fetches that may be started now. At least one request may start when nothing is under way, even
    /// if it is larger. 0: wait for a completion or for [`Throttle::wait`].
    pub fn allowance(&mut self, now: Duration) -> u64 {
        if self.paused {
            return 0;
        }
        self.refill(now);
        let window = if now < self.probe_end { 2.0 * self.extent } else { self.window };
        let mut free = (window - self.in_flight as f64).max(0.0);
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
        let full = self.in_flight as f64 >= self.window - self.extent;
        self.ended(asked);
        if self.limit.is_some() {
            self.tokens -= bytes as f64 - asked as f64; // What was asked is an estimate; the limit is of what moved.
        }
        // The mean at first: what it was created with is a guess, and one ten times too large holds two requests on the way.
        self.came = (self.came + 1).min(64);
        self.extent += (bytes as f64 - self.extent) / f64::from(self.came);
        self.measure(now, bytes, latency);
        self.steer(now, bytes as f64, latency.as_secs_f64(), full);
    }
    /// A demand fetch of `bytes` came after `latency`: measures the link, moves no window.
    pub fn demand_came(&mut self, now: Duration, bytes: u64, latency: Duration) {
        self.demand_at = Some(now);
        self.measure(now, bytes, latency);
    }
    /// What is known of the link.
    pub fn link(&self) -> Link {
        Link {
            bytes_per_s: self.rate.get().unwrap_or(0.0) as u64,
            latency_min: Duration::from_secs_f64(self.latency_min.get().unwrap_or(0.0)),
            window: self.window as u64,
        }
    }

    fn refill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.refilled).as_secs_f64();
        self.refilled = self.refilled.max(now);
        let earned = self.rate_best.get().unwrap_or(0.0) * FLOOR * passed;
        self.floor = (self.floor.max(0.0) + earned).min(2.0 * self.extent);
        if let Some(limit) = self.limit {
            // A tenth of a second may come in one burst, or one extent.
            let most = (limit as f64 / 10.0).max(self.extent);
            self.tokens = (self.tokens + limit as f64 * passed).min(most);
        }
    }
    fn measure(&mut self, now: Duration, bytes: u64, latency: Duration) {
        self.latency_min.add(now, MIN_WINDOW, latency.as_secs_f64().max(1e-6));
        self.sampled += bytes;
        let min = Duration::from_secs_f64(self.latency_min.get().unwrap_or(0.0));
        let passed = now.saturating_sub(self.sample_began);
        if passed >= SAMPLE.max(4 * min) {
            let rate = self.sampled as f64 / passed.as_secs_f64();
            self.rate.add(now, RATE_WINDOW.max(16 * min), rate);
            self.rate_best.add(now, MIN_WINDOW, rate);
            (self.sampled, self.sample_began) = (0, now);
        }
        if now >= self.probe_next {
            (self.probe_end, self.probe_next) = (now + 2 * min, now + PROBE.max(200 * min));
        }
    }
    fn steer(&mut self, now: Duration, bytes: f64, latency: f64, full: bool) {
        let Some(min) = self.latency_min.get() else { return };
        let target = (min * TARGET).max(TARGET_MIN.as_secs_f64());
        let off = (target - (latency - min)) / target;
        let (least, bound) = (2.0 * self.extent, self.bound());
        if !self.starting {
            let most = WINDOW_MAX as f64;
            let at = Window {
                window: self.window,
                full,
                extent: self.extent,
                least,
                most,
                awaited: self.demand_at.is_some_and(|at| now.saturating_sub(at) < AWAITED),
                held: off < 0.0 || self.window >= bound,
                late: min + target,
                very_late: min + 4.0 * target,
            };
            if let Some(window) = self.gain.came(now, bytes, latency, at) {
                self.window = window;
            }
            if self.gain.is_trying() {
                return;
            }
        }
        if off < 0.0 {
            self.starting = false;
        }
        if off < -1.0 && now.saturating_sub(self.shrunk).as_secs_f64() > latency {
            // Far above the target: a tenth at once, very far (the link became another): half; but once per round trip.
            self.window *= if off < -4.0 { 0.5 } else { 0.9 };
            self.shrunk = now;
        } else if off > 0.0 && full && self.starting {
            self.window += bytes;
        } else if off < 0.0 || full {
            // A chunk per window of bytes, scaled by how far off the target.
            self.window += off.clamp(-1.0, 1.0) * self.extent * bytes / self.window;
        }
        let proven = self.gain.proven;
        self.window = self.window.clamp(least.max(proven), bound.max(least).max(proven));
    }
    /// 2 x bandwidth x minimum latency. The time a chunk itself is on the wire is in the measured latency but is no
    /// latency of the link: without it; but never less than one chunk over what was achieved (or it could not grow), nor
    /// than two. What was achieved took a little longer than the least latency: the twelfth makes the chunk a whole one.
    fn bound(&self) -> f64 {
        let least = 2.0 * self.extent;
        match (self.rate.get(), self.latency_min.get()) {
            (Some(rate), Some(min)) => {
                let full = (rate * min + self.extent) * 1.08;
                (2.0 * (rate * min - self.extent)).max(full).min(WINDOW_MAX as f64).max(least)
            }
            _ => (WINDOW_MAX as f64).max(least),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BinaryHeap;

    /// A FIFO link: every request waits `rtt`, then for its turn on the wire at `rate`.
    struct Sim {
        rtt: f64,
        rate: f64,
        stored: u64,
        /// What the throttle is told an extent would be.
        guess: u64,
        /// Up to so many seconds more for each, at random.
        jitter: f64,
        /// Share of the answers that are late so.
        late_share: f64,
        demand_every: f64,
        /// From here on the link has a tenth of its rate.
        slow_at: f64,
        /// From here on it is twice as long.
        far_at: f64,
        /// Waits and fill count from here on.
        judged_from: f64,
        free_at: f64,
    }
    struct Result {
        /// Share of the link that fill used.
        fill: f64,
        /// 99th percentile of a demand fetch, seconds.
        p99: f64,
    }
    impl Sim {
        fn new(rate: f64, rtt_ms: f64, stored: u64) -> Self {
            let (demand_every, slow_at, far_at) = (f64::MAX, f64::MAX, f64::MAX);
            Sim {
                rtt: rtt_ms / 1000.0,
                rate,
                stored,
                guess: stored,
                jitter: 0.0,
                late_share: 1.0,
                demand_every,
                slow_at,
                far_at,
                judged_from: 2.0,
                free_at: 0.0,
            }
        }
        fn serve(&mut self, now: f64, bytes: u64) -> f64 {
            let rtt = if now >= self.far_at { 2.0 * self.rtt } else { self.rtt };
            let at = (now + rtt / 2.0).max(self.free_at);
            let rate = if now >= self.slow_at { self.rate / 10.0 } else { self.rate };
            self.free_at = at + bytes as f64 / rate;
            self.free_at + rtt / 2.0
        }
        fn run(mut self, seconds: f64, mut tune: impl FnMut(&mut Throttle, f64)) -> Result {
            let t = |s: f64| Duration::from_secs_f64(s);
            let mut throttle = Throttle::new(self.guess, Duration::ZERO);
            // Ordered by time: (-nanoseconds, started, is demand, asked).
            let mut queue: BinaryHeap<(i64, u64, bool, u64)> = BinaryHeap::new();
            let mut late = 1u64;
            let (mut now, mut filled, mut seed) = (0.0, 0u64, 1u64);
            let mut demand_next = self.demand_every;
            let mut waits = Vec::new();
            while now < seconds {
                tune(&mut throttle, now);
                // As the fill does: by what an extent was of late.
                while throttle.allowance(t(now)) >= throttle.extent_stored() {
                    let asked = throttle.extent_stored();
                    throttle.started(asked);
                    late = late.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let dice = (late >> 33) as f64 / (1u64 << 31) as f64;
                    let late =
                        self.jitter * if dice < self.late_share { dice / self.late_share } else { 0.0 };
                    let end = self.serve(now, self.stored) + late;
                    queue.push((-(end * 1e9) as i64, (now * 1e9) as u64, false, asked));
                }
                let limited = throttle.wait().map_or(f64::MAX, |w| now + w.as_secs_f64());
                let comes = queue.peek().map_or(f64::MAX, |e| -e.0 as f64 / 1e9);
                now = comes.min(demand_next).min(limited).min(now + 0.01);
                if now == demand_next {
                    let end = self.serve(now, self.stored);
                    queue.push((-(end * 1e9) as i64, (now * 1e9) as u64, true, 0));
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    demand_next = now + self.demand_every * (0.5 + (seed >> 33) as f64 / (1u64 << 31) as f64);
                } else if now == comes {
                    let Some((_, started, demand, asked)) = queue.pop() else { continue };
                    let latency = t(now - started as f64 / 1e9);
                    if demand {
                        throttle.demand_came(t(now), self.stored, latency);
                        if now > self.judged_from {
                            waits.push(latency.as_secs_f64());
                        }
                    } else {
                        throttle.came(t(now), asked, self.stored, latency);
                        filled += if now > self.judged_from { self.stored } else { 0 };
                    }
                }
            }
            waits.sort_by(f64::total_cmp);
            let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or(0.0);
            Result { fill: filled as f64 / (seconds - self.judged_from) / self.rate, p99 }
        }
    }

    const KIB: u64 = 1024;

    #[test]
    fn fill_takes_an_idle_link() {
        for (rate, rtt) in [(100e6, 20.0), (100e6, 0.5), (3.125e6, 40.0), (1e9, 0.2), (125e6, 100.0)] {
            let r = Sim::new(rate, rtt, 32 * KIB).run(30.0, |_, _| ());
            assert!(r.fill >= 0.9, "{rate} B/s, {rtt} ms: fill {:.3} of the link", r.fill);
        }
    }

    /// A disk that compresses ten times over, and answers that are not all equally late: neither may leave two requests
    /// on the way for ever.
    #[test]
    fn fill_takes_the_link_whatever_an_extent_was_thought_to_be() {
        for (guess, stored) in [(32 * KIB, 3 * KIB), (32 * KIB, 64 * KIB), (32 * KIB, 32 * KIB)] {
            for (rate, rtt, jitter, late_share) in [
                (125e6, 20.0, 0.1, 1.0),
                (100e6, 20.0, 0.02, 1.0),
                (3.125e6, 40.0, 0.1, 1.0),
                (125e6, 20.0, 1.0, 1.0),
                (125e6, 0.5, 4.0, 1.0),
                (1e9, 0.5, 1.0, 1.0),
                (125e6, 20.0, 1.0, 0.3),
                (125e6, 20.0, 2.0, 0.1),
                (125e6, 20.0, 4.0, 0.03),
            ] {
                let mut sim = Sim::new(rate, rtt, stored);
                (sim.guess, sim.jitter, sim.late_share) = (guess, rtt / 1000.0 * jitter, late_share);
                let r = sim.run(20.0, |_, _| ());
                let least = if jitter < 0.5 { 0.8 } else { 0.7 };
                println!(
                    "{stored} for {guess}, {rate} B/s, {rtt} ms, jitter {jitter} of {late_share}: fill {:.3}",
                    r.fill
                );
                assert!(r.fill >= least, "{stored} for {guess}, {rate} B/s, {rtt} ms: fill {:.3}", r.fill);
            }
        }
    }

    #[test]
    fn demand_hardly_waits_longer_beside_it() {
        // At 0.5 ms two chunks of 32 KiB fill 79 % of this link and three fill it: the third is the 0.6.
        let links =
            [(100e6, 20.0, 32, 1.5), (100e6, 0.5, 32, 1.6), (3.125e6, 40.0, 32, 1.6), (100e6, 20.0, 64, 1.5)];
        for (rate, rtt, stored, most) in links {
            let run = |paused| {
                let mut sim = Sim::new(rate, rtt, stored * KIB);
                sim.demand_every = 0.05;
                sim.run(60.0, |t, _| t.set_paused(paused))
            };
            let (idle, r) = (run(true), run(false));
            let ratio = r.p99 / idle.p99;
            println!("{rate} B/s {rtt} ms {stored} KiB: fill {:.3}, demand p99 {ratio:.2} x idle", r.fill);
            assert!(ratio <= most, "{rate} B/s, {rtt} ms: p99 {ratio:.2} x idle");
            let left = 1.0 - 20.0 * (stored * KIB) as f64 / rate;
            assert!(r.fill >= 0.9 * left, "{rate} B/s, {rtt} ms: fill {:.3} beside demand", r.fill);
        }
    }

    #[test]
    fn a_limit_and_a_pause_hold() {
        let limit = |t: &mut Throttle, _| {
            if t.limit().is_none() {
                t.set_limit(Some(10_000_000), Duration::ZERO);
            }
        };
        let r = Sim::new(100e6, 20.0, 32 * KIB).run(20.0, limit);
        assert!((r.fill - 0.1).abs() < 0.005, "10 MB/s of 100: {:.4}", r.fill);
        let r = Sim::new(100e6, 20.0, 32 * KIB).run(12.0, |t, now| t.set_paused(now > 7.0));
        assert!((0.4..0.52).contains(&r.fill), "five of ten seconds: {:.3}", r.fill);
    }

    #[test]
    fn delay_that_stays_leaves_the_floor() {
        let mut sim = Sim::new(100e6, 20.0, 32 * KIB);
        (sim.far_at, sim.judged_from) = (5.0, 7.0);
        let r = sim.run(12.0, |_, _| ());
        assert!(r.fill > 0.045, "a link that became longer leaves fill {:.3}", r.fill);
    }

    #[test]
    fn a_link_that_slows_down_is_noticed() {
        let mut sim = Sim::new(100e6, 20.0, 32 * KIB);
        (sim.demand_every, sim.slow_at, sim.judged_from) = (0.05, 10.0, 11.5);
        let r = sim.run(13.0, |_, _| ());
        assert!(r.p99 < 2.0 * 0.0233, "a second and a half later demand takes {:.1} ms", r.p99 * 1e3);
    }

    #[test]
    fn one_chunk_is_an_extent_or_a_quarter_of_the_pipe() {
        let mut t = Throttle::new(64 * KIB, Duration::ZERO);
        assert_eq!(t.chunk(), 64 * KIB);
        for i in 1..200u64 {
            t.demand_came(Duration::from_millis(i * 10), 1_000_000, Duration::from_millis(20));
        }
        assert!((480_000..520_000).contains(&t.chunk()), "100 MB/s x 20 ms / 4: {}", t.chunk());
        assert!(t.link().bytes_per_s > 90_000_000);
    }

    #[test]
    fn a_request_larger_than_the_window_may_go_alone() {
        let mut t = Throttle::new(1, Duration::ZERO);
        assert!(t.allowance(Duration::ZERO) > 0);
        t.started(4 << 20);
        assert_eq!(t.allowance(Duration::ZERO), 0);
        t.ended(4 << 20);
        assert!(t.allowance(Duration::ZERO) > 0);
    }
}
