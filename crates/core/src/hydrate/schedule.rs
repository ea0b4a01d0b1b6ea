//! What to copy next. Demand reads do not pass here: whoever misses fetches at once and tells afterwards.
//!
//! Background copies go in this order, over all volumes of a set: ranges the operator put first, neighbours of misses,
//! hot lists and hints (file-system metadata), then the rest in the holder's cheap order. In one class the volumes share by weight. Everything is copied in
//! the end, so every promotion only reorders.
//!
//! The scheduler does not know what is local. It proposes, and the caller's `wanted` (one look at the claim byte, marking
//! the fetch) refuses what is local, under way or covered by a write: that look is the single flight and the cancelling of
//! background fetches at once, and cannot go stale. Hence every queue here may be bounded and may forget: promotions and
//! operator ranges beyond their bound are dropped, hot lists are cut, since the last phase sweeps all extents until one
//! whole pass finds nothing to do. Completeness rests on that sweep alone.
//!
//! Memory: the hot list (8 bytes an entry, bounded by the ranker), [`PROMOTED_MAX`] promotions, [`FIRST_MAX`] ranges and
//! one chunk of the rest, a volume.

use crate::volume::ExtentRange;
use std::collections::VecDeque;

/// After a miss the next so many extents are promoted, if the link is quick.
pub const NEIGHBOURS: u64 = 16;
/// Runs of promoted neighbours kept; the oldest make room.
pub const PROMOTED_MAX: usize = 256;
/// Ranges of `tune --first` kept; further ones are refused.
pub const FIRST_MAX: usize = 1024;
/// Weight of a volume that was given none.
pub const WEIGHT: u32 = 100;

/// How many neighbours to promote: as many as the link moves in 100 ms, at least 1, at most [`NEIGHBOURS`]. On a very slow
/// link they would delay what is known to be hot; down to 100 Mbit/s the real trace wants all 16 (tests/replay.rs).
pub fn neighbours(bytes_per_s: u64, stored_bytes_per_extent: u64) -> u64 {
    (bytes_per_s / 10 / stored_bytes_per_extent.max(1)).clamp(1, NEIGHBOURS)
}

/// Where a proposal came from: for status, and for judging the map.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// `tune --first`.
    First,
    /// A neighbour of a miss.
    Promoted,
    /// The hot list, or a hint.
    Hot,
    /// Everything else.
    Rest,
}

/// Gives the extents no hot list names, in the holder's cheap order, a chunk at a time.
pub trait Rest {
    /// Appends the next extents to `out`. Extents that are known local may be left out; nothing else may.
    /// Appending none is fine too: the scheduler then lets its caller breathe before it asks again.
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass;
}

/// How far the rest has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// There may be more.
    More,
    /// Every extent was passed and nothing was appended; the next call begins another pass.
    Over,
}

/// What a look at one class gave.
enum Candidate {
    Extent(u64),
    Nothing,
    Breathe,
}

/// What one volume still has to copy.
#[derive(Debug)]
pub struct Schedule {
    extents: u64,
    weight: u32,
    spent: u64,
    neighbours: u64,
    first: VecDeque<ExtentRange>,
    promoted: VecDeque<ExtentRange>,
    hot: std::vec::IntoIter<u64>,
    hinted: VecDeque<ExtentRange>,
    rest: VecDeque<u64>,
    found_in_pass: bool,
    swept: bool,
}

/// Too many ranges were put first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("more than {FIRST_MAX} ranges are waiting to be copied first: let some finish")]
pub struct TooManyFirst;

impl Schedule {
    /// A volume of `extents`; `hot` in restore order.
    pub fn new(extents: u64, hot: Vec<u64>, weight: u32) -> Self {
        Schedule {
            extents,
            weight: weight.max(1),
            spent: 0,
            neighbours: NEIGHBOURS,
            first: VecDeque::new(),
            promoted: VecDeque::new(),
            hot: hot.into_iter(),
            hinted: VecDeque::new(),
            rest: VecDeque::new(),
            found_in_pass: false,
            swept: false,
        }
    }
    /// The guest missed here and its fetch is under way: bring the neighbours, nearest first.
    pub fn missed(&mut self, extent: u64) {
        let start = extent.saturating_add(1);
        let end = start.saturating_add(self.neighbours).min(self.extents);
        if start >= end {
            return;
        }
        match self.promoted.front_mut() {
            // A sequential reader misses again and again: its run grows, and queues nothing twice.
            Some(run) if run.start <= end && start <= run.end => run.end = run.end.max(end),
            _ => self.promoted.push_front(ExtentRange { start, end }),
        }
        self.promoted.truncate(PROMOTED_MAX);
    }
    /// `tune --first RANGE`: the newest wish goes to the head.
    pub fn first(&mut self, range: ExtentRange) -> Result<(), TooManyFirst> {
        if self.first.len() >= FIRST_MAX {
            return Err(TooManyFirst);
        }
        let end = range.end.min(self.extents);
        if range.start < end {
            self.first.push_front(ExtentRange { start: range.start, end });
        }
        Ok(())
    }
    /// A new hot list in place of what is left of the old one; what is local already is passed over.
    pub fn set_hot(&mut self, hot: Vec<u64>) {
        self.hot = hot.into_iter();
    }
    /// Ranges that come after the hot list though nobody was seen to use them; at most [`FIRST_MAX`] are kept.
    pub fn hint(&mut self, ranges: &[ExtentRange]) {
        let inside = |r: &ExtentRange| ExtentRange { start: r.start, end: r.end.min(self.extents) };
        self.hinted = ranges.iter().map(inside).filter(|r| r.start < r.end).take(FIRST_MAX).collect();
    }
    /// See [`neighbours`].
    pub fn set_neighbours(&mut self, n: u64) {
        self.neighbours = n.min(NEIGHBOURS);
    }
    /// `tune --weight`.
    pub fn set_weight(&mut self, weight: u32) {
        self.weight = weight.max(1);
    }
    /// Something that was proposed did not become local (holder away, source damaged, claim lost): the sweep must look again.
    pub fn failed(&mut self) {
        self.swept = false;
        self.found_in_pass = true;
    }
    /// One whole pass found nothing to copy: what is not local now is under way or damaged.
    pub fn is_swept(&self) -> bool {
        self.swept
    }
    /// The best class that may have something.
    fn class(&self) -> Option<Source> {
        match self {
            Schedule { first, .. } if !first.is_empty() => Some(Source::First),
            Schedule { promoted, .. } if !promoted.is_empty() => Some(Source::Promoted),
            Schedule { hot, hinted, .. } if hot.len() > 0 || !hinted.is_empty() => Some(Source::Hot),
            Schedule { swept: false, .. } => Some(Source::Rest),
            _ => None,
        }
    }
    /// The next candidate of `class`.
    fn candidate(&mut self, class: Source, rest: &mut dyn Rest) -> Candidate {
        let found = match class {
            Source::First => pop_extent(&mut self.first),
            Source::Promoted => pop_extent(&mut self.promoted),
            Source::Hot => self.hot.next().or_else(|| pop_extent(&mut self.hinted)),
            Source::Rest => return self.rest_candidate(rest),
        };
        found.map_or(Candidate::Nothing, Candidate::Extent)
    }
    fn rest_candidate(&mut self, rest: &mut dyn Rest) -> Candidate {
        if let Some(extent) = self.rest.pop_front() {
            return Candidate::Extent(extent);
        }
        if rest.chunk(&mut self.rest) == Pass::Over {
            self.swept = !self.found_in_pass;
            self.found_in_pass = false;
            return Candidate::Nothing;
        }
        self.rest.pop_front().map_or(Candidate::Breathe, Candidate::Extent)
    }
}

fn pop_extent(ranges: &mut VecDeque<ExtentRange>) -> Option<u64> {
    let range = ranges.front_mut()?;
    let extent = range.start;
    range.start += 1;
    if range.start >= range.end {
        ranges.pop_front();
    }
    Some(extent)
}

/// One proposal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Next {
    /// Which volume of the set, by position.
    pub volume: usize,
    /// Which extent.
    pub extent: u64,
    /// Why.
    pub source: Source,
}

/// What the caller knows and the scheduler does not.
pub trait Wanted {
    /// Whether `extent` still has to be copied and nobody is at it; `true` marks it as being fetched, so it is asked once.
    /// The stored bytes it will move are returned for fairness.
    fn claim_fetch(&mut self, next: Next) -> Option<u32>;
    /// The rest of a volume.
    fn rest(&mut self, volume: usize) -> &mut dyn Rest;
}

/// All volumes of a set.
#[derive(Debug, Default)]
pub struct SetSchedule {
    /// In the set's order.
    pub volumes: Vec<Schedule>,
}

/// How many refused candidates one call looks at before it lets the caller breathe (pause, stop, completions).
const LOOKS_MAX: usize = 65_536;

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This one: fetch it.
    Fetch(Next),
    /// Many were refused; ask again.
    Again,
    /// Every volume was swept: nothing is left to start.
    Swept,
}

impl SetSchedule {
    /// The next extent to fetch in the background, chosen over all volumes.
    pub fn next(&mut self, caller: &mut dyn Wanted) -> Outcome {
        for _ in 0..LOOKS_MAX {
            let Some((volume, source)) = self.turn() else { return Outcome::Swept };
            let schedule = &mut self.volumes[volume];
            let extent = match schedule.candidate(source, caller.rest(volume)) {
                Candidate::Extent(extent) => extent,
                Candidate::Nothing => continue,
                Candidate::Breathe => return Outcome::Again,
            };
            if extent >= schedule.extents {
                continue; // A hint of another size (an older, larger volume) costs nothing.
            }
            let next = Next { volume, extent, source };
            if let Some(stored) = caller.claim_fetch(next) {
                // Virtual time: bytes over weight. A volume that had nothing for long does not save up.
                let least = self.volumes.iter().map(|s| s.spent).min().unwrap_or(0);
                let schedule = &mut self.volumes[volume];
                schedule.spent += u64::from(stored.max(1)) * 1024 / u64::from(schedule.weight);
                schedule.found_in_pass |= source == Source::Rest;
                self.volumes.iter_mut().for_each(|s| s.spent -= least);
                return Outcome::Fetch(next);
            }
        }
        Outcome::Again
    }
    /// Best class first; in it the volume with the least spent.
    fn turn(&self) -> Option<(usize, Source)> {
        let turns = self.volumes.iter().enumerate().filter_map(|(i, s)| s.class().map(|c| (c, s.spent, i)));
        turns.min().map(|(class, _, i)| (i, class))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Extents in descending order, to tell it from volume order.
    struct Down(u64, Option<u64>);
    impl Rest for Down {
        fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
            let at = self.1.unwrap_or(self.0);
            let low = at.saturating_sub(3);
            out.extend((low..at).rev());
            self.1 = if at == 0 { None } else { Some(low) };
            if at == 0 { Pass::Over } else { Pass::More }
        }
    }
    struct World {
        local: Vec<BTreeSet<u64>>,
        rest: Vec<Down>,
    }
    impl Wanted for World {
        fn claim_fetch(&mut self, n: Next) -> Option<u32> {
            self.local[n.volume].insert(n.extent).then_some(65_536)
        }
        fn rest(&mut self, volume: usize) -> &mut dyn Rest {
            &mut self.rest[volume]
        }
    }
    fn world(sizes: &[u64]) -> World {
        World {
            local: vec![BTreeSet::new(); sizes.len()],
            rest: sizes.iter().map(|&n| Down(n, None)).collect(),
        }
    }
    fn drain(s: &mut SetSchedule, w: &mut World) -> Vec<(usize, u64)> {
        let mut out = Vec::new();
        loop {
            match s.next(w) {
                Outcome::Fetch(n) => out.push((n.volume, n.extent)),
                Outcome::Again => {}
                Outcome::Swept => return out,
            }
        }
    }
    fn one(extents: u64, hot: &[u64]) -> SetSchedule {
        SetSchedule { volumes: vec![Schedule::new(extents, hot.to_vec(), WEIGHT)] }
    }
    fn extents(got: &[(usize, u64)]) -> Vec<u64> {
        got.iter().map(|&(_, e)| e).collect()
    }

    #[test]
    fn first_then_neighbours_then_hot_then_hints_then_rest_each_once() {
        let (mut s, mut w) = (one(12, &[9, 2, 99, 5]), world(&[12]));
        s.volumes[0].set_neighbours(2);
        s.volumes[0].hint(&[ExtentRange { start: 0, end: 2 }, ExtentRange { start: 50, end: 60 }]);
        s.volumes[0].missed(4);
        s.volumes[0].first(ExtentRange { start: 7, end: 9 }).expect("room");
        s.volumes[0].first(ExtentRange { start: 11, end: 70 }).expect("room");
        w.local[0].insert(4);
        assert_eq!(extents(&drain(&mut s, &mut w)), [11, 7, 8, 5, 6, 9, 2, 0, 1, 10, 3]);
        assert!(s.volumes[0].is_swept());
    }

    #[test]
    fn a_sequential_reader_promotes_each_extent_once() {
        let (mut s, mut w) = (one(1000, &[]), world(&[1000]));
        for e in 0..8 {
            w.local[0].insert(e);
            s.volumes[0].missed(e);
        }
        assert_eq!(s.volumes[0].promoted, [ExtentRange { start: 1, end: 24 }], "one run that grows");
        let Outcome::Fetch(n) = s.next(&mut w) else { panic!("nothing next") };
        assert_eq!((n.extent, n.source), (8, Source::Promoted));
    }

    #[test]
    fn promotions_are_bounded_and_the_newest_win() {
        let mut s = one(u64::MAX, &[]);
        for i in 0..1000 {
            s.volumes[0].missed(i * 1000);
        }
        assert_eq!(s.volumes[0].promoted.len(), PROMOTED_MAX);
        assert_eq!(s.volumes[0].promoted[0], ExtentRange { start: 999_001, end: 999_017 });
        let firsts = (0..FIRST_MAX as u64).map(|i| s.volumes[0].first(ExtentRange { start: i, end: i + 1 }));
        assert!(firsts.collect::<Vec<_>>().iter().all(Result::is_ok));
        assert_eq!(s.volumes[0].first(ExtentRange { start: 0, end: 1 }), Err(TooManyFirst));
    }

    #[test]
    fn hot_of_every_volume_comes_before_the_rest_of_any_and_weights_share() {
        let hot: Vec<u64> = (0..40).collect();
        let mut s =
            SetSchedule { volumes: vec![Schedule::new(100, hot.clone(), 300), Schedule::new(100, hot, 100)] };
        let mut w = world(&[100, 100]);
        let got = drain(&mut s, &mut w);
        assert!(got[..80].iter().all(|&(_, e)| e < 40), "hot before rest");
        let early = got[..40].iter().filter(|&&(v, _)| v == 0).count();
        assert!((29..=31).contains(&early), "three to one: {early} of 40");
        assert_eq!(got.len(), 200);
    }

    #[test]
    fn what_failed_is_swept_up_again() {
        let (mut s, mut w) = (one(6, &[]), world(&[6]));
        assert_eq!(drain(&mut s, &mut w).len(), 6);
        w.local[0].remove(&3);
        assert_eq!(s.next(&mut w), Outcome::Swept);
        s.volumes[0].failed();
        assert_eq!(extents(&drain(&mut s, &mut w)), [3]);
    }

    #[test]
    fn what_came_to_nothing_unheard_is_found_by_the_next_pass() {
        struct Forgetful(World, u32);
        impl Wanted for Forgetful {
            fn claim_fetch(&mut self, n: Next) -> Option<u32> {
                if n.extent == 3 && self.1 > 0 {
                    self.1 -= 1;
                    return Some(1); // Started, and lost without a word.
                }
                self.0.claim_fetch(n)
            }
            fn rest(&mut self, volume: usize) -> &mut dyn Rest {
                self.0.rest(volume)
            }
        }
        let (mut s, mut w) = (one(6, &[]), Forgetful(world(&[6]), 2));
        while s.next(&mut w) != Outcome::Swept {}
        assert_eq!(w.0.local[0].len(), 6);
    }

    #[test]
    fn neighbours_follow_the_link() {
        let at = |mbit: u64| neighbours(mbit * 125_000, 64 << 10);
        assert_eq!((at(25), at(100), at(1000), at(10_000)), (4, 16, 16, 16));
    }

    proptest! {
        #[test]
        fn every_extent_is_proposed_exactly_once_whatever_happens(
            size in 1u64..200, hot in prop::collection::vec(0u64..220, 0..100),
            events in prop::collection::vec((0u8..4, 0u64..220, 0u64..30), 0..60),
        ) {
            let mut hot = hot;
            hot.dedup();
            let (mut s, mut w) = (one(size, &hot), world(&[size]));
            let mut seen = BTreeSet::new();
            for (what, at, n) in events {
                match what {
                    0 => s.volumes[0].missed(at.min(size - 1)),
                    1 => s.volumes[0].first(ExtentRange { start: at, end: at + n }).expect("room"),
                    2 => s.volumes[0].set_neighbours(n),
                    _ => {
                        if let Outcome::Fetch(next) = s.next(&mut w) {
                            prop_assert!(seen.insert(next.extent));
                        }
                    }
                }
            }
            for e in extents(&drain(&mut s, &mut w)) {
                prop_assert!(seen.insert(e), "{} twice", e);
            }
            prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
        }
    }
}
