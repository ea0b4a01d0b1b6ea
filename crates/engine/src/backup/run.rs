//! A backup of one instant into one repository: choose the parent, read what may differ (hottest first), let the writer
//! store what does, commit.
//!
//! - **What the guest wrote** is named in what the repository has only after that was read: it may be lost there.
//! - **What is skipped** was proven equal to the parent, which exists in this repository; everything that is read is
//!   compared by id, so a doubt costs reading, never correctness.
//! - **Nothing is visible** before the commit: a failure, a stop, a crash or a fleece that ran full leave packs nobody
//!   names, and the next backup begins from the last one that committed.
//! - **Work** is proportional to what may have changed. An instant without changes costs a list, one for each volume whose
//!   usage is counted, one read and the session's few small objects, whatever the size of the volume.

use super::parent::{Basis, Choice, choose};
use super::report::{BackupReport, How, VolumeReport};
use super::source::{Changed, InstantVolume, SetInstant};
use super::usage;
use crate::progress::{Done, Progress};
use crate::read_ahead::{Found, ReadOrder, Source, collect};
use crate::repository::{
    CommitMeta, RepoError, Repository, Snapshot, SnapshotWriter, VolumeSlot, WriterOptions,
};
use crate::usage::UsageMap;
use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Geometry, Uuid};
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Attempts to begin while a parent is forgotten between its choice and the session that protects it.
const BEGINNINGS: usize = 3;
/// Time between two words to the watcher.
const TELL_EVERY: Duration = Duration::from_millis(50);

/// What to do.
#[derive(Clone)]
pub struct BackupOptions {
    /// The set's name: its history in the repository.
    pub set: String,
    /// Labels of the snapshot.
    pub tags: Vec<String>,
    /// The instant's wall time, nanoseconds since 1970; for people.
    pub time_ns: u64,
    /// Read everything and compare by id, whatever tracking says, because of this.
    pub compare: Option<String>,
    /// Usage maps of the volumes, by volume uuid: the order of reading, and stored with the snapshot.
    pub usage: Vec<(Uuid, Arc<UsageMap>)>,
    /// Threads that read ahead; 0: on the caller's thread.
    pub readers: usize,
    /// How packs are written.
    pub writer: WriterOptions,
}

impl BackupOptions {
    /// Of set `set`, taken at `time_ns`, everything else as usual.
    pub fn new(set: impl Into<String>, time_ns: u64) -> Self {
        BackupOptions {
            set: set.into(),
            tags: Vec::new(),
            time_ns,
            compare: None,
            usage: Vec::new(),
            readers: 2,
            writer: WriterOptions { time_ns, ..WriterOptions::default() },
        }
    }
    fn usage_of(&self, volume: Uuid) -> Option<&Arc<UsageMap>> {
        self.usage.iter().find(|(uuid, _)| *uuid == volume).map(|(_, map)| map)
    }
}

/// A backup that failed.
#[derive(Debug)]
pub struct Failed {
    /// With `Kind::Unavailable` while it commits the snapshot may exist (the next listing tells); after any other failure
    /// it does not.
    pub error: Error,
    /// Part of the parent's manifest is lost, and what is not read of this instant was given up: a backup of another instant
    /// that compares ([`BackupOptions::compare`]) does without that part.
    pub parent_lost: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, parent_lost: false }
    }
}

/// Backs up `instant` into `repo`.
pub fn run(
    instant: &dyn SetInstant,
    repo: &Repository,
    options: &BackupOptions,
    progress: &dyn Progress,
) -> Result<BackupReport, Failed> {
    let begin = Instant::now();
    let mut warnings = Vec::new();
    let volumes = instant.volumes();
    let (mut writer, parent, bases) = open(&volumes, repo, options, &mut warnings)?;
    for (volume, map) in &options.usage {
        usage::take_drill(repo, *volume, map, &mut warnings);
    }
    let plans: Vec<VolumePlan<'_>> = volumes
        .iter()
        .zip(bases)
        .map(|(v, basis)| VolumePlan::new(*v, basis, &mut writer, options.compare.as_deref()))
        .collect();
    let keeps = plans.iter().any(|p| p.keep_rest);
    for plan in &plans {
        plan.give_up_the_rest();
    }
    let mut run = Run {
        instant,
        progress,
        writer,
        done: Done { total_bytes: plans.iter().map(VolumePlan::bytes).sum(), ..Done::default() },
        told: None,
    };
    let mut reports = Vec::with_capacity(plans.len());
    for plan in &plans {
        let report = run.volume(plan, parent.as_ref(), options, &mut warnings);
        let parent_lost = keeps && run.writer.failure().is_some_and(RepoError::is_loss);
        reports.push(report.map_err(|error| Failed { error, parent_lost })?);
    }
    run.check()?;
    let meta = CommitMeta { time_ns: options.time_ns, tags: options.tags.clone(), origin: None };
    let snapshot =
        run.writer.commit(meta).map_err(|e| Failed { parent_lost: keeps && e.is_loss(), error: e.into() })?;
    let mut stored_bytes = 0;
    for (report, record) in reports.iter_mut().zip(&snapshot.commit.volumes) {
        report.changed_bytes = record.changed_extents * record.geometry.extent.get();
        stored_bytes += record.new_bytes;
    }
    progress.update(Done { moved_bytes: stored_bytes, ..run.done });
    Ok(BackupReport {
        parent: snapshot.commit.parent,
        snapshot,
        volumes: reports,
        stored_bytes,
        took: begin.elapsed(),
        warnings,
    })
}

/// Chooses the parent and begins the session that protects it.
fn open(
    volumes: &[&dyn InstantVolume],
    repo: &Repository,
    options: &BackupOptions,
    warnings: &mut Vec<String>,
) -> Result<(SnapshotWriter, Option<Snapshot>, Vec<Basis>)> {
    let mut attempt = 1;
    loop {
        let listing = repo.snapshots(Some(&options.set))?;
        warnings.clear();
        warnings.extend(listing.damaged.iter().map(|e| format!("a snapshot cannot be read: {e}")));
        let Choice { parent, bases } = choose(volumes, listing.snapshots);
        let parent = parent.map(|info| repo.snapshot_of(info));
        match repo.begin_snapshot(&options.set, parent.as_ref(), options.writer.clone()) {
            Ok(writer) => return Ok((writer, parent, bases)),
            Err(e) if e.kind() == Kind::Gone && parent.is_some() && attempt < BEGINNINGS => attempt += 1,
            Err(e) => return Err(e.into()),
        }
    }
}

/// One volume, before anything is read.
struct VolumePlan<'a> {
    volume: &'a dyn InstantVolume,
    slot: VolumeSlot,
    how: How,
    /// What is read.
    wanted: Arc<ExtentSet>,
    /// Everything else is as in the parent.
    keep_rest: bool,
    /// What is marked: what changed lately is worth restoring early.
    hints: Arc<ExtentSet>,
}

impl<'a> VolumePlan<'a> {
    fn new(
        volume: &'a dyn InstantVolume,
        basis: Basis,
        writer: &mut SnapshotWriter,
        compare: Option<&str>,
    ) -> Self {
        let geometry = volume.geometry();
        let slot = writer.volume(volume.identity(), geometry);
        let everything = |how, writer: &mut SnapshotWriter| {
            writer.compare(slot);
            let wanted = Arc::new([ExtentRange { start: 0, end: geometry.extents() }].into_iter().collect());
            VolumePlan { volume, slot, how, wanted, keep_rest: false, hints: Arc::default() }
        };
        let basis = match (basis, compare) {
            (Basis::Tracked(Changed::Since { .. }), Some(why)) => Basis::Compare(why.into()),
            (basis, _) => basis,
        };
        match basis {
            Basis::Full(why) => everything(How::Full(why), writer),
            Basis::Compare(why) => everything(How::Compared(why), writer),
            Basis::Tracked(Changed::CompareAll(why)) => everything(How::Compared(why), writer),
            Basis::Tracked(Changed::Since { marked, compare }) => {
                // The parent was chosen because it has this volume in this shape; the writer agrees or we do not skip.
                assert!(writer.has_base(slot), "a tracked volume has no base in the writer");
                let marked = Arc::new(marked);
                let wanted = match compare.is_empty() {
                    true => marked.clone(),
                    false => Arc::new(compare.union(&marked)),
                };
                // A restore may have found their frames lost, and the guest healed them with the same bytes.
                writer.prove(slot, marked.clone());
                VolumePlan { volume, slot, how: How::Incremental, wanted, keep_rest: true, hints: marked }
            }
        }
    }
    fn bytes(&self) -> u64 {
        self.wanted.count() * self.volume.geometry().extent.get()
    }
    /// What will never be read need not be kept for us from now on.
    fn give_up_the_rest(&self) {
        self.wanted.gaps(self.volume.geometry().extents()).for_each(|gap| self.volume.taken(gap));
    }
}

struct Run<'a> {
    instant: &'a dyn SetInstant,
    progress: &'a dyn Progress,
    writer: SnapshotWriter,
    done: Done,
    told: Option<Instant>,
}

impl Run<'_> {
    fn volume(
        &mut self,
        plan: &VolumePlan<'_>,
        parent: Option<&Snapshot>,
        options: &BackupOptions,
        warnings: &mut Vec<String>,
    ) -> Result<VolumeReport> {
        let (identity, geometry) = (plan.volume.identity(), plan.volume.geometry());
        let parent =
            parent.filter(|_| self.writer.has_base(plan.slot)).map(|p| usage::Stored::new(p, identity.uuid));
        let map = options.usage_of(identity.uuid);
        let mut hints = usage::Hints::new(map, parent, &plan.hints, warnings);
        let hot = hints.store_order(&mut self.writer, plan.slot, warnings);
        let order = ReadOrder::new(plan.wanted.clone(), &hot);
        drop(hot);
        let mut report = VolumeReport::new(identity.name, plan.how.clone(), &geometry);
        collect(&AtInstant(plan.volume), order, options.readers, &mut |found| {
            self.take(plan.slot, found, &mut report)
        })?;
        if plan.keep_rest {
            self.writer.keep_rest(plan.slot)?;
        }
        hints.store(&mut self.writer, plan.slot, warnings);
        Ok(report)
    }

    fn take(&mut self, slot: VolumeSlot, found: Found<'_>, report: &mut VolumeReport) -> Result<()> {
        match found {
            Found::Zero(range) => {
                self.writer.zero(slot, range)?;
                report.zero += range.count();
                self.done.done_bytes += range.count() * report.extent_bytes;
            }
            Found::Data(extent, bytes) => {
                let put = self.writer.put(slot, extent, bytes)?;
                report.count(put, bytes.len() as u64);
                self.done.done_bytes += report.extent_bytes;
            }
        }
        self.tell()
    }

    /// Tells the watcher now and then; stops if that is wanted or the instant is lost.
    fn tell(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.told.is_some_and(|at| now - at < TELL_EVERY) {
            return Ok(());
        }
        self.told = Some(now);
        self.done.moved_bytes = self.writer.stats().stored_bytes;
        self.progress.update(self.done);
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.progress.cancelled() {
            return Err(Error::new(Kind::Cancelled, "the backup was stopped; nothing of it is visible"));
        }
        self.instant.intact()
    }
}

/// A volume at the instant, as it is read ahead.
pub(super) struct AtInstant<'a>(pub &'a dyn InstantVolume);

impl Source for AtInstant<'_> {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.0.next_data(from)
    }
    fn read(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()> {
        let mut rest = out;
        for extent in extents.iter() {
            let (bytes, behind) = rest.split_at_mut(self.0.geometry().extent_bytes(extent).len as usize);
            self.0.read(extent, bytes)?;
            rest = behind;
        }
        Ok(())
    }
    fn urgent(&self) -> Option<u64> {
        self.0.urgent()
    }
    fn taken(&self, extents: ExtentRange) {
        self.0.taken(extents);
    }
}
