//! In which order a restore copies what the usage map knows: the hot list.
//!
//! `auto`: the newest cold-start trace by rank, the trace before it by rank, the rest of both sets by score, what lies in
//! the midst of these and was never touched, the fuller its neighbourhood the sooner (one start reads some pages of a table
//! or an index, the next one others: of what it demands and no start before did, nearly all lies there), what was written, then the caller's hints (changed in the latest snapshots, partition tables, file-system metadata),
//! then what was only read long ago, by score. Everything else has no place here: fill streams it in the holder's own
//! cheap order. So the work is proportional to extents with facts, and memory to the limit, never to the volume.
//!
//! Scores are compared coarsely and equal keys go by extent: neighbours stay together, and the same map gives the same list.

use super::facts::{Facts, LATE};
use crate::volume::ExtentRange;
use std::fmt;
use std::str::FromStr;

/// What decides.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    /// Trace, set, written, hints, the rest: the default.
    #[default]
    Auto,
    /// First touch since the last cold starts, nothing else.
    Trace,
    /// The decayed worth alone.
    Score,
    /// The decayed rate alone.
    Rate,
    /// Reads and writes ever.
    Count,
    /// From the first extent to the last.
    Linear,
}

impl Order {
    /// All, in the order they are listed to people.
    pub const ALL: [Order; 6] =
        [Order::Auto, Order::Trace, Order::Score, Order::Rate, Order::Count, Order::Linear];

    /// The word a user types.
    pub const fn name(self) -> &'static str {
        match self {
            Order::Auto => "auto",
            Order::Trace => "trace",
            Order::Score => "score",
            Order::Rate => "rate",
            Order::Count => "count",
            Order::Linear => "linear",
        }
    }
    /// Sort key, small first; `None`: no place in the hot list.
    pub fn key(self, f: &Facts) -> Option<u64> {
        let known = |v: u64| (v > 0).then(|| u64::MAX - v);
        match self {
            Order::Auto => auto_key(f),
            Order::Trace => match (f.rank(), f.rank_before()) {
                (Some(r), _) => Some(u64::from(r)),
                (None, Some(r)) => Some(0x100 + u64::from(r)),
                (None, None) => None,
            },
            Order::Score => known(u64::from(f.score.raw())),
            Order::Rate => known(u64::from(f.rate.raw())),
            Order::Count => known(u64::from(f.reads) + u64::from(f.writes)),
            Order::Linear => None,
        }
    }
}
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
/// No order has this name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no order is called `{0}`: use auto, trace, score, rate, count or linear")]
pub struct UnknownOrder(String);

impl FromStr for Order {
    type Err = UnknownOrder;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Order::ALL.into_iter().find(|o| o.name() == s).ok_or_else(|| UnknownOrder(s.to_string()))
    }
}

const HINTED: u64 = 4 << 56;
/// Behind all of both sets.
const AMIDST: u64 = 2 << 56 | 1 << 48;
/// An extent lies amidst the set if of so many extents on either side, together, half are in it.
const AROUND: u64 = 8;

/// Class, then rank, or score with the most first.
fn auto_key(f: &Facts) -> Option<u64> {
    if f.is_empty() {
        return None;
    }
    let (class, rank) = match (f.rank(), f.rank_before()) {
        (Some(r), _) if r < LATE => (0, r),
        (_, Some(r)) if r < LATE => (1, r),
        (Some(_), _) | (_, Some(_)) => (2, 0),
        _ if f.is_written() => (3, 0),
        _ => (5, 0),
    };
    // In a rank no score: below a guest's cache a high one means that the cache keeps losing it, not that the start wants
    // it (tests/cold_restart.rs: 31 % with extents in order, 28 % by score). Elsewhere in quarters of an octave: finer
    // steps are noise, and would tear neighbours apart.
    let octaves = if class < 2 { 0 } else { f.score.raw() >> 3 };
    Some(class << 56 | u64::from(rank) << 48 | u64::from((1 << 24) - octaves))
}

/// Collects the best `limit` extents by their facts, in memory bounded by the limit.
pub struct Ranker {
    order: Order,
    limit: usize,
    /// Key, then extent and weight in one (the weight in the low four bits).
    best: Vec<(u64, u64)>,
    /// An extent may be in it twice.
    repeats: bool,
}

impl Ranker {
    /// A limit good for 64 GiB of hot data at 64 KiB; 26 MiB of memory at most while ranking.
    pub const LIMIT: usize = 1 << 20;

    /// Nothing offered yet.
    pub fn new(order: Order, limit: usize) -> Self {
        Ranker { order, limit: limit.max(1), best: Vec::new(), repeats: false }
    }
    /// One extent's facts, each extent once, in any order.
    pub fn offer(&mut self, extent: u64, facts: &Facts) {
        if let Some(key) = self.order.key(facts) {
            self.push(key, extent, facts.weight());
        }
    }
    /// Extents to bring early though nobody touched them; only `auto` takes hints. May overlap what was offered.
    pub fn hint(&mut self, extents: ExtentRange) {
        if self.order == Order::Auto {
            self.repeats = true;
            extents.iter().for_each(|e| self.push(HINTED, e, 0));
        }
    }
    /// Entries at most: each time they are reached, a ninth goes.
    fn room(&self) -> usize {
        self.limit + self.limit / 8 + 1024
    }
    fn push(&mut self, key: u64, extent: u64, weight: u64) {
        let len = self.best.len();
        if len == self.best.capacity() {
            // By itself a vector doubles: up to twice what was bounded.
            self.best.reserve_exact(len.max(1024).min(self.room() - len));
        }
        self.best.push((key, extent << 4 | weight));
        if self.best.len() >= self.room() {
            if self.repeats {
                self.dedup();
            }
            if self.best.len() > self.limit {
                self.best.select_nth_unstable(self.limit - 1);
                self.best.truncate(self.limit);
            }
        }
    }
    /// An extent that has several places keeps the best one, and its weight.
    fn dedup(&mut self) {
        self.best.sort_unstable_by_key(|&(key, packed)| (packed >> 4, key));
        self.best.dedup_by(|other, first| {
            let same = other.1 >> 4 == first.1 >> 4;
            if same {
                first.1 = first.1.max(other.1);
            }
            same
        });
    }
    /// Gives what lies amidst the set its place. Only between the first and the last of the set: what is named exists.
    fn amidst(&mut self) {
        self.dedup();
        self.repeats = true;
        let in_set = self.best.iter().filter(|(key, _)| *key < AMIDST);
        let set: Vec<u64> = in_set.map(|(_, packed)| packed >> 4).collect();
        let (mut first, mut behind) = (0, 0);
        for pair in set.windows(2) {
            let (left, right) = (pair[0], pair[1]);
            // In a wide gap only its two ends can be near enough.
            let near = (left + 1).max(right.saturating_sub(AROUND));
            let ends = (left + 1..right.min(left + 1 + AROUND)).chain(near.max(left + 1 + AROUND)..right);
            for extent in ends {
                while set[first] + AROUND < extent {
                    first += 1;
                }
                while behind < set.len() && set[behind] <= extent + AROUND {
                    behind += 1;
                }
                let around = (behind - first) as u64;
                if around >= AROUND {
                    self.push(AMIDST + (2 * AROUND - around), extent, 0);
                }
            }
        }
    }
    /// The hot list: extents in restore order, each once.
    pub fn finish(self) -> Vec<u64> {
        without_weights(self.finish_weighed())
    }
    /// The hot list with the usage weight of each extent (0: only hinted).
    pub fn finish_weighed(mut self) -> Vec<(u64, u8)> {
        if self.order == Order::Auto {
            self.amidst();
        }
        self.dedup();
        self.best.sort_unstable();
        self.best.truncate(self.limit);
        self.best.shrink_to_fit();
        self.best.into_iter().map(|(_, packed)| (packed >> 4, (packed & 15) as u8)).collect()
    }
}

/// The extents of a weighed list.
pub fn without_weights(weighed: Vec<(u64, u8)>) -> Vec<u64> {
    let mut extents: Vec<u64> = weighed.into_iter().map(|(extent, _)| extent).collect();
    // Collected in place, it would keep the room that the weights had.
    extents.shrink_to_fit();
    extents
}

#[cfg(test)]
mod tests {
    use super::super::facts::Touch;
    use super::*;
    use proptest::prelude::*;

    fn facts(reads: u32, writes: u32, tick: u32) -> Facts {
        let mut f = Facts::default();
        f.fold(0, Touch { reads, writes, scanned: false }, tick);
        f
    }
    fn ranked(reads: u32, rank: u8, before: bool) -> Facts {
        let mut f = facts(reads, 0, 0);
        f.enter(rank);
        if before {
            f.age(0, 1);
        }
        f
    }
    fn list(order: Order, all: &[(u64, Facts)], hints: &[(u64, u64)]) -> Vec<u64> {
        let mut r = Ranker::new(order, 100);
        all.iter().for_each(|(e, f)| r.offer(*e, f));
        hints.iter().for_each(|&(start, end)| r.hint(ExtentRange { start, end }));
        r.finish()
    }

    #[test]
    fn auto_is_trace_then_set_then_written_then_hints_then_old_reads() {
        let all = [
            (1, facts(900, 0, 500)),
            (2, facts(0, 1, 0)),
            (3, ranked(1, LATE, false)),
            (4, ranked(1, 2, true)),
            (5, ranked(1, 9, false)),
            (6, ranked(1, 0, false)),
            (7, facts(0, 3, 9_000)),
            (8, ranked(1, LATE, true)),
            (9, Facts::default()),
        ];
        assert_eq!(list(Order::Auto, &all, &[(20, 22), (6, 8)]), [6, 5, 4, 3, 8, 7, 2, 20, 21, 1]);
        assert_eq!(list(Order::Trace, &all, &[]), [6, 5, 3, 4, 8]);
        assert_eq!(list(Order::Linear, &all, &[(1, 4)]), [0u64; 0]);
    }

    #[test]
    fn what_lies_amidst_the_set_follows_it() {
        // 100 to 139 but for five; 200 to 260 every third; two far apart; one written amidst, read long ago another.
        let gaps = [110, 111, 112, 120, 125];
        let mut all: Vec<(u64, Facts)> =
            (100..140).filter(|e| !gaps.contains(e)).map(|e| (e, ranked(1, 3, e % 2 == 0))).collect();
        all.extend((200..260).step_by(3).map(|e| (e, ranked(1, LATE, false))));
        all.extend([(1000, ranked(1, 0, false)), (1004, ranked(1, 0, false)), (125, facts(0, 1, 0))]);
        all.push((5000, facts(0, 1, 0)));
        let mut r = Ranker::new(Order::Auto, 1000);
        all.iter().for_each(|(e, f)| r.offer(*e, f));
        let listed = r.finish_weighed();
        let behind: Vec<(u64, u8)> = listed[35 + 20 + 2..].to_vec();
        let amidst = [(125, 1), (110, 0), (111, 0), (120, 0), (112, 0), (140, 0), (5000, 1)];
        assert_eq!(behind, amidst, "the fuller the sooner");
        assert!(!list(Order::Trace, &all, &[]).contains(&110), "auto alone");
    }

    #[test]
    fn count_rate_and_score_speak_for_themselves() {
        let all = [(1, facts(5, 0, 9_000)), (2, facts(3, 3, 0)), (3, facts(1, 0, 18_000))];
        assert_eq!(list(Order::Count, &all, &[(8, 9)]), [2, 1, 3]);
        assert_eq!(list(Order::Rate, &all, &[]), [3, 1, 2]);
        assert_eq!(list(Order::Score, &all, &[]).len(), 3);
    }

    #[test]
    fn names_come_back() {
        for o in Order::ALL {
            assert_eq!(o.to_string().parse(), Ok(o));
        }
        let e = "hot".parse::<Order>().unwrap_err();
        assert_eq!(e.to_string(), "no order is called `hot`: use auto, trace, score, rate, count or linear");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_bounded_list_is_the_front_of_the_whole_one(
            all in prop::collection::vec((1u32..50, 0u8..16, any::<bool>()), 0..5000), limit in 1usize..300,
        ) {
            let offer = |limit| {
                let mut r = Ranker::new(Order::Auto, limit);
                for (i, &(reads, rank, before)) in all.iter().enumerate().filter(|(_, a)| a.0 % 3 > 0) {
                    r.offer(i as u64, &ranked(reads, rank, before));
                    prop_assert!(r.best.len() <= r.room());
                    prop_assert!(r.best.capacity() <= r.room());
                }
                r.hint(ExtentRange { start: 0, end: 40 });
                Ok(r.finish())
            };
            let (some, whole) = (offer(limit)?, offer(usize::MAX / 4)?);
            prop_assert_eq!(&some[..], &whole[..some.len()]);
            prop_assert_eq!(some.len(), limit.min(whole.len()));
            let mut once = whole.clone();
            once.sort_unstable();
            once.dedup();
            prop_assert_eq!(once.len(), whole.len());
        }
    }
}
