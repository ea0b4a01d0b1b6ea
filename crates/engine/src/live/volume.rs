//! A live volume: the user's own disk, served unchanged, while usage and tracking look on.
//!
//! What a write costs besides the disk: two atomic additions (the gate), two loads an extent (its mark, its region),
//! a few loads of flags. During a backup the first write to an extent the backup still needs waits until its old bytes
//! are kept. Nothing here ever holds a read up.

use super::cut::Cut;
use super::gate::{Entered, Gate};
use super::opening::{first_record, open_tracking, recorded, state_of, welcome};
use super::possession::{Pulse, Verdict};
use super::record::{Left, Record, RecordFile};
use super::sync::{AtomicBool, AtomicU64, Mutex, Relaxed, RwLock, SeqCst, lock};
use super::tracking::{Tracking, remove_others};
use super::{LiveOptions, Observer, activity_log};
use crate::backup::{Changed, VolumeIdentity};
use rekindle_core::volume::{ByteRange, Generation, Geometry, Uuid};
use rekindle_io::block::{
    Allocation, Answer, Block, BlockExt, Completion, CompletionSink, FileBlock, FileOptions, ImageFacts,
    Info, Op, Request,
};
use rekindle_io::clock::Clock;
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind, Result, random};
use std::path::Path;
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

/// How long a clean stop waits for running requests.
const CLOSE_LIMIT: Duration = Duration::from_secs(30);
/// Time between checkpoints.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(60);

/// What possession needs to know of the image, besides serving it.
pub trait Image: Send + Sync {
    /// Identity and times, now.
    fn facts(&self) -> Result<ImageFacts>;
    /// Makes the times durable; the device was flushed.
    fn settle(&self) -> Result<()>;
    /// A flush of it failed: it stays failed until it is opened again.
    fn is_failed(&self) -> bool;
}

impl Image for FileBlock {
    fn facts(&self) -> Result<ImageFacts> {
        FileBlock::facts(self)
    }
    fn settle(&self) -> Result<()> {
        self.file().sync_all().map_err(|e| Error::os("image", &e))
    }
    fn is_failed(&self) -> bool {
        FileBlock::is_failed(self)
    }
}

/// The volume.
pub struct LiveVolume {
    inner: Arc<dyn Block>,
    image: Arc<dyn Image>,
    dir: Arc<dyn LogDir>,
    clock: Arc<dyn Clock>,
    observer: Option<Arc<dyn Observer>>,
    info: Info,
    geometry: Geometry,
    pub(super) gate: Arc<Gate>,
    /// Held by whoever closes the gate.
    pub(super) steering: std::sync::Mutex<()>,
    tracking: Tracking,
    state: Mutex<State>,
    cut: RwLock<Option<Arc<Cut>>>,
    has_cut: AtomicBool,
    /// Something was written since the last pulse.
    wrote: AtomicBool,
    /// The tracking turned out to be older than a snapshot of it: the next instant begins a fresh one.
    distrusted: AtomicBool,
    ended: AtomicBool,
    /// Why the state folder cannot take marks any more: writes into regions it has not noted fail.
    state_failed: OnceLock<String>,
    checkpointed_ns: AtomicU64,
}

/// What is kept in the state folder.
struct State {
    record: Record,
    file: RecordFile,
    pulse: Pulse,
}

impl LiveVolume {
    /// Opens the user's raw file or device at `path`: locks it (`Kind::Busy` names who has it), judges what happened
    /// since it was last ours, and serves.
    pub fn open(path: &Path, options: &LiveOptions) -> Result<Arc<LiveVolume>> {
        let known = recorded(&*options.state)?;
        let unclean = known.as_ref().is_some_and(|r| r.left == Left::Open);
        let file = FileOptions {
            read_only: options.read_only,
            logical_block: options.logical_block.or(known.map(|r| r.geometry.logical_block)),
            discard: options.discard,
            exclusive: true,
            // A flush may have failed before the process died: what the cache calls clean may not be on the disk.
            drop_cache: unclean,
            lock: true,
        };
        let image = FileBlock::open(path, &file)?;
        LiveVolume::over(image.clone(), image, options)
    }
    /// Serves a device that is open and locked already. `image` is the same thing seen from outside.
    pub fn over(
        inner: Arc<dyn Block>,
        image: Arc<dyn Image>,
        options: &LiveOptions,
    ) -> Result<Arc<LiveVolume>> {
        let info = inner.info();
        let read_only = info.read_only || options.read_only;
        let (dir, known) = state_of(options, read_only)?;
        let file = RecordFile::open(&*dir)?;
        let pulse = Pulse::open(&*dir)?;
        if !read_only {
            // What a killed process left in the cache only is made durable before any tracking, old or fresh, counts
            // from here: a snapshot would read it, and a later power cut must not turn it back unseen.
            inner.flush()?;
        }
        let facts = image.facts()?;
        let (mut record, verdict) = match known {
            None => (first_record(options, &info)?, Verdict::Void("it is served for the first time".into())),
            Some(r) => welcome(r, options, &info, &facts, pulse.read()?)?,
        };
        let tracking = open_tracking(&*dir, &mut record, verdict, &options.name)?;
        record.left = Left::Open;
        record.image = (facts.device, facts.inode);
        record.name = options.name.clone();
        // Before the first write: from here on an unclean stop is seen as one.
        pulse.write(options.clock.wall_ns())?;
        pulse.sync()?;
        dir.sync_names()?;
        file.store(&record)?;
        remove_others(&*dir, record.tracking)?;
        Ok(Arc::new(LiveVolume {
            inner,
            image,
            dir,
            clock: options.clock.clone(),
            observer: options.observer.clone(),
            info: Info { read_only, size: record.geometry.size, ..info },
            geometry: record.geometry,
            gate: Arc::default(),
            steering: std::sync::Mutex::new(()),
            tracking,
            cut: RwLock::new(None),
            has_cut: AtomicBool::new(false),
            wrote: AtomicBool::new(false),
            distrusted: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            state_failed: OnceLock::new(),
            checkpointed_ns: AtomicU64::new(options.clock.now().as_nanos() as u64),
            state: Mutex::new(State { record, file, pulse }),
        }))
    }
    /// Who it is; `generation` is the open one.
    pub fn identity(&self) -> VolumeIdentity {
        let r = &lock(&self.state).record;
        VolumeIdentity {
            name: r.name.clone(),
            uuid: r.uuid,
            tracking: r.tracking,
            generation: self.tracking.generation(),
        }
    }
    /// Its shape.
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }
    /// Why changes are tracked only since some time, for `status`.
    pub fn tracked_since(&self) -> String {
        lock(&self.state).record.since.clone()
    }
    /// Regions of 64 MiB that would be compared after a crash now.
    pub fn active_regions(&self) -> u64 {
        self.tracking.active()
    }
    /// Why the guest's writes fail until the volume is opened again; `None` while all is well.
    pub fn failed(&self) -> Option<String> {
        if self.image.is_failed() {
            return Some("a flush of the disk failed, and what it took along is not known".into());
        }
        self.state_failed.get().map(|e| format!("its changes cannot be noted: {e}"))
    }
    pub(super) fn inner(&self) -> &Arc<dyn Block> {
        &self.inner
    }
    /// What may differ between the moment a parent names and an instant of ours that closed `closed`.
    pub(super) fn changed(&self, tracking: Uuid, generation: Generation, closed: Generation) -> Changed {
        let (ours, origin, since) = {
            let r = &lock(&self.state).record;
            (r.tracking, r.origin, r.since.clone())
        };
        if tracking == ours && generation >= closed {
            self.distrust(ours);
            return Changed::CompareAll("its state folder is older than its newest snapshot".into());
        }
        let from = match (tracking == ours, origin == Some((tracking, generation))) {
            (true, _) => generation,
            (false, true) => Generation(0),
            (false, false) => return Changed::CompareAll(since),
        };
        let (marked, compare) = self.tracking.since(from);
        Changed::Since { marked, compare }
    }

    /// A snapshot closed a generation that is open here, or lies ahead: what is marked with it may have been written before
    /// that snapshot or after it. The backup that finds this out compares everything and may fail, and so may the
    /// process: whoever comes next must not build upon such a snapshot unseen.
    fn distrust(&self, tracking: Uuid) {
        self.distrusted.store(true, SeqCst);
        if let Err(e) = self.tracking.void(&*self.dir, tracking) {
            tracing::warn!(
                "that the state folder is older than a snapshot would be forgotten in a crash: {e}"
            );
        }
    }

    /// Called about once a second: pulse, and a checkpoint when one is due. Errors are worth a line in the log; they
    /// cost comparisons after a crash, never data.
    pub fn tick(&self) -> Result<()> {
        if self.info.read_only || self.ended.load(SeqCst) {
            return Ok(());
        }
        let now = self.clock.now().as_nanos() as u64;
        if self.wrote.swap(false, SeqCst) {
            let wrote = lock(&self.state).pulse.write(self.clock.wall_ns());
            wrote.inspect_err(|_| self.wrote.store(true, SeqCst))?;
        }
        let due =
            now.saturating_sub(self.checkpointed_ns.load(Relaxed)) >= CHECKPOINT_EVERY.as_nanos() as u64;
        let full = self.tracking.active() >= activity_log::ACTIVE_MAX;
        if due || full {
            self.checkpointed_ns.store(now, Relaxed);
            self.checkpoint(full)?;
        }
        Ok(())
    }
    /// Makes marks durable and lets regions leave the activity log: those nobody wrote to since the last checkpoint, or
    /// all.
    pub fn checkpoint(&self, all: bool) -> Result<()> {
        if self.info.read_only {
            return Ok(());
        }
        lock(&self.state).pulse.sync()?;
        self.tracking.checkpoint(all, &self.gate, || self.inner.flush())
    }
    /// Clean stop: no more requests, everything durable, what the image looks like recorded. After an error the volume
    /// counts as not closed cleanly. A second call does nothing.
    pub fn close(&self) -> Result<()> {
        let _steering = self.steering.lock().unwrap_or_else(PoisonError::into_inner);
        if self.ended.swap(true, SeqCst) || self.info.read_only {
            return Ok(());
        }
        self.gate.close();
        let drained = self.gate.drained(CLOSE_LIMIT);
        self.gate.open();
        if !drained {
            return Err(Error::new(
                Kind::Busy,
                "the disk does not finish running writes: not closed cleanly",
            ));
        }
        // The flush goes through the device, so that its failure is everybody's; `settle` adds the times.
        self.tracking.checkpoint(true, &self.gate, || self.inner.flush())?;
        self.inner.flush()?;
        self.image.settle()?;
        let mut s = lock(&self.state);
        s.record.left = Left::Clean(self.image.facts()?);
        s.record.generation = self.tracking.generation();
        s.file.store(&s.record)
    }

    /// First step of an instant: the generation after this one is durable. Which identity the instant will close, and
    /// what `advance` needs.
    pub(super) fn prepare_instant(&self) -> Result<Next> {
        let mut s = lock(&self.state);
        let open = self.tracking.generation();
        let distrusted = self.distrusted.swap(false, SeqCst);
        if let Some(next) = open.next().filter(|_| !distrusted) {
            if s.record.generation < next {
                let record = Record { generation: next, ..s.record.clone() };
                s.file.store(&record)?;
                s.record = record;
            }
            return Ok(Next { fresh: None, closes: open, opens: next });
        }
        let why = if distrusted {
            "its state folder was older than its newest snapshot"
        } else {
            "its generations ran out"
        };
        // All marks count as changed: a fresh tracking, whose moment 0 nobody has.
        let fresh = random::uuid();
        let prepared = self.tracking.prepare(&*self.dir, fresh)?;
        let next = Next { fresh: Some((fresh, why, prepared)), closes: Generation(1), opens: Generation(2) };
        Ok(next)
    }
    /// The instant itself; the gate is closed and nothing is in flight. After an error nothing has changed.
    pub(super) fn advance(&self, next: Next) -> Result<VolumeIdentity> {
        match next.fresh {
            None => self.tracking.advance(next.opens),
            Some((fresh, why, prepared)) => {
                // The old activity log goes: nothing may be left in the cache that it stood for.
                self.inner.flush()?;
                let mut s = lock(&self.state);
                let record = Record {
                    tracking: fresh,
                    generation: next.opens,
                    origin: None,
                    since: why.to_string(),
                    ..s.record.clone()
                };
                s.file.store(&record)?;
                s.record = record;
                self.tracking.renew(prepared, next.opens);
                remove_others(&*self.dir, fresh)?;
            }
        }
        Ok(VolumeIdentity { generation: next.closes, ..self.identity() })
    }
    /// As if there had been many instants.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(super) fn push_generation(&self, open: Generation) {
        lock(&self.state).record.generation = open;
        self.tracking.advance(open);
    }
    /// Copy-before-write begins or ends. To begin, the gate is closed.
    pub(super) fn set_cut(&self, cut: Option<Arc<Cut>>) {
        let on = cut.is_some();
        *self.cut.write().unwrap_or_else(PoisonError::into_inner) = cut;
        self.has_cut.store(on, SeqCst);
    }
    fn cut(&self) -> Option<Arc<Cut>> {
        if !self.has_cut.load(SeqCst) {
            return None;
        }
        self.cut.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn observe(&self, batch: &[Request<'_>]) {
        let Some(o) = &self.observer else { return };
        for r in batch.iter().filter(|r| self.geometry.contains(r.range())) {
            match r.op {
                Op::Read(_) => o.read(r.range()),
                Op::Write { .. } | Op::Zero { .. } => o.write(r.range()),
                Op::Trim { .. } | Op::Flush | Op::Cache { .. } => {}
            }
        }
    }
    /// A batch with changes in it: marked, kept, then issued; counted by the gate until answered.
    fn submit_changes(
        &self,
        batch: &mut [Request<'_>],
        answers: &mut Vec<Answer>,
        sink: &Arc<dyn CompletionSink>,
    ) {
        let entered = self.gate.enter(batch.len() as u64);
        let before = answers.len();
        let counted: Arc<dyn CompletionSink> =
            Arc::new(Counted { sink: sink.clone(), gate: self.gate.clone(), entered });
        if !self.wrote.load(Relaxed) {
            self.wrote.store(true, Relaxed);
        }
        let ranges = batch.iter().filter(|r| is_change(r)).map(Request::range);
        let ranges = ranges.filter(|r| self.geometry.contains(*r));
        let prepared = match self.ended.load(SeqCst) {
            true => Err(Error::new(Kind::Cancelled, "the volume is closed")),
            false => self.tracking.before_write(ranges),
        };
        if let Err(e) = prepared.as_ref()
            && e.kind == Kind::Failed
        {
            let _ = self.state_failed.set(e.to_string());
        }
        let cut = self.cut();
        let declines = |r: &Request<'_>| cut.as_deref().is_some_and(|c| self.declines_trim(r, c));
        if prepared.is_ok() && !batch.iter().any(declines) {
            self.keep_old(batch, cut.as_deref());
            self.inner.submit(batch, answers, &counted);
        } else {
            for r in batch {
                match &prepared {
                    Err(e) if is_change(r) => answers.push(Answer::Done(Err(e.clone()))),
                    _ if declines(r) => answers.push(Answer::Done(Ok(()))),
                    _ => {
                        let one = std::slice::from_mut(r);
                        self.keep_old(one, cut.as_deref());
                        self.inner.submit(one, answers, &counted);
                    }
                }
            }
        }
        let done = answers[before..].iter().filter(|a| matches!(a, Answer::Done(_))).count();
        self.gate.leave(entered, done as u64);
    }
    /// A trim of what a backup still needs is answered and not done: it is a hint, and copying what an fstrim frees
    /// would fill the fleece with rubbish.
    fn declines_trim(&self, r: &Request<'_>, cut: &Cut) -> bool {
        let range = r.range();
        matches!(r.op, Op::Trim { .. }) && self.geometry.contains(range) && !cut.allows_trim(range)
    }
    fn keep_old(&self, batch: &[Request<'_>], cut: Option<&Cut>) {
        let Some(cut) = cut else { return };
        for r in batch.iter().filter(|r| is_change(r) && self.geometry.contains(r.range())) {
            cut.before_change(r.range());
        }
    }
}

/// What an instant will switch to.
pub(super) struct Next {
    fresh: Option<(Uuid, &'static str, super::tracking::Prepared)>,
    closes: Generation,
    opens: Generation,
}

fn is_change(r: &Request<'_>) -> bool {
    matches!(r.op, Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. })
}

/// The connection's sink, counting late answers out of the gate.
struct Counted {
    sink: Arc<dyn CompletionSink>,
    gate: Arc<Gate>,
    entered: Entered,
}

impl CompletionSink for Counted {
    fn complete(&self, completion: Completion) {
        self.gate.leave(self.entered, 1);
        self.sink.complete(completion);
    }
    fn abandoned(&self) -> bool {
        self.sink.abandoned()
    }
}

impl Block for LiveVolume {
    fn info(&self) -> Info {
        self.info
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        self.observe(batch);
        if self.info.read_only || !batch.iter().any(is_change) {
            self.inner.submit(batch, answers, sink);
        } else {
            self.submit_changes(batch, answers, sink);
        }
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.inner.allocation(range, out)
    }
}
