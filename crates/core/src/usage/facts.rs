//! What is known of one extent's use: 16 bytes, exact layout, and the arithmetic of decay.
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | reads, u32, saturating: every guest read that touched the extent |
//! | 4..8 | writes, u32, saturating: every guest write, zero or trim that touched it |
//! | 8..11 | rate, u24: decayed number of ticks in which it was touched, half-life [`RATE_HALF_LIFE_TICKS`] |
//! | 11 | ranks: low nibble in the newest cold-start trace, high nibble in the one before |
//! | 12..15 | score, u24: decayed worth, half-life [`SCORE_HALF_LIFE_TICKS`]; scans and one-time touches weigh little |
//! | 15 | flags: 1 in the set, 2 in the set before, 4 written ever |
//!
//! **Decay rewrites nothing.** A decayed sum is kept as its logarithm in units of the *first* tick (forward decay): a
//! touch at tick t adds 2^(t/half-life), so an idle extent's number never changes, two numbers compare as they stand,
//! and dividing by 2^(now/half-life) gives today's worth. Ticks count time served, so a clock step or a month switched
//! off changes nothing. u24 in steps of 1/32 is good for 20 years of uninterrupted service; after that rates saturate and
//! order falls back on counts. Steps are coarse (2.2 %), so small additions round up or down by a hash of extent and
//! tick, true on average; rejected: a tick stamp per extent (wraps, and needs the bytes).
//!
//! **Set and score are kept apart.** The set is what was touched since the guest's last cold start: by rank what was read,
//! in the order of first reads; late what was only written (a bulk load or a log must not pass for what a start reads).
//! Only a newer cold start ends it, and then the old set and its ranks are kept as *the set before*: a guest that dies ten
//! seconds into its boot (crash loops do) must not take a good map with it.

use crate::bytes::{Malformed, Reader, Writer};

/// Length of the layout.
pub const FACTS_BYTES: usize = 16;
/// Served time in one tick.
pub const TICK_MS: u64 = 10_000;
/// 10 minutes served.
pub const RATE_HALF_LIFE_TICKS: u32 = 60;
/// A day served.
pub const SCORE_HALF_LIFE_TICKS: u32 = 8_640;
/// How many ranks a trace has: 0 to 14 in the order of first touch, 15 for everything later.
pub const RANKS: u8 = 16;
/// The rank of what was first touched long after the start: in the set, but not of the start.
pub const LATE: u8 = RANKS - 1;
/// A trace ends after this much served time; later first touches are [`LATE`].
pub const TRACE_MS: u64 = 3_600_000;

const STEPS: f64 = 32.0;
const MAX24: u32 = (1 << 24) - 1;
const IN_SET: u8 = 1;
const IN_SET_BEFORE: u8 = 2;
const WRITTEN: u8 = 4;

/// A decayed sum as its logarithm; 0 is nothing. Larger is more, at any time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Decayed(u32);

impl Decayed {
    /// From its stored number (24 bits).
    pub const fn from_raw(raw: u32) -> Self {
        Decayed(if raw > MAX24 { MAX24 } else { raw })
    }
    /// The stored number.
    pub const fn raw(self) -> u32 {
        self.0
    }
    /// Adds `weight` at `tick`. `noise` decides which way a remainder rounds (any hash of extent and tick).
    #[must_use]
    pub fn add(self, weight: f64, tick: u32, half_life: u32, noise: u32) -> Self {
        let added = f64::from(tick) / f64::from(half_life) + weight.log2() + Self::BASE;
        let old = f64::from(self.0) / STEPS;
        let sum = match self.0 {
            0 => added,
            _ if old > added => old + (1.0 + (added - old).exp2()).log2(),
            _ => added + (1.0 + (old - added).exp2()).log2(),
        };
        let steps = sum * STEPS + f64::from(noise >> 8) / f64::from(1u32 << 24);
        Decayed((steps as u32).clamp(1, MAX24).max(self.0))
    }
    /// What it is worth at `tick`: 1.0 is one touch of weight 1 just now.
    pub fn at(self, tick: u32, half_life: u32) -> f64 {
        if self.0 == 0 {
            return 0.0;
        }
        (f64::from(self.0) / STEPS - Self::BASE - f64::from(tick) / f64::from(half_life)).exp2()
    }
    /// Keeps logarithms of light touches at tick 0 above zero.
    const BASE: f64 = 8.0;
}

/// Facts of one extent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Facts {
    /// Guest reads.
    pub reads: u32,
    /// Guest writes, zeros, trims.
    pub writes: u32,
    /// How regularly it is touched of late.
    pub rate: Decayed,
    /// How much it is worth keeping near: scans and single touches count little.
    pub score: Decayed,
    ranks: u8,
    flags: u8,
}

/// What the guest did to one extent since the last fold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Touch {
    /// Reads.
    pub reads: u32,
    /// Writes, zeros, trims.
    pub writes: u32,
    /// Its reads were part of a long sequential stream.
    pub scanned: bool,
}

impl Facts {
    /// Nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Facts::default()
    }
    /// Rank in the newest cold-start trace; `None`: not touched since.
    pub fn rank(&self) -> Option<u8> {
        (self.flags & IN_SET != 0).then_some(self.ranks & 15)
    }
    /// Rank in the trace before the newest; `None`: not touched between the last two cold starts.
    pub fn rank_before(&self) -> Option<u8> {
        (self.flags & IN_SET_BEFORE != 0).then_some(self.ranks >> 4)
    }
    /// Was ever written.
    pub fn is_written(&self) -> bool {
        self.flags & WRITTEN != 0
    }
    /// Puts it into the set with `rank`; one that is there already keeps its lower rank: the first read counts.
    pub fn enter(&mut self, rank: u8) {
        let rank = rank.min(LATE);
        if self.rank().is_none_or(|old| rank < old) {
            self.flags |= IN_SET;
            self.ranks = self.ranks & 0xf0 | rank;
        }
    }
    /// Puts it into the set before with `rank`, whatever was known of that set: a newer start tells better.
    pub fn enter_before(&mut self, rank: u8) {
        self.flags |= IN_SET_BEFORE;
        self.ranks = self.ranks & 0x0f | rank.min(LATE) << 4;
    }
    /// Takes in what happened in one tick. The two-tick rule: the first tick ever weighs a quarter. Scans weigh an
    /// eighth. Both shape the score only; counts, rate and set take every touch as it is.
    pub fn fold(&mut self, extent: u64, touch: Touch, tick: u32) {
        if touch.reads == 0 && touch.writes == 0 {
            return;
        }
        self.reads = self.reads.saturating_add(touch.reads);
        self.writes = self.writes.saturating_add(touch.writes);
        let noise = mix(extent ^ u64::from(tick) << 32);
        self.rate = self.rate.add(1.0, tick, RATE_HALF_LIFE_TICKS, noise);
        let reads = match touch {
            Touch { reads: 0, .. } => 0.0,
            Touch { scanned: true, .. } => 0.125,
            _ => 1.0,
        };
        let writes = if touch.writes > 0 { 2.0 } else { 0.0 };
        let seldom = if self.score.raw() == 0 { 0.25 } else { 1.0 };
        self.score =
            self.score.add((reads + writes) * seldom, tick, SCORE_HALF_LIFE_TICKS, noise.rotate_left(16));
        if touch.writes > 0 {
            self.flags |= WRITTEN;
        }
    }
    /// Brings facts noted when `noted` cold starts had been seen to a time when there have been `now`: the newest set
    /// becomes the set before, older ones end. A `noted` from the future (a damaged header) ends both.
    pub fn age(&mut self, noted: u32, now: u32) {
        match now.checked_sub(noted) {
            Some(0) => {}
            Some(1) => {
                let in_set = self.flags & IN_SET != 0;
                self.flags = self.flags & WRITTEN | if in_set { IN_SET_BEFORE } else { 0 };
                self.ranks = if in_set { self.ranks << 4 } else { 0 };
            }
            _ => (self.flags, self.ranks) = (self.flags & WRITTEN, 0),
        }
    }
    /// Joins what two maps know of the same extent, both brought to the same time: counts add up, decayed sums take the
    /// larger, ranks are ours where we have them.
    pub fn join(&mut self, other: &Facts) {
        self.reads = self.reads.saturating_add(other.reads);
        self.writes = self.writes.saturating_add(other.writes);
        self.rate = self.rate.max(other.rate);
        self.score = self.score.max(other.score);
        for (flag, nibble) in [(IN_SET, 0x0f), (IN_SET_BEFORE, 0xf0)] {
            if self.flags & flag == 0 && other.flags & flag != 0 {
                self.flags |= flag;
                self.ranks = self.ranks & !nibble | other.ranks & nibble;
            }
        }
        self.flags |= other.flags & WRITTEN;
    }
    /// How likely the next start of the guest misses here, in small whole units: the measure of coverage, of the online
    /// threshold and of "share of I/O local". One demand read per extent and start, so members of a trace weigh alike.
    pub fn weight(&self) -> u64 {
        match (self.rank(), self.rank_before()) {
            (Some(0..LATE), _) => 8,
            (_, Some(0..LATE)) => 4,
            (Some(_), _) | (_, Some(_)) => 2,
            _ if !self.is_empty() => 1,
            _ => 0,
        }
    }

    /// Appends the layout.
    pub fn encode(&self, out: &mut Writer) {
        let [r0, r1, r2, _] = self.rate.raw().to_le_bytes();
        let [s0, s1, s2, _] = self.score.raw().to_le_bytes();
        out.u32(self.reads).u32(self.writes);
        out.raw(&[r0, r1, r2, self.ranks, s0, s1, s2, self.flags]);
    }
    /// Takes the layout.
    pub fn decode(from: &mut Reader<'_>) -> Result<Facts, Malformed> {
        let (reads, writes) = (from.u32("usage reads")?, from.u32("usage writes")?);
        let [r0, r1, r2, ranks] = from.array("usage rate")?;
        let [s0, s1, s2, flags] = from.array("usage score")?;
        if flags & !(IN_SET | IN_SET_BEFORE | WRITTEN) != 0 {
            return Err(Malformed("usage flags"));
        }
        let decayed = |b: [u8; 3]| Decayed::from_raw(u32::from_le_bytes([b[0], b[1], b[2], 0]));
        Ok(Facts { reads, writes, rate: decayed([r0, r1, r2]), score: decayed([s0, s1, s2]), ranks, flags })
    }
}

/// A cheap mixing of bits: noise for rounding, nothing else.
fn mix(x: u64) -> u32 {
    let x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    (x >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read() -> Touch {
        Touch { reads: 1, ..Touch::default() }
    }

    #[test]
    fn the_layout_is_golden() {
        let f = Facts {
            reads: 0x0403_0201,
            writes: 0x0807_0605,
            rate: Decayed::from_raw(0x0b_0a09),
            ranks: 0xc3,
            score: Decayed::from_raw(0x0f_0e0d),
            flags: 7,
        };
        let mut w = Writer::new();
        f.encode(&mut w);
        let golden = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 0xc3, 13, 14, 15, 7];
        assert_eq!(w.bytes(), golden);
        assert_eq!(Facts::decode(&mut Reader::new(&golden)), Ok(f));
        assert_eq!((f.rank(), f.rank_before()), (Some(3), Some(12)));
        assert!(Facts::decode(&mut Reader::new(&[8; 16])).is_err(), "unknown flags are not guessed at");
        assert!(Facts::decode(&mut Reader::new(&golden[..15])).is_err());
    }

    #[test]
    fn a_decayed_sum_halves_in_its_half_life_and_idle_time_rewrites_nothing() {
        let mut f = Facts::default();
        for tick in 0..600 {
            f.fold(7, read(), tick);
        }
        let now = f.rate.at(600, RATE_HALF_LIFE_TICKS);
        assert!((now - 86.0).abs() < 8.0, "a touch in every tick tends to 60/ln 2 = 86.6, here {now}");
        let later = f.rate.at(660, RATE_HALF_LIFE_TICKS);
        assert!((later / now - 0.5).abs() < 0.001);
        assert_eq!(f.reads, 600);
    }

    #[test]
    fn long_sums_grow_true_on_average_though_single_steps_are_coarse() {
        let mut f = Facts::default();
        for tick in 0..8640 {
            f.fold(9, read(), tick);
        }
        let (got, ideal) = (f.score.at(8640, SCORE_HALF_LIFE_TICKS), 6232.0);
        assert!((got / ideal - 1.0).abs() < 0.15, "one day of reads: {got}, exact {ideal}");
    }

    #[test]
    fn scans_and_single_touches_shape_the_score_only() {
        let (mut scan, mut hot, mut once) = (Facts::default(), Facts::default(), Facts::default());
        for tick in 0..4 {
            scan.fold(1, Touch { scanned: true, ..read() }, tick);
            hot.fold(1, read(), tick);
        }
        once.fold(1, read(), 3);
        assert!(scan.score < hot.score && once.score < hot.score);
        assert_eq!((scan.reads, scan.rate), (hot.reads, hot.rate));
    }

    #[test]
    fn a_newer_cold_start_keeps_one_set_back() {
        let mut f = Facts::default();
        f.fold(1, Touch { writes: 1, ..Touch::default() }, 0);
        f.enter(3);
        f.enter(9);
        assert_eq!((f.rank(), f.weight()), (Some(3), 8), "the first touch counts");
        let at = |noted, now| {
            let mut g = f;
            g.age(noted, now);
            (g.rank(), g.rank_before(), g.is_written(), g.writes)
        };
        assert_eq!(at(5, 5), (Some(3), None, true, 1));
        assert_eq!(at(5, 6), (None, Some(3), true, 1));
        assert_eq!(at(5, 7), (None, None, true, 1));
        assert_eq!(at(5, 4), (None, None, true, 1));
    }

    #[test]
    fn joining_adds_counts_and_keeps_our_ranks() {
        let (mut a, mut b) = (Facts::default(), Facts::default());
        a.fold(1, read(), 5);
        a.enter(3);
        b.fold(1, Touch { writes: 2, ..Touch::default() }, 9);
        b.enter(7);
        b.age(0, 1);
        b.enter(LATE);
        let score = b.score.max(a.score);
        a.join(&b);
        assert_eq!((a.reads, a.writes, a.rank(), a.rank_before()), (1, 2, Some(3), Some(7)));
        assert!(a.is_written() && a.score == score && a.rate == b.rate);
        let mut empty = Facts::default();
        empty.join(&a);
        assert_eq!(empty, a);
    }

    proptest! {
        #[test]
        fn encoding_is_exact_and_folding_never_shrinks(
            touches in prop::collection::vec((0u32..3, 0u32..3, any::<bool>(), 0u32..50), 1..40), extent: u64,
        ) {
            let (mut f, mut tick, mut sum) = (Facts::default(), 0, (0, 0));
            for (reads, writes, scanned, wait) in touches {
                tick += wait;
                let old = f;
                f.fold(extent, Touch { reads, writes, scanned }, tick);
                sum = (sum.0 + reads, sum.1 + writes);
                prop_assert!(f.rate >= old.rate && f.score >= old.score);
                prop_assert_eq!((f.reads, f.writes), sum);
                let mut w = Writer::new();
                f.encode(&mut w);
                prop_assert_eq!(Facts::decode(&mut Reader::new(w.bytes())), Ok(f));
            }
        }
    }
}
