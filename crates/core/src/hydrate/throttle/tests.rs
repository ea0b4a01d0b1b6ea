//! The throttle on simulated links: how much of them it takes, what that costs demand reads, how deep its queue gets.

use super::*;
use proptest::prelude::*;
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
    /// What is asked for in the first round trip waits so long for metadata.
    first_late: f64,
    /// Neighbours are asked for in one request, up to a chunk, and come together.
    together: bool,
    /// Extents compress unevenly: a quarter takes `stored`, the others a sixteenth of that.
    uneven: bool,
    /// Answers are heard at multiples of so many seconds only.
    poll: f64,
    /// The machine is busy for spells of up to so many seconds, and idle for half as long: while busy it runs only now and
    /// then, every hundredth of that about.
    busy: f64,
    /// The process runs next, and the spell ends.
    runs: f64,
    spell: f64,
    is_busy: bool,
    demand_every: f64,
    /// From here on the link has a tenth of its rate.
    slow_at: f64,
    /// From here on it is twice as long.
    far_at: f64,
    /// Waits and fill count from here on.
    judged_from: f64,
    free_at: f64,
    /// The deepest queue before the wire, bytes.
    deepest: f64,
    dice: u64,
}
struct Result {
    /// Share of the link that fill used.
    fill: f64,
    /// 99th percentile of a demand fetch, seconds.
    p99: f64,
    /// The deepest queue before the wire, bytes.
    queue: f64,
}
impl Sim {
    fn new(rate: f64, rtt_ms: f64, stored: u64) -> Self {
        Sim {
            rtt: rtt_ms / 1000.0,
            rate,
            stored,
            guess: stored,
            jitter: 0.0,
            late_share: 1.0,
            first_late: 0.0,
            together: false,
            uneven: false,
            poll: 0.0,
            busy: 0.0,
            runs: 0.0,
            spell: 0.0,
            is_busy: false,
            demand_every: f64::MAX,
            slow_at: f64::MAX,
            far_at: f64::MAX,
            judged_from: 2.0,
            free_at: 0.0,
            deepest: 0.0,
            dice: 1,
        }
    }
    /// 0 to 1.
    fn roll(&mut self) -> f64 {
        self.dice = self.dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.dice >> 33) as f64 / (1u64 << 31) as f64
    }
    /// When the process runs that hears of what is there at `at`.
    fn hears(&mut self, at: f64) -> f64 {
        if self.poll > 0.0 {
            return (at / self.poll).ceil() * self.poll;
        }
        while self.busy > 0.0 && self.runs < at {
            if self.runs >= self.spell {
                self.is_busy = !self.is_busy;
                let most = if self.is_busy { self.busy } else { self.busy / 2.0 };
                self.spell = self.runs + most * self.roll();
            }
            self.runs = if self.is_busy { self.runs + self.busy / 50.0 * self.roll() } else { at };
        }
        at.max(self.runs)
    }
    /// When the answer to a request of so many bytes comes.
    fn serve(&mut self, now: f64, bytes: u64) -> f64 {
        let rtt = if now >= self.far_at { 2.0 * self.rtt } else { self.rtt };
        let first = if now < self.rtt { self.first_late } else { 0.0 };
        let at = (now + first + rtt / 2.0).max(self.free_at);
        let rate = if now >= self.slow_at { self.rate / 10.0 } else { self.rate };
        self.deepest = self.deepest.max((self.free_at - now - first - rtt / 2.0) * rate);
        self.free_at = at + bytes as f64 / rate;
        self.free_at + rtt / 2.0
    }
    /// Asks for what the throttle allows, as the fill does; what was asked comes at.
    fn ask(&mut self, throttle: &mut Throttle, now: f64, coming: &mut BinaryHeap<Coming>) {
        let asked = throttle.extent_stored();
        let count = throttle.allowance(Duration::from_secs_f64(now)) / asked.max(1);
        let together = if self.together { (throttle.chunk() / asked.max(1)).max(1) } else { 1 };
        let mut left = count;
        while left > 0 {
            let n = together.min(left);
            left -= n;
            let late = match self.roll() {
                dice if dice < self.late_share => self.jitter * dice / self.late_share,
                _ => 0.0,
            };
            let small = self.uneven && self.roll() > 0.25;
            let bytes = if small { self.stored / 16 } else { self.stored };
            let end = self.serve(now, n * bytes) + late;
            for _ in 0..n {
                throttle.started(asked);
                coming.push((-(end * 1e9) as i64, (now * 1e9) as u64, false, asked, bytes));
            }
        }
    }
    fn run(mut self, seconds: f64, mut tune: impl FnMut(&mut Throttle, f64)) -> Result {
        let t = Duration::from_secs_f64;
        let mut throttle = Throttle::new(self.guess, Duration::ZERO);
        let mut coming = BinaryHeap::new();
        let (mut now, mut filled, mut demand_next, mut waits) = (0.0, 0u64, self.demand_every, Vec::new());
        while now < seconds {
            tune(&mut throttle, now);
            self.ask(&mut throttle, now, &mut coming);
            let limited = throttle.wait().map_or(f64::MAX, |w| now + w.as_secs_f64());
            let heard = coming.peek().map_or(f64::MAX, |e: &Coming| self.hears(-e.0 as f64 / 1e9));
            now = heard.min(demand_next).min(limited).min(now + 0.01);
            if now == demand_next {
                let end = self.serve(now, self.stored);
                coming.push((-(end * 1e9) as i64, (now * 1e9) as u64, true, 0, self.stored));
                demand_next = now + self.demand_every * (0.5 + self.roll());
                continue;
            }
            while coming.peek().is_some_and(|e| -e.0 as f64 / 1e9 <= now) {
                let Some((at, started, demand, asked, bytes)) = coming.pop() else { break };
                let at = -at as f64 / 1e9;
                // By spells both are late: who reads the answer, and who hears that it landed.
                let here = if self.busy > 0.0 { at + (now - at) * self.roll() } else { now };
                let took = t(started as f64 / 1e9)..t(here);
                if demand {
                    throttle.demand_came(bytes, took.clone());
                    if now > self.judged_from {
                        waits.push(latency(&took));
                    }
                } else {
                    throttle.came(t(now), asked, bytes, took);
                    filled += if now > self.judged_from { bytes } else { 0 };
                }
            }
        }
        waits.sort_by(f64::total_cmp);
        let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or(0.0);
        let fill = filled as f64 / (seconds - self.judged_from) / self.rate;
        Result { fill, p99, queue: self.deepest }
    }
}

/// Ordered by time: (-nanoseconds, started, is demand, asked, bytes).
type Coming = (i64, u64, bool, u64, u64);

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
            let least = if jitter < 0.5 { 0.9 } else { 0.8 };
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
        [(100e6, 20.0, 32, 1.5), (100e6, 0.5, 32, 1.6), (3.125e6, 40.0, 32, 1.7), (100e6, 20.0, 64, 1.5)];
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

/// Extents that compress sixteen times over and others that do not, taking turns in stretches, and a guest that waits: the
/// mean of an extent must not narrow the window to nothing.
#[test]
fn uneven_extents_do_not_hold_the_fill() {
    // On the slow link one extent that does not compress is as late by itself as a queue is meant to be.
    for (rate, rtt, most) in [(125e6, 20.0, 0.9), (3.125e6, 40.0, 0.9), (1.25e9, 0.5, 0.9)] {
        for demand_every in [f64::MAX, 0.05] {
            let mut sim = Sim::new(rate, rtt, 32 * KIB);
            (sim.uneven, sim.demand_every) = (true, demand_every);
            let r = sim.run(10.0, |_, _| ());
            let left = 1.0 - 32.0 * 1024.0 / demand_every / rate;
            println!(
                "uneven, {rate} B/s, {rtt} ms, demand each {demand_every:e}: fill {:.3} of {left:.3}",
                r.fill
            );
            assert!(r.fill >= most * left, "{rate} B/s, {rtt} ms: fill {:.3} of {left:.3}", r.fill);
        }
    }
}

/// A machine as busy as a database that starts reads every answer some milliseconds late, demand reads or not: that is no
/// queue on the link, and the link is idle.
#[test]
fn a_busy_machine_is_no_full_link() {
    for (rate, rtt, late) in [(1.25e9, 0.5, 4.0), (125e6, 20.0, 8.0), (125e6, 0.5, 4.0)] {
        let mut sim = Sim::new(rate, rtt, 32 * KIB);
        (sim.jitter, sim.demand_every, sim.judged_from) = (late / 1000.0, 0.01, 1.0);
        let r = sim.run(4.0, |_, _| ());
        println!("{rate} B/s, {rtt} ms, up to {late} ms late: fill {:.3}", r.fill);
        assert!(r.fill >= 0.9, "{rate} B/s, {rtt} ms: fill {:.3}", r.fill);
    }
}

/// The same by spells: some answers in time, one after another, are no proof that the late ones waited for the link.
#[test]
fn a_machine_that_is_busy_by_spells_is_no_full_link() {
    for (rate, rtt, busy) in [(1.25e9, 0.5, 0.5), (1.25e9, 0.5, 0.2), (125e6, 20.0, 0.5)] {
        let runs = (1..6).map(|seed| {
            let mut sim = Sim::new(rate, rtt, 64 * KIB);
            (sim.busy, sim.dice, sim.judged_from) = (busy, seed * 1234567, 1.0);
            sim.run(12.0, |_, _| ()).fill
        });
        let fill = runs.sum::<f64>() / 5.0;
        println!("{rate} B/s, {rtt} ms, spells of {busy} s: fill {fill:.3}");
        assert!(fill >= 0.8, "{rate} B/s, {rtt} ms, spells of {busy} s: fill {fill:.3}");
    }
}

/// What came and is being written leaves the link to others, up to a bound where writing cannot keep up.
#[test]
fn what_is_being_written_is_not_on_the_way() {
    for (landing_ms, least, most) in [(0, 0, 0), (10, 600, 680), (1_000, 2_000, 2_048)] {
        let mut t = Throttle::new(64 * KIB, Duration::ZERO);
        for i in 2_000..4_000u64 {
            let came = Duration::from_millis(i - landing_ms);
            t.started(64 * KIB);
            t.came(Duration::from_millis(i), 64 * KIB, 64 * KIB, came - Duration::from_millis(20)..came);
        }
        let beside = (t.allowance(Duration::from_secs(4)) - t.link().window) / KIB;
        assert!(
            (least..=most).contains(&beside),
            "64 KiB each ms, written {landing_ms} ms later: {beside} KiB"
        );
    }
}

/// What took no time came over no link.
#[test]
fn answers_without_bytes_say_nothing_of_the_link() {
    let mut t = Throttle::new(32 * KIB, Duration::ZERO);
    for i in 1..100u64 {
        let now = Duration::from_millis(i * 20);
        t.demand_came(0, now..now);
        t.started(32 * KIB);
        t.came(now, 32 * KIB, 0, now..now);
        t.started(32 * KIB);
        t.came(now, 32 * KIB, 32 * KIB, now - Duration::from_millis(20)..now);
    }
    assert_eq!(t.link().latency_min, Duration::from_millis(20));
    assert!(t.extent_stored() > 31 * KIB, "{}", t.extent_stored());
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
fn one_chunk_is_an_extent_or_an_eighth_of_the_pipe() {
    let mut t = Throttle::new(64 * KIB, Duration::ZERO);
    assert_eq!(t.chunk(), 64 * KIB);
    for i in 1..200u64 {
        let now = Duration::from_millis(1_000 + i * 10);
        t.demand_came(1_000_000, now - Duration::from_millis(20)..now);
    }
    assert!((240_000..260_000).contains(&t.chunk()), "100 MB/s x 20 ms / 8: {}", t.chunk());
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

/// Round trips after which the link is taken.
const STARTED: f64 = 12.0;
/// Rates in bytes a second, round trips in milliseconds: 25 Mbit/s, 100 MB/s, 1 Gbit/s, 10 Gbit/s.
const LINKS: [(f64, f64); 4] = [(3.125e6, 40.0), (100e6, 20.0), (125e6, 20.0), (1.25e9, 0.5)];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    /// Whatever it begins with: it has the link after so many round trips, and its queue is no deeper than the window allows.
    #[test]
    fn the_beginning_is_a_few_round_trips(
        link in 0..LINKS.len(),
        stored in prop::sample::select(vec![8 * KIB, 24 * KIB, 32 * KIB, 65 * KIB]),
        first_late in prop::sample::select(vec![0.0, 1.0, 2.5]),
        together: bool,
        poll in prop::sample::select(vec![0.0, 0.02, 0.1]),
        seed: u64,
    ) {
        let (rate, rtt) = LINKS[link];
        let mut sim = Sim::new(rate, rtt, stored);
        (sim.guess, sim.together, sim.dice) = (32 * KIB, together, seed);
        (sim.first_late, sim.poll) = (first_late * sim.rtt, poll * sim.rtt);
        (sim.judged_from, sim.jitter) = (sim.rtt * (STARTED + first_late), sim.rtt * 0.02);
        let seconds = sim.judged_from + (50.0 * sim.rtt).max(0.1);
        // No FIFO that holds twice what fills the link overflows, beside what is asked for at once.
        let bound = 2.0 * rate * sim.rtt + 4.0 * stored as f64;
        let r = sim.run(seconds, |_, _| ());
        prop_assert!(r.fill >= 0.9, "{} of {rate} B/s, {rtt} ms", r.fill);
        prop_assert!(r.queue <= bound, "a queue of {} at {rate} B/s, {rtt} ms", r.queue);
    }
}
