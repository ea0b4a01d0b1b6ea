//! The writing half of `synthetic`: one pass over the leaves, 64 different ones, under true inner pages.

use super::super::error::{RepoError, Result};
use super::{SnapshotWriter, VolumeSlot};
use crate::repository::synthetic::FRAMES;
use rekindle_core::repo::frame::FrameKind;
use rekindle_core::repo::manifest::{Child, FAN, Leaf, encode_ids};
use rekindle_core::repo::{Id, Place};
use rekindle_core::volume::ExtentRange;
use rekindle_io::seal::compress;

impl SnapshotWriter {
    /// Makes every extent of `volume` stored, by the frames of `content`.
    pub(in crate::repository) fn fill_dense(
        &mut self,
        volume: VolumeSlot,
        content: &dyn Fn(u64, usize) -> Vec<u8>,
    ) -> Result<()> {
        let v = &mut self.volumes[volume.0];
        let (extent, shape) = (v.geometry.extent.get(), v.leaves.shape());
        if !v.geometry.size.is_multiple_of(extent) {
            return Err(RepoError::Invalid("a dense volume has whole extents".into()));
        }
        v.account(ExtentRange { start: 0, end: shape.extents })?;
        v.changed = shape.extents;
        let mut frames = Vec::new();
        for frame in 0..FRAMES {
            let (plain, mut body) = (content(frame, extent as usize), Vec::new());
            let id = self.core.keys.ids.extent(&plain, extent);
            let how = compress(&plain, &mut body);
            frames.push((self.packs.append(FrameKind::Data, id, plain.len() as u32, how, &body)?, id));
        }
        let mut variants: Vec<Child> = Vec::new();
        for leaf in 0..shape.leaves() {
            let whole = shape.fan_at(0, leaf) as u64 == FAN;
            let child = match variants.get((leaf % 64) as usize) {
                Some(child) if whole => *child,
                _ => self.dense_leaf(&frames, leaf, shape.fan_at(0, leaf), shape.fold_levels(0))?,
            };
            if leaf < 64 {
                variants.push(child);
            }
            self.volumes[volume.0].leaves.set_whole(leaf, child, &mut self.packs)?;
        }
        Ok(())
    }
    fn dense_leaf(&mut self, frames: &[(Place, Id)], leaf: u64, n: usize, levels: u32) -> Result<Child> {
        let (mut page, mut ids) = (Leaf::zeros(n), Vec::with_capacity(n));
        for i in 0..n {
            let (place, id) = frames[((leaf * FAN + i as u64 + leaf % 64) % FRAMES) as usize];
            page.set(i, Some(place));
            ids.push(id);
        }
        page.ids = Some(self.packs.append_page(&encode_ids(&ids))?);
        let id = self.core.keys.ids.fold(ids, levels);
        let (extents, bytes) = page.totals();
        Ok(Child { page: self.packs.append_page(&page.encode())?, id, extents, bytes })
    }
}
