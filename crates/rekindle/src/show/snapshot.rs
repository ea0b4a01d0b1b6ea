//! Snapshots as JSON documents and as lines.

use super::words;
use rekindle_engine::repository::SnapshotInfo;
use schemars::JsonSchema;
use serde::Serialize;

/// A snapshot, as `timeline` and `show` print it.
#[derive(Serialize, JsonSchema, Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// 32 hex digits.
    pub id: String,
    /// The set.
    pub set: String,
    /// Number in the set's history.
    pub sequence: u64,
    /// The instant; RFC 3339, UTC.
    pub time: String,
    /// The snapshot it is the successor of.
    pub parent: Option<String>,
    /// Labels.
    pub tags: Vec<String>,
    /// The machine that made it.
    pub host: String,
    /// The program that made it.
    pub tool: String,
    /// Bytes of all volumes.
    pub size_bytes: u64,
    /// Bytes this snapshot added to the repository for changed extents.
    pub new_bytes: u64,
    /// The volumes, in the set's order.
    pub volumes: Vec<Volume>,
}

/// One volume of a snapshot.
#[derive(Serialize, JsonSchema, Clone, PartialEq, Debug)]
pub struct Volume {
    /// Inside its set.
    pub name: String,
    /// Identity for life, 32 hex digits.
    pub uuid: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Unit of tracking and storing, in bytes.
    pub extent_bytes: u64,
    /// Logical block in bytes.
    pub logical_block: u32,
    /// Physical block in bytes.
    pub physical_block: u32,
    /// Bytes of extents that are not zero.
    pub used_bytes: u64,
    /// Bytes of their frames in the repository, shared ones counted each time.
    pub stored_bytes: u64,
    /// Bytes of extents that differ from the parent.
    pub changed_bytes: u64,
    /// Bytes added to the repository for them.
    pub new_bytes: u64,
    /// Root hash of the content: equal bytes have equal hashes, whatever the extent size or place.
    pub root: String,
    /// The backup generation this snapshot closed.
    pub generation: u16,
    /// A usage map is stored with it.
    pub has_usage: bool,
    /// A hot list is stored with it.
    pub has_hot_list: bool,
}

impl From<&SnapshotInfo> for Snapshot {
    fn from(info: &SnapshotInfo) -> Snapshot {
        let c = &info.commit;
        let volumes: Vec<Volume> = c.volumes.iter().map(volume).collect();
        Snapshot {
            id: c.snapshot.to_string(),
            set: c.set.clone(),
            sequence: info.seq,
            time: words::rfc3339(c.time_ns),
            parent: c.parent.map(|p| p.to_string()),
            tags: c.tags.clone(),
            host: c.host.clone(),
            tool: c.tool.clone(),
            size_bytes: volumes.iter().map(|v| v.size_bytes).sum(),
            new_bytes: volumes.iter().map(|v| v.new_bytes).sum(),
            volumes,
        }
    }
}

fn volume(v: &rekindle_engine::repository::VolumeRecord) -> Volume {
    let extent = v.geometry.extent.get();
    // The last extent may be short: never more than there is.
    let bytes = |extents: u64| (extents * extent).min(v.geometry.size);
    Volume {
        name: v.name.clone(),
        uuid: v.uuid.to_string(),
        size_bytes: v.geometry.size,
        extent_bytes: extent,
        logical_block: v.geometry.logical_block,
        physical_block: v.geometry.physical_block,
        used_bytes: bytes(v.stored_extents),
        stored_bytes: v.stored_bytes,
        changed_bytes: bytes(v.changed_extents),
        new_bytes: v.new_bytes,
        root: v.root_id.to_string(),
        generation: v.generation.0,
        has_usage: v.usage.is_some(),
        has_hot_list: v.hot_list.is_some(),
    }
}
