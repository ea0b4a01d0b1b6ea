//! The mover: brings the log into the target, and settles what mover and fill wrote there.
//!
//! The order is the one of ARCHITECTURE.md, each step of it one `step` here so that tests can stop between any two:
//! 1. the log is durable up to a mark;
//! 2. pieces up to the mark are written to the target, extent by extent under its claim, where state and log are looked at
//!    (again). An absent extent is moved only when the log covers it whole; in part it waits for the fill, or is asked for
//!    when the log runs full. All of it zeros: the state says zero (the target is zero already, or is made so later);
//! 3. rarely (log a quarter full, or 30 s; in turns with 2), and when the guest flushed though nothing can be moved: the
//!    record names the next stamp; the changes of place so far are taken, then the target is stamped and flushed, and the
//!    record names that stamp alone (see `stamp`);
//! 4. exactly those changes, and all marks, go to the durable pages;
//! 5. pieces moved before the flush leave the index, if it still names them;
//! 6. segments that nothing names leave the durable table, oldest first, after another flush of the log, so that a newer
//!    record that hid an older one is durable before the older one is gone;
//! 7. when reads begun before have ended their files are used again, and waiting writes are let in.
//!
//! One thread steps at a time (the owner holds the mover), so between 3 and 5 nothing is moved; the fill may land
//! meanwhile, and what it lands is settled the next time.

use super::claims::{CHUNK, Claim};
use super::lock;
use super::parts::{HURRY_AT, MOVE_AT, PENDING_MAX, Parts, Pending, SETTLE_AT, Volume};
use super::stamp::Stamp;
use super::target::Heat;
use super::write_log::Held;
use rekindle_core::hydrate::Place;
use rekindle_core::log::Source;
use rekindle_core::volume::{ByteRange, ExtentRange};
use rekindle_io::holder::Urgency;
use rekindle_io::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// When the mover moves and settles.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MoverPace {
    /// Records wait this long, so that what is overwritten at once is moved once.
    pub move_after: Duration,
    /// The target is flushed at least this often while there is something to settle.
    pub settle_after: Duration,
}

impl Default for MoverPace {
    /// 2 s and 30 s.
    fn default() -> Self {
        MoverPace { move_after: Duration::from_secs(2), settle_after: Duration::from_secs(30) }
    }
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Something; there may be more at once.
    Worked,
    /// Nothing to do now.
    Idle,
}

enum Phase {
    Idle,
    Moving { at: (u16, u64), mark: u64 },
    Intend,
    Flush { stamp: Stamp },
    Stamped { stamp: Stamp, changes: PageChanges },
    Pages { changes: PageChanges, upto: usize },
    Free,
    Table,
    Recycle,
}

/// Changes by page: (volume, page) -> runs of extents and their place.
type PageChanges = Vec<((u16, u64), Vec<(ExtentRange, Place)>)>;

/// The mover's own state: everything else is in the parts.
pub(super) struct Mover {
    pace: MoverPace,
    phase: Phase,
    /// Everything up to here was looked at by a pass.
    passed: u64,
    /// Pieces were left behind for want of the rest of their extent.
    left_behind: bool,
    /// `Parts::landed` when the last pass began.
    landed: u64,
    moved: bool,
    /// The last thing done was a pass, not a settling.
    passed_last: bool,
    /// What of the log was durable when the last stamp was named.
    stamped: u64,
    last_pass: Duration,
    last_settle: Duration,
    asked: Vec<(u16, u64)>,
    /// Passes that found nothing to settle and settlings that ended, since the start.
    rounds: u64,
}

impl Mover {
    pub fn new(pace: MoverPace, now: Duration) -> Self {
        Mover {
            pace,
            phase: Phase::Idle,
            passed: 0,
            left_behind: false,
            landed: 0,
            moved: false,
            passed_last: false,
            stamped: 0,
            last_pass: now,
            last_settle: now,
            asked: Vec::new(),
            rounds: 0,
        }
    }
    /// One step. `hurry`: do not wait for the pace (hand-over, stop, tests).
    pub fn step(&mut self, p: &Arc<Parts>, hurry: bool) -> Result<Step> {
        if let Some(e) = p.failed() {
            return Err(e);
        }
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Idle => self.idle(p, hurry),
            Phase::Moving { at, mark } => self.moving(p, at, mark),
            Phase::Intend => self.intend(p),
            Phase::Flush { stamp } => self.flush(p, stamp),
            Phase::Stamped { stamp, changes } => self.stamped(p, stamp, changes),
            Phase::Pages { changes, upto } => self.pages(p, changes, upto),
            Phase::Free => {
                p.log.free_moved();
                self.moved = false;
                *lock(&p.health.trouble) = None;
                self.phase = Phase::Table;
                Ok(Step::Worked)
            }
            Phase::Table => {
                p.log.free_segments()?;
                self.phase = Phase::Recycle;
                Ok(Step::Worked)
            }
            Phase::Recycle => {
                p.log.recycle()?;
                p.pump();
                self.rounds += 1;
                Ok(Step::Worked)
            }
        }
    }

    /// For a stop: what fill and mover brought so far is settled whatever the pace, or it would be fetched again. Nothing
    /// more is moved: the log is durable.
    pub fn settle_now(&mut self, p: &Arc<Parts>) -> Result<()> {
        // A settling that had begun took its changes then; the second is of what came since.
        for _ in 0..2 {
            if matches!(self.phase, Phase::Idle | Phase::Moving { .. }) {
                if !self.moved && lock(&p.pending).is_empty() {
                    return Ok(());
                }
                self.phase = Phase::Intend;
            }
            while !matches!(self.phase, Phase::Idle) {
                if self.step(p, true)? == Step::Idle {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn idle(&mut self, p: &Arc<Parts>, hurry: bool) -> Result<Step> {
        let now = p.clock.now();
        let full = p.log.fullness();
        // Each pass goes over all that was moved and is not settled: without a pause it would bring a record or two.
        let filling = full >= MOVE_AT && now >= self.last_pass + self.pace.move_after / 20;
        let pressed = hurry || filling || full >= HURRY_AT || !p.waiting.is_empty();
        let landed = p.landed.load(Acquire);
        // What was left behind can be moved when something changed place; else only a busy claim was in the way.
        let fresh = p.move_limit(p.log.written()) > self.passed || self.left_behind && landed != self.landed;
        if p.log.recycle()? | p.pump() {
            return Ok(Step::Worked);
        }
        let waited = now >= self.last_pass + self.pace.move_after;
        let pass = (fresh || self.left_behind && hurry) && (waited || pressed) || self.left_behind && waited;
        // In turns: a guest that never stops writing must not keep moved records from being settled, nor a fill that
        // never stops landing keep records from being moved.
        if self.settle_due(p, now, full, hurry) && (self.passed_last || !pass) {
            self.passed_last = false;
            self.last_settle = now;
            self.phase = Phase::Intend;
            return Ok(Step::Worked);
        }
        if !pass {
            return Ok(Step::Idle);
        }
        self.passed_last = true;
        self.landed = landed;
        p.log.flush()?;
        self.last_pass = now;
        self.left_behind = false;
        self.phase = Phase::Moving { at: (0, 0), mark: p.move_limit(p.log.durable()) };
        Ok(Step::Worked)
    }
    /// Rarely: a flush of the destination is dear while it is being filled.
    fn settle_due(&self, p: &Parts, now: Duration, full: u64, hurry: bool) -> bool {
        let pending = lock(&p.pending).len();
        let since = now.saturating_sub(self.last_settle);
        if !self.moved && pending == 0 {
            // A state copied aside before what was flushed since must not fit this destination any more.
            let flushed = p.log.durable() > self.stamped && since >= self.pace.settle_after;
            return flushed || p.stamps_due.load(Acquire);
        }
        let pressed = full >= SETTLE_AT && since >= self.pace.settle_after / 30 || full >= HURRY_AT;
        let due = hurry || p.stamps_due.load(Acquire);
        due || pressed || since >= self.pace.settle_after || !p.waiting.is_empty() || pending >= PENDING_MAX
    }

    /// Moves up to 64 extents.
    fn moving(&mut self, p: &Arc<Parts>, mut at: (u16, u64), mark: u64) -> Result<Step> {
        for _ in 0..64 {
            let (volume, piece) = match p.log.next_unmoved(at, mark) {
                Ok(found) => found,
                Err(Some(next)) => {
                    at = next;
                    continue;
                }
                Err(None) => {
                    // An open instant holds newer records back: they are news again when it ends.
                    self.passed = mark;
                    self.ask(p);
                    self.rounds += u64::from(!self.moved);
                    return Ok(Step::Worked);
                }
            };
            let v = &p.volumes[volume as usize];
            // A piece may begin before `at`, in an extent that was left behind: go on behind that.
            let from = if volume == at.0 { piece.range.start.max(at.1) } else { piece.range.start };
            let extent = from >> v.geometry.extent.shift();
            let range = v.geometry.extent_bytes(extent);
            at = (volume, range.end());
            match self.move_extent(p, v, extent, mark) {
                Ok(true) => self.moved = true,
                Ok(false) => self.leave_behind(p, volume, extent),
                Err(e) => {
                    self.left_behind = true;
                    p.target_trouble(v, e);
                    return Ok(Step::Idle);
                }
            }
            if piece.range.end() > range.end() {
                // The next extent of the same piece.
                continue;
            }
        }
        self.phase = Phase::Moving { at, mark };
        Ok(Step::Worked)
    }
    fn leave_behind(&mut self, p: &Parts, volume: u16, extent: u64) {
        self.left_behind = true;
        // When the log is half full what pins it is asked for, a few at a time; before that the fill comes by anyway.
        let limit = if p.waiting.is_empty() { 64 } else { 256 };
        if (p.log.fullness() >= 500 || !p.waiting.is_empty()) && self.asked.len() < limit {
            self.asked.push((volume, extent));
        }
    }
    fn ask(&mut self, p: &Arc<Parts>) {
        let urgency = if p.waiting.is_empty() { Urgency::Background } else { Urgency::Demand };
        let mut asked = std::mem::take(&mut self.asked);
        // Asked for at every pass it would be a loop; the fill asks slowly.
        asked.retain(|(volume, extent)| !p.is_damaged(*volume, *extent));
        for of_one in asked.chunk_by(|a, b| a.0 == b.0) {
            let extents: Vec<u64> = of_one.iter().map(|(_, extent)| *extent).collect();
            p.fetch_aside(&p.volumes[of_one[0].0 as usize], &extents, urgency);
        }
    }

    /// Moves what the log has of one extent, under its claim; false if it has to wait.
    fn move_extent(&mut self, p: &Parts, v: &Volume, extent: u64, mark: u64) -> Result<bool> {
        let range = v.geometry.extent_bytes(extent);
        let Some(claim) = v.claims.try_claim(extent) else { return Ok(false) };
        let mut held = Vec::new();
        p.log.resolve(v.at, range, &mut held);
        held.retain(|h| h.piece.sequence <= mark && !h.piece.moved);
        if held.is_empty() {
            return Ok(true);
        }
        if claim.place() == Place::Absent && !p.log.covers(v.at, range, mark) {
            return Ok(false);
        }
        let place = write_pieces(v, &claim, range, &held)?;
        if place != claim.place() {
            p.changed(v.at, ExtentRange { start: extent, end: extent + 1 }, place);
        }
        p.log.mark_moved(v.at, &held);
        claim.release(place);
        Ok(true)
    }

    fn intend(&mut self, p: &Parts) -> Result<Step> {
        let durable = p.log.durable();
        match p.intend_stamp() {
            Ok(stamp) => {
                self.stamped = durable;
                self.phase = Phase::Flush { stamp };
                Ok(Step::Worked)
            }
            Err(e) => self.wait_for_space(p, e.at("restore record"), Phase::Intend),
        }
    }
    fn flush(&mut self, p: &Parts, stamp: Stamp) -> Result<Step> {
        for v in &p.volumes {
            if let Err(e) = v.target.stamp(stamp) {
                return self.wait_for_space(p, e.at(&v.name), Phase::Flush { stamp });
            }
        }
        // Taken before the flush: what lands from now on is not covered by it.
        let pending = std::mem::take(&mut *lock(&p.pending));
        for v in &p.volumes {
            if let Err(e) = v.target.flush() {
                p.fail(e.clone().at(format!("flush of the destination of {}", v.name)));
                return Err(e);
            }
        }
        self.phase = Phase::Stamped { stamp, changes: by_page(p, &pending) };
        Ok(Step::Worked)
    }
    fn stamped(&mut self, p: &Parts, stamp: Stamp, changes: PageChanges) -> Result<Step> {
        if let Err(e) = p.stamped(stamp) {
            return self.wait_for_space(p, e.at("restore record"), Phase::Stamped { stamp, changes });
        }
        self.phase = Phase::Pages { changes, upto: 0 };
        Ok(Step::Worked)
    }
    /// No space is waited out: nothing is lost, what is not settled stays in the log, and the guest goes on until that is
    /// full. After anything else only a reopening can tell what is durable.
    fn wait_for_space(&mut self, p: &Parts, e: Error, again: Phase) -> Result<Step> {
        if e.kind != Kind::Full {
            p.fail(e.clone());
            return Err(e);
        }
        *lock(&p.health.trouble) = Some(e);
        self.phase = again;
        Ok(Step::Idle)
    }
    /// Writes up to 256 pages; makes them durable when all are written.
    fn pages(&mut self, p: &Parts, changes: PageChanges, upto: usize) -> Result<Step> {
        let end = changes.len().min(upto + 256);
        for (i, ((volume, page), runs)) in changes[upto..end].iter().enumerate() {
            let v = &p.volumes[*volume as usize];
            let done = lock(&v.pages).update(*page, |image| {
                for (extents, place) in runs {
                    extents.iter().for_each(|e| image.set_place(e % CHUNK, *place));
                }
                v.claims.marks_of(*page, &mut image.marks[..]);
            });
            match done {
                Ok(()) => {}
                Err(e) => {
                    let again = Phase::Pages { changes, upto: upto + i };
                    return self.wait_for_space(p, e.at("state pages"), again);
                }
            }
        }
        let all = end == changes.len();
        let synced = if all { p.volumes.iter().try_for_each(|v| lock(&v.pages).sync()) } else { Ok(()) };
        if let Err(e) = synced {
            return self.wait_for_space(p, e.at("state pages"), Phase::Pages { changes, upto: end });
        }
        self.phase = if all { Phase::Free } else { Phase::Pages { changes, upto: end } };
        Ok(Step::Worked)
    }
    /// Grows with every pass that had nothing to move and every settling: what was in the log when it had some value has
    /// been looked at and settled when it is two more.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }
    /// Nothing is left to move or to settle.
    pub fn is_clean(&self, p: &Parts) -> bool {
        matches!(self.phase, Phase::Idle) && !self.moved && p.log.pieces() == 0 && lock(&p.pending).is_empty()
    }
}

/// Writes the pieces of one extent to the target; returns where the extent then is.
fn write_pieces(v: &Volume, claim: &Claim<'_>, range: ByteRange, held: &[Held]) -> Result<Place> {
    let pristine = v.target.is_pristine() && claim.place() != Place::Local;
    let all_trim = held.iter().all(|h| h.piece.source == Source::Trim);
    if claim.place() != Place::Local && all_trim {
        // Absent and covered whole, or zero already.
        return Ok(if pristine { Place::Local } else { Place::Zero });
    }
    if claim.place() == Place::Zero && !pristine {
        // The state's zeros become real before a part of them is overwritten.
        v.target.zero(range, false)?;
    }
    let mut run: Vec<u8> = Vec::new();
    let mut start = 0;
    for h in held {
        let r = h.piece.range;
        if !run.is_empty() && start + run.len() as u64 != r.start {
            v.target.write(start, &run, Heat::Hot)?;
            run.clear();
        }
        if let Source::Data { .. } = h.piece.source {
            if run.is_empty() {
                start = r.start;
            }
            let at = run.len();
            run.resize(at + r.len as usize, 0);
            h.read(0, &mut run[at..])?;
            continue;
        }
        if !run.is_empty() {
            v.target.write(start, &run, Heat::Hot)?;
            run.clear();
        }
        let keep = h.piece.source == Source::Zero;
        if keep || !pristine {
            v.target.zero(r, keep)?;
        }
    }
    if !run.is_empty() {
        v.target.write(start, &run, Heat::Hot)?;
    }
    Ok(Place::Local)
}

/// Sorts changes into pages, and adds the pages whose marks changed.
fn by_page(p: &Parts, pending: &[Pending]) -> PageChanges {
    let mut pages: BTreeMap<(u16, u64), Vec<(ExtentRange, Place)>> = BTreeMap::new();
    for c in pending {
        let mut start = c.extents.start;
        while start < c.extents.end {
            let page = start / CHUNK;
            let end = c.extents.end.min((page + 1) * CHUNK);
            pages.entry((c.volume, page)).or_default().push((ExtentRange { start, end }, c.place));
            start = end;
        }
    }
    for v in &p.volumes {
        for page in v.claims.take_dirty() {
            pages.entry((v.at, page)).or_default();
        }
    }
    pages.into_iter().collect()
}
