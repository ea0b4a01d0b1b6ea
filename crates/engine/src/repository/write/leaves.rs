//! Writing the leaves of a manifest: changed entries wait until their leaf is flushed. A leaf is flushed when all its
//! extents were given (a full backup in volume order), when too many entries wait (oldest leaves first), and at the end.
//! A leaf that is touched again after its flush is read back: costs time, never correctness.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::pages::{LeafPage, Page};
use super::super::tree::{leaf_ids, leaf_of};
use super::pack::PackWriter;
use super::upper::{Root, Upper};
use rekindle_core::repo::manifest::{Child, FAN, Leaf, PATCH_MAX, PageKind, Patch, Shape, encode_ids};
use rekindle_core::repo::{Id, PageRef, Place};
use rekindle_core::volume::ExtentRange;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Entries that wait at most: about 100 bytes each. Few under test, so that leaves are touched again after their flush.
const PENDING_MAX: usize = if cfg!(test) { 64 } else { 32 << 10 };

/// What an extent becomes: its frame and id, or zeros.
pub(super) type Entry = Option<(Place, Id)>;

#[derive(Default)]
struct Edit {
    entries: BTreeMap<u16, Entry>,
    touched: u64,
}

/// A leaf as it was stored last, with its ids.
struct Before {
    page: Arc<Page>,
    child: Child,
}

impl Before {
    fn leaf(&self) -> Result<&LeafPage> {
        match &*self.page {
            Page::Leaf(l) => Ok(l),
            _ => Err(RepoError::Invalid("not a leaf".into())),
        }
    }
}

/// The manifest of one volume while it is written.
pub(super) struct Leaves {
    core: Arc<Core>,
    upper: Upper,
    edits: BTreeMap<u64, Edit>,
    pending: usize,
    tick: u64,
    /// The leaf looked at last, for comparing with the parent.
    compare: Option<Compared>,
    /// Every extent is given; see `do_without_what_is_lost`.
    whole: bool,
    /// Leaves that were looked at: what was said of them stands.
    told: BTreeSet<u64>,
}

/// A leaf as the parent has it; no page: all zeros.
struct Compared {
    index: u64,
    before: Option<Before>,
    ids: Vec<Id>,
}

impl Leaves {
    pub(super) fn new(core: Arc<Core>, upper: Upper) -> Self {
        Leaves {
            core,
            upper,
            edits: BTreeMap::new(),
            pending: 0,
            tick: 0,
            compare: None,
            whole: false,
            told: BTreeSet::new(),
        }
    }
    /// Every extent will be given, so that the parent only saves storing: what of its manifest is lost when it is first
    /// looked at counts as zeros, and all below it is stored anew. Later it is an error: something may have been named since.
    pub(super) fn do_without_what_is_lost(&mut self) {
        self.whole = true;
        self.upper.do_without_what_is_lost();
    }
    pub(super) fn shape(&self) -> Shape {
        self.upper.shape
    }
    fn stored(&mut self, leaf: u64, packs: &mut PackWriter) -> Result<Option<Before>> {
        let Some(child) = self.upper.child(1, leaf, packs)? else { return Ok(None) };
        packs.readable(&child.page)?;
        let page = self.core.page_wait(child.page, PageKind::Leaf)?;
        let found = leaf_of(&page, &self.upper.shape, leaf, &child.page)?;
        if self.whole {
            // It may be known from before it was lost, and a leaf that does not change is named again.
            for page in pages_of(found, child.page) {
                packs.must_have(&page.place)?;
            }
        }
        Ok(Some(Before { page, child }))
    }
    fn compared(&mut self, leaf: u64, packs: &mut PackWriter) -> Result<Compared> {
        let before = self.stored(leaf, packs)?;
        let ids = match &before {
            Some(before) => leaf_ids(&self.core, before.leaf()?)?,
            None => vec![Id::ZERO; self.upper.shape.fan_at(0, leaf)],
        };
        Ok(Compared { index: leaf, before, ids })
    }
    /// The leaf as it was stored last, looked at once for all its neighbours.
    fn compare(&mut self, leaf: u64, packs: &mut PackWriter) -> Result<&Compared> {
        if self.compare.as_ref().is_none_or(|c| c.index != leaf) {
            let compared = match self.compared(leaf, packs) {
                Err(e) if self.whole && e.is_loss() && !self.told.contains(&leaf) => {
                    tracing::warn!(error = %e, "part of the parent's manifest is lost; its extents are stored anew");
                    self.upper.set_leaf(leaf, None, packs)?;
                    self.compared(leaf, packs)?
                }
                found => found?,
            };
            if self.whole {
                self.told.insert(leaf);
            }
            self.compare = Some(compared);
        }
        // Set above.
        self.compare.as_ref().ok_or_else(|| RepoError::Invalid("no leaf".into()))
    }
    /// The id that an extent had in the parent (or has, if its leaf was flushed since).
    pub(super) fn id(&mut self, extent: u64, packs: &mut PackWriter) -> Result<Id> {
        Ok(self.compare(extent / FAN, packs)?.ids[(extent % FAN) as usize])
    }
    /// Where the parent has an extent (or where it is, if its leaf was flushed since).
    pub(super) fn place(&mut self, extent: u64, packs: &mut PackWriter) -> Result<Option<Place>> {
        let Some(before) = &self.compare(extent / FAN, packs)?.before else { return Ok(None) };
        Ok(before.leaf()?.leaf.place((extent % FAN) as usize))
    }
    /// Says what `extent` is now.
    pub(super) fn set(&mut self, extent: u64, entry: Entry, packs: &mut PackWriter) -> Result<()> {
        let leaf = extent / FAN;
        self.tick += 1;
        let edit = self.edits.entry(leaf).or_default();
        edit.touched = self.tick;
        if edit.entries.insert((extent % FAN) as u16, entry).is_none() {
            self.pending += 1;
        }
        if edit.entries.len() == self.upper.shape.fan_at(0, leaf) {
            self.flush(leaf, packs)?;
        }
        if self.pending > PENDING_MAX {
            self.flush_oldest(packs)?;
        }
        Ok(())
    }
    /// Says that `range` is zeros now; gives how many stored extents that took away. Whole leaves are not read.
    pub(super) fn zero(&mut self, range: ExtentRange, packs: &mut PackWriter) -> Result<u64> {
        let (mut extent, mut removed) = (range.start, 0);
        while extent < range.end {
            let leaf = extent / FAN;
            let first = leaf * FAN;
            let end = first + self.upper.shape.fan_at(0, leaf) as u64;
            let until = end.min(range.end);
            if extent == first && until == end {
                self.pending -= self.edits.remove(&leaf).map_or(0, |e| e.entries.len());
                if let Some(child) = self.upper.child(1, leaf, packs)? {
                    removed += child.extents;
                    self.upper.set_leaf(leaf, None, packs)?;
                }
            } else {
                for e in extent..until {
                    removed += u64::from(!self.id(e, packs)?.is_zero());
                    self.set(e, None, packs)?;
                }
            }
            extent = until;
        }
        Ok(removed)
    }
    /// Names a leaf that was written elsewhere.
    #[cfg(any(test, feature = "synthetic"))]
    pub(super) fn set_whole(&mut self, leaf: u64, child: Child, packs: &mut PackWriter) -> Result<()> {
        self.upper.set_leaf(leaf, Some(child), packs)
    }
    fn flush_oldest(&mut self, packs: &mut PackWriter) -> Result<()> {
        let mut by_age: Vec<(u64, u64)> = self.edits.iter().map(|(leaf, e)| (e.touched, *leaf)).collect();
        by_age.sort_unstable();
        for (_, leaf) in by_age {
            if self.pending <= PENDING_MAX / 2 {
                break;
            }
            self.flush(leaf, packs)?;
        }
        Ok(())
    }
    fn flush(&mut self, leaf: u64, packs: &mut PackWriter) -> Result<()> {
        let Some(edit) = self.edits.remove(&leaf) else { return Ok(()) };
        self.pending -= edit.entries.len();
        if self.compare.as_ref().is_some_and(|c| c.index == leaf) {
            self.compare = None;
        }
        let Compared { before, mut ids, .. } = self.compared(leaf, packs)?;
        let zeros = Leaf::zeros(ids.len());
        let old = before.as_ref().map(Before::leaf).transpose()?.map_or(&zeros, |l| &l.leaf);
        let changed: BTreeMap<u16, Entry> = edit
            .entries
            .into_iter()
            .filter(|(i, e)| {
                (old.place(*i as usize), ids[*i as usize]) != (e.map(|e| e.0), e.map_or(Id::ZERO, |e| e.1))
            })
            .collect();
        if changed.is_empty() {
            return Ok(());
        }
        let mut new = old.clone();
        for (i, entry) in &changed {
            new.set(*i as usize, entry.map(|e| e.0));
            ids[*i as usize] = entry.map_or(Id::ZERO, |e| e.1);
        }
        let child = self.write(new, &ids, changed, before.as_ref(), packs)?;
        self.upper.set_leaf(leaf, child, packs)
    }
    /// Writes a leaf whole, or as a patch when little differs from a whole one.
    fn write(
        &self,
        new: Leaf,
        ids: &[Id],
        changed: BTreeMap<u16, Entry>,
        before: Option<&Before>,
        packs: &mut PackWriter,
    ) -> Result<Option<Child>> {
        let (extents, bytes) = new.totals();
        if extents == 0 {
            return Ok(None);
        }
        let patch = before.map(|b| patch_of(b, changed)).transpose()?;
        let page = match patch.filter(|p| p.entries.len() <= PATCH_MAX.min(extents as usize / 4)) {
            Some(patch) if patch.entries.is_empty() => patch.base,
            Some(patch) => packs.append_page(&patch.encode())?,
            None => {
                let stored: Vec<Id> = ids.iter().copied().filter(|i| !i.is_zero()).collect();
                let mut whole = new.tidy();
                whole.ids = Some(packs.append_page(&encode_ids(&stored))?);
                packs.append_page(&whole.encode())?
            }
        };
        let levels = self.upper.shape.fold_levels(0);
        let id = self.core.keys.ids.fold(ids.iter().copied(), levels);
        Ok(Some(Child { page, id, extents, bytes }))
    }
    /// Flushes everything; see `Upper::finish` for the result.
    pub(super) fn finish(mut self, packs: &mut PackWriter) -> Result<Option<Option<Root>>> {
        while let Some((&leaf, _)) = self.edits.first_key_value() {
            self.flush(leaf, packs)?;
        }
        self.upper.finish(packs)
    }
}

/// The pages that make the leaf at `page`.
fn pages_of(found: &LeafPage, page: PageRef) -> impl Iterator<Item = PageRef> {
    let (base, ids) = match &found.patch {
        Some((at, base, _)) => match &**base {
            Page::Leaf(base) => (Some(*at), base.leaf.ids),
            _ => (Some(*at), None),
        },
        None => (None, found.leaf.ids),
    };
    [Some(page), base, ids].into_iter().flatten()
}

/// The page of a leaf that differs from `before` by `changed`, if that is a small patch: earlier changes with the new ones
/// over them, without those that went back to what the base has.
fn patch_of(before: &Before, changed: BTreeMap<u16, Entry>) -> Result<Patch> {
    let page = before.leaf()?;
    let (base, base_leaf, mut entries) = match &page.patch {
        Some((base, base_page, entries)) => {
            (*base, base_page.clone(), entries.iter().copied().collect::<BTreeMap<u16, Entry>>())
        }
        None => (before.child.page, before.page.clone(), BTreeMap::new()),
    };
    let Page::Leaf(base_leaf) = &*base_leaf else {
        return Err(RepoError::Invalid("a patch of no leaf".into()));
    };
    entries.extend(changed);
    entries.retain(|i, e| base_leaf.leaf.place(*i as usize) != e.map(|e| e.0));
    Ok(Patch { base, entries: entries.into_iter().collect() })
}
