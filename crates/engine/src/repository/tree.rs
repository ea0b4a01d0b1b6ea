//! Reading a manifest: from the root to the leaf of an extent, in order through all leaves, and the difference of two
//! trees without looking below what they share.

use super::core::Core;
use super::error::{RepoError, Result};
use super::pages::{LeafPage, Page, at, no_answer};
use rekindle_core::repo::manifest::{Child, FAN, Inner, PageKind, Shape};
use rekindle_core::repo::{Id, PageRef, VolumeRecord};
use std::sync::{Arc, mpsc};

/// One volume's manifest in one snapshot. Opening it reads nothing.
#[derive(Clone)]
pub(super) struct Tree {
    pub core: Arc<Core>,
    pub root: Option<PageRef>,
    pub shape: Shape,
}

/// Called once with the leaf; `None`: all zeros.
pub(super) type LeafDone = Box<dyn FnOnce(Result<Option<Arc<Page>>>) + Send>;

impl Tree {
    pub(super) fn new(core: Arc<Core>, volume: &VolumeRecord) -> Self {
        Tree { core, root: volume.root, shape: Shape::new(&volume.geometry) }
    }
    /// Finds leaf `leaf`.
    pub(super) fn leaf(&self, leaf: u64, done: LeafDone) {
        match self.root {
            None => done(Ok(None)),
            Some(root) => descend(self.clone(), root, self.shape.top, leaf, done),
        }
    }
    /// The same, waiting.
    pub(super) fn leaf_wait(&self, leaf: u64) -> Result<Option<Arc<Page>>> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.leaf(leaf, Box::new(move |r| drop(tx.send(r))));
        rx.recv().unwrap_or_else(|_| Err(no_answer(&self.root.unwrap_or_default().place)))
    }
    /// Inner page `index` of `level` at `page`, waiting, with its place in the tree checked.
    pub(super) fn inner_wait(&self, page: PageRef, level: u32, index: u64) -> Result<Arc<Page>> {
        let got = self.core.page_wait(page, PageKind::Inner)?;
        inner_of(&got, &self.shape, level, index, &page)?;
        Ok(got)
    }
    /// The ids of all extents of a leaf, zeros included.
    pub(super) fn leaf_ids(&self, page: &Page) -> Result<Vec<Id>> {
        let Page::Leaf(leaf) = page else { return Err(RepoError::Invalid("not a leaf".into())) };
        leaf_ids(&self.core, leaf)
    }
    /// Calls `each` with every extent that is stored, leaf after leaf in order, holding one leaf at a time.
    pub(super) fn for_each_leaf(&self, each: &mut dyn FnMut(u64, &LeafPage) -> Result<()>) -> Result<()> {
        match self.root {
            None => Ok(()),
            Some(root) => self.walk(root, self.shape.top, 0, each),
        }
    }
    fn walk(
        &self,
        page: PageRef,
        level: u32,
        index: u64,
        each: &mut dyn FnMut(u64, &LeafPage) -> Result<()>,
    ) -> Result<()> {
        let got = self.inner_wait(page, level, index)?;
        let inner = inner_of(&got, &self.shape, level, index, &page)?;
        for (i, child) in inner.children.iter().enumerate() {
            let (Some(child), below) = (child, index * FAN + i as u64) else { continue };
            if level > 1 {
                self.walk(child.page, level - 1, below, each)?;
            } else {
                let got = self.core.page_wait(child.page, PageKind::Leaf)?;
                each(below, leaf_of(&got, &self.shape, below, &child.page)?)?;
            }
        }
        Ok(())
    }
    /// Calls `each` with every leaf where `self` and `base` differ (both must have one shape), in order.
    pub(super) fn differing_leaves(
        &self,
        base: &Tree,
        each: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        assert_eq!(self.shape, base.shape, "trees of unlike shape have no common pages");
        self.differ(base, (self.root, base.root), self.shape.top, 0, each)
    }
    fn differ(
        &self,
        base: &Tree,
        roots: (Option<PageRef>, Option<PageRef>),
        level: u32,
        index: u64,
        each: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        if roots.0 == roots.1 {
            return Ok(());
        }
        let load = |tree: &Tree, page: Option<PageRef>| -> Result<Option<Arc<Page>>> {
            page.map(|p| tree.inner_wait(p, level, index)).transpose()
        };
        let (mine, theirs) = (load(self, roots.0)?, load(base, roots.1)?);
        for i in 0..self.shape.fan_at(level, index) {
            let (a, b) = (child_of(&mine, i), child_of(&theirs, i));
            // Ids are Merkle nodes: equal ids mean equal bytes, wherever the frames lie.
            if a.map(|c| c.id) == b.map(|c| c.id) {
                continue;
            }
            let below = index * FAN + i as u64;
            if level > 1 {
                self.differ(base, (a.map(|c| c.page), b.map(|c| c.page)), level - 1, below, each)?;
            } else {
                each(below)?;
            }
        }
        Ok(())
    }
}

fn child_of(page: &Option<Arc<Page>>, i: usize) -> Option<Child> {
    match page.as_deref() {
        Some(Page::Inner(inner)) => inner.child(i).copied(),
        _ => None,
    }
}

/// All ids of a leaf: the base's, with a patch's over them.
pub(super) fn leaf_ids(core: &Arc<Core>, page: &LeafPage) -> Result<Vec<Id>> {
    let base = match &page.patch {
        Some((_, base, _)) => match &**base {
            Page::Leaf(l) => &l.leaf,
            _ => return Err(RepoError::Invalid("a patch of no leaf".into())),
        },
        None => &page.leaf,
    };
    let mut ids = vec![Id::ZERO; base.entries.len()];
    if let Some(ids_page) = base.ids {
        let got = core.page_wait(ids_page, PageKind::Ids)?;
        let Page::Ids(stored) = &*got else { return Err(at(&ids_page.place, "not a page of ids")) };
        let places = base.entries.iter().enumerate().filter(|(_, e)| e.stored > 0);
        let mut taken = 0;
        for ((i, _), id) in places.zip(stored) {
            ids[i] = *id;
            taken += 1;
        }
        if taken != stored.len() || taken as u64 != base.totals().0 {
            return Err(at(&ids_page.place, "ids of another leaf"));
        }
    }
    for (index, entry) in page.patch.iter().flat_map(|(_, _, entries)| entries) {
        ids[*index as usize] = entry.map_or(Id::ZERO, |(_, id)| id);
    }
    Ok(ids)
}

fn descend(tree: Tree, page: PageRef, level: u32, leaf: u64, done: LeafDone) {
    let core = tree.core.clone();
    core.page(
        page,
        PageKind::Inner,
        Box::new(move |r| {
            let index = leaf >> (10 * level);
            let below = leaf >> (10 * (level - 1));
            let child = r.and_then(|p| {
                Ok(inner_of(&p, &tree.shape, level, index, &page)?.child((below % FAN) as usize).copied())
            });
            match child {
                Err(e) => done(Err(e)),
                Ok(None) => done(Ok(None)),
                Ok(Some(c)) if level > 1 => descend(tree, c.page, level - 1, leaf, done),
                Ok(Some(c)) => last_step(tree, c.page, leaf, done),
            }
        }),
    );
}

fn last_step(tree: Tree, page: PageRef, leaf: u64, done: LeafDone) {
    let core = tree.core.clone();
    let check = move |r: Result<Arc<Page>>| {
        done(r.and_then(|p| {
            leaf_of(&p, &tree.shape, leaf, &page)?;
            Ok(Some(p))
        }));
    };
    core.page(page, PageKind::Leaf, Box::new(check));
}

/// The inner page, if it is of the level and size that its place in the tree says.
pub(super) fn inner_of<'a>(
    page: &'a Page,
    shape: &Shape,
    level: u32,
    index: u64,
    r: &PageRef,
) -> Result<&'a Inner> {
    match page {
        Page::Inner(i) if u32::from(i.level) == level && i.children.len() == shape.fan_at(level, index) => {
            Ok(i)
        }
        _ => Err(at(&r.place, "a page that does not belong here")),
    }
}

/// The leaf, if it is of the size that its place in the tree says.
pub(super) fn leaf_of<'a>(page: &'a Page, shape: &Shape, leaf: u64, r: &PageRef) -> Result<&'a LeafPage> {
    match page {
        Page::Leaf(l) if l.leaf.entries.len() == shape.fan_at(0, leaf) => Ok(l),
        _ => Err(at(&r.place, "a leaf that does not belong here")),
    }
}
