//! A restore becomes live: its state folder, as if the volume had always been tracked from the restored moment on.

use super::record::{Left, Record, RecordFile, shortened};
use super::tracking::{Tracking, remove_others};
use rekindle_core::volume::{ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::block::ImageFacts;
use rekindle_io::logfile::LogDir;
use rekindle_io::{Result, random};

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
    /// Extents the guest wrote since the moment, ascending.
    pub changed: Vec<ExtentRange>,
    /// What the settled image looks like: flushed, nobody writes to it now.
    pub image: ImageFacts,
}

/// The state folder of a live volume.
pub struct LiveState;

impl LiveState {
    /// Writes the state of a volume that was restored: a fresh tracking uuid, generation 0 = the moment. Durable when it
    /// returns `Ok`; after an error, or a crash before that, the folder holds what it held.
    /// The process that adopts and then opens without a gap says so (`LiveOptions::adopted`); if another opens it, a
    /// file must look as it was left, and a device counts as out of our hands.
    pub fn adopt(dir: &dyn LogDir, adopted: &Adopted) -> Result<()> {
        let tracking = random::uuid();
        let open = Generation(1);
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
