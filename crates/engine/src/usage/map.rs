//! The usage map of one served volume: touches on the hot path, folded into the facts file once a tick of served time.
//!
//! One thread (the owner's timer) calls [`UsageMap::served`] about once a second; any thread reports operations. A fold
//! takes at most [`FOLD_PAGES`] pages a tick, so that a guest that touches everything cannot turn hints into a stream of
//! writes; what is left waits in memory and nothing of it is lost. Explicit cold starts, snapshots and closing fold all.
//!
//! Failing writes of the facts file never reach the guest: counts of that page are lost, [`UsageMap::trouble`] says why,
//! and the next tick tries again.
//!
//! Locks: `state` belongs to the timer and to rare calls and may be held across file I/O; the hot path never takes it.
//! `watch` (streams, cold-start detector) is held for nanoseconds; the hot path only tries it, except in the first
//! requests after a quiet minute. A cold start found there clears the set and is entered in the state by whoever looks
//! next: by then all older touches were folded (half-way through the quiet minute), so none slips into the new set.

use super::exchange::Stamps;
use super::file::{FactsFile, Slot};
use super::touches::Touches;
use rekindle_core::usage::{
    ColdStart, Coverage, Facts, LATE, Order, PAGE_EXTENTS, PageFacts, PageHead, QUIET_MS, Ranker, Streams,
    Summary, TICK_MS, TRACE_MS, Touch, Trace, empty_page, without_weights,
};
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry, Uuid};
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Result, random};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Pages folded in one tick at most: 16 MiB written in ten seconds.
pub const FOLD_PAGES: usize = 1024;
/// First reads with a rank that wait for their page's fold.
const RANKED_MAX: usize = 1 << 16;
/// An operation on more extents than this (64 MiB at 64 KiB) is a discard or the like and says nothing about use.
const OPERATION_MAX: u64 = 1024;

/// How the map was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Opened {
    /// None was there: it begins empty.
    New,
    /// It goes on.
    Kept,
    /// What was there cannot be used and was thrown away: it begins empty. Says why.
    Lost(String),
}

pub(super) struct State {
    pub(super) file: FactsFile,
    pub(super) summary: Summary,
    pub(super) opened: Opened,
    pub(super) trouble: Option<Error>,
    pub(super) damaged_pages: u64,
    pub(super) stamps: Option<Stamps>,
    trace: Trace,
    ranked: HashMap<u64, u8>,
    carried: HashMap<u64, (u32, u32)>,
    last_now: Option<Duration>,
    tick_ms: u64,
    next_page: u64,
    quiet_ms: u64,
    summary_due: bool,
    /// Nothing was touched since the newest cold start.
    untouched: bool,
}

impl State {
    /// The summary with the trace as it is now.
    fn current(&mut self) -> Summary {
        self.summary.since_start_ms = self.trace.since_ms;
        self.summary.trace_extents = self.trace.extents;
        self.summary.rank_ms = self.trace.rank_ms;
        self.summary
    }
}

#[derive(Default)]
struct Watch {
    streams: Streams,
    detector: ColdStart,
}

/// Usage of one volume.
pub struct UsageMap {
    pub(super) geometry: Geometry,
    pub(super) volume: Uuid,
    pub(super) touches: Touches,
    armed: AtomicBool,
    /// A cold start was seen on the hot path and is not in the state yet.
    started_cold: AtomicBool,
    watch: Mutex<Watch>,
    state: Mutex<State>,
}

impl UsageMap {
    /// Opens the map `name` in `dir`, or begins an empty one where there is none or it cannot be used.
    pub fn open(dir: &dyn LogDir, name: &str, volume: Uuid, geometry: Geometry) -> Result<Arc<UsageMap>> {
        let (file, fresh) = match dir.open(name)? {
            Some(file) => (file, false),
            None => (dir.create(name)?, true),
        };
        let pages = geometry.extents().div_ceil(PAGE_EXTENTS as u64);
        let mut file = FactsFile::new(file, volume, geometry.extent, pages);
        let (summary, opened) = match (fresh, file.summary()) {
            (false, Ok(Some(s))) => (s, Opened::Kept),
            (true, _) => (new_summary(volume), Opened::New),
            (false, Ok(None)) if file.used()? == 0 => (new_summary(volume), Opened::New),
            (false, found) => {
                let why = found.err().map_or("its summary is damaged".to_string(), |e| e.what);
                tracing::warn!(map = name, why, "usage map begins empty");
                (new_summary(volume), Opened::Lost(why))
            }
        };
        if opened != Opened::Kept {
            file.clear()?;
            file.put_summary(&summary)?;
        }
        let trace = Trace {
            extents: summary.trace_extents,
            since_ms: summary.since_start_ms,
            rank_ms: summary.rank_ms,
        };
        let touches = Touches::new(geometry.extents());
        touches.set_tracing(trace.since_ms < TRACE_MS);
        let state = State {
            file,
            summary,
            opened,
            trouble: None,
            damaged_pages: 0,
            stamps: None,
            trace,
            ranked: HashMap::new(),
            carried: HashMap::new(),
            last_now: None,
            tick_ms: 0,
            next_page: 0,
            quiet_ms: 0,
            summary_due: false,
            untouched: false,
        };
        let is_new = state.opened == Opened::New;
        let map = UsageMap {
            geometry,
            volume,
            touches,
            armed: AtomicBool::new(false),
            started_cold: AtomicBool::new(false),
            watch: Mutex::default(),
            state: Mutex::new(state),
        };
        if is_new {
            // Whoever connects to a volume that was never served has nothing of it in memory.
            map.expect_cold_start();
        }
        Ok(Arc::new(map))
    }
    /// A panic elsewhere leaves at worst counts that fall short.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn watch(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// How the map was found.
    pub fn opened(&self) -> Opened {
        self.state().opened.clone()
    }
    /// Why the last attempt to keep facts failed, until one succeeds; and how often a damaged page was met (read as empty).
    pub fn trouble(&self) -> (Option<Error>, u64) {
        let s = self.state();
        (s.trouble.clone(), s.damaged_pages)
    }
    /// The shape of the volume.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The guest read `range`. Our own reads (backup, scrub, verification, hydration) are not usage: do not report them.
    pub fn read(&self, range: ByteRange) {
        let extents = self.geometry.touched(range);
        if self.armed.load(Relaxed) {
            self.first_requests(range, true);
        }
        if extents.count() > OPERATION_MAX {
            return;
        }
        for e in extents.iter() {
            self.touches.touch(e, true);
        }
        // Only the beginning of an extent can continue a stream: a random small read mostly stops here.
        let mask = self.geometry.extent.get() - 1;
        if range.start & mask == 0 || extents.count() > 1 {
            self.look_for_scan(range, extents);
        }
    }
    /// The guest wrote, zeroed or trimmed `range`.
    pub fn write(&self, range: ByteRange) {
        let extents = self.geometry.touched(range);
        if self.armed.load(Relaxed) {
            self.first_requests(range, false);
        }
        if extents.count() > OPERATION_MAX {
            return;
        }
        for e in extents.iter() {
            self.touches.touch(e, false);
        }
    }
    #[inline(never)]
    fn look_for_scan(&self, range: ByteRange, extents: ExtentRange) {
        let Ok(mut watch) = self.watch.try_lock() else { return };
        let aligned = range.start & (self.geometry.extent.get() - 1) == 0;
        let begun = ExtentRange { start: extents.start + u64::from(!aligned), end: extents.end };
        if watch.streams.read(begun) {
            extents.iter().for_each(|e| self.touches.scanned(e));
        }
    }
    #[cold]
    fn first_requests(&self, range: ByteRange, is_read: bool) {
        let mut watch = self.watch();
        if watch.detector.request(range, is_read) {
            self.touches.clear_read();
            self.touches.set_tracing(true);
            self.started_cold.store(true, Relaxed);
        }
        self.armed.store(watch.detector.is_armed(), Relaxed);
    }

    /// The owner's timer: call about once a second with a monotonic clock while the volume is served.
    pub fn served(&self, now: Duration) {
        let mut s = self.state();
        let passed = now.saturating_sub(s.last_now.unwrap_or(now)).min(Duration::from_secs(60));
        s.last_now = Some(now);
        self.pass(&mut s, passed.as_millis() as u64);
    }
    /// So much time was served.
    pub(super) fn pass(&self, s: &mut State, ms: u64) {
        let busy = self.touches.take_busy();
        let mut watch = self.watch();
        watch.detector.served(ms, busy);
        self.armed.store(watch.detector.is_armed(), Relaxed);
        drop(watch);
        s.quiet_ms = if busy { 0 } else { s.quiet_ms + ms };
        self.rank_entered(s);
        s.trace.since_ms = s.trace.since_ms.saturating_add(ms);
        if s.trace.since_ms >= TRACE_MS {
            self.touches.set_tracing(false);
        }
        s.tick_ms += ms;
        let ticks = s.tick_ms / TICK_MS;
        s.tick_ms %= TICK_MS;
        s.summary.tick = s.summary.tick.saturating_add(ticks as u32);
        // Half-way through a quiet minute all is folded, so that a cold start finds nothing left over from the old set.
        if ticks > 0 || self.touches.is_full() || half_quiet(s.quiet_ms, ms) {
            let max = if s.quiet_ms > 0 { usize::MAX } else { FOLD_PAGES };
            self.fold(s, max);
        }
    }
    /// Gives first reads their rank, in the order they came.
    fn rank_entered(&self, s: &mut State) {
        // Boot reads soon after a start that was told (a restore, say) belong to that start; taking them for another
        // would push the good set out.
        let told = s.summary.cold_starts > 0 && s.trace.since_ms < QUIET_MS;
        if self.started_cold.swap(false, Relaxed) && !told {
            match s.untouched {
                // Told long ago (a restore), and nobody came until now: that start is this one, its set is still empty.
                true => s.trace = Trace::default(),
                false => begin_trace(s),
            }
        }
        for extent in self.touches.take_entered() {
            if s.ranked.len() >= RANKED_MAX {
                return; // The fold ranks the others, in the order of extents.
            }
            let rank = s.trace.enter();
            s.ranked.insert(extent, rank);
        }
    }
    /// Folds up to `max` touched pages, going round.
    pub(super) fn fold(&self, s: &mut State, max: usize) {
        for (extent, (reads, writes)) in self.touches.take_carried() {
            let sum = s.carried.entry(extent).or_default();
            *sum = (sum.0.saturating_add(reads), sum.1.saturating_add(writes));
        }
        let mut pages = self.touches.take_touched(s.next_page, max);
        if pages.len() < max && s.next_page > 0 {
            pages.extend(self.touches.take_touched(0, max - pages.len()));
        }
        s.next_page = if pages.len() < max { 0 } else { pages.last().map_or(0, |p| p + 1) };
        let mut facts = empty_page();
        for page in &pages {
            match self.fold_page(s, *page, &mut facts) {
                Ok(()) => s.trouble = None,
                Err(e) => {
                    if s.trouble.is_none() {
                        tracing::warn!(error = %e, "usage map cannot be kept");
                    }
                    s.trouble = Some(e);
                }
            }
        }
        if !pages.is_empty() || s.summary_due {
            s.summary_due = self.put_summary(s).is_err();
        }
    }
    pub(super) fn put_summary(&self, s: &mut State) -> Result<()> {
        s.summary.stamp += 1;
        let summary = s.current();
        s.file.put_summary(&summary)
    }
    fn fold_page(&self, s: &mut State, index: u64, facts: &mut PageFacts) -> Result<()> {
        s.untouched = false;
        self.load(s, index, facts)?;
        self.fold_into(s, index, facts);
        self.store(s, index, facts)
    }
    fn fold_into(&self, s: &mut State, index: u64, facts: &mut PageFacts) {
        let Some(page) = self.touches.page(index) else { return };
        let first = index * PAGE_EXTENTS as u64;
        for (slot, f) in facts.iter_mut().enumerate() {
            let extent = first + slot as u64;
            let mut touch = page.take(slot);
            if !s.carried.is_empty() {
                let (reads, writes) = s.carried.remove(&extent).unwrap_or_default();
                touch = Touch { reads: touch.reads + reads, writes: touch.writes + writes, ..touch };
            }
            f.fold(extent, touch, s.summary.tick);
            if touch.writes > 0 {
                f.enter(LATE);
            }
            if page.was_read(slot) {
                match s.ranked.remove(&extent) {
                    Some(rank) => f.enter(rank),
                    None if f.rank().is_none() => f.enter(s.trace.enter()),
                    None => {}
                }
            }
        }
    }
    /// Reads a page as it was written; `None`: no page, or a damaged one.
    pub(super) fn load_as_is(
        &self,
        s: &mut State,
        index: u64,
        facts: &mut PageFacts,
    ) -> Result<Option<PageHead>> {
        match s.file.read(index, facts)? {
            Slot::Page(head) => Ok(Some(head)),
            Slot::Empty | Slot::Damaged => Ok(None),
        }
    }
    /// Reads a page of facts, brought to the present.
    pub(super) fn load(&self, s: &mut State, index: u64, facts: &mut PageFacts) -> Result<()> {
        match s.file.read(index, facts)? {
            Slot::Empty => {}
            Slot::Damaged => s.damaged_pages += 1,
            Slot::Page(head) => facts.iter_mut().for_each(|f| f.age(head.cold_starts, s.summary.cold_starts)),
        }
        Ok(())
    }
    pub(super) fn store(&self, s: &mut State, index: u64, facts: &PageFacts) -> Result<()> {
        // The stamp of the summary that will be written after these pages.
        let stamp = s.summary.stamp + 1;
        s.file.write(index, PageHead { cold_starts: s.summary.cold_starts, stamp }, facts)?;
        if let Some(stamps) = &mut s.stamps {
            stamps.of_page[index as usize] = stamp;
            stamps.newest = stamps.newest.max(stamp);
        }
        Ok(())
    }

    /// The guest starts cold now, the owner knows: a drill, the agent's word. A new trace begins, unless nothing was
    /// touched since the last one began.
    pub fn cold_start(&self) {
        self.cold_start_in(&mut self.state());
    }
    fn cold_start_in(&self, s: &mut State) {
        self.watch().detector.told();
        self.armed.store(false, Relaxed);
        self.rank_entered(s);
        self.fold(s, usize::MAX);
        if s.untouched {
            return; // Told twice: a second one would push the good set out.
        }
        self.touches.clear_read();
        self.touches.set_tracing(true);
        begin_trace(s);
    }
    /// No guest can be running on (the host was booted since): the first read of the boot structures is a cold start.
    pub fn expect_cold_start(&self) {
        self.watch().detector.expect();
        self.armed.store(true, Relaxed);
    }
    /// Takes over the trace of another start of this very data (a drill): see `exchange`.
    pub(super) fn adopt_trace(&self, s: &mut State, number: u64, trace: Trace) {
        self.cold_start_in(s);
        s.trace = trace;
        s.summary.drill = number;
        self.touches.set_tracing(false);
    }
    /// Goes on with another map's time; a restore is a cold start, so a new trace begins.
    pub(super) fn adopt_summary(&self, s: &mut State, from: &Summary) {
        let own = s.summary;
        let cold_starts = from.cold_starts.max(own.cold_starts);
        let tick = from.tick.saturating_add(own.tick);
        s.summary = Summary { cold_starts, tick, drill: own.drill.max(from.drill), ..own };
        self.watch().detector.told();
        self.armed.store(false, Relaxed);
        self.touches.clear_read();
        self.touches.set_tracing(true);
        begin_trace(s);
    }

    /// Folds everything and makes it durable: a clean stop.
    pub fn close(&self) -> Result<()> {
        let mut s = self.state();
        self.rank_entered(&mut s);
        self.fold(&mut s, usize::MAX);
        self.put_summary(&mut s)?;
        s.file.sync()
    }
    /// What the facts are relative to, everything folded.
    pub fn summary(&self) -> Summary {
        let mut s = self.state();
        self.rank_entered(&mut s);
        self.fold(&mut s, usize::MAX);
        // Nothing is folded while nothing is touched, but time is served.
        s.current()
    }
    /// Shows every extent with facts, everything folded, ascending. Damaged pages are left out. A page at
    /// a time is locked: folds may come between.
    pub fn visit(&self, see: &mut dyn FnMut(u64, &Facts)) -> Result<()> {
        self.summary();
        let (mut facts, mut from) = (empty_page(), 0);
        while let Some(index) = self.load_next(from, &mut facts)? {
            from = index + 1;
            let first = index * PAGE_EXTENTS as u64;
            let known = facts.iter().enumerate().filter(|(_, f)| !f.is_empty());
            known.for_each(|(slot, f)| see(first + slot as u64, f));
        }
        Ok(())
    }
    fn load_next(&self, from: u64, facts: &mut PageFacts) -> Result<Option<u64>> {
        let mut s = self.state();
        let Some(index) = s.file.next_written(from)? else { return Ok(None) };
        self.load(&mut s, index, facts)?;
        Ok(Some(index))
    }
    /// The hot list: extents in restore order with their usage weights, at most `limit`; `hints` are ranges that come early
    /// though nobody touched them (changed in the latest snapshots, file-system metadata).
    pub fn hot_list_weighed(
        &self,
        order: Order,
        hints: &[ExtentRange],
        limit: usize,
    ) -> Result<Vec<(u64, u8)>> {
        let mut ranker = Ranker::new(order, limit);
        self.visit(&mut |extent, facts| ranker.offer(extent, facts))?;
        let end = self.geometry.extents();
        for h in hints {
            ranker.hint(ExtentRange { start: h.start.min(end), end: h.end.min(end) });
        }
        Ok(ranker.finish_weighed())
    }
    /// The same without weights.
    pub fn hot_list(&self, order: Order, hints: &[ExtentRange], limit: usize) -> Result<Vec<u64>> {
        self.hot_list_weighed(order, hints, limit).map(without_weights)
    }
    /// Histogram and coverage curve.
    pub fn coverage(&self, by: Order) -> Result<Coverage> {
        let tick = self.state().summary.tick;
        let mut coverage = Coverage::new(by, tick);
        self.visit(&mut |_, facts| coverage.add(facts))?;
        Ok(coverage)
    }
}

/// Half of the quiet minute ended in this step.
fn half_quiet(quiet_ms: u64, step_ms: u64) -> bool {
    quiet_ms >= QUIET_MS / 2 && quiet_ms.saturating_sub(step_ms) < QUIET_MS / 2
}
fn begin_trace(s: &mut State) {
    s.summary.cold_starts = s.summary.cold_starts.saturating_add(1);
    s.trace = Trace::default();
    s.ranked.clear();
    s.summary_due = true;
    s.untouched = true;
    tracing::debug!(volume = %s.summary.volume, cold_starts = s.summary.cold_starts, "cold start");
}
/// No start was seen yet: what is touched is in the set, late, and goes by score.
fn new_summary(volume: Uuid) -> Summary {
    Summary { volume, map: random::uuid(), since_start_ms: TRACE_MS, ..Summary::default() }
}
