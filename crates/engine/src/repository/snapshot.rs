//! One snapshot, open for reading.

use super::core::Core;
use super::error::{RepoError, Result};
use super::history::SnapshotInfo;
use super::holder::SnapshotHolder;
use super::pages::{Page, at};
use super::tree::inner_of;
use rekindle_core::repo::hot_list::{HotHead, decode_chunk};
use rekindle_core::repo::manifest::{FAN, PageKind, Shape};
use rekindle_core::repo::{PageRef, VolumeRecord};
use rekindle_core::volume::Uuid;
use std::sync::Arc;

/// A snapshot. Opening it reads nothing; cheap to clone.
#[derive(Clone)]
pub struct Snapshot {
    core: Arc<Core>,
    info: SnapshotInfo,
}

impl Snapshot {
    pub(super) fn new(core: Arc<Core>, info: SnapshotInfo) -> Self {
        Snapshot { core, info }
    }
    /// The repository it lies in.
    pub fn repository(&self) -> Uuid {
        self.core.config.repository
    }
    /// What the commit says.
    pub fn info(&self) -> &SnapshotInfo {
        &self.info
    }
    /// The volumes, in the set's order.
    pub fn volumes(&self) -> &[VolumeRecord] {
        &self.info.commit.volumes
    }
    /// The volume called `name`.
    pub fn volume(&self, name: &str) -> Result<&VolumeRecord> {
        self.volumes().iter().find(|v| v.name == name).ok_or_else(|| RepoError::NoVolume {
            snapshot: self.info.commit.snapshot,
            volume: name.to_string(),
        })
    }
    /// The holder of volume `name`: gives its bytes.
    pub fn holder(&self, name: &str) -> Result<Arc<SnapshotHolder>> {
        let volume = self.volume(name)?.clone();
        Ok(Arc::new(SnapshotHolder::new(self.core.clone(), self.info.clone(), volume)))
    }
    /// Page `index` (1,024 extents) of the usage map of volume `name`; `None` if nothing was stored for it.
    /// A failure costs speed only: the caller warns and goes on without.
    pub fn usage_page(&self, name: &str, index: u64) -> Result<Option<Vec<u8>>> {
        let volume = self.volume(name)?;
        read_usage(&self.core, volume, index)
    }
    /// Calls `each` with every stored usage page of volume `name`, in order.
    pub fn for_each_usage_page(&self, name: &str, each: &mut dyn FnMut(u64, &[u8])) -> Result<()> {
        let volume = self.volume(name)?;
        for index in 0..Shape::new(&volume.geometry).leaves() {
            if volume.usage.is_none() {
                break;
            }
            if let Some(page) = read_usage(&self.core, volume, index)? {
                each(index, &page);
            }
        }
        Ok(())
    }
    /// The extents of volume `name` in restore order, hottest first; empty if no list was stored.
    /// A failure costs speed only: the caller warns and goes on without.
    pub fn hot_list(&self, name: &str) -> Result<Vec<u64>> {
        let volume = self.volume(name)?;
        let Some(head) = volume.hot_list else { return Ok(Vec::new()) };
        let read = |page: PageRef, kind: PageKind| self.core.page_wait(page, kind);
        let raw = read(head, PageKind::HotHead)?;
        let list = HotHead::decode(raw_of(&raw, &head)?).map_err(|m| at(&head.place, m.0))?;
        let mut out = Vec::new();
        for chunk in &list.chunks {
            let raw = read(*chunk, PageKind::HotChunk)?;
            let limit = volume.geometry.extents();
            out.extend(decode_chunk(raw_of(&raw, chunk)?, limit).map_err(|m| at(&chunk.place, m.0))?);
        }
        if out.len() as u64 == list.extents {
            Ok(out)
        } else {
            Err(at(&head.place, "a hot list of another length"))
        }
    }
}

pub(super) fn raw_of<'a>(page: &'a Page, r: &PageRef) -> Result<&'a [u8]> {
    match page {
        Page::Raw(bytes) => Ok(bytes),
        _ => Err(at(&r.place, "a page of another kind than expected")),
    }
}

/// Payload of a usage page: what lies behind the kind byte.
pub(super) fn read_usage(core: &Arc<Core>, volume: &VolumeRecord, index: u64) -> Result<Option<Vec<u8>>> {
    let shape = Shape::new(&volume.geometry);
    let Some(mut page) = volume.usage.filter(|_| index < shape.leaves()) else { return Ok(None) };
    for level in (1..=shape.top).rev() {
        let got = core.page_wait(page, PageKind::Inner)?;
        let inner = inner_of(&got, &shape, level, index >> (10 * level), &page)?;
        match inner.child(((index >> (10 * (level - 1))) % FAN) as usize) {
            None => return Ok(None),
            Some(child) => page = child.page,
        }
    }
    let got = core.page_wait(page, PageKind::Usage)?;
    Ok(Some(raw_of(&got, &page)?[1..].to_vec()))
}
