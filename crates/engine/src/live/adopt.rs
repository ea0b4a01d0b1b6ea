//! A restore becomes live: its state folder, as if the volume had always been tracked from the restored moment on.

use super::LiveOptions;
use super::record::{Left, Record, RecordFile, shortened};
use super::tracking::{Tracking, remove_others};
use super::volume::{Image, LiveVolume};
use rekindle_core::volume::{ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::block::{Block, ImageFacts};
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind, Result, random};
use std::sync::Arc;

/// What is handed over.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Label.
    pub name: String,
    /// The volume's identity: it stays when history goes on, and is a fresh one for a clone.
    pub uuid: Uuid,
    /// Its shape.
    pub geometry: Geometry,
    /// The restored moment as its snapshot names it: tracking and generation. A backup whose parent is exactly that
    /// snapshot is incremental. `None`: the next backup compares everything.
    pub origin: Option<(Uuid, Generation)>,
    /// The tracking that counted while the volume was being restored, and its open generation: backups made then are
    /// parents too. `None`: it was not tracked; a fresh one, generation 1.
    pub tracking: Option<(Uuid, Generation)>,
    /// Extents the guest wrote since the moment, ascending, with the generation of the last change (1 if not tracked).
    pub changed: Vec<(ExtentRange, Generation)>,
    /// What the settled image looks like: flushed, nobody writes to it now.
    pub image: ImageFacts,
}

/// The state folder of a live volume.
pub struct LiveState;

impl LiveVolume {
    /// Goes on serving a restored volume on the device it was restored to, which is open, locked and flushed: its state
    /// is durable when this returns, and nothing was written to the device. What the owner calls at the hand-over.
    pub fn adopt(
        device: Arc<dyn Block>,
        image: Arc<dyn Image>,
        adopted: &Adopted,
        options: &LiveOptions,
    ) -> Result<Arc<LiveVolume>> {
        LiveState::adopt(&*options.state, adopted)?;
        let options = LiveOptions { adopted: true, extent: None, ..options.clone() };
        LiveVolume::over(device, image, &options)
    }
}

impl LiveState {
    /// Writes the state of a volume that was restored: a tracking uuid of its own, whose generation 0 is the moment.
    /// Durable when it returns `Ok`; may be repeated, replacing what an earlier attempt left.
    /// The process that adopts and then opens without a gap says so (`LiveOptions::adopted`); if another opens it, a
    /// file must look as it was left, and a device counts as out of our hands.
    pub fn adopt(dir: &dyn LogDir, adopted: &Adopted) -> Result<()> {
        let (tracking, open) = adopted.tracking.unwrap_or_else(|| (random::uuid(), Generation(1)));
        let newest = adopted.changed.iter().map(|(_, g)| *g).max().unwrap_or(open);
        if newest > open || open == Generation(0) {
            let what = format!("{}: marked at {newest:?} with {open:?} open", adopted.name);
            return Err(Error::new(Kind::Invalid, what));
        }
        Tracking::create(dir, adopted.geometry, tracking, open, &adopted.changed)?;
        let record = Record {
            name: shortened(&adopted.name, 255),
            uuid: adopted.uuid,
            tracking,
            generation: open,
            origin: adopted.origin,
            geometry: adopted.geometry,
            left: Left::Clean(adopted.image),
            image: (adopted.image.device, adopted.image.inode),
            since: "it was restored".into(),
        };
        RecordFile::open(dir)?.store(&record)?;
        remove_others(dir, tracking)
    }
}
