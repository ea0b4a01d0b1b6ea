//! A set being restored: made, resumed, steered, watched, stopped.
//!
//! `create` makes log, state and record durable and returns: the volumes can be served at once, whatever their size.
//! `resume` does the same after a crash from what the folder holds: state pages first, then the log, whose records mark
//! what the guest changed. Everything in the background is a step of mover, log, timer or worker; `start` only lets
//! threads loop over them, and tests call them by hand.

use super::claims::{CHUNK, Claims};
use super::fetch::FetchObserver;
use super::lock;
use super::mover::{Mover, MoverPace, Step};
use super::pages::Pages;
use super::parts::{GuestUse, Health, Parts, Signal, Volume};
use super::plan::{Phase, PlanRecord, PlanSlot, PlannedVolume};
use super::stamp::{Owner, Stamp, judge};
use super::target::{Heat, LABEL, Label, Target};
use super::volume::RestoreVolume;
use super::waiting::WaitingWrites;
use super::work::Work;
use super::write_log::{LogLimits, LogReport, WriteLog};
use rekindle_core::volume::{ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::block::Block;
use rekindle_io::clock::Clock;
use rekindle_io::holder::Holder;
use rekindle_io::logfile::{LogDir, LogFile};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, OnceLock, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

/// What one volume is restored from and to.
pub struct VolumeParts {
    /// Gives the moment's bytes.
    pub holder: Arc<dyn Holder>,
    /// The destination.
    pub target: Arc<dyn Block>,
    /// It is new and reads as zeros everywhere (a fresh file). Only believed for a restore that begins now.
    pub fresh: bool,
    /// Counts the guest's use.
    pub usage: Option<Arc<dyn GuestUse>>,
}

/// A volume to restore.
pub struct NewVolume {
    /// Label inside the set.
    pub name: String,
    /// Identity for life: as the snapshot has it, or a fresh one for a copy beside the original.
    pub volume: Uuid,
    /// Tracking and generation that the snapshot carries: a backup whose parent is it is incremental. `None`: unknown.
    pub origin: Option<(Uuid, Generation)>,
    /// Where the destination is, for opening it again.
    pub destination: String,
    /// From and to.
    pub parts: VolumeParts,
}

/// What may be chosen for a restore, and changed when it is resumed.
#[derive(Clone)]
pub struct RestoreOptions {
    /// Bounds of the write log; fixed when the restore begins.
    pub log: LogLimits,
    /// When the mover moves.
    pub pace: MoverPace,
    /// How long the guest waits for a holder that is away.
    pub stall_limit: Duration,
    /// Kept with the record and given back by `peek`.
    pub app: serde_json::Value,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        RestoreOptions {
            log: LogLimits::default(),
            pace: MoverPace::default(),
            stall_limit: Duration::from_secs(300),
            app: serde_json::Value::Null,
        }
    }
}

/// A set being restored.
pub struct RestoreSet {
    pub(super) parts: Arc<Parts>,
    pub(super) volumes: Vec<Arc<RestoreVolume>>,
    pub(super) mover: Mutex<Mover>,
    pub(super) mended: AtomicU64,
    /// Verification has looked at everything; what it could not compare is in the volumes.
    pub(super) rest_verified: AtomicBool,
    pub(super) state: Arc<dyn LogDir>,
    online: AtomicBool,
    paused: AtomicBool,
    pub(super) report: LogReport,
    pub(super) threads: Mutex<Vec<JoinHandle<()>>>,
}

pub(super) fn state_name(i: usize) -> String {
    format!("state-{i}")
}
pub(super) fn edges_name(i: usize) -> String {
    format!("edges-{i}")
}

impl RestoreSet {
    /// Begins a restore. When this returns everything that makes it resumable is durable, and its volumes can be served.
    /// `Kind::Exists` if the folder holds a restore already.
    pub fn create(
        state: Arc<dyn LogDir>,
        set: &str,
        volumes: Vec<NewVolume>,
        options: RestoreOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Arc<RestoreSet>> {
        if let Some(old) = super::plan::peek(&*state)? {
            let what = format!("{} already holds the restore of {}", state.place(), old.set);
            return Err(Error::new(Kind::Exists, what));
        }
        let planned = volumes.iter().map(planned).collect::<Result<Vec<_>>>()?;
        let plan = PlanRecord::new(set, planned, options.log, options.app.clone());
        // Remainders of an attempt that never became a restore.
        for name in state.names()? {
            if super::plan::is_ours(&name) {
                state.remove(&name)?;
            }
        }
        let slot = PlanSlot::create(&*state)?;
        let parts = volumes.into_iter().map(|v| v.parts).collect();
        let made = Self::open(state, slot, plan, parts, &options, clock, true)?;
        // All names at once; then, last of all, the record: from here on it is a restore. Both its copies: with one alone a
        // damaged sector would make it none, and what it holds the remainders of an attempt.
        made.state.sync_names()?;
        {
            let p = lock(&made.parts.plan);
            p.0.store(&p.1)?;
            p.0.store(&p.1)?;
        }
        Ok(made)
    }

    /// Goes on with the restore that the folder holds. `opener` brings holder and destination of each volume.
    /// `Kind::Gone` if there is none, `Kind::Exists` if it was handed over already: then its volumes are live.
    pub fn resume(
        state: Arc<dyn LogDir>,
        options: RestoreOptions,
        clock: Arc<dyn Clock>,
        mut opener: impl FnMut(&PlannedVolume) -> Result<VolumeParts>,
    ) -> Result<Arc<RestoreSet>> {
        let slot = PlanSlot::open(&*state)?;
        let gone = || Error::new(Kind::Gone, format!("{} holds no restore", state.place()));
        let plan = slot.load()?.ok_or_else(gone)?;
        if plan.phase == Phase::Live {
            let what = format!("the restore of {} was handed over: its volumes are live", plan.set);
            return Err(Error::new(Kind::Exists, what));
        }
        let parts = plan.volumes.iter().map(&mut opener).collect::<Result<Vec<_>>>()?;
        for (p, v) in plan.volumes.iter().zip(&parts) {
            if v.holder.identity().moment != p.moment()? {
                let what = format!("{}: {} is another moment", p.name, v.holder.identity().shown);
                return Err(Error::new(Kind::Invalid, what));
            }
        }
        Self::open(state, slot, plan, parts, &options, clock, false)
    }

    fn open(
        state: Arc<dyn LogDir>,
        slot: PlanSlot,
        mut plan: PlanRecord,
        parts: Vec<VolumeParts>,
        options: &RestoreOptions,
        clock: Arc<dyn Clock>,
        new: bool,
    ) -> Result<Arc<RestoreSet>> {
        let mut volumes = Vec::new();
        for (i, (v, p)) in parts.into_iter().zip(&plan.volumes).enumerate() {
            volumes.push(open_volume(&*state, i, v, p, &plan, new)?);
        }
        // A power cut took extents back that no page named yet: what comes in their place was not read back.
        plan.verified &= volumes.iter().all(|v| v.claims.missing() == (0, 0));
        if new {
            first_stamps(&mut plan, &volumes)?
        } else {
            go_on(&mut plan, &slot, &volumes, &*state)?
        };
        volumes.iter().try_for_each(|v| lock(&v.pages).mend())?;
        let sizes: Vec<u64> = volumes.iter().map(|v| v.geometry.size).collect();
        let (owner, limits) = (plan.restore_uuid()?, plan.log_limits());
        let (log, report) = if new {
            (WriteLog::create(state.clone(), owner, limits, sizes.len())?, LogReport::default())
        } else {
            WriteLog::open(state.clone(), owner, limits, &sizes, |r| {
                let v = &volumes[r.volume as usize];
                v.claims.mark(v.geometry.touched(r.range), plan.generation);
            })?
        };
        let (now, generation) = (clock.now(), plan.generation);
        let parts = Arc::new(Parts {
            log,
            volumes,
            plan: Mutex::new((slot, plan)),
            stamps_due: AtomicBool::new(!new),
            pending: Mutex::default(),
            landed: AtomicU64::new(0),
            waiting: WaitingWrites::default(),
            clock,
            generation: AtomicU8::new(generation),
            work: Mutex::new(Work::default()),
            work_came: Condvar::new(),
            spare: Mutex::default(),
            threaded: AtomicBool::new(false),
            observer: OnceLock::new(),
            health: Health::default(),
            gate: RwLock::new(()),
            stall_limit_ns: AtomicU64::new(options.stall_limit.as_nanos() as u64),
            mover_signal: Signal::default(),
            flush_queue: Mutex::default(),
            flush_signal: Signal::default(),
            stopping: AtomicBool::new(false),
            instant: Mutex::default(),
        });
        let volumes =
            (0..parts.volumes.len()).map(|at| Arc::new(RestoreVolume { parts: parts.clone(), at })).collect();
        Ok(Arc::new(RestoreSet {
            parts,
            volumes,
            mover: Mutex::new(Mover::new(options.pace, now)),
            mended: AtomicU64::new(0),
            rest_verified: AtomicBool::new(false),
            state,
            online: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            report,
            threads: Mutex::default(),
        }))
    }

    /// The volumes, in the set's order: devices for an export, the same objects before and after the hand-over.
    pub fn volumes(&self) -> &[Arc<RestoreVolume>] {
        &self.volumes
    }
    /// The record as it stands.
    pub fn plan(&self) -> PlanRecord {
        lock(&self.parts.plan).1.clone()
    }

    // ---- steps

    /// One step of the mover.
    pub fn mover_step(&self, hurry: bool) -> Result<Step> {
        lock(&self.mover).step(&self.parts, hurry)
    }
    /// Prepares the next segment of the log if one is due.
    pub fn log_step(&self) -> Result<Step> {
        self.log_step_gently(&|| ())
    }
    /// As `log_step`, pausing between small pieces of the work while the guest does not wait for it.
    pub(super) fn log_step_gently(&self, pause: &dyn Fn()) -> Result<Step> {
        if self.parts.log.prepare(pause)? {
            self.parts.pump();
            return Ok(Step::Worked);
        }
        Ok(Step::Idle)
    }
    /// One fetch or arrival that was left to the worker threads.
    pub fn work_step(&self) -> Step {
        if self.parts.work_step() { Step::Worked } else { Step::Idle }
    }
    /// Retries and limits; every 100 ms or so.
    pub fn timer_step(&self) {
        self.parts.retry_parked();
        self.parts.pump();
    }

    // ---- for the fill

    /// Hears of fetches; once.
    pub fn observe(&self, observer: Arc<dyn FetchObserver>) {
        let _ = self.parts.observer.set(observer);
    }
    /// Shape, holder and place in the set of each volume.
    pub fn shapes(&self) -> Vec<(Geometry, Arc<dyn Holder>)> {
        self.parts.volumes.iter().map(|v| (v.geometry, v.holder.clone())).collect()
    }
    /// Starts fetches of those of `extents` that are absent, not under way and not covered whole by the log; how many.
    pub fn fetch(&self, volume: u16, extents: &[u64], heat: Heat) -> usize {
        let p = &self.parts;
        p.fetch_background(&p.volumes[volume as usize], extents, heat)
    }
    /// Nothing is absent any more: the destinations read ahead again, and what was lost and may still come goes through the cache.
    pub fn filled(&self) {
        self.parts.volumes.iter().for_each(|v| v.target.filled());
    }
    /// Whether only the holder has this extent and nobody has asked for it yet.
    pub fn is_absent(&self, volume: u16, extent: u64) -> bool {
        let s = self.parts.volumes[volume as usize].claims.state(extent);
        s.needs_holder() && !s.is_fetching()
    }
    /// Whether `fetch` would start one: only the holder has this extent, nobody has asked for it yet, and the guest has not
    /// overwritten all of it.
    pub fn wants_fetch(&self, volume: u16, extent: u64) -> bool {
        let v = &self.parts.volumes[volume as usize];
        self.is_absent(volume, extent)
            && !self.parts.log.covers(v.at, v.geometry.extent_bytes(extent), u64::MAX)
    }
    /// A read of this extent may have to ask the holder (or to wait for its answer).
    pub fn needs_holder(&self, volume: u16, extent: u64) -> bool {
        self.parts.volumes[volume as usize].claims.state(extent).needs_holder()
    }
    /// A fetch of this extent is under way.
    pub fn is_fetching(&self, volume: u16, extent: u64) -> bool {
        self.parts.volumes[volume as usize].claims.state(extent).is_fetching()
    }
    /// The holder has these as zeros: they need no fetch. How many changed.
    pub fn make_zero(&self, volume: u16, extents: ExtentRange) -> Result<u64> {
        self.parts.make_zero(&self.parts.volumes[volume as usize], extents)
    }
    /// Writes zeros where `make_zero` or the guest left only the state saying so. How many changed.
    pub fn write_zeros(&self, volume: u16, extents: ExtentRange) -> Result<u64> {
        let v = &self.parts.volumes[volume as usize];
        self.parts.write_zeros(v, extents).inspect_err(|e| self.parts.target_trouble(v, e.clone()))
    }
    /// Extents that only the holder has, and extents zero by state alone, over all volumes: 0 and 0 is complete.
    pub fn missing(&self) -> (u64, u64) {
        self.parts.volumes.iter().map(|v| v.claims.missing()).fold((0, 0), |s, m| (s.0 + m.0, s.1 + m.1))
    }

    /// The generation of the extent's last change by the guest; 0: it is as the moment has it (or on its way there).
    pub fn mark_of(&self, volume: u16, extent: u64) -> u8 {
        self.parts.volumes[volume as usize].claims.marked(extent)
    }
    /// Neither restored nor written: only the holder can say what it holds.
    pub fn is_untouched(&self, volume: u16, extent: u64) -> bool {
        self.is_absent(volume, extent) && self.mark_of(volume, extent) == 0
    }
    /// The log is empty, and everything that was moved or filled is durable.
    pub fn is_settled(&self) -> bool {
        lock(&self.mover).is_clean(&self.parts) && self.parts.waiting.is_empty()
    }

    // ---- steering

    /// The threshold is reached (or was waved through): the export may appear.
    pub fn set_online(&self) {
        self.online.store(true, Release);
    }
    /// Whether the export may appear.
    pub fn is_online(&self) -> bool {
        self.online.load(Acquire)
    }
    /// Filling stops; what the guest needs still comes.
    pub fn pause(&self, paused: bool) {
        self.paused.store(paused, Release);
    }
    /// Whether filling is to stand still.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Acquire)
    }
    /// How long the guest waits for a holder that is away.
    pub fn set_stall_limit(&self, limit: Duration) {
        self.parts.stall_limit_ns.store(limit.as_nanos() as u64, Relaxed);
    }
    /// Everything is in the destination (or in the log above it).
    pub fn is_complete(&self) -> bool {
        self.missing() == (0, 0)
    }

    /// How many records of the log counted when this was opened.
    pub fn records_recovered(&self) -> u64 {
        self.report.records
    }
}

fn planned(v: &NewVolume) -> Result<PlannedVolume> {
    let (g, id) = (v.parts.holder.geometry(), v.parts.holder.identity());
    let info = v.parts.target.info();
    if info.size < g.size {
        let what = format!("{} has {} bytes, {} needs {}", v.destination, info.size, v.name, g.size);
        return Err(Error::new(Kind::Invalid, what));
    }
    if info.logical_block > g.logical_block {
        let what = format!(
            "{} has blocks of {} bytes, the volume {} was written with {}: it could not be used there",
            v.destination, info.logical_block, v.name, g.logical_block
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(PlannedVolume {
        name: v.name.clone(),
        volume: v.volume.to_string(),
        moment: id.moment.to_string(),
        tracking: rekindle_io::random::uuid().to_string(),
        origin: v.origin.map(|(t, g)| (t.to_string(), g.0)),
        size: g.size,
        extent: g.extent.get(),
        blocks: (g.logical_block, g.physical_block),
        destination: v.destination.clone(),
    })
}

/// A restore that begins: its destinations carry its stamp before the record says that there is one.
fn first_stamps(plan: &mut PlanRecord, volumes: &[Volume]) -> Result<()> {
    let stamp = Stamp::first(&[]);
    plan.set_stamps(&[stamp]);
    for v in volumes {
        v.target.write_label(stamp, !v.target.is_pristine())?;
        v.target.flush()?;
    }
    Ok(())
}

/// So many openings may end without a settling before one flushes.
const KNOWN_MAX: usize = 16;

/// A restore that goes on: nothing is changed before all its destinations were found to be those the record means.
fn go_on(plan: &mut PlanRecord, slot: &PlanSlot, volumes: &[Volume], state: &dyn LogDir) -> Result<()> {
    let mut known = plan.known_stamps()?;
    for (v, p) in volumes.iter().zip(&plan.volumes) {
        let judged = judge(&v.target, &known, plan.written_back, &state.place());
        judged.map_err(|e| e.at(&p.destination))?;
    }
    // What was found may lie in the page cache alone: all of them stay possible until a flush, of the first settling or,
    // if nothing lives to see one, here.
    let stamp = Stamp::first(&known);
    known.push(stamp);
    plan.set_stamps(&known);
    slot.store(plan)?;
    let anew = plan.written_back;
    for v in volumes {
        if anew { v.target.write_label(stamp, true) } else { v.target.stamp(stamp) }?;
    }
    // Edges that were put in place: what a crash leaves of them is compared with the edges file, so before that changes.
    if anew || known.len() > KNOWN_MAX {
        volumes.iter().try_for_each(|v| v.target.flush())?;
        plan.set_stamps(&[stamp]);
        plan.written_back = false;
        slot.store(plan)?;
    }
    Ok(())
}

fn open_volume(
    state: &dyn LogDir,
    i: usize,
    v: VolumeParts,
    p: &PlannedVolume,
    plan: &PlanRecord,
    new: bool,
) -> Result<Volume> {
    let geometry = p.geometry()?;
    let file = |name: String| -> Result<Arc<dyn LogFile>> {
        if new {
            return state.create(&name);
        }
        let missing = || Error::new(Kind::Corrupt, format!("{}/{name} is missing", state.place()));
        state.open(&name)?.ok_or_else(missing)
    };
    let claims = Claims::new(geometry.extents());
    let pages = Pages::open(file(state_name(i))?)?;
    pages.load(geometry.extents().div_ceil(CHUNK), |page, image| {
        for j in 0..CHUNK.min(geometry.extents() - page * CHUNK) {
            let place = image.place(j).expect("checked when the page was read");
            claims.load(page * CHUNK + j, place, image.marks[j as usize]);
        }
    })?;
    let text = format!(
        "{LABEL}, it is being restored.\n\
         volume  {}/{}\nto      the moment {}\nrestore {}\nstate   {}\n\
         Its first and last MiB are kept with the state and are put here last. To go on, run the restore again.\n",
        plan.set,
        p.name,
        v.holder.identity().shown,
        plan.restore,
        state.place()
    );
    let edges = file(edges_name(i))?;
    let label = Label { owner: Owner { restore: plan.restore_uuid()?, volume: i as u16 }, text };
    let target = Target::new(v.target, edges, geometry.size, label, new && v.fresh);
    target.fills();
    Ok(Volume {
        at: i as u16,
        name: p.name.clone(),
        geometry,
        holder: v.holder,
        target,
        claims,
        pages: Mutex::new(pages),
        flights: Mutex::default(),
        usage: v.usage,
        damaged: Mutex::default(),
        uncompared: Mutex::default(),
        losses_said: AtomicU64::new(0),
        settled: OnceLock::new(),
    })
}
