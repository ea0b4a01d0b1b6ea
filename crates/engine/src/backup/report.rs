//! What a backup did, in numbers.

use crate::repository::{Put, SnapshotInfo};
use rekindle_core::volume::{Geometry, Uuid};
use std::time::Duration;

/// How a volume was backed up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum How {
    /// Only what changed was read.
    Incremental,
    /// Everything was read and compared with the parent by id; says why.
    Compared(String),
    /// Everything was read, there was nothing to compare with; says why.
    Full(String),
}

/// One volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeReport {
    /// Its name.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// How.
    pub how: How,
    /// Bytes read (holes are not).
    pub read_bytes: u64,
    /// Extents looked at, by what they were: holes or zeros.
    pub zero: u64,
    /// Equal to the parent's.
    pub unchanged: u64,
    /// Equal to others of this backup.
    pub deduped: u64,
    /// New.
    pub stored: u64,
    /// Bytes of extents that differ from the parent.
    pub changed_bytes: u64,
    /// Bytes of an extent.
    pub extent_bytes: u64,
}

impl VolumeReport {
    pub(super) fn new(name: String, how: How, geometry: &Geometry) -> Self {
        VolumeReport {
            name,
            size_bytes: geometry.size,
            how,
            read_bytes: 0,
            zero: 0,
            unchanged: 0,
            deduped: 0,
            stored: 0,
            changed_bytes: 0,
            extent_bytes: geometry.extent.get(),
        }
    }
    pub(super) fn count(&mut self, put: Put, bytes: u64) {
        self.read_bytes += bytes;
        *match put {
            Put::Zero => &mut self.zero,
            Put::Unchanged => &mut self.unchanged,
            Put::Deduped => &mut self.deduped,
            Put::Stored => &mut self.stored,
        } += 1;
    }
}

/// All of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupReport {
    /// The snapshot that exists now.
    pub snapshot: SnapshotInfo,
    /// The snapshot it builds upon.
    pub parent: Option<Uuid>,
    /// The volumes, in the set's order.
    pub volumes: Vec<VolumeReport>,
    /// Bytes of new frames, compressed and sealed.
    pub stored_bytes: u64,
    /// From the choice of the parent to the commit.
    pub took: Duration,
    /// What the user should hear: damaged snapshots met, a usage map that could not be stored.
    pub warnings: Vec<String>,
}

impl BackupReport {
    /// Bytes of all volumes.
    pub fn size_bytes(&self) -> u64 {
        self.volumes.iter().map(|v| v.size_bytes).sum()
    }
    /// Bytes read from the volumes.
    pub fn read_bytes(&self) -> u64 {
        self.volumes.iter().map(|v| v.read_bytes).sum()
    }
    /// Bytes of extents that differ from the parent.
    pub fn changed_bytes(&self) -> u64 {
        self.volumes.iter().map(|v| v.changed_bytes).sum()
    }
    /// Volumes that were read whole although a snapshot of them exists, and why.
    pub fn compared(&self) -> Vec<String> {
        let why = |v: &VolumeReport| match &v.how {
            How::Compared(why) => Some(format!("{}: {why}", v.name)),
            _ => None,
        };
        self.volumes.iter().filter_map(why).collect()
    }
    /// Volumes that were read whole because the snapshots have no such disk, and why.
    pub fn whole(&self) -> Vec<String> {
        let why = |v: &VolumeReport| match &v.how {
            How::Full(why) => Some(format!("{}: {why}", v.name)),
            _ => None,
        };
        let first = self.snapshot.seq <= 1;
        self.volumes.iter().filter(|_| !first).filter_map(why).collect()
    }
}
