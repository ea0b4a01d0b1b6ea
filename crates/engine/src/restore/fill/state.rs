//! The fill's own state, under one lock: what was asked, what came of it, what stands in the way.

use super::super::landing::RUN_BYTES;
use super::super::set::RestoreSet;
use super::super::target::Heat;
use super::inbox::Report;
use super::rest::VolumeRest;
use super::run::Ask;
use super::{FillOptions, FreeSpace};
use rekindle_core::hydrate::{
    Next, Online, Progress, Reason, Rest, Schedule, SetSchedule, Source, Threshold, Throttle, Wanted,
    neighbours,
};
use rekindle_io::{Error, Kind};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Demand fetches whose latency is measured.
const DEMAND_MAX: usize = 4096;
/// A demand fetch this old no longer holds back an inline fill.
const DEMAND_FRESH: Duration = Duration::from_millis(50);
const AWAY_MIN: Duration = Duration::from_millis(100);
const AWAY_MAX: Duration = Duration::from_secs(10);
const SPACE_EVERY: Duration = Duration::from_secs(1);
const RESWEEP_MIN: Duration = Duration::from_millis(200);
const RESWEEP_MAX: Duration = Duration::from_secs(10);
/// Between two looks whether damage was mended, and how many extents are looked at.
const MENDED_EVERY: Duration = Duration::from_secs(10);
const MENDED_LOOK: usize = 64;

/// A background fetch under way.
pub(super) struct Asked {
    pub at: Duration,
    pub bytes: u64,
    pub source: Source,
}

/// Something stands in the way; looked at again from time to time.
pub(super) struct Block {
    pub why: Error,
    pub since: Duration,
    pub again: Duration,
    pub backoff: Duration,
}

impl Block {
    /// Begins, or goes on with longer waits.
    fn met(slot: &mut Option<Block>, why: Error, now: Duration, min: Duration, max: Duration) {
        match slot {
            // Many fetches fail at once: one of them is the answer to the last try.
            Some(b) if now < b.again => b.why = why,
            Some(b) => {
                b.backoff = (b.backoff * 2).min(max);
                (b.why, b.again) = (why, now + b.backoff);
            }
            None => *slot = Some(Block { why, since: now, again: now + min, backoff: min }),
        }
    }
}

pub(super) struct State {
    pub schedule: SetSchedule,
    pub throttle: Throttle,
    pub rests: Vec<VolumeRest>,
    /// Extents that an inline fill reads, opens and writes at once, if nobody is known to want them soon.
    pub inline_run: usize,
    pub weighed: Vec<Vec<(u64, u8)>>,
    pub asked: HashMap<(u16, u64), Asked>,
    demand: HashMap<(u16, u64), Duration>,
    pub away: Option<Block>,
    pub full: Option<Block>,
    pub space: Vec<FreeSpace>,
    space_next: Duration,
    /// When damage is looked at again, and where that goes on.
    mended: (Duration, (u16, u64)),
    pub online: Online,
    pub online_why: Option<Reason>,
    online_next: Duration,
    pub fetched: [u64; 4],
    pub fetched_bytes: u64,
    pub resweep: (Duration, Duration),
    pub zero_at: (usize, u64),
    pub began: Duration,
    reports: VecDeque<Report>,
}

impl State {
    pub(super) fn new(set: &Arc<RestoreSet>, o: FillOptions, now: Duration) -> Self {
        let shapes = set.shapes();
        let mut given = o.volumes.into_iter();
        let (mut volumes, mut rests, mut weighed) = (Vec::new(), Vec::new(), Vec::new());
        for (at, (geometry, holder)) in shapes.iter().enumerate() {
            let v = given.next().unwrap_or_default();
            let hot = v.hot.iter().map(|(extent, _)| *extent).collect();
            volumes.push(Schedule::new(geometry.extents(), hot, v.weight));
            rests.push(VolumeRest::new(set.clone(), at as u16, geometry.extents(), holder.clone(), v.linear));
            weighed.push(v.hot.into_iter().filter(|(e, w)| *w > 0 && *e < geometry.extents()).collect());
        }
        let extent = shapes.iter().map(|(g, _)| g.extent.get()).max().unwrap_or(1 << 16);
        let mut throttle = Throttle::new(extent / 2, now);
        throttle.set_limit(o.limit, now);
        State {
            schedule: SetSchedule::new(volumes),
            throttle,
            rests,
            inline_run: (RUN_BYTES / extent).max(1) as usize,
            weighed,
            asked: HashMap::new(),
            demand: HashMap::new(),
            away: None,
            full: None,
            space: o.space,
            space_next: Duration::ZERO,
            mended: (now + MENDED_EVERY, (0, 0)),
            online: o.online,
            online_why: None,
            online_next: Duration::ZERO,
            fetched: [0; 4],
            fetched_bytes: 0,
            resweep: (Duration::ZERO, RESWEEP_MIN),
            zero_at: (0, 0),
            began: now.saturating_sub(o.elapsed_before),
            reports: VecDeque::new(),
        }
    }

    /// See `Fill::set_hot`.
    pub(super) fn set_hot(&mut self, volume: usize, hot: Vec<(u64, u8)>) {
        let Some(schedule) = self.schedule.volumes.get_mut(volume) else { return };
        schedule.set_hot(hot.iter().map(|(extent, _)| *extent).collect());
        let extents = self.rests[volume].extents;
        self.weighed[volume] = hot.into_iter().filter(|(e, w)| *w > 0 && *e < extents).collect();
        self.online_next = Duration::ZERO;
    }

    // ---- what came

    /// Takes reports in.
    pub(super) fn hear(&mut self, take: impl FnOnce(&mut VecDeque<Report>), now: Duration) {
        let mut reports = std::mem::take(&mut self.reports);
        take(&mut reports);
        for report in reports.drain(..) {
            match report {
                Report::Missed { volume, extent, at } => {
                    self.schedule.volumes[volume as usize].missed(extent);
                    if self.demand.len() >= DEMAND_MAX {
                        self.demand.retain(|_, at| now.saturating_sub(*at) < Duration::from_secs(1));
                    }
                    if self.demand.len() < DEMAND_MAX {
                        self.demand.insert((volume, extent), at);
                    }
                }
                Report::Arrived { volume, extent, at, outcome } => {
                    self.arrived((volume, extent), outcome, at, now)
                }
            }
        }
        self.reports = reports;
    }
    /// It came at `at` and is heard of `now`.
    fn arrived(&mut self, of: (u16, u64), outcome: Result<u32, Error>, at: Duration, now: Duration) {
        let (volume, asked, demanded) = (of.0, self.asked.remove(&of), self.demand.remove(&of));
        match outcome {
            Ok(bytes) => {
                (self.away, self.full) = (None, None);
                let bytes = u64::from(bytes);
                match (&asked, demanded) {
                    (Some(a), _) => {
                        self.throttle.came(now, a.bytes, bytes, a.at..at);
                        self.fetched[a.source as usize] += 1;
                        self.fetched_bytes += bytes;
                    }
                    (None, Some(missed)) => self.throttle.demand_came(bytes, missed..at),
                    (None, None) => {}
                }
                let link = self.throttle.link();
                if link.bytes_per_s > 0 {
                    let pace = link.bytes_per_s.min(self.throttle.limit().unwrap_or(u64::MAX));
                    let n = neighbours(pace, self.throttle.extent_stored());
                    self.schedule.volumes.iter_mut().for_each(|s| s.set_neighbours(n));
                }
            }
            Err(e) => {
                if let Some(a) = &asked {
                    self.throttle.ended(a.bytes);
                }
                self.failed(Some(volume), e, now);
            }
        }
    }
    /// A fetch or a look at the holder failed.
    pub(super) fn failed(&mut self, volume: Option<u16>, e: Error, now: Duration) {
        if e.is_loss() {
            // The set keeps what is damaged.
            return;
        }
        if let Some(volume) = volume {
            self.schedule.volumes[volume as usize].failed();
        }
        match e.kind {
            Kind::Full => Block::met(&mut self.full, e, now, SPACE_EVERY, SPACE_EVERY),
            // What fails for good is tried slowly, for ever: it says why in status.
            _ => Block::met(&mut self.away, e, now, AWAY_MIN, AWAY_MAX),
        }
    }
    /// Some damaged extents, if it is time to see whether the holder can give them again. Nothing else is left to do then.
    pub(super) fn look_for_mended(&mut self, set: &RestoreSet, now: Duration) -> Vec<Ask> {
        let (at, from) = self.mended;
        if now < at {
            return Vec::new();
        }
        let (found, next) = set.damaged_behind(from, MENDED_LOOK);
        self.mended = (now + MENDED_EVERY, next);
        let ask = |(volume, extent)| Ask { volume, heat: Heat::Cold, extents: vec![extent] };
        found.into_iter().map(ask).collect()
    }
    /// Some holder answers on the asking thread.
    pub(super) fn is_inline(&self) -> bool {
        self.rests.iter().any(|r| r.holder.answers_inline())
    }
    /// A guest read is waiting for its own fetch, for an inline fill to step back.
    pub(super) fn guest_waits(&self, now: Duration) -> bool {
        self.demand.values().any(|at| now.saturating_sub(*at) < DEMAND_FRESH)
    }

    // ---- what stands in the way

    /// How long nothing may be started, if so; during an outage one probe at a time may.
    pub(super) fn blocked(&mut self, now: Duration) -> Option<Duration> {
        if now >= self.space_next {
            self.space_next = now + SPACE_EVERY;
            self.look_at_space(now);
        }
        let wait = |b: &Block| (now < b.again).then(|| b.again - now);
        match (&self.full, &self.away) {
            (Some(b), _) if now < b.again => wait(b),
            (_, Some(b)) if now < b.again => wait(b),
            (_, Some(_)) if !self.asked.is_empty() => Some(AWAY_MIN),
            _ => None,
        }
    }
    fn look_at_space(&mut self, now: Duration) {
        for s in &self.space {
            if let Ok(free) = (s.free)()
                && free < s.floor
            {
                let (place, free, floor) = (&s.place, free >> 20, s.floor >> 20);
                let what = format!("{free} MiB are free beside {place}, {floor} MiB stay for log and guest");
                self.full = None;
                Block::met(&mut self.full, Error::new(Kind::Full, what), now, 2 * SPACE_EVERY, SPACE_EVERY);
                return;
            }
        }
    }
    /// Nothing is under way, all was swept, yet something is missing (covered by the log, failed, damaged): when to look
    /// again; `None`: now.
    pub(super) fn resweep(&mut self, now: Duration) -> Option<Duration> {
        let (at, backoff) = self.resweep;
        if at == Duration::ZERO {
            self.resweep = (now + backoff, (backoff * 2).min(RESWEEP_MAX));
            return Some(backoff);
        }
        if now < at {
            return Some(at - now);
        }
        self.resweep.0 = Duration::ZERO;
        self.schedule.volumes.iter_mut().for_each(Schedule::failed);
        None
    }
    /// Something was started: the next sweep may come soon again.
    pub(super) fn swept_something(&mut self) {
        self.resweep = (Duration::ZERO, RESWEEP_MIN);
    }

    // ---- how far it is

    /// `weigh`: look at every extent of the hot lists, which takes up to ten milliseconds.
    pub(super) fn progress(&self, set: &RestoreSet, now: Duration, weigh: bool) -> Progress {
        let (absent, _) = set.missing();
        let extents: u64 = self.rests.iter().map(|r| r.extents).sum();
        let size: u64 = set.shapes().iter().map(|(g, _)| g.size).sum();
        let local = extents.saturating_sub(absent);
        let (mut weight, mut local_weight) = (0, 0);
        let weighed = self.weighed.iter().enumerate().filter(|_| weigh);
        for (volume, weighed) in weighed {
            for (extent, w) in weighed {
                weight += u64::from(*w);
                if !set.needs_holder(volume as u16, *extent) {
                    local_weight += u64::from(*w);
                }
            }
        }
        Progress {
            local_extents: local,
            extents,
            local_bytes: (size as u128 * u128::from(local) / u128::from(extents.max(1))) as u64,
            local_weight,
            weight,
            elapsed: now.saturating_sub(self.began),
        }
    }
    fn asks_for_usage(&self) -> bool {
        self.online.thresholds().iter().any(|t| matches!(t, Threshold::Usage(_)))
    }
    /// Goes online when the rule says so. Cheap: looked at ten times a second, and not at all afterwards.
    pub(super) fn look_online(&mut self, set: &RestoreSet, now: Duration) {
        if now >= self.online_next {
            self.look_online_now(set, now);
        }
    }
    /// The same, now.
    pub(super) fn look_online_now(&mut self, set: &RestoreSet, now: Duration) {
        if self.online_why.is_some() {
            return;
        }
        self.online_next = now + Duration::from_millis(100);
        if set.is_online() {
            self.online_why = Some(Reason::Told);
        } else if set.damage(0).only_damage_left {
            // No threshold can ask for what cannot be had: it would be waited for for ever.
            set.set_online();
            self.online_why = Some(Reason::Complete);
        } else if let Some(why) = self.online.check(&self.progress(set, now, self.asks_for_usage())) {
            set.set_online();
            self.online_why = Some(why);
        }
    }
}

/// Lets the scheduler see what is wanted.
pub(super) struct Look<'a> {
    pub set: &'a RestoreSet,
    pub rests: &'a mut [VolumeRest],
    /// Under way, or chosen a moment ago and not started yet: those bear no mark.
    pub asked: &'a HashMap<(u16, u64), Asked>,
    pub stored: u64,
}

impl Wanted for Look<'_> {
    // The mark itself is set by `RestoreSet::fetch`; between here and there another may have come first, and then nothing
    // is started.
    fn claim_fetch(&mut self, next: Next) -> Option<u32> {
        let volume = next.volume as u16;
        let of = (volume, next.extent);
        // Two lists may name one extent within a batch. Asked for twice it would come once, and what the second counted as
        // under way would narrow the window for ever.
        let free = !self.asked.contains_key(&of) && !self.set.is_damaged(volume, next.extent);
        let wanted = free && self.set.wants_fetch(volume, next.extent);
        wanted.then_some(self.stored.min(u64::from(u32::MAX)) as u32)
    }
    fn rest(&mut self, volume: usize) -> &mut dyn Rest {
        &mut self.rests[volume]
    }
}
