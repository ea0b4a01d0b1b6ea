//! Which ranges differ: between two snapshots of a volume, or between a snapshot and the bytes of a file or device.
//! By ids alone; nothing is fetched but metadata. Ranges come in order, neighbours joined.

use super::Compare;
use crate::progress::{Done, Progress};
use crate::repository::{Id, SnapshotHolder};
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::holder::Holder;
use rekindle_io::{Error, Kind, Result};

/// Extents compared together: one leaf.
const LEAF: u64 = 1024;

/// What differs, in all.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DiffSummary {
    /// Ranges told.
    pub ranges: u64,
    /// Bytes of them: whole extents.
    pub bytes: u64,
}

/// Joins extents into ranges of bytes and tells each once it is complete.
struct Joiner<'a> {
    geometry: Geometry,
    each: &'a mut dyn FnMut(ByteRange) -> Result<()>,
    open: ByteRange,
    summary: DiffSummary,
}

impl<'a> Joiner<'a> {
    fn new(geometry: Geometry, each: &'a mut dyn FnMut(ByteRange) -> Result<()>) -> Self {
        Joiner { geometry, each, open: ByteRange::default(), summary: DiffSummary::default() }
    }
    fn add(&mut self, extent: u64) -> Result<()> {
        let r = self.geometry.extent_bytes(extent);
        if self.open.len > 0 && self.open.end() == r.start {
            self.open.len += r.len;
            return Ok(());
        }
        let done = std::mem::replace(&mut self.open, r);
        self.tell(done)
    }
    fn tell(&mut self, range: ByteRange) -> Result<()> {
        if range.len == 0 {
            return Ok(());
        }
        self.summary.ranges += 1;
        self.summary.bytes += range.len;
        (self.each)(range)
    }
    fn end(mut self) -> Result<DiffSummary> {
        self.tell(self.open)?;
        Ok(self.summary)
    }
}

/// Tells the ranges in which `a` differs from `b`. Equal parts of their trees are not looked at when both are snapshots
/// of one volume in one repository; else the ids of all extents are compared, for which both repositories must make
/// ids with one key (`Kind::Unsupported` if not). What one volume has beyond the other's end differs unless it is zero.
pub fn diff_snapshots(
    a: &SnapshotHolder,
    b: &SnapshotHolder,
    progress: &dyn Progress,
    each: &mut dyn FnMut(ByteRange) -> Result<()>,
) -> Result<DiffSummary> {
    let (ga, gb) = (a.geometry(), b.geometry());
    if ga == gb && a.identity().volume == b.identity().volume {
        match a.difference(b.identity().moment) {
            Ok(difference) => {
                let mut joiner = Joiner::new(ga, each);
                difference.extents.iter().try_for_each(|e| joiner.add(*e))?;
                return joiner.end();
            }
            Err(e) if e.kind == Kind::Gone => {}
            Err(e) => return Err(e),
        }
    }
    let refuse =
        |what: &str| Err(Error::new(Kind::Unsupported, format!("{what}: their ids cannot be compared")));
    if ga.extent != gb.extent {
        return refuse("the two volumes have extents of different size");
    }
    // Any bytes will do: under one key they have one id.
    if Compare::id_of(a, b"rekindle") != Compare::id_of(b, b"rekindle") {
        return refuse("the two repositories make ids with different keys");
    }
    let larger = if ga.size >= gb.size { ga } else { gb };
    let mut joiner = Joiner::new(larger, each);
    for extents in leaves(larger.extents()) {
        check(progress, &larger, extents.start)?;
        let (ours, theirs) = (padded(a, &ga, extents)?, padded(b, &gb, extents)?);
        let differ = extents.iter().zip(ours.iter().zip(&theirs)).filter(|(_, (a, b))| a != b);
        differ.map(|(e, _)| e).try_for_each(|e| joiner.add(e))?;
    }
    joiner.end()
}

/// Tells the ranges in which the bytes that `read` gives differ from the volume of `geometry` that `compare` knows.
pub fn diff_bytes(
    geometry: &Geometry,
    compare: &dyn Compare,
    read: &dyn Fn(u64, &mut [u8]) -> Result<()>,
    progress: &dyn Progress,
    each: &mut dyn FnMut(ByteRange) -> Result<()>,
) -> Result<DiffSummary> {
    let mut joiner = Joiner::new(*geometry, each);
    let mut buf = Vec::new();
    for extents in leaves(geometry.extents()) {
        let ids = compare.ids(extents)?;
        for (extent, id) in extents.iter().zip(ids) {
            check(progress, geometry, extent)?;
            let range = geometry.extent_bytes(extent);
            buf.resize(range.len as usize, 0);
            read(range.start, &mut buf)?;
            if compare.id_of(&buf) != id {
                joiner.add(extent)?;
            }
        }
    }
    joiner.end()
}

fn leaves(extents: u64) -> impl Iterator<Item = ExtentRange> {
    (0..extents)
        .step_by(LEAF as usize)
        .map(move |start| ExtentRange { start, end: (start + LEAF).min(extents) })
}

/// Ids of `extents`; beyond the end of the volume everything is zero.
fn padded(holder: &SnapshotHolder, geometry: &Geometry, extents: ExtentRange) -> Result<Vec<Id>> {
    let end = extents.end.min(geometry.extents()).max(extents.start);
    let mut ids = if end > extents.start {
        Compare::ids(holder, ExtentRange { start: extents.start, end })?
    } else {
        Vec::new()
    };
    ids.resize(extents.count() as usize, Id::ZERO);
    Ok(ids)
}

fn check(progress: &dyn Progress, geometry: &Geometry, extent: u64) -> Result<()> {
    let done_bytes = geometry.extent_bytes(extent).start;
    progress.update(Done { done_bytes, total_bytes: geometry.size, moved_bytes: 0 });
    if progress.cancelled() {
        return Err(Error::new(Kind::Cancelled, "the comparison was stopped"));
    }
    Ok(())
}
