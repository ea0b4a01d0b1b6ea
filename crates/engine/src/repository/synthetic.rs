//! A dense volume of any size in a few megabytes: every extent is stored, a few frames are shared by all. For measuring what
//! must not grow with the volume (opening, finding an extent, memory); never made by the product.
//!
//! The tree is a true one: leaves of 1,024 places, every inner page of its own. Only leaves repeat, 64 different ones.

use super::error::Result;
use super::history::SnapshotInfo;
use super::write::{CommitMeta, SnapshotWriter, VolumeSlot, WriterOptions};
use super::{Repository, Which};
use crate::backup::VolumeIdentity;
use rekindle_core::volume::Geometry;

/// Different extents of a dense volume.
pub const FRAMES: u64 = 16;

/// What extent `extent` of a dense volume holds, `len` bytes of it: half noise, half zeros.
pub fn content(extent: u64, len: usize) -> Vec<u8> {
    // Every leaf begins one frame further on, so that leaves differ from their neighbours.
    let frame = (extent + extent / 1024 % 64) % FRAMES;
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&frame.to_le_bytes()).finalize_xof().fill(&mut out[..len / 2]);
    out
}

/// Writes a snapshot of `set` whose one volume has every extent stored. The size must be a multiple of the extent.
pub fn dense(
    repo: &Repository,
    set: &str,
    identity: VolumeIdentity,
    geometry: Geometry,
    options: WriterOptions,
) -> Result<SnapshotInfo> {
    let parent = repo.snapshot(set, &Which::Latest).ok();
    let mut writer: SnapshotWriter = repo.begin_snapshot(set, parent.as_ref(), options)?;
    let slot: VolumeSlot = writer.volume(identity, geometry);
    writer.fill_dense(slot, &content)?;
    writer.commit(CommitMeta::default())
}
