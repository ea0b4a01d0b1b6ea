//! One volume of a snapshot being written: what was given of it, its manifest, usage pages and hot list.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::leaves::Leaves;
use super::pack::PackWriter;
use super::upper::{Root, Upper};
use crate::backup::VolumeIdentity;
use rekindle_core::repo::hot_list::{CHUNK, CHUNKS_MAX, HotHead, encode_chunk};
use rekindle_core::repo::manifest::{Child, PageKind, Shape};
use rekindle_core::repo::{Id, PageRef, VolumeRecord};
use rekindle_core::volume::{ExtentRange, ExtentSet, Geometry};
use std::sync::Arc;

pub(super) struct Volume {
    core: Arc<Core>,
    identity: VolumeIdentity,
    pub geometry: Geometry,
    pub base: Option<VolumeRecord>,
    pub leaves: Leaves,
    usage: Upper,
    usage_lost: bool,
    hot_list: Option<PageRef>,
    /// Extents put, zeroed or kept: must be all in the end, none twice. A count alone would take one given twice and one
    /// forgotten for complete.
    given: ExtentSet,
    kept_rest: bool,
    /// See `SnapshotWriter::compare`.
    compared: bool,
    /// See `SnapshotWriter::prove`.
    pub proven: Arc<ExtentSet>,
    pub changed: u64,
    pub new_bytes: u64,
}

impl Volume {
    pub(super) fn new(
        core: Arc<Core>,
        identity: VolumeIdentity,
        geometry: Geometry,
        base: Option<VolumeRecord>,
    ) -> Self {
        let shape = Shape::new(&geometry);
        let upper = |root: Option<PageRef>| Upper::new(core.clone(), shape, root);
        Volume {
            leaves: Leaves::new(core.clone(), upper(base.as_ref().and_then(|b| b.root))),
            usage: upper(base.as_ref().and_then(|b| b.usage)),
            usage_lost: false,
            hot_list: base.as_ref().and_then(|b| b.hot_list),
            core,
            identity,
            geometry,
            base,
            given: ExtentSet::default(),
            kept_rest: false,
            compared: false,
            proven: Arc::default(),
            changed: 0,
            new_bytes: 0,
        }
    }
    fn invalid<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(RepoError::Invalid(format!("volume {}: {what}", self.identity.name)))
    }
    /// What this extent names must be read first.
    pub(super) fn is_proven(&self, extent: u64) -> bool {
        self.proven.contains(extent)
    }
    /// The parent has these bytes at `extent`, with this id, and still has them: what the guest wrote was read, of anything
    /// else the frame is there.
    pub(super) fn has(&mut self, extent: u64, id: Id, bytes: &[u8], packs: &mut PackWriter) -> Result<bool> {
        if self.leaves.id(extent, packs)? != id {
            return Ok(false);
        }
        match self.leaves.place(extent, packs)? {
            Some(place) if self.is_proven(extent) => self.core.has_bytes(&place, bytes),
            Some(place) => packs.has(&place),
            None => Ok(id.is_zero()),
        }
    }
    pub(super) fn compare(&mut self) {
        self.compared = true;
        self.leaves.do_without_what_is_lost();
    }
    /// Counts `range` as given.
    pub(super) fn account(&mut self, range: ExtentRange) -> Result<()> {
        let all = self.leaves.shape().extents;
        if range.start > range.end || range.end > all {
            return self.invalid(format_args!("extents {} to {} lie behind its end", range.start, range.end));
        }
        if self.kept_rest {
            return self.invalid("an extent was given after the rest was kept");
        }
        if let Some(twice) = self.given.first_in(range) {
            return self.invalid(format_args!("extent {} was given twice", twice.start));
        }
        self.given.insert(range);
        Ok(())
    }
    pub(super) fn keep(&mut self, range: ExtentRange) -> Result<()> {
        if self.base.is_none() {
            return self.invalid("nothing can be kept: the parent has no such volume of this shape");
        }
        if self.compared {
            return self.invalid("something was kept of a volume that is compared whole");
        }
        self.account(range)
    }
    pub(super) fn keep_rest(&mut self) -> Result<()> {
        self.keep(ExtentRange::default())?;
        self.kept_rest = true;
        Ok(())
    }
    pub(super) fn usage_page(&mut self, index: u64, payload: &[u8], packs: &mut PackWriter) -> Result<()> {
        if index >= self.leaves.shape().leaves() {
            return self.invalid(format_args!("usage page {index} lies behind its end"));
        }
        let plain = [&[PageKind::Usage as u8], payload].concat();
        let id = self.core.keys.ids.opaque(&plain);
        match self.usage.child(1, index, packs) {
            Ok(old) if old.is_some_and(|c| c.id == id) => return Ok(()),
            Err(e @ RepoError::Damaged { .. }) => self.forget_usage(&e),
            Err(e) => return Err(e),
            Ok(_) => (),
        }
        let page = packs.append_page(&plain)?;
        let bytes = u64::from(page.place.stored);
        self.usage.set_leaf(index, Some(Child { page, id, extents: 0, bytes }), packs)
    }
    /// The parent's usage map cannot be read: that costs speed, not the backup. It begins anew.
    fn forget_usage(&mut self, e: &RepoError) {
        tracing::warn!(volume = self.identity.name, error = %e, "the parent's usage map is damaged; starting an empty one");
        self.usage = Upper::new(self.core.clone(), self.leaves.shape(), None);
        self.usage_lost = true;
    }
    pub(super) fn hot_list(&mut self, extents: &[u64], packs: &mut PackWriter) -> Result<()> {
        if extents.iter().any(|e| *e >= self.leaves.shape().extents) {
            return self.invalid("the hot list names extents behind its end");
        }
        if extents.is_empty() {
            self.hot_list = None;
            return Ok(());
        }
        // Longer lists are cut: what is left out is cold.
        let extents = &extents[..extents.len().min(CHUNK * CHUNKS_MAX)];
        let mut head = HotHead { extents: extents.len() as u64, chunks: Vec::new() };
        for chunk in extents.chunks(CHUNK) {
            head.chunks.push(packs.append_page(&encode_chunk(chunk))?);
        }
        self.hot_list = Some(packs.append_page(&head.encode())?);
        Ok(())
    }
    /// Writes what is left and gives the record of the commit.
    pub(super) fn finish(self, packs: &mut PackWriter) -> Result<VolumeRecord> {
        let all = self.leaves.shape().extents;
        if !self.kept_rest && self.given.count() != all {
            return self.invalid(format_args!("{} of {all} extents were given", self.given.count()));
        }
        let (old_root, old_usage) = match &self.base {
            Some(b) => (b.root.map(|page| root_of(page, b)), b.usage),
            None => (None, None),
        };
        let root = self.leaves.finish(packs)?.unwrap_or(old_root);
        let old_usage = old_usage.filter(|_| !self.usage_lost);
        let usage = match self.usage.finish(packs) {
            Ok(written) => written.map_or(old_usage, |r| r.map(|r| r.page)),
            Err(e @ RepoError::Damaged { .. }) => {
                tracing::warn!(error = %e, "the parent's usage map is damaged; none is stored");
                None
            }
            Err(e) => return Err(e),
        };
        let VolumeIdentity { name, uuid, tracking, generation } = self.identity;
        Ok(VolumeRecord {
            name,
            uuid,
            tracking,
            generation,
            geometry: self.geometry,
            root: root.map(|r| r.page),
            root_id: root.map_or(Id::ZERO, |r| r.id),
            stored_extents: root.map_or(0, |r| r.extents),
            stored_bytes: root.map_or(0, |r| r.bytes),
            changed_extents: self.changed,
            new_bytes: self.new_bytes,
            usage,
            hot_list: self.hot_list,
        })
    }
}

fn root_of(page: PageRef, record: &VolumeRecord) -> Root {
    Root { page, id: record.root_id, extents: record.stored_extents, bytes: record.stored_bytes }
}
