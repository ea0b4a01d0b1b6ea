//! One step, the threads that loop over it, and what operators may change meanwhile.

use super::super::lock;
use super::super::set::RestoreSet;
use super::super::target::Heat;
use super::inbox::Inbox;
use super::metadata::metadata_extents;
use super::rest::{VolumeRest, WindowLook};
use super::state::{Asked, Look, State};
use super::{Away, FillOptions, FillStatus, FillStep};
use rekindle_core::hydrate::{Outcome, Source, TooManyFirst};
use rekindle_core::volume::ExtentRange;
use rekindle_io::clock::Clock;
use rekindle_io::{Error, Result};
use std::sync::atomic::{AtomicBool, Ordering::*};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that ask a holder which answers inline.
const INLINE_THREADS: usize = 2;
/// How long an inline fill steps back for a guest that waits: never longer, so that it is not starved.
const STEP_BACK: Duration = Duration::from_millis(2);
/// Extents made zero at a time, on destinations that held something before.
const ZEROS: u64 = 256;
/// Extents started in one step at most.
const BATCH_MAX: usize = 256;

/// Fills one set.
pub struct Fill {
    set: Arc<RestoreSet>,
    inbox: Arc<Inbox>,
    clock: Arc<dyn Clock>,
    pub(super) state: Mutex<State>,
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What a step decided to start: extents of one volume, in one call.
pub(super) struct Ask {
    pub volume: u16,
    pub heat: Heat,
    pub extents: Vec<u64>,
}

impl Ask {
    fn has_room_for(&self, volume: u16, heat: Heat, most: usize) -> bool {
        (self.volume, self.heat) == (volume, heat) && self.extents.len() < most
    }
}

impl Fill {
    /// Prepares to fill `set`; nothing runs yet. Goes online at once if the rule says so. One fill a set.
    pub fn new(set: Arc<RestoreSet>, options: FillOptions, clock: Arc<dyn Clock>) -> Arc<Fill> {
        let now = clock.now();
        let inbox = Arc::new(Inbox::new(clock.clone()));
        set.observe(inbox.clone());
        let mut state = State::new(&set, options, now);
        state.look_online(&set, now);
        Arc::new(Fill {
            set,
            inbox,
            clock,
            state: Mutex::new(state),
            stopping: AtomicBool::new(false),
            threads: Mutex::default(),
        })
    }

    /// One decision. Never waits for the holder, unless it answers inline.
    pub fn step(&self) -> FillStep {
        let now = self.clock.now();
        let batch = {
            let mut s = self.heard(now);
            s.look_online(&self.set, now);
            match self.decide(&mut s, now) {
                Ok(batch) => batch,
                Err(FillStep::Worked) => match s.rests.iter_mut().find_map(VolumeRest::look) {
                    Some(look) => {
                        drop(s);
                        return self.look(look);
                    }
                    None => return FillStep::Worked,
                },
                Err(step) => return step,
            }
        };
        // Outside the lock: an inline holder reads, opens and writes here.
        for Ask { volume, heat, extents } in batch {
            if self.set.fetch(volume, &extents, heat) < extents.len() {
                self.forget_unstarted(volume, &extents);
            }
        }
        FillStep::Worked
    }
    /// Without the lock: the holder may take its time, and status, a stop and what came are not kept waiting for it.
    fn look(&self, mut look: WindowLook) -> FillStep {
        let seen = look.run(&self.stopping);
        let now = self.clock.now();
        let mut s = self.heard(now);
        s.rests[look.volume as usize].looked(look);
        let step = match seen {
            Ok(()) => FillStep::Worked,
            Err(e) => {
                s.failed(None, e, now);
                FillStep::Wait(Duration::from_millis(10))
            }
        };
        drop(s);
        self.inbox.ring();
        step
    }
    /// The state with all that was reported so far.
    fn heard(&self, now: Duration) -> MutexGuard<'_, State> {
        let mut s = lock(&self.state);
        s.hear(|out| self.inbox.take(out), now);
        s
    }
    /// What to start now, or why nothing.
    fn decide(&self, s: &mut State, now: Duration) -> std::result::Result<Vec<Ask>, FillStep> {
        if self.set.is_complete() {
            s.look_online_now(&self.set, now);
            self.set.filled();
            return Err(FillStep::Complete);
        }
        let failed = self.set.parts.failed().is_some();
        s.throttle.set_paused(self.set.is_paused());
        if failed || self.set.is_paused() {
            return Err(FillStep::Wait(Duration::from_millis(500)));
        }
        if let Some(wait) = s.blocked(now) {
            return Err(FillStep::Wait(wait));
        }
        let inline = s.is_inline();
        let yields = inline && s.guest_waits(now);
        if yields {
            self.inbox.wait(STEP_BACK);
        }
        let batch = self.choose(s, now, inline, yields)?;
        if !batch.is_empty() {
            return Ok(batch);
        }
        match self.zeros_or_wait(s, now) {
            FillStep::Wait(wait) => {
                let mended = s.look_for_mended(&self.set, now);
                if mended.is_empty() { Err(FillStep::Wait(wait)) } else { Ok(mended) }
            }
            other => Err(other),
        }
    }
    /// `inline`: the holder answers on this thread; `yields`: a guest waits for it meanwhile.
    fn choose(
        &self,
        s: &mut State,
        now: Duration,
        inline: bool,
        yields: bool,
    ) -> std::result::Result<Vec<Ask>, FillStep> {
        let mut batch: Vec<Ask> = Vec::new();
        let stored = s.throttle.extent_stored().max(1);
        let probe = s.away.is_some();
        let (most, together) = if probe || yields {
            (1, 1)
        } else if inline {
            (s.inline_run, s.inline_run)
        } else {
            // What is asked for in one call may become one request, and a demand fetch behind it waits for all of it.
            (BATCH_MAX, (s.throttle.chunk() / stored).max(1) as usize)
        };
        let mut left = s.throttle.allowance(now);
        for _ in 0..most {
            if left < stored && !(left > 0 && s.asked.is_empty()) {
                break;
            }
            let mut look = Look { set: &self.set, rests: &mut s.rests, asked: &s.asked, stored };
            let next = match s.schedule.next(&mut look) {
                Outcome::Fetch(next) => next,
                Outcome::Swept => break,
                Outcome::Again if !batch.is_empty() => break,
                // Many were refused; or another thread looks what comes next.
                Outcome::Again if !s.rests.iter().any(VolumeRest::is_looked_at) => {
                    return Err(FillStep::Worked);
                }
                Outcome::Again => return Err(FillStep::Wait(Duration::from_millis(100))),
            };
            let volume = next.volume as u16;
            let heat = if next.source == Source::Rest { Heat::Cold } else { Heat::Hot };
            s.asked.insert((volume, next.extent), Asked { at: now, bytes: stored, source: next.source });
            s.throttle.started(stored);
            left = left.saturating_sub(stored);
            match batch.last_mut() {
                Some(ask) if ask.has_room_for(volume, heat, together) => ask.extents.push(next.extent),
                _ => batch.push(Ask { volume, heat, extents: vec![next.extent] }),
            }
            if inline && heat == Heat::Hot {
                break;
            }
        }
        if !batch.is_empty() {
            s.swept_something();
        }
        Ok(batch)
    }
    /// Nothing to fetch now: zeros that still have to be written, or wait.
    fn zeros_or_wait(&self, s: &mut State, now: Duration) -> FillStep {
        let (absent, zero) = self.set.missing();
        if zero > 0 && s.full.is_none() {
            let (volume, at) = s.zero_at;
            let end = (at + ZEROS).min(s.rests[volume].extents);
            s.zero_at =
                if end < s.rests[volume].extents { (volume, end) } else { ((volume + 1) % s.rests.len(), 0) };
            return match self.set.write_zeros(volume as u16, ExtentRange { start: at, end }) {
                Ok(_) => FillStep::Worked,
                Err(e) => {
                    s.failed(None, e, now);
                    FillStep::Wait(Duration::from_secs(1))
                }
            };
        }
        if let Some(wait) = s.throttle.wait() {
            return FillStep::Wait(wait);
        }
        if absent > 0 && s.asked.is_empty() && s.schedule.volumes.iter().all(|v| v.is_swept()) {
            return s.resweep(now).map_or(FillStep::Worked, FillStep::Wait);
        }
        FillStep::Wait(Duration::from_millis(100))
    }
    /// Others came first with some of these: they must not count as under way.
    pub(super) fn forget_unstarted(&self, volume: u16, extents: &[u64]) {
        let now = self.clock.now();
        let mut s = self.heard(now);
        for &extent in extents {
            if s.asked.contains_key(&(volume, extent))
                && !self.set.is_fetching(volume, extent)
                && let Some(a) = s.asked.remove(&(volume, extent))
            {
                s.throttle.ended(a.bytes);
                s.schedule.volumes[volume as usize].failed();
            }
        }
    }

    // ---- steering

    /// `tune --limit`: background bytes per second; `None` lifts it.
    pub fn set_limit(&self, limit: Option<u64>) {
        lock(&self.state).throttle.set_limit(limit, self.clock.now());
        self.inbox.ring();
    }
    /// `tune --weight`: the share of one volume.
    pub fn set_weight(&self, volume: usize, weight: u32) {
        if let Some(v) = lock(&self.state).schedule.volumes.get_mut(volume) {
            v.set_weight(weight);
        }
    }
    /// Another hot list with its weights, for instance when the usage map is there at last: a fill may begin at once with
    /// the list of the snapshot, or with none.
    pub fn set_hot(&self, volume: usize, hot: Vec<(u64, u8)>) {
        lock(&self.state).set_hot(volume, hot);
        self.inbox.ring();
    }
    /// Volumes of whose use nothing is known get their file systems' metadata as hints. Reads a little from the holder and
    /// waits for it: `start` leaves it to a thread of its own.
    pub fn look_for_metadata(&self) {
        for (volume, (_, holder)) in self.set.shapes().iter().enumerate() {
            let unknown = lock(&self.state).weighed[volume].is_empty();
            if unknown && !self.set.is_complete() {
                let ranges = metadata_extents(holder, &|| !self.stopping.load(Acquire));
                lock(&self.state).schedule.volumes[volume].hint(&ranges);
            }
        }
        self.inbox.ring();
    }
    /// `tune --first`: these before everything else in the background.
    pub fn first(&self, volume: usize, extents: ExtentRange) -> std::result::Result<(), TooManyFirst> {
        let done = lock(&self.state).schedule.volumes.get_mut(volume).map_or(Ok(()), |v| v.first(extents));
        self.inbox.ring();
        done
    }
    /// `tune --online-now`.
    pub fn online_now(&self) {
        let mut s = lock(&self.state);
        s.online.now();
        if s.online_why.is_none() {
            s.online_why = Some(rekindle_core::hydrate::Reason::Told);
        }
        self.set.set_online();
    }
    /// Asks again for what was damaged (the repository was repaired).
    pub fn retry_damaged(&self) {
        self.set.forget_damage();
        lock(&self.state).schedule.volumes.iter_mut().for_each(|v| v.failed());
        self.inbox.ring();
    }
    /// Looks again at what it waited for (after a resume, say).
    pub fn wake(&self) {
        self.inbox.ring();
    }

    /// How it goes.
    pub fn status(&self) -> FillStatus {
        let now = self.clock.now();
        // The last extent is local before its report is here, and then no step may follow that would hear of it.
        let s = self.heard(now);
        let progress = s.progress(&self.set, now, true);
        let link = s.throttle.link();
        let pace = s.throttle.limit().unwrap_or(u64::MAX).min(link.bytes_per_s);
        let lost: u64 = self.set.damage(0).volumes.iter().map(|(_, d)| d.extents).sum();
        let bytes_left = self.set.missing().0.saturating_sub(lost) as f64 * s.throttle.extent_stored() as f64;
        let left = (pace > 0).then(|| Duration::from_secs_f64(bytes_left / pace as f64));
        let away =
            |b: &super::state::Block| Away { why: b.why.to_string(), since: now.saturating_sub(b.since) };
        let sources = [Source::First, Source::Promoted, Source::Hot, Source::Rest];
        FillStatus {
            progress,
            online: s.online_why,
            fetched: sources.map(|source| (source, s.fetched[source as usize])),
            fetched_bytes: s.fetched_bytes,
            in_flight: s.asked.len(),
            link,
            limit: s.throttle.limit(),
            stalled: s.away.as_ref().map(away),
            no_space: s.full.as_ref().map(away),
            left,
        }
    }

    // ---- threads

    /// Lets threads loop over the steps until everything is local or `stop`.
    pub fn start(self: &Arc<Self>) -> Result<()> {
        let inline = lock(&self.state).is_inline();
        let spawn = |name: String, body: Box<dyn FnOnce() + Send>| -> Result<()> {
            let thread = std::thread::Builder::new().name(name).spawn(body);
            lock(&self.threads).push(thread.map_err(|e| Error::os("starting a fill thread", &e))?);
            Ok(())
        };
        let fill = self.clone();
        spawn("rk-fill-hints".into(), Box::new(move || fill.look_for_metadata()))?;
        for i in 0..if inline { INLINE_THREADS } else { 1 } {
            let weak = Arc::downgrade(self);
            let body = move || {
                while let Some(fill) = weak.upgrade().filter(|f| !f.stopping.load(Acquire)) {
                    match fill.step() {
                        FillStep::Worked => {}
                        FillStep::Wait(most) => fill.inbox.wait(most.min(Duration::from_millis(500))),
                        FillStep::Complete => return,
                    }
                }
            };
            spawn(format!("rk-fill-{i}"), Box::new(body))?;
        }
        Ok(())
    }
    /// Ends the threads; what is under way still comes.
    pub fn stop(&self) {
        self.stopping.store(true, Release);
        self.inbox.ring();
        for t in std::mem::take(&mut *lock(&self.threads)) {
            if t.join().is_err() {
                tracing::error!("a fill thread panicked");
            }
        }
    }
}
