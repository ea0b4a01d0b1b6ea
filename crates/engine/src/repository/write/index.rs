//! The dedup index: what earlier sessions stored, of any set, so that moved or copied content is not stored again. For
//! writers only: reading never needs it, and whatever is wrong with it costs space, never a backup.
//!
//! Each session adds runs of what it stored. A writer reads runs, newest first, when it first meets something new, within a
//! bound of memory. A hit is a hint: the pack's own directory must say the same of the whole id before it is named.
//!
//! A collector may have taken away what a run names, and this program cannot read a collector's verdicts. So the index is
//! used only while there never was a collection (epoch 0); a collection that begins later waits for this session's end.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::objects::{create_sealed, open_sealed};
use rekindle_core::repo::frame::FrameKind;
use rekindle_core::repo::index::{self, ENTRIES_MAX, IndexEntry};
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::pack::Slot;
use rekindle_core::repo::{Id, Place, names};
use rekindle_core::volume::Uuid;
use rekindle_io::random;
use rekindle_io::store::{Part, StoreExt};
use std::collections::HashMap;
use std::sync::Arc;

/// Runs looked at, whatever their size.
const RUNS_MAX: usize = 256;
/// Directories kept: neighbours mostly lie in one pack.
const DIRECTORIES_MAX: usize = 16;
/// Entries that wait to be written: 8 MiB.
const FRESH_MAX: usize = ENTRIES_MAX;

/// Default bound of the index in memory: a quarter of a million extents, 16 GiB of different content in 64 KiB extents.
pub const INDEX_BYTES: usize = 18 << 20;

/// What earlier sessions stored, and what this one adds.
pub(super) struct Index {
    core: Arc<Core>,
    /// Bytes of entries to load; 0: do not look anything up.
    bytes_max: usize,
    time_ns: u64,
    loaded: Option<Vec<IndexEntry>>,
    directories: HashMap<Uuid, Arc<Vec<Slot>>>,
    fresh: Vec<IndexEntry>,
}

impl Index {
    pub(super) fn new(core: Arc<Core>, bytes_max: usize, time_ns: u64) -> Self {
        Index { core, bytes_max, time_ns, loaded: None, directories: HashMap::new(), fresh: Vec::new() }
    }
    /// Where content of this id and plain length lies, if that is known and proven.
    pub(super) fn find(&mut self, id: Id, plain: u32) -> Option<Place> {
        if self.bytes_max == 0 {
            return None;
        }
        let prefix = index::prefix(id);
        let loaded = self.loaded.get_or_insert_with(|| load(&self.core, self.bytes_max));
        let first = loaded.partition_point(|e| e.prefix < prefix);
        let same = loaded[first..].iter().take_while(|e| e.prefix == prefix);
        let places: Vec<Place> = same.filter(|e| e.plain == plain).map(|e| e.place).take(4).collect();
        places.into_iter().find(|place| self.proven(place, id, plain))
    }
    /// The pack's directory says that exactly this lies there.
    fn proven(&mut self, place: &Place, id: Id, plain: u32) -> bool {
        // Moved frames come with a later version, which knows where to look.
        if place.pack.birth != place.pack.held_in {
            return false;
        }
        let pack = place.pack.birth;
        if !self.directories.contains_key(&pack) {
            let slots = self.core.directory(pack).unwrap_or_else(|e| {
                tracing::debug!(error = %e, "a pack named by the dedup index cannot be read; not used");
                Vec::new()
            });
            if self.directories.len() >= DIRECTORIES_MAX {
                self.directories.clear();
            }
            self.directories.insert(pack, Arc::new(slots));
        }
        let slot = self.directories.get(&pack).and_then(|slots| slots.get(place.slot as usize));
        let want = Slot {
            kind: FrameKind::Data,
            id,
            offset: place.offset,
            stored: place.stored,
            plain,
            moved_from: None,
        };
        slot == Some(&want)
    }
    /// Takes note of what this session stored.
    pub(super) fn stored(&mut self, id: Id, plain: u32, place: Place) {
        self.fresh.push(IndexEntry { prefix: index::prefix(id), plain, place });
        if self.fresh.len() == FRESH_MAX {
            self.write();
        }
    }
    /// Writes what was noted. A failure costs space later: it is logged.
    pub(super) fn write(&mut self) {
        if self.fresh.is_empty() {
            return;
        }
        self.fresh.sort_unstable_by_key(|e| e.prefix);
        let name = names::index_run(self.time_ns, random::uuid());
        let plain = index::encode(&self.fresh);
        self.fresh.clear();
        let core = &self.core;
        let meta = &core.keys.meta;
        if let Err(e) = create_sealed(&*core.store, &core.keys, meta, ObjectKind::Index, &name, &plain) {
            tracing::warn!(error = %e, "dedup index not written; equal content may be stored again later");
        }
    }
}

/// The newest runs that fit, as one sorted list.
fn load(core: &Core, bytes_max: usize) -> Vec<IndexEntry> {
    let fits = bytes_max / size_of::<IndexEntry>();
    let mut all: Vec<IndexEntry> = Vec::new();
    let list = core.store.list(names::INDEX, "", RUNS_MAX).unwrap_or_else(|e| {
        tracing::warn!(error = %e, "dedup index not readable; equal content may be stored again");
        Vec::new()
    });
    for entry in list {
        match read_run(core, &entry.name) {
            Ok(run) => all.extend(run.into_iter().take(fits - all.len())),
            Err(e) => tracing::warn!(error = %e, "a run of the dedup index is not readable; not used"),
        }
        if all.len() >= fits {
            break;
        }
    }
    all.sort_unstable_by_key(|e| e.prefix);
    all
}

fn read_run(core: &Core, name: &str) -> Result<Vec<IndexEntry>> {
    let stored = core.store.get(name, Part::All)?;
    let plain = open_sealed(&core.keys, &core.keys.meta, ObjectKind::Index, name, &stored)?;
    index::decode(&plain).map_err(|m| RepoError::damaged(name, 0, m.0))
}
