//! Writing the inner pages of a tree: edits of children wait until their page is flushed; pages without edits are kept by
//! reference. Manifest and usage map share this.

use super::super::core::Core;
use super::super::error::Result;
use super::super::pages::Page;
use super::super::tree::inner_of;
use super::pack::PackWriter;
use rekindle_core::repo::manifest::{Child, FAN, Inner, PageKind, Shape};
use rekindle_core::repo::{Id, PageRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The root of a finished tree: its page, the fold of its children, extents and bytes below.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Root {
    pub page: PageRef,
    pub id: Id,
    pub extents: u64,
    pub bytes: u64,
}

type Edits = BTreeMap<u16, Option<Child>>;

/// The inner pages of one tree while it is written.
pub(super) struct Upper {
    core: Arc<Core>,
    pub shape: Shape,
    /// Root page as it was, or as it was flushed last.
    root: Option<PageRef>,
    flushed: Option<Option<Root>>,
    /// See `do_without_what_is_lost`, and the pages that were looked at: what was said of them stands.
    whole: bool,
    told: BTreeSet<(u32, u64)>,
    /// `levels[i]`: edits of pages of level i + 1, by page.
    levels: Vec<BTreeMap<u64, Edits>>,
}

impl Upper {
    pub(super) fn new(core: Arc<Core>, shape: Shape, root: Option<PageRef>) -> Self {
        let levels = vec![BTreeMap::new(); shape.top as usize];
        Upper { core, shape, root, flushed: None, whole: false, told: BTreeSet::new(), levels }
    }
    /// As `Leaves::do_without_what_is_lost`.
    pub(super) fn do_without_what_is_lost(&mut self) {
        self.whole = true;
    }
    /// Child `child` (counted over the whole level) of the pages of `level`, as it is now. Level 1: leaves.
    pub(super) fn child(&mut self, level: u32, child: u64, packs: &mut PackWriter) -> Result<Option<Child>> {
        let (page, i) = (child / FAN, (child % FAN) as u16);
        if let Some(edited) = self.levels[level as usize - 1].get(&page).and_then(|e| e.get(&i)) {
            return Ok(*edited);
        }
        let stored = self.stored(level, page, packs)?;
        Ok(match stored.as_deref() {
            Some(Page::Inner(inner)) => inner.child(i as usize).copied(),
            _ => None,
        })
    }
    /// The page as it was stored last.
    fn stored(&mut self, level: u32, index: u64, packs: &mut PackWriter) -> Result<Option<Arc<Page>>> {
        match self.read(level, index, packs) {
            Err(e) if self.whole && e.is_loss() && !self.told.contains(&(level, index)) => {
                tracing::warn!(error = %e, "part of the parent's manifest is lost; its extents are stored anew");
                if level == self.shape.top {
                    (self.root, self.flushed) = (None, Some(None));
                } else {
                    self.set(level + 1, index, None, packs)?;
                }
                self.told.insert((level, index));
                Ok(None)
            }
            found => {
                if self.whole {
                    self.told.insert((level, index));
                }
                found
            }
        }
    }
    fn read(&mut self, level: u32, index: u64, packs: &mut PackWriter) -> Result<Option<Arc<Page>>> {
        let page = if level == self.shape.top {
            self.root
        } else {
            self.child(level + 1, index, packs)?.map(|c| c.page)
        };
        let Some(page) = page else { return Ok(None) };
        packs.readable(&page)?;
        let got = self.core.page_wait(page, PageKind::Inner)?;
        inner_of(&got, &self.shape, level, index, &page)?;
        if self.whole {
            packs.must_have(&page.place)?;
        }
        Ok(Some(got))
    }
    /// Sets child `child` of level 1. A page all of whose children were set is written at once: a full backup in volume
    /// order then holds one page a level, whatever the size of the volume.
    pub(super) fn set_leaf(
        &mut self,
        child: u64,
        value: Option<Child>,
        packs: &mut PackWriter,
    ) -> Result<()> {
        self.set(1, child, value, packs)
    }
    fn set(&mut self, level: u32, child: u64, value: Option<Child>, packs: &mut PackWriter) -> Result<()> {
        let page = child / FAN;
        let edits = self.levels[level as usize - 1].entry(page).or_default();
        edits.insert((child % FAN) as u16, value);
        if level < self.shape.top && edits.len() == FAN as usize {
            self.flush(level, page, packs)?;
        }
        Ok(())
    }
    fn flush(&mut self, level: u32, index: u64, packs: &mut PackWriter) -> Result<()> {
        let Some(edits) = self.levels[level as usize - 1].remove(&index) else { return Ok(()) };
        let stored = self.stored(level, index, packs)?;
        let before = match stored.as_deref() {
            Some(Page::Inner(inner)) => Some(inner),
            _ => None,
        };
        let empty = || Inner::empty(level as u8, self.shape.fan_at(level, index));
        let mut after = before.cloned().unwrap_or_else(empty);
        for (i, value) in edits {
            after.children[i as usize] = value;
        }
        if before == Some(&after) || (before.is_none() && after.children.iter().all(Option::is_none)) {
            return Ok(());
        }
        let root = self.write(level, &after, packs)?;
        if level == self.shape.top {
            self.root = root.map(|r| r.page);
            self.flushed = Some(root);
            return Ok(());
        }
        let child = root.map(|r| Child { page: r.page, id: r.id, extents: r.extents, bytes: r.bytes });
        self.set(level + 1, index, child, packs)
    }
    fn write(&self, level: u32, inner: &Inner, packs: &mut PackWriter) -> Result<Option<Root>> {
        if inner.children.iter().all(Option::is_none) {
            return Ok(None);
        }
        let page = packs.append_page(&inner.encode())?;
        let ids = inner.children.iter().map(|c| c.map_or(Id::ZERO, |c| c.id));
        let id = self.core.keys.ids.fold(ids, self.shape.fold_levels(level));
        let (extents, bytes) = inner.totals();
        Ok(Some(Root { page, id, extents, bytes }))
    }
    /// Writes what is left. `None`: the root page stayed as it was; `Some(None)`: nothing is stored any more.
    pub(super) fn finish(mut self, packs: &mut PackWriter) -> Result<Option<Option<Root>>> {
        for level in 1..=self.shape.top {
            while let Some((&index, _)) = self.levels[level as usize - 1].first_key_value() {
                self.flush(level, index, packs)?;
            }
        }
        Ok(self.flushed)
    }
}
