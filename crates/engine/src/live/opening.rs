//! What is known of a disk that is to be served, and what it is taken for.

use super::LiveOptions;
use super::possession::{Verdict, judge};
use super::record::{Left, Record, RecordFile, shortened};
use super::tracking::Tracking;
use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};
use rekindle_io::block::{ImageFacts, Info};
use rekindle_io::logfile::{LogDir, MemDir};
use rekindle_io::{Error, Kind, Result, random};
use std::sync::Arc;

/// What a state folder knows, without touching an empty one.
pub(super) fn recorded(dir: &dyn LogDir) -> Result<Option<Record>> {
    match dir.open(super::record::FILE)? {
        Some(_) => RecordFile::open(dir)?.load(),
        None => Ok(None),
    }
}

/// The state folder and what it knows. A read-only volume changes neither: its state is in memory, and nothing is
/// proven of a volume that others may write to.
pub(super) fn state_of(options: &LiveOptions, read_only: bool) -> Result<(Arc<dyn LogDir>, Option<Record>)> {
    let known = recorded(&*options.state)?;
    if !read_only {
        return Ok((options.state.clone(), known));
    }
    Ok((MemDir::new(), known.map(|r| Record { left: Left::Open, tracking: random::uuid(), ..r })))
}

pub(super) fn first_record(options: &LiveOptions, info: &Info) -> Result<Record> {
    let extent = options.extent.unwrap_or(ExtentBytes::DEFAULT);
    Ok(Record {
        name: options.name.clone(),
        uuid: random::uuid(),
        tracking: Uuid::default(),
        generation: Generation(1),
        origin: None,
        geometry: geometry(info, info.size, extent)?,
        left: Left::Open,
        image: (0, 0),
        since: String::new(),
    })
}

fn geometry(info: &Info, size: u64, extent: ExtentBytes) -> Result<Geometry> {
    Geometry::new(size, extent, info.logical_block, info.physical_block)
        .map_err(|e| Error::new(Kind::Invalid, e.to_string()))
}

/// Judges a known volume. A grown image is taken as it is, wholly unproven; a shrunk one lost data, so it is refused.
pub(super) fn welcome(
    record: Record,
    options: &LiveOptions,
    info: &Info,
    facts: &ImageFacts,
    pulse: Option<u64>,
) -> Result<(Record, Verdict)> {
    let old = record.geometry;
    if let Some(wanted) = options.extent.filter(|e| *e != old.extent) {
        let what = format!(
            "extents of {} bytes were asked for, the volume has {}: they are fixed for life",
            wanted.get(),
            old.extent.get()
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    if info.size < old.size {
        let what =
            format!("the image has {} bytes, the volume had {}: it was cut short", info.size, old.size);
        return Err(Error::new(Kind::Invalid, what));
    }
    // A restored volume is as large as its moment, whatever it was restored to; when it is served anew it has grown.
    let size = if options.adopted { old.size } else { info.size };
    let geometry = geometry(info, size, old.extent)?;
    let verdict = if options.adopted {
        Verdict::Ours
    } else if geometry.size != old.size {
        Verdict::Void(format!("its size went from {} to {} bytes", old.size, geometry.size))
    } else {
        judge(&record, facts, pulse)
    };
    Ok((Record { geometry, ..record }, verdict))
}

/// Loads the tracking, or begins a fresh one and says why.
pub(super) fn open_tracking(
    dir: &dyn LogDir,
    record: &mut Record,
    verdict: Verdict,
    name: &str,
) -> Result<Tracking> {
    let why = match verdict {
        Verdict::Void(why) => why,
        Verdict::Ours => match Tracking::load(dir, record.geometry, record.tracking, record.generation) {
            Ok(t) => return Ok(t),
            Err(e) if matches!(e.kind, Kind::Gone | Kind::Corrupt) => {
                format!("the state of its tracking cannot be used: {e}")
            }
            Err(e) => return Err(e),
        },
    };
    tracing::info!("{name}: the next backup compares everything, because {why}");
    record.tracking = random::uuid();
    record.generation = Generation(1);
    record.origin = None;
    record.since = shortened(&why, 400);
    Tracking::create(dir, record.geometry, record.tracking, record.generation, &[])
}
