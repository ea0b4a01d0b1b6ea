//! What a backup reads: one instant of all volumes of a set. Live sets and restoring sets both give one.

use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Generation, Geometry, Uuid};
use rekindle_io::Result;

/// Who a volume is, as a snapshot keeps it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeIdentity {
    /// Label inside its set, e.g. `data`; equals the set's name for a lone disk.
    pub name: String,
    /// Identity for life.
    pub uuid: Uuid,
    /// The history in which generations count; fresh after every restore, clone, overflow or lost possession.
    pub tracking: Uuid,
    /// The generation this instant closed: a snapshot taken of it carries it.
    pub generation: Generation,
}

/// What may differ from the parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Changed {
    /// Exactly these extents; all else is proven equal to the parent (same tracking uuid, its generation).
    Since {
        /// Marked after the parent's generation.
        marked: ExtentSet,
        /// Doubtful after an unclean stop (active regions): compare by id.
        compare: ExtentSet,
    },
    /// Nothing is proven: compare every extent by id, and say why.
    CompareAll(String),
}

/// One volume at the instant.
pub trait InstantVolume: Send + Sync {
    /// Who.
    fn identity(&self) -> VolumeIdentity;
    /// Its shape at the instant.
    fn geometry(&self) -> Geometry;
    /// What differs from the moment (`tracking`, `generation`) a parent snapshot closed.
    fn changed(&self, tracking: Uuid, generation: Generation) -> Changed;
    /// The next stretch at or after `from` that may hold data, so that holes are skipped unread; `None`: only zeros follow.
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>>;
    /// Fills `out` with the bytes of `extent` as of the instant, whatever the guest wrote since.
    fn read(&self, extent: u64, out: &mut [u8]) -> Result<()>;
    /// An extent that is best read next, before its turn: what is kept for it is in the guest's way. Each is named once,
    /// perhaps after it was read.
    fn urgent(&self) -> Option<u64> {
        None
    }
    /// The backup has taken `extents` (or never will read them): what was kept for them may go.
    fn taken(&self, extents: ExtentRange);
}

/// One instant of a whole set; dropping it ends copy-before-write.
pub trait SetInstant: Send + Sync {
    /// In the set's order.
    fn volumes(&self) -> Vec<&dyn InstantVolume>;
    /// `Err` once the instant was given up (fleece full or failing): the backup stops, the guest never.
    fn intact(&self) -> Result<()>;
}
