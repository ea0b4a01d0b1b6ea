//! What to copy next. Demand reads do not pass here: whoever misses fetches at once and tells afterwards.
//!
//! Background copies go in this order, over all volumes of a set: ranges the operator put first, neighbours of misses,
//! hot lists and hints (file-system metadata), then the rest in the holder's cheap order. In one class the volumes share by
//! weight. Everything is copied in the end, so every promotion only reorders.
//!
//! **Neighbours are a guess, a hot list is knowledge**, so while hot extents are left only each [`PROMOTED_TURN`]th copy is
//! a neighbour. A guest that reads at random misses faster than any link brings 16 extents for each: neighbours first would
//! then starve the very list that ends the misses (a skewed load at 1 Gbit/s: 462 misses with neighbours first, 123 with
//! none, 146 so), while a guest that reads in runs misses seldom enough that a quarter is plenty (the real trace: 1499,
//! 4381 and 1546; crates/bench/src/trace.rs).
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
/// While hot extents are left, one copy of so many is a neighbour of a miss.
pub const PROMOTED_TURN: u32 = 4;
/// Runs of promoted neighbours kept; the oldest make room.
pub const PROMOTED_MAX: usize = 256;
/// Ranges of `tune --first` kept; further ones are refused.
pub const FIRST_MAX: usize = 1024;
/// Weight of a volume that was given none.
pub const WEIGHT: u32 = 100;

/// How many neighbours to promote: as many as the link moves in 100 ms, at least 1, at most [`NEIGHBOURS`]. On a very slow
/// link they would delay what is known to be hot; down to 100 Mbit/s the real trace wants all 16 (crates/bench/src/trace.rs).
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
    fn has_hot(&self) -> bool {
        self.hot.len() > 0
    }
    /// The best class that may have something; `promote`: it is the turn of neighbours.
    fn class(&self, promote: bool) -> Option<Source> {
        match self {
            Schedule { first, .. } if !first.is_empty() => Some(Source::First),
            Schedule { promoted, .. } if promote && !promoted.is_empty() => Some(Source::Promoted),
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
    /// Copies from hot lists since the last of a neighbour.
    hot_since: u32,
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
    /// Of these volumes, in the set's order.
    pub fn new(volumes: Vec<Schedule>) -> Self {
        SetSchedule { volumes, hot_since: PROMOTED_TURN }
    }
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
                match source {
                    Source::Hot => self.hot_since = self.hot_since.saturating_add(1),
                    Source::Promoted => self.hot_since = 0,
                    Source::First | Source::Rest => {}
                }
                return Outcome::Fetch(next);
            }
        }
        Outcome::Again
    }
    /// Best class first; in it the volume with the least spent.
    fn turn(&self) -> Option<(usize, Source)> {
        let promote = self.hot_since >= PROMOTED_TURN - 1 || !self.volumes.iter().any(Schedule::has_hot);
        let turns =
            self.volumes.iter().enumerate().filter_map(|(i, s)| s.class(promote).map(|c| (c, s.spent, i)));
        turns.min().map(|(class, _, i)| (i, class))
    }
}

#[cfg(test)]
mod tests;
