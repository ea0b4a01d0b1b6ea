//! What changed since when: marks, the activity log, and the doubt that an unclean stop leaves.
//!
//! Order of things, on which invariant 8 rests:
//! - A write marks its extents in memory, makes sure its regions are in the activity log (durable), then is issued.
//! - A checkpoint takes regions out of the log's memory, waits for the writes that began before, flushes the image,
//!   makes the marks durable, and only then takes the regions out of the file. The flush matters: a snapshot reads
//!   what is in the cache, and a power cut must not turn that back while nothing says "compare".
//! - After an unclean stop the regions found in the log become doubt: every parent older than the generation that was
//!   open then has their extents compared. The doubt is durable before the log is emptied.
//!
//! Files, named by the tracking's uuid so that a fresh tracking never meets old ones: `marks.T`, `activity.T`, `doubt.T`.

use super::activity_log::{ActivityLog, REGION, regions};
use super::gate::Gate;
use super::marks::{Marks, MarksFile};
use super::sync::{AtomicU16, Mutex, SeqCst, lock};
use rekindle_core::bytes::{Malformed, Reader, Writer, crc32c};
use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Generation, Geometry, Uuid};
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};

/// Regions that changed nobody knows when, before this generation was closed.
type Doubt = BTreeMap<u64, Generation>;
/// Doubt that no backup settles.
const VOID: Generation = Generation(u16::MAX);

/// The tracking of one open volume.
pub(super) struct Tracking {
    geometry: Geometry,
    generation: AtomicU16,
    marks: Marks,
    activity: ActivityLog,
    files: Mutex<Files>,
    /// One checkpoint at a time.
    checkpointing: Mutex<()>,
}

struct Files {
    marks: MarksFile,
    doubt: Doubt,
}

fn gone_back() -> Error {
    Error::new(Kind::Gone, "a snapshot closed a generation that was still open here: it is an older copy")
}

fn name(what: &str, tracking: Uuid) -> String {
    format!("{what}.{tracking}")
}

impl Tracking {
    /// A fresh tracking in its open generation, its files durable. `changed` is marked from the start. Files of the same
    /// tracking that an earlier attempt left are replaced.
    pub(super) fn create(
        dir: &dyn LogDir,
        geometry: Geometry,
        tracking: Uuid,
        generation: Generation,
        changed: &[(ExtentRange, Generation)],
    ) -> Result<Tracking> {
        for what in ["marks", "activity", "doubt"] {
            dir.remove(&name(what, tracking))?;
        }
        let (file, activity) = create_files(dir, geometry, tracking)?;
        let marks = Marks::blank(geometry.extents());
        for (range, generation) in changed {
            range.iter().for_each(|e| marks.mark(e, *generation));
        }
        marks.store(&*file)?;
        dir.sync_names()?;
        Ok(Tracking::new(geometry, generation, marks, activity, Files { marks: file, doubt: Doubt::new() }))
    }
    fn new(
        geometry: Geometry,
        generation: Generation,
        marks: Marks,
        activity: ActivityLog,
        files: Files,
    ) -> Tracking {
        Tracking {
            geometry,
            generation: AtomicU16::new(generation.0),
            marks,
            activity,
            files: Mutex::new(files),
            checkpointing: Mutex::new(()),
        }
    }
    /// Opens what an earlier run left, clean or not. `Kind::Gone` or `Kind::Corrupt`: it cannot be trusted any more.
    pub(super) fn load(
        dir: &dyn LogDir,
        geometry: Geometry,
        tracking: Uuid,
        generation: Generation,
    ) -> Result<Tracking> {
        let gone = |what: &str| Error::new(Kind::Gone, format!("its file {what} is missing"));
        let file = dir.open(&name("marks", tracking))?.ok_or_else(|| gone("marks"))?;
        let active_file = dir.open(&name("activity", tracking))?.ok_or_else(|| gone("activity"))?;
        // A killed process may have left pages in the cache only. The doubt of their regions covers them already; that
        // what is read here is also durable makes one argument less to get wrong.
        file.sync()?;
        let (marks, damaged) = Marks::load(&*file, geometry.extents())?;
        let mut doubt = read_doubt(dir, tracking)?;
        if doubt.values().any(|g| *g == VOID) {
            return Err(gone_back());
        }
        let old = doubt.clone();
        let active = ActivityLog::read(&*active_file, tracking, regions(geometry.size))?;
        let per_region = REGION / geometry.extent.get();
        let torn = damaged.iter().flat_map(|r| r.start / per_region..r.end.div_ceil(per_region));
        for region in active.iter().copied().chain(torn) {
            doubt.insert(region, generation);
        }
        if doubt != old {
            write_doubt(dir, tracking, &doubt)?;
        }
        let activity = ActivityLog::create(active_file, tracking, regions(geometry.size))?;
        Ok(Tracking::new(geometry, generation, marks, activity, Files { marks: file, doubt }))
    }
    /// The open generation.
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(SeqCst))
    }
    /// Before a write (or zero, or trim) to these ranges is issued. An error: it must not be issued.
    pub(super) fn before_write(&self, ranges: impl Iterator<Item = ByteRange>) -> Result<()> {
        let generation = self.generation();
        // Nothing is allocated while every region is in the log.
        let mut entering = BTreeSet::new();
        for range in ranges.filter(|r| r.len > 0) {
            for e in self.geometry.touched(range).iter() {
                self.marks.mark(e, generation);
            }
            for region in range.start / REGION..=(range.end() - 1) / REGION {
                if !self.activity.is_in(region) {
                    entering.insert(region);
                }
            }
        }
        if entering.is_empty() { Ok(()) } else { self.activity.enter(&entering) }
    }
    /// Lets idle regions (all, if `all`) leave the activity log. `flush` makes the image durable.
    pub(super) fn checkpoint(&self, all: bool, gate: &Gate, flush: impl Fn() -> Result<()>) -> Result<()> {
        let _one = lock(&self.checkpointing);
        let leaving = self.activity.retire(all);
        if leaving.is_empty() {
            return Ok(());
        }
        gate.pass();
        let file = lock(&self.files).marks.clone();
        if let Err(e) = flush().and_then(|()| self.marks.store(&*file)) {
            self.activity.restore(&leaving);
            return Err(e);
        }
        self.activity.leave(&leaving)
    }
    /// Regions in the activity log.
    pub(super) fn active(&self) -> u64 {
        self.activity.active()
    }
    /// The instant: writes from now on belong to `next`. The gate is closed.
    pub(super) fn advance(&self, next: Generation) {
        self.generation.store(next.0, SeqCst);
    }
    /// Makes the files of a tracking that `renew` will switch to.
    pub(super) fn prepare(&self, dir: &dyn LogDir, tracking: Uuid) -> Result<Prepared> {
        let (marks, activity) = create_files(dir, self.geometry, tracking)?;
        dir.sync_names()?;
        Ok(Prepared { marks, activity })
    }
    /// Goes on as a fresh tracking, nothing marked. The gate is closed, the record names it already.
    pub(super) fn renew(&self, fresh: Prepared, generation: Generation) {
        let _one = lock(&self.checkpointing);
        let mut files = lock(&self.files);
        self.marks.clear();
        self.activity.renew(fresh.activity);
        *files = Files { marks: fresh.marks, doubt: Doubt::new() };
        self.generation.store(generation.0, SeqCst);
    }
    /// Nothing is proven any more against any parent: in force when this returns, and durable if it returns `Ok`, so that
    /// whoever loads this tracking begins a fresh one.
    pub(super) fn void(&self, dir: &dyn LogDir, tracking: Uuid) -> Result<()> {
        let mut files = lock(&self.files);
        files.doubt = (0..regions(self.geometry.size)).map(|r| (r, VOID)).collect();
        write_doubt(dir, tracking, &files.doubt)
    }
    /// What may differ from the moment that closed `generation`: (marked, to compare).
    pub(super) fn since(&self, generation: Generation) -> (ExtentSet, ExtentSet) {
        let marked = self.marks.since(generation);
        let files = lock(&self.files);
        let doubtful = files.doubt.iter().filter(|(_, g)| **g > generation).map(|(r, _)| {
            let start = r * REGION;
            self.geometry.touched(ByteRange::new(start, REGION.min(self.geometry.size - start)))
        });
        let compare = without(doubtful, &marked);
        (marked, compare)
    }
}

/// Files of a tracking that is not in force yet.
pub(super) struct Prepared {
    marks: MarksFile,
    activity: ActivityLog,
}

fn create_files(dir: &dyn LogDir, geometry: Geometry, tracking: Uuid) -> Result<(MarksFile, ActivityLog)> {
    let marks = dir.create(&name("marks", tracking))?;
    let file = dir.create(&name("activity", tracking))?;
    Ok((marks, ActivityLog::create(file, tracking, regions(geometry.size))?))
}

/// Removes the files of every tracking but this one.
pub(super) fn remove_others(dir: &dyn LogDir, tracking: Uuid) -> Result<()> {
    let ours = tracking.to_string();
    for n in dir.names()? {
        let Some((what, whose)) = n.split_once('.') else { continue };
        if ["marks", "activity", "doubt"].contains(&what) && whose != ours {
            dir.remove(&n)?;
        }
    }
    Ok(())
}

/// What of `ranges` is not in `minus`.
fn without(ranges: impl Iterator<Item = ExtentRange>, minus: &ExtentSet) -> ExtentSet {
    let mut out = ExtentSet::default();
    for r in ranges {
        let mut rest = r;
        while let Some(inside) = minus.first_in(rest) {
            out.insert(ExtentRange { end: inside.start, ..rest });
            rest.start = inside.end;
        }
        out.insert(rest);
    }
    out
}

/// `doubt.T`: CRC-32C of what follows u32, then pairs of region u64 and generation u16. Replaced whole.
fn write_doubt(dir: &dyn LogDir, tracking: Uuid, doubt: &Doubt) -> Result<()> {
    let mut w = Writer::new();
    for (region, generation) in doubt {
        w.u64(*region).u16(generation.0);
    }
    let (body, temporary) = (w.finish(), name("doubt", tracking) + ".new");
    dir.remove(&temporary)?;
    let file = dir.create(&temporary)?;
    file.write_at(0, &[&crc32c(&body).to_le_bytes(), &body])?;
    file.sync()?;
    dir.replace(&temporary, &name("doubt", tracking))?;
    dir.sync_names()
}

fn read_doubt(dir: &dyn LogDir, tracking: Uuid) -> Result<Doubt> {
    let Some(file) = dir.open(&name("doubt", tracking))? else { return Ok(Doubt::new()) };
    // Its name may not be durable yet, if the process died between replacing and syncing.
    dir.sync_names()?;
    let mut raw = vec![0; file.len()? as usize];
    file.read_at(0, &mut raw)?;
    decode_doubt(&raw).map_err(|e| Error::new(Kind::Corrupt, format!("its list of doubtful regions: {e}")))
}

fn decode_doubt(raw: &[u8]) -> Result<Doubt, Malformed> {
    let mut r = Reader::new(raw);
    if r.u32("checksum")? != crc32c(r.rest()) {
        return Err(Malformed("checksum"));
    }
    let mut doubt = Doubt::new();
    while !r.rest().is_empty() {
        doubt.insert(r.u64("region")?, Generation(r.u16("generation")?));
    }
    Ok(doubt)
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_others() {
        let r = |start, end| ExtentRange { start, end };
        let minus = [r(2, 4), r(6, 7), r(20, 30)].into_iter().collect();
        let out = without([r(0, 8), r(8, 10), r(22, 24), r(29, 33)].into_iter(), &minus);
        assert_eq!(out.ranges().collect::<Vec<_>>(), [r(0, 2), r(4, 6), r(7, 10), r(30, 33)]);
    }
}
