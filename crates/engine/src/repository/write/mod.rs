//! Writing a snapshot: extents in, packs and pages out, one commit at the end.
//!
//! What a `put` does: zero test, id, compare with the parent's id at the same place, look among what this session and earlier ones stored
//! (and whether that is still there; for what the guest wrote, whether it can be read);
//! only what is new is compressed (on a small pool; 85 % of the work), sealed and laid into a pack, in the order of the puts,
//! so that an incremental's packs lie hottest first. Every extent is given exactly once: put, zeroed or kept; a commit that
//! does not account for each is refused.
//!
//! Memory: 5 MiB of a pack on its way (two packs where the store takes objects whole), 6 MiB of extents in the pool, 6 MiB of
//! ids, 4 MiB of entries, 8 MiB of decoded pages, 4 + 4 MiB of index, 24 bytes a pack of the repository where something is
//! compared, and a bit an extent (2 MiB a TiB).
//! A crash leaves packs that nobody names and a session that a collector ends.

mod dedup;
#[cfg(any(test, feature = "synthetic"))]
mod dense;
mod index;
mod leaves;
mod pack;
mod present;
mod session;
mod upload;
mod upper;
mod volume;

pub use index::INDEX_BYTES;
pub use pack::PACK_BYTES;

use self::dedup::{Known, Seen};
use self::index::Index;
use self::pack::PackWriter;
use self::session::Session;
use self::volume::Volume;
use super::core::Core;
use super::error::{RepoError, Result};
use super::history::SnapshotInfo;
use crate::backup::VolumeIdentity;
use rekindle_core::bytes::is_zero;
use rekindle_core::repo::frame::FrameKind;
use rekindle_core::repo::{Commit, Id, Place};
use rekindle_core::volume::{ExtentBytes, ExtentRange, ExtentSet, Geometry, Uuid};
use rekindle_io::random;
use rekindle_io::seal::{CompressPool, Compressed};
use std::collections::VecDeque;
use std::sync::Arc;

/// Extents in the pool at most, in bytes.
const POOL_BYTES_MAX: usize = if cfg!(test) { 64 << 10 } else { 4 << 20 };
/// Extents that wait for their turn at most, those included that are stored already and wait behind one in the pool. What
/// they equal must not be forgotten before: as many may be laid down until then, and as many be seen.
const WAITING_MAX: usize = dedup::GENERATION_MAX / 4;
const _: () = assert!(POOL_BYTES_MAX / (ExtentBytes::MIN as usize) <= WAITING_MAX);

/// Decoded pages in memory, as long as something is written: its leaves are mostly met one after another.
const CACHE_BYTES: usize = 8 << 20;

/// How to write.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Who writes; for people.
    pub host: String,
    /// With what, e.g. `rekindle 0.1.0`; for people.
    pub tool: String,
    /// Now, nanoseconds since 1970; for people.
    pub time_ns: u64,
    /// Target size of packs in bytes.
    pub pack_bytes: usize,
    /// Bytes of the dedup index in memory, for finding what earlier sessions stored; 0: look at the parent and this session only.
    pub index_bytes: usize,
    /// Threads that compress, beside one that uploads; 0: everything on the caller's thread.
    pub threads: usize,
}

impl Default for WriterOptions {
    fn default() -> Self {
        let tool = concat!("rekindle ", env!("CARGO_PKG_VERSION")).to_string();
        WriterOptions {
            host: String::new(),
            tool,
            time_ns: 0,
            pack_bytes: PACK_BYTES,
            index_bytes: INDEX_BYTES,
            threads: 2,
        }
    }
}

/// What a put did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// Only zeros: nothing is stored.
    Zero,
    /// Equal to the parent at this place: its frame is named again.
    Unchanged,
    /// Equal to something stored before, in this session or an earlier one.
    Deduped,
    /// New.
    Stored,
}

/// A volume of the snapshot being written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VolumeSlot(usize);

/// What is known at the end.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CommitMeta {
    /// The instant, nanoseconds since 1970.
    pub time_ns: u64,
    /// Labels.
    pub tags: Vec<String>,
    /// The system it was copied from.
    pub origin: Option<Uuid>,
}

/// What was done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriteStats {
    /// Extents put, by what became of them.
    pub zero: u64,
    /// Equal to the parent.
    pub unchanged: u64,
    /// Stored already, in this session or an earlier one.
    pub deduped: u64,
    /// New.
    pub stored: u64,
    /// Plain bytes of the new ones.
    pub plain_bytes: u64,
    /// Bytes of their frames.
    pub stored_bytes: u64,
    /// Packs, and their bytes with pages and directories.
    pub packs: u64,
    /// Bytes of all packs.
    pub pack_bytes: u64,
}

/// A put that waits for its place, in order.
struct Waiting {
    volume: usize,
    extent: u64,
    key: dedup::Key,
    how: Content,
}

/// Where the bytes of a put are.
#[derive(Clone, Copy)]
enum Content {
    /// In the pool.
    Fresh,
    /// Equal to one that waits before it.
    Before,
    /// Laid down.
    At(Place),
}

/// A snapshot being written. Dropping it without `commit` gives it up.
pub struct SnapshotWriter {
    core: Arc<Core>,
    session: Session,
    set: String,
    parent: Option<SnapshotInfo>,
    options: WriterOptions,
    volumes: Vec<Volume>,
    packs: PackWriter,
    pool: CompressPool,
    pool_bytes: usize,
    waiting: VecDeque<Waiting>,
    seen: Seen,
    index: Index,
    stats: WriteStats,
    /// The first failure: from then on nothing may be committed.
    failed: Option<RepoError>,
}

impl SnapshotWriter {
    pub(super) fn begin(
        core: Arc<Core>,
        set: &str,
        parent: Option<&SnapshotInfo>,
        options: WriterOptions,
    ) -> Result<Self> {
        let tag = core.keys.ids.set_tag(set);
        let session = Session::begin(core.clone(), &tag, parent, &options.host, options.time_ns)?;
        let background = options.threads > 0;
        core.pages.lower(CACHE_BYTES);
        let index_bytes = if session.collected { 0 } else { options.index_bytes };
        Ok(SnapshotWriter {
            packs: PackWriter::new(core.clone(), options.pack_bytes, background),
            pool: CompressPool::new(options.threads),
            index: Index::new(core.clone(), index_bytes, options.time_ns),
            core,
            session,
            set: set.to_string(),
            parent: parent.cloned(),
            options,
            volumes: Vec::new(),
            pool_bytes: 0,
            waiting: VecDeque::new(),
            seen: Seen::default(),
            stats: WriteStats::default(),
            failed: None,
        })
    }
    /// Adds a volume. Its base is the parent's volume of the same uuid, size and extents, if there is one.
    pub fn volume(&mut self, identity: VolumeIdentity, geometry: Geometry) -> VolumeSlot {
        let same = |v: &&rekindle_core::repo::VolumeRecord| {
            v.uuid == identity.uuid && v.geometry.same_extents(&geometry)
        };
        let base = self.parent.as_ref().and_then(|p| p.commit.volumes.iter().find(same)).cloned();
        self.volumes.push(Volume::new(self.core.clone(), identity, geometry, base));
        VolumeSlot(self.volumes.len() - 1)
    }
    /// Whether extents can be kept from the parent (else each must be put or zeroed).
    pub fn has_base(&self, volume: VolumeSlot) -> bool {
        self.volumes[volume.0].base.is_some()
    }
    /// What was done so far; bytes of frames that still wait are not in it.
    pub fn stats(&self) -> WriteStats {
        WriteStats { packs: self.packs.packs, pack_bytes: self.packs.bytes, ..self.stats }
    }

    /// The guest wrote to these since the parent: of their content only that is named again which can be read
    /// and is equal. A restore may have found it lost, and what the guest wrote then is the only copy.
    pub fn prove(&mut self, volume: VolumeSlot, written: Arc<ExtentSet>) {
        self.volumes[volume.0].proven = written;
    }
    /// Every extent will be put or zeroed, none kept: of the parent only that is named again which is still there, and what of
    /// its manifest is lost is done without.
    pub fn compare(&mut self, volume: VolumeSlot) {
        self.volumes[volume.0].compare();
    }
    /// Gives the bytes of one extent: the whole of it, or what the volume has of a short last one.
    pub fn put(&mut self, volume: VolumeSlot, extent: u64, bytes: &[u8]) -> Result<Put> {
        self.guarded(|me| me.put_inner(volume.0, extent, bytes))
    }
    /// Says that `range` reads as zeros. A range operation: whole leaves are not read.
    pub fn zero(&mut self, volume: VolumeSlot, range: ExtentRange) -> Result<()> {
        self.guarded(|me| {
            let v = &mut me.volumes[volume.0];
            v.account(range)?;
            v.changed += v.leaves.zero(range, &mut me.packs)?;
            Ok(())
        })
    }
    /// Says that `range` is as in the parent. Nothing is read or written.
    pub fn keep(&mut self, volume: VolumeSlot, range: ExtentRange) -> Result<()> {
        self.guarded(|me| me.volumes[volume.0].keep(range))
    }
    /// Says that every extent not given so far is as in the parent. The caller must be certain: nothing is compared.
    pub fn keep_rest(&mut self, volume: VolumeSlot) -> Result<()> {
        self.guarded(|me| me.volumes[volume.0].keep_rest())
    }

    /// Stores page `index` (1,024 extents) of the usage map; pages not given are kept from the parent.
    pub fn usage_page(&mut self, volume: VolumeSlot, index: u64, payload: &[u8]) -> Result<()> {
        self.guarded(|me| me.volumes[volume.0].usage_page(index, payload, &mut me.packs))
    }
    /// Stores the hot list: extents in restore order, hottest first, no two equal. Not called: the parent's is kept.
    pub fn hot_list(&mut self, volume: VolumeSlot, extents: &[u64]) -> Result<()> {
        self.guarded(|me| me.volumes[volume.0].hot_list(extents, &mut me.packs))
    }

    /// What failed; nothing is taken any more.
    pub fn failure(&self) -> Option<&RepoError> {
        self.failed.as_ref()
    }
    /// After a failure nothing more is taken: what the caller believes written may not be.
    fn guarded<T>(&mut self, f: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if let Some(e) = &self.failed {
            return Err(e.clone());
        }
        f(self).inspect_err(|e| self.failed = Some(e.clone()))
    }
    fn put_inner(&mut self, volume: usize, extent: u64, bytes: &[u8]) -> Result<Put> {
        let v = &mut self.volumes[volume];
        v.account(ExtentRange { start: extent, end: extent + 1 })?;
        if bytes.len() as u64 != v.geometry.extent_bytes(extent).len {
            return Err(RepoError::Invalid(format!("extent {extent} was put with {} bytes", bytes.len())));
        }
        let id =
            if is_zero(bytes) { Id::ZERO } else { self.core.keys.ids.extent(bytes, v.geometry.extent.get()) };
        if v.has(extent, id, bytes, &mut self.packs)? {
            let same = if id.is_zero() { &mut self.stats.zero } else { &mut self.stats.unchanged };
            *same += 1;
            return Ok(if id.is_zero() { Put::Zero } else { Put::Unchanged });
        }
        v.changed += 1;
        if id.is_zero() {
            self.stats.zero += 1;
            v.leaves.set(extent, None, &mut self.packs)?;
            return Ok(Put::Zero);
        }
        self.store(volume, extent, (id, bytes.len() as u32), bytes)
    }
    fn store(&mut self, volume: usize, extent: u64, key: dedup::Key, bytes: &[u8]) -> Result<Put> {
        let how = self.find(volume, extent, key, bytes)?;
        let fresh = matches!(how, Content::Fresh);
        if fresh {
            self.seen.insert(key, Known::Coming);
            self.pool.submit(bytes);
            self.pool_bytes += bytes.len();
            self.stats.stored += 1;
            self.stats.plain_bytes += bytes.len() as u64;
        } else {
            self.stats.deduped += 1;
        }
        self.waiting.push_back(Waiting { volume, extent, key, how });
        self.drain(POOL_BYTES_MAX)?;
        Ok(if fresh { Put::Stored } else { Put::Deduped })
    }
    /// Where content of this key is stored already, beyond the same place in the parent.
    fn find(&mut self, volume: usize, extent: u64, key: dedup::Key, bytes: &[u8]) -> Result<Content> {
        let named = match self.seen.get(&key) {
            Some(Known::Coming) => return Ok(Content::Before),
            Some(Known::Sure(place)) => return Ok(Content::At(place)),
            Some(Known::Named(place)) => Some(place),
            None => self.index.find(key.0, key.1),
        };
        let Some(place) = named else { return Ok(Content::Fresh) };
        let proven = self.volumes[volume].is_proven(extent);
        if proven && !self.core.has_bytes(&place, bytes)? {
            return Ok(Content::Fresh);
        }
        self.seen.insert(key, if proven { Known::Sure(place) } else { Known::Named(place) });
        Ok(Content::At(place))
    }
    /// Lays down what is ready, and waits until at most `bytes_max` are left in the pool.
    fn drain(&mut self, bytes_max: usize) -> Result<()> {
        while let Some(next) = self.waiting.front() {
            let (volume, extent, key) = (next.volume, next.extent, next.key);
            let place = match next.how {
                Content::At(place) => place,
                // What it equals was laid down a moment ago (`WAITING_MAX`).
                Content::Before => match self.seen.get(&key) {
                    Some(Known::Sure(place) | Known::Named(place)) => place,
                    _ => {
                        let what = "the place of equal content was forgotten";
                        return Err(RepoError::Invalid(what.into()));
                    }
                },
                Content::Fresh => {
                    match self.pool.take(self.pool_bytes > bytes_max || self.waiting.len() > WAITING_MAX) {
                        Some(done) => self.lay_down(volume, key, done)?,
                        None => return Ok(()),
                    }
                }
            };
            self.waiting.pop_front();
            self.volumes[volume].leaves.set(extent, Some((place, key.0)), &mut self.packs)?;
        }
        Ok(())
    }
    fn lay_down(&mut self, volume: usize, (id, plain): dedup::Key, done: Compressed) -> Result<Place> {
        let place = self.packs.append(FrameKind::Data, id, plain, done.how, &done.body)?;
        self.pool.recycle(done.body);
        self.pool_bytes -= plain as usize;
        self.stats.stored_bytes += u64::from(place.stored);
        self.volumes[volume].new_bytes += u64::from(place.stored);
        self.seen.insert((id, plain), Known::Sure(place));
        self.index.stored(id, plain, place);
        Ok(place)
    }

    /// Makes the snapshot exist. Everything it names is durable before its commit is written. If this fails with
    /// `Kind::Unavailable`, the snapshot may exist or come to exist; any other failure means that it does not.
    pub fn commit(mut self, meta: CommitMeta) -> Result<SnapshotInfo> {
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        self.drain(0)?;
        let mut volumes = Vec::with_capacity(self.volumes.len());
        for volume in std::mem::take(&mut self.volumes) {
            volumes.push(volume.finish(&mut self.packs)?);
        }
        self.packs.finish()?;
        self.index.write();
        let commit = Commit {
            set: self.set,
            snapshot: random::uuid(),
            token: random::uuid(),
            role_epoch: 0,
            time_ns: meta.time_ns,
            parent: self.parent.map(|p| p.commit.snapshot),
            origin: meta.origin,
            tags: meta.tags,
            host: self.options.host,
            tool: self.options.tool,
            volumes,
        };
        commit.check_bounds().map_err(|m| RepoError::Invalid(m.0.to_string()))?;
        self.session.commit(commit)
    }
}
