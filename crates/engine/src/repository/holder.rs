//! A snapshot's volume as a holder: presence by leaf, one ranged GET an extent once its leaf is cached, neighbours in a
//! pack together. What comes is opened (authenticated, decrypted, decompressed) on the consumer's thread.

use super::core::Core;
use super::error::{RepoError, Result as RepoResult};
use super::history::SnapshotInfo;
use super::pages::Page;
use super::tree::Tree;
use rekindle_core::bytes::is_zero;
use rekindle_core::repo::frame::{FrameKind, FrameName};
use rekindle_core::repo::manifest::FAN;
use rekindle_core::repo::{Place, VolumeRecord, names};
use rekindle_core::volume::{ByteRange, Geometry, Uuid};
use rekindle_io::holder::{Difference, FetchSink, Fetched, Holder, Identity, Presence, Sealed, Urgency};
use rekindle_io::store::Part;
use rekindle_io::{Error, Kind, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// The most one GET brings.
const RUN_BYTES_MAX: u64 = 4 << 20;
/// A hole between two wanted frames that is cheaper to read than to ask twice for.
const RUN_GAP_MAX: u64 = 16 << 10;

/// Leaves asked for at once: as many as the fill looks at in one piece (a gibibyte at 64 KiB).
const LEAVES_AHEAD: usize = 16;

/// One volume of one snapshot.
pub struct SnapshotHolder {
    core: Arc<Core>,
    tree: Tree,
    info: SnapshotInfo,
    volume: VolumeRecord,
    /// The leaf whose ids were asked for last: verification goes through a volume leaf by leaf.
    checked: Mutex<Option<LeafIds>>,
}

/// A leaf and the ids of its extents.
type LeafIds = (u64, Arc<Vec<rekindle_core::repo::Id>>);

impl SnapshotHolder {
    pub(super) fn new(core: Arc<Core>, info: SnapshotInfo, volume: VolumeRecord) -> Self {
        let checked = Mutex::default();
        SnapshotHolder { tree: Tree::new(core.clone(), &volume), core, info, volume, checked }
    }
    /// What the snapshot says of the volume.
    pub fn volume(&self) -> &VolumeRecord {
        &self.volume
    }
    /// Bytes of decoded pages in memory, for all holders of the repository together.
    pub fn cached_bytes(&self) -> usize {
        self.core.pages.bytes()
    }
    fn shown(&self) -> String {
        let commit = &self.info.commit;
        let at = format!("@{} in {}", commit.snapshot.short(), self.core.store.place());
        if self.volume.name == commit.set {
            self.volume.name.clone() + &at
        } else {
            format!("{}/{}{at}", commit.set, self.volume.name)
        }
    }
    fn beyond(&self, extent: u64) -> Error {
        Error::new(Kind::Invalid, format!("extent {extent} lies behind the end of {}", self.shown()))
    }
    /// Calls `each` with (extent, place) of every stored extent in order; for restores that copy everything.
    pub fn for_each_stored(&self, each: &mut dyn FnMut(u64, Place) -> Result<()>) -> Result<()> {
        let mut one = |leaf: u64, page: &super::pages::LeafPage| -> RepoResult<()> {
            for i in 0..page.leaf.entries.len() {
                if let Some(place) = page.leaf.place(i) {
                    each(leaf * FAN + i as u64, place)?;
                }
            }
            Ok(())
        };
        Ok(self.tree.for_each_leaf(&mut one)?)
    }
    /// The ids of `count` extents from `first`: what verification compares with.
    pub fn ids(&self, first: u64, count: u64) -> Result<Vec<rekindle_core::repo::Id>> {
        let end = first.checked_add(count).filter(|e| *e <= self.tree.shape.extents);
        let end = end.ok_or_else(|| self.beyond(first.saturating_add(count)))?;
        let mut out = Vec::with_capacity(count as usize);
        let mut extent = first;
        while extent < end {
            let leaf = extent / FAN;
            let until = end.min((leaf + 1) * FAN);
            match self.tree.leaf_wait(leaf)? {
                None => out.resize(out.len() + (until - extent) as usize, rekindle_core::repo::Id::ZERO),
                Some(page) => {
                    let ids = self.tree.leaf_ids(&page)?;
                    out.extend_from_slice(&ids[(extent % FAN) as usize..][..(until - extent) as usize]);
                }
            }
            extent = until;
        }
        Ok(out)
    }
    /// The id that `bytes` would have as extent `extent` of this volume; compare with `ids`.
    pub fn id_of(&self, bytes: &[u8]) -> rekindle_core::repo::Id {
        self.core.keys.ids.extent(bytes, self.volume.geometry.extent.get())
    }
    fn ids_of_leaf(&self, leaf: u64) -> Result<Arc<Vec<rekindle_core::repo::Id>>> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, ids)) = &*checked
            && *at == leaf
        {
            return Ok(ids.clone());
        }
        let count = FAN.min(self.tree.shape.extents.saturating_sub(leaf * FAN));
        let ids = Arc::new(self.ids(leaf * FAN, count)?);
        *checked = Some((leaf, ids.clone()));
        Ok(ids)
    }
    fn fetch_leaf(self: &Arc<Self>, leaf: u64, wanted: Vec<u64>, sink: &Arc<dyn FetchSink>) {
        let (me, sink) = (self.clone(), sink.clone());
        self.tree.leaf(
            leaf,
            Box::new(move |r| match r {
                Err(e) => {
                    let e = Error::from(e);
                    wanted.iter().for_each(|x| sink.fetched(*x, Err(e.clone())));
                }
                Ok(None) => wanted.iter().for_each(|x| sink.fetched(*x, Ok(Fetched::Zero))),
                Ok(Some(page)) => me.fetch_places(&page, wanted, &sink),
            }),
        );
    }
    fn fetch_places(self: &Arc<Self>, page: &Page, wanted: Vec<u64>, sink: &Arc<dyn FetchSink>) {
        let Page::Leaf(leaf) = page else { return };
        let mut runs: Vec<Vec<(u64, Place)>> = Vec::new();
        for extent in wanted {
            let Some(place) = leaf.leaf.place((extent % FAN) as usize) else {
                sink.fetched(extent, Ok(Fetched::Zero));
                continue;
            };
            match runs.last_mut().filter(|run| joins(run, &place)) {
                Some(run) => run.push((extent, place)),
                None => runs.push(vec![(extent, place)]),
            }
        }
        runs.into_iter().for_each(|run| self.fetch_run(run, sink));
    }
    fn fetch_run(self: &Arc<Self>, run: Vec<(u64, Place)>, sink: &Arc<dyn FetchSink>) {
        let (start, end) = span(&run);
        let name = names::pack(run[0].1.pack.held_in);
        let (me, sink) = (self.clone(), sink.clone());
        let range = Part::Range(ByteRange::new(start, end - start));
        let arrived = move |r: Result<Vec<u8>>| match r {
            Ok(bytes) if bytes.len() as u64 == end - start => {
                me.hand_out(run, start, &Arc::new(bytes), &sink)
            }
            // One short object, or one bad sector, must not fail its whole frames: ask for each alone.
            Ok(_) | Err(Error { kind: Kind::Corrupt | Kind::Failed, .. }) if run.len() > 1 => {
                run.into_iter().for_each(|one| me.fetch_run(vec![one], &sink));
            }
            Ok(bytes) => {
                let what = format!("the store gave {} bytes, {} were asked for", bytes.len(), end - start);
                let e = me.damage(&run[0].1, run[0].0, &what);
                sink.fetched(run[0].0, Err(e));
            }
            Err(e) => run.iter().for_each(|(extent, place)| {
                let e = me.core.unreadable(place, e.clone());
                sink.fetched(*extent, Err(me.of_extent(e, *extent)));
            }),
        };
        self.core.store.start_get(&name, range, Box::new(arrived));
    }
    fn hand_out(
        self: &Arc<Self>,
        run: Vec<(u64, Place)>,
        start: u64,
        bytes: &Arc<Vec<u8>>,
        sink: &Arc<dyn FetchSink>,
    ) {
        for (extent, place) in run {
            let plain = self.volume.geometry.extent_bytes(extent).len as u32;
            let frame = SealedFrame {
                holder: self.clone(),
                bytes: bytes.clone(),
                from: (u64::from(place.offset) - start) as usize,
                name: self.core.frame_name(&place, FrameKind::Data, plain),
                place,
                extent,
            };
            sink.fetched(extent, Ok(Fetched::Sealed(Box::new(frame))));
        }
    }
    fn damage(&self, place: &Place, extent: u64, what: &str) -> Error {
        let object = names::pack(place.pack.held_in);
        self.of_extent(RepoError::damaged(object, place.offset.into(), what), extent)
    }
    /// Damage says which extent it hits.
    fn of_extent(&self, e: RepoError, extent: u64) -> Error {
        match e {
            RepoError::Damaged { object, offset, what } => {
                let what = format!("{what} (extent {extent} of {})", self.shown());
                RepoError::Damaged { object, offset, what }.into()
            }
            other => other.into(),
        }
    }
    fn find_base(&self, base: Uuid) -> RepoResult<Option<VolumeRecord>> {
        if base == self.info.commit.snapshot {
            return Ok(Some(self.volume.clone()));
        }
        let found = self.core.find_uuid(base)?;
        Ok(found.and_then(|s| s.commit.volumes.into_iter().find(|v| v.uuid == self.volume.uuid)))
    }
    fn differing(&self, base: &VolumeRecord) -> RepoResult<Vec<u64>> {
        let mut out = Vec::new();
        if base.geometry != self.volume.geometry {
            // Another shape: all may differ. Still proven complete.
            out.extend(0..self.tree.shape.extents);
            return Ok(out);
        }
        let theirs = Tree::new(self.core.clone(), base);
        let mut each = |leaf: u64| -> RepoResult<()> {
            let n = self.tree.shape.fan_at(0, leaf);
            let ids = |tree: &Tree| match tree.leaf_wait(leaf)? {
                Some(page) => tree.leaf_ids(&page),
                None => Ok(vec![rekindle_core::repo::Id::ZERO; n]),
            };
            let (a, b) = (ids(&self.tree)?, ids(&theirs)?);
            out.extend((0..n).filter(|i| a[*i] != b[*i]).map(|i| leaf * FAN + i as u64));
            Ok(())
        };
        self.tree.differing_leaves(&theirs, &mut each)?;
        Ok(out)
    }
}

/// A run goes on with `place`: same pack, behind what it has, no wide hole, not too long.
fn joins(run: &[(u64, Place)], place: &Place) -> bool {
    let (start, end) = span(run);
    let offset = u64::from(place.offset);
    run[0].1.pack.held_in == place.pack.held_in
        && (end..=end + RUN_GAP_MAX).contains(&offset)
        && offset + u64::from(place.stored) - start <= RUN_BYTES_MAX
}

/// First byte and end of a run, which is never empty and ascends.
fn span(run: &[(u64, Place)]) -> (u64, u64) {
    let last = &run[run.len() - 1].1;
    (run[0].1.offset.into(), u64::from(last.offset) + u64::from(last.stored))
}

struct SealedFrame {
    holder: Arc<SnapshotHolder>,
    bytes: Arc<Vec<u8>>,
    from: usize,
    name: FrameName,
    place: Place,
    extent: u64,
}

impl Sealed for SealedFrame {
    fn open(&self, out: &mut [u8]) -> Result<()> {
        let stored = &self.bytes[self.from..][..self.place.stored as usize];
        let opened = self.holder.core.keys.data.open_frame(&self.name, stored, out);
        opened.map_err(|d| self.holder.damage(&self.place, self.extent, d.0))
    }
    fn stored(&self) -> u32 {
        self.place.stored
    }
}

impl Holder for SnapshotHolder {
    fn identity(&self) -> Identity {
        Identity { moment: self.info.commit.snapshot, volume: self.volume.uuid, shown: self.shown() }
    }
    fn geometry(&self) -> Geometry {
        self.volume.geometry
    }
    /// By the extent's id, so that verifying moves no data.
    fn check(&self, extent: u64, bytes: &[u8]) -> Result<Option<bool>> {
        let ids = self.ids_of_leaf(extent / FAN)?;
        let id = ids.get((extent % FAN) as usize).ok_or_else(|| self.beyond(extent))?;
        Ok(Some(if id.is_zero() { is_zero(bytes) } else { self.id_of(bytes) == *id }))
    }
    fn presence(&self, first: u64, count: u64, out: &mut Vec<Presence>) -> Result<()> {
        let end = first.checked_add(count).filter(|e| *e <= self.tree.shape.extents);
        let end = end.ok_or_else(|| self.beyond(first.saturating_add(count)))?;
        // Asked for together, so that a link's latency is paid once and not by each leaf.
        let ahead = if self.answers_inline() { 0 } else { LEAVES_AHEAD };
        for leaf in (first / FAN..end.div_ceil(FAN)).take(ahead) {
            self.tree.leaf(leaf, Box::new(drop));
        }
        let mut extent = first;
        while extent < end {
            let leaf = extent / FAN;
            let until = end.min((leaf + 1) * FAN);
            match self.tree.leaf_wait(leaf)?.as_deref() {
                Some(Page::Leaf(page)) => {
                    out.extend((extent..until).map(|e| presence_of(page.leaf.place((e % FAN) as usize))));
                }
                _ => out.extend((extent..until).map(|_| Presence::Zero)),
            }
            extent = until;
        }
        Ok(())
    }
    fn fetch(self: Arc<Self>, extents: &[u64], _urgency: Urgency, sink: &Arc<dyn FetchSink>) {
        let mut rest = extents;
        while let Some(first) = rest.first() {
            let leaf = first / FAN;
            if *first >= self.tree.shape.extents {
                sink.fetched(*first, Err(self.beyond(*first)));
                rest = &rest[1..];
                continue;
            }
            let inside = |e: &u64| e / FAN == leaf && *e < self.tree.shape.extents;
            let n = rest.iter().position(|e| !inside(e)).unwrap_or(rest.len());
            self.fetch_leaf(leaf, rest[..n].to_vec(), sink);
            rest = &rest[n..];
        }
    }
    fn difference(&self, base: Uuid) -> Result<Difference> {
        match self.find_base(base)? {
            Some(record) => Ok(Difference { extents: self.differing(&record)?, trusted: true }),
            None => Err(Error::new(
                Kind::Gone,
                format!("snapshot {} of {} is not known here", base.short(), self.shown()),
            )),
        }
    }
    fn answers_inline(&self) -> bool {
        self.core.store.answers_inline()
    }
}

/// `order`: pack by pack, by offset inside; packs have random names, so the first bytes of one sort it.
fn presence_of(place: Option<Place>) -> Presence {
    place.map_or(Presence::Zero, |p| {
        let pack = p.pack.held_in.0;
        let high = u32::from_be_bytes([pack[0], pack[1], pack[2], pack[3]]);
        Presence::Stored { order: u64::from(high) << 32 | u64::from(p.offset), stored: p.stored }
    })
}
