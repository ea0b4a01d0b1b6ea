//! Pages of metadata: read, authenticated, decoded, cached. One read per page however many ask for it.
//!
//! Everything is by callback, so that a guest's read on a remote store costs no thread: a page that is cached answers at
//! once, on the asking thread; else whoever brings the bytes goes on with it.

use super::core::Core;
use super::error::{RepoError, Result};
use rekindle_core::repo::frame::{FrameKind, FrameName};
use rekindle_core::repo::manifest::{Inner, Leaf, PageKind, Patch, PatchEntry, decode_ids};
use rekindle_core::repo::{Id, PageRef, Place, names};
use rekindle_core::volume::{ByteRange, Uuid};
use rekindle_io::store::{Part, StoreExt};
use rekindle_io::{Error, Kind};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};

/// The most a page may hold when opened: what a reader allocates on the word of a page above.
pub(super) const PAGE_PLAIN_MAX: u32 = 1 << 20;

/// A page in memory.
#[derive(Debug)]
pub(super) enum Page {
    /// Places of 1,024 extents, a patch already laid over its base.
    Leaf(LeafPage),
    /// Children.
    Inner(Inner),
    /// Ids of a leaf's stored extents.
    Ids(Vec<Id>),
    /// Usage, hot list: for others to read.
    Raw(Vec<u8>),
}

/// A leaf as a reader and a writer need it.
#[derive(Debug)]
pub(super) struct LeafPage {
    /// All places.
    pub leaf: Leaf,
    /// If it is a patch: the base and what differs.
    pub patch: Option<(PageRef, Arc<Page>, Vec<PatchEntry>)>,
}

impl Page {
    fn weight(&self) -> usize {
        let table = |l: &Leaf| l.entries.len() * 16 + l.packs.len() * 32;
        64 + match self {
            Page::Leaf(l) => table(&l.leaf) + l.patch.as_ref().map_or(0, |(_, _, e)| e.len() * 96),
            Page::Inner(i) => i.children.len() * 128,
            Page::Ids(i) => i.len() * 32,
            Page::Raw(r) => r.len(),
        }
    }
}

/// Called once with the page.
pub(super) type PageDone = Box<dyn FnOnce(Result<Arc<Page>>) + Send>;
type Key = (Uuid, u32);

/// Decoded pages within a bound of bytes; least recently used go first.
pub(super) struct PageCache {
    state: Mutex<State>,
    bytes_max: AtomicUsize,
}

#[derive(Default)]
struct State {
    pages: HashMap<Key, (Arc<Page>, u64)>,
    order: BTreeMap<u64, Key>,
    tick: u64,
    bytes: usize,
    /// Pages on their way and who waits for them.
    pending: HashMap<Key, Vec<PageDone>>,
}

impl State {
    fn hit(&mut self, key: Key) -> Option<Arc<Page>> {
        let (page, used) = self.pages.get_mut(&key)?;
        self.order.remove(used);
        self.tick += 1;
        *used = self.tick;
        self.order.insert(self.tick, key);
        Some(page.clone())
    }
    fn insert(&mut self, key: Key, page: &Arc<Page>, bytes_max: usize) {
        self.tick += 1;
        self.bytes += page.weight();
        self.order.insert(self.tick, key);
        if let Some((old, used)) = self.pages.insert(key, (page.clone(), self.tick)) {
            self.bytes -= old.weight();
            self.order.remove(&used);
        }
        while self.bytes > bytes_max {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            if let Some((old, _)) = self.pages.remove(&oldest) {
                self.bytes -= old.weight();
            }
        }
    }
}

impl PageCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        PageCache { state: Mutex::default(), bytes_max: bytes_max.into() }
    }
    // Every change under the lock leaves it whole, so a panic elsewhere harms nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Holds at most `bytes` from now on, if that is less.
    pub(super) fn lower(&self, bytes: usize) {
        self.bytes_max.fetch_min(bytes, Relaxed);
    }
    /// Bytes of decoded pages held now.
    pub(super) fn bytes(&self) -> usize {
        self.lock().bytes
    }
}

impl Core {
    /// Gives the page at `page`, which must be of `kind` (a patch counts as a leaf).
    pub(super) fn page(self: &Arc<Self>, page: PageRef, kind: PageKind, done: PageDone) {
        let key = (page.place.pack.birth, page.place.slot);
        let mut state = self.pages.lock();
        if let Some(hit) = state.hit(key) {
            drop(state);
            return done(check_kind(hit, kind, &page));
        }
        let done: PageDone = Box::new(move |r| done(r.and_then(|p| check_kind(p, kind, &page))));
        if let Some(waiting) = state.pending.get_mut(&key) {
            return waiting.push(done);
        }
        state.pending.insert(key, vec![done]);
        drop(state);
        let core = self.clone();
        let arrived = move |r: Result<Vec<u8>>| match r {
            Ok(plain) => core.decode(page, &plain, key),
            Err(e) => core.answer(key, Err(e)),
        };
        self.read_frame(page.place, FrameKind::Page, page.plain, Box::new(arrived));
    }
    /// The same, waiting.
    pub(super) fn page_wait(self: &Arc<Self>, page: PageRef, kind: PageKind) -> Result<Arc<Page>> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.page(page, kind, Box::new(move |r| drop(tx.send(r))));
        rx.recv().unwrap_or_else(|_| Err(no_answer(&page.place)))
    }
    fn decode(self: &Arc<Self>, page: PageRef, plain: &[u8], key: Key) {
        if plain.first() == Some(&(PageKind::Patch as u8)) {
            return self.decode_patch(page, plain, key);
        }
        self.answer(key, decode_plain(plain).map_err(|m| at(&page.place, m.0)));
    }
    fn decode_patch(self: &Arc<Self>, page: PageRef, plain: &[u8], key: Key) {
        let patch = match Patch::decode(plain) {
            Ok(patch) => patch,
            Err(m) => return self.answer(key, Err(at(&page.place, m.0))),
        };
        let core = self.clone();
        // A base that is this very page, or a patch again, would never end.
        if (patch.base.place.pack.birth, patch.base.place.slot) == key {
            return self.answer(key, Err(at(&page.place, "a patch of itself")));
        }
        let base = patch.base;
        self.page(
            base,
            PageKind::Leaf,
            Box::new(move |r| {
                let laid = r.and_then(|base_page| lay_over(base_page, patch).map_err(|m| at(&page.place, m)));
                core.answer(key, laid);
            }),
        );
    }
    fn answer(&self, key: Key, result: Result<Page>) {
        let result = result.map(Arc::new);
        let mut state = self.pages.lock();
        if let Ok(page) = &result {
            state.insert(key, page, self.pages.bytes_max.load(Relaxed));
        }
        let waiting = state.pending.remove(&key).unwrap_or_default();
        drop(state);
        waiting.into_iter().for_each(|done| done(result.clone()));
    }

    /// Reads and opens one frame of metadata.
    pub(super) fn read_frame(
        self: &Arc<Self>,
        place: Place,
        kind: FrameKind,
        plain: u32,
        done: Box<dyn FnOnce(Result<Vec<u8>>) + Send>,
    ) {
        if plain > PAGE_PLAIN_MAX {
            return done(Err(at(&place, "a page of impossible size")));
        }
        let core = self.clone();
        let range = Part::Range(ByteRange::new(place.offset.into(), place.stored.into()));
        let arrived = move |r: rekindle_io::Result<Vec<u8>>| {
            let read = r.map_err(|e| core.unreadable(&place, e));
            done(read.and_then(|stored| core.open_meta(place, kind, plain, &stored)));
        };
        self.store.start_get(&names::pack(place.pack.held_in), range, Box::new(arrived));
    }
    /// Whether the extent at `place` can be read and has these bytes; an error if the store cannot say.
    pub(super) fn has_bytes(&self, place: &Place, bytes: &[u8]) -> Result<bool> {
        let range = ByteRange::new(place.offset.into(), place.stored.into());
        let stored = match self.store.get(&names::pack(place.pack.held_in), Part::Range(range)) {
            Ok(stored) if stored.len() == place.stored as usize => stored,
            Ok(_) => return Ok(false),
            Err(e) => {
                let e = self.unreadable(place, e);
                return if e.is_loss() { Ok(false) } else { Err(e) };
            }
        };
        let mut plain = vec![0; bytes.len()];
        let name = self.frame_name(place, FrameKind::Data, bytes.len() as u32);
        Ok(self.keys.data.open_frame(&name, &stored, &mut plain).is_ok() && plain == bytes)
    }
    /// What it means that `place` could not be read. A pack that is missing or unreadable in a store that is there is
    /// damage, as flipped bytes are: waiting does not bring it back. A store that is not there (its config is gone too: not
    /// mounted, say) is away, and may come back.
    pub(super) fn unreadable(&self, place: &Place, e: Error) -> RepoError {
        if !matches!(e.kind, Kind::Gone | Kind::Failed | Kind::ReadOnly) {
            return e.into();
        }
        // Only where the answer comes on the asking thread: elsewhere this one is the store's own and must not wait for it.
        if self.store.answers_inline() && !matches!(self.store.head(names::CONFIG), Ok(Some(_))) {
            return Error { kind: Kind::Unavailable, ..e }.into();
        }
        let what =
            if e.kind == Kind::Gone { "it is missing".into() } else { format!("it cannot be read: {e}") };
        at(place, &what)
    }
    fn open_meta(&self, place: Place, kind: FrameKind, plain: u32, stored: &[u8]) -> Result<Vec<u8>> {
        if stored.len() != place.stored as usize {
            return Err(at(&place, "the store gave another number of bytes than asked for"));
        }
        let mut out = vec![0; plain as usize];
        let name = self.frame_name(&place, kind, plain);
        self.keys.meta.open_frame(&name, stored, &mut out).map_err(|d| at(&place, d.0))?;
        Ok(out)
    }
    /// The name a frame was sealed under.
    pub(super) fn frame_name(&self, place: &Place, kind: FrameKind, plain: u32) -> FrameName {
        FrameName { repository: self.keys.repository, birth: place.pack.birth, slot: place.slot, kind, plain }
    }
}

/// Damage of what lies at `place`.
pub(super) fn at(place: &Place, what: &str) -> RepoError {
    RepoError::damaged(names::pack(place.pack.held_in), place.offset.into(), what)
}

pub(super) fn no_answer(place: &Place) -> RepoError {
    Error::new(Kind::Unavailable, format!("{}: the store gave no answer", names::pack(place.pack.held_in)))
        .into()
}

fn check_kind(page: Arc<Page>, kind: PageKind, at_page: &PageRef) -> Result<Arc<Page>> {
    let ok = match (&*page, kind) {
        (Page::Leaf(_), PageKind::Leaf)
        | (Page::Inner(_), PageKind::Inner)
        | (Page::Ids(_), PageKind::Ids) => true,
        (Page::Raw(b), kind) => b.first() == Some(&(kind as u8)),
        _ => false,
    };
    if ok { Ok(page) } else { Err(at(&at_page.place, "a page of another kind than expected")) }
}

fn decode_plain(plain: &[u8]) -> std::result::Result<Page, rekindle_core::bytes::Malformed> {
    Ok(match plain.first() {
        Some(k) if *k == PageKind::Leaf as u8 => {
            Page::Leaf(LeafPage { leaf: Leaf::decode(plain)?, patch: None })
        }
        Some(k) if *k == PageKind::Inner as u8 => Page::Inner(Inner::decode(plain)?),
        Some(k) if *k == PageKind::Ids as u8 => Page::Ids(decode_ids(plain)?),
        _ => Page::Raw(plain.to_vec()),
    })
}

/// Lays a patch over its base.
fn lay_over(base_page: Arc<Page>, patch: Patch) -> std::result::Result<Page, &'static str> {
    let Page::Leaf(LeafPage { leaf, patch: None }) = &*base_page else {
        return Err("a patch of something that is no whole leaf");
    };
    let mut laid = leaf.clone();
    for (index, entry) in &patch.entries {
        if *index as usize >= laid.entries.len() {
            return Err("a patch beyond its leaf");
        }
        laid.set(*index as usize, entry.map(|(place, _)| place));
    }
    Ok(Page::Leaf(LeafPage { leaf: laid, patch: Some((patch.base, base_page, patch.entries)) }))
}
