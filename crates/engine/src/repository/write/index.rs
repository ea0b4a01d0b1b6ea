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
use rekindle_core::repo::{Id, PackRef, Place, names};
use rekindle_core::volume::Uuid;
use rekindle_io::random;
use rekindle_io::store::{Part, StoreExt};
use std::collections::HashMap;
use std::sync::Arc;

/// Runs looked at, whatever their size.
const RUNS_MAX: usize = 256;
/// Slots of the directories kept, 2 MiB: neighbours mostly lie in one pack.
const SLOTS_MAX: usize = 32 << 10;
/// Entries that wait to be written: 1 MiB, and as much while they are.
const FRESH_MAX: usize = 16 << 10;
const _: () = assert!(FRESH_MAX <= ENTRIES_MAX);

/// Default bound of the index in memory: a quarter of a million extents, 16 GiB of different content in 64 KiB extents.
pub const INDEX_BYTES: usize = 4 << 20;

/// Where content may lie. Short: the pack's directory, which is asked anyway, knows the rest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Hint {
    /// The beginning of the id.
    prefix: u64,
    /// Which of the packs.
    pack: u32,
    slot: u32,
}

/// What earlier sessions stored, by prefix.
#[derive(Default)]
struct Loaded {
    hints: Vec<Hint>,
    packs: Vec<Uuid>,
}

/// What earlier sessions stored, and what this one adds.
pub(super) struct Index {
    core: Arc<Core>,
    /// Bytes of entries to load; 0: do not look anything up.
    bytes_max: usize,
    time_ns: u64,
    loaded: Option<Loaded>,
    directories: HashMap<Uuid, Vec<Slot>>,
    fresh: Vec<IndexEntry>,
}

fn beginning(prefix: &index::Prefix) -> u64 {
    prefix.iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
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
        let prefix = beginning(&index::prefix(id));
        let loaded = self.loaded.get_or_insert_with(|| load(&self.core, self.bytes_max));
        let first = loaded.hints.partition_point(|h| h.prefix < prefix);
        let same = loaded.hints[first..].iter().take_while(|h| h.prefix == prefix).take(4);
        let places: Vec<(Uuid, u32)> = same.map(|h| (loaded.packs[h.pack as usize], h.slot)).collect();
        places.into_iter().find_map(|(pack, slot)| self.proven(pack, slot, id, plain))
    }
    /// The pack's directory says that exactly this lies there.
    fn proven(&mut self, pack: Uuid, slot: u32, id: Id, plain: u32) -> Option<Place> {
        if !self.directories.contains_key(&pack) {
            let slots = self.core.directory(pack).unwrap_or_else(|e| {
                tracing::debug!(error = %e, "a pack named by the dedup index cannot be read; not used");
                Vec::new()
            });
            let kept: usize = self.directories.values().map(Vec::len).sum();
            if kept + slots.len() > SLOTS_MAX {
                self.directories.clear();
            }
            self.directories.insert(pack, slots);
        }
        let found = self.directories.get(&pack).and_then(|slots| slots.get(slot as usize));
        let same = |s: &&Slot| s.kind == FrameKind::Data && s.id == id && s.plain == plain;
        let found = found.filter(same).filter(|s| s.moved_from.is_none())?;
        Some(Place { pack: PackRef::at_birth(pack), slot, offset: found.offset, stored: found.stored })
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

/// The newest runs that fit.
fn load(core: &Core, bytes_max: usize) -> Loaded {
    let mut loaded = Loaded::default();
    let mut numbers = HashMap::new();
    let list = core.store.list(names::INDEX, "", RUNS_MAX).unwrap_or_else(|e| {
        tracing::warn!(error = %e, "dedup index not readable; equal content may be stored again");
        Vec::new()
    });
    for entry in list {
        let mut is_full = false;
        let mut take = |entry: IndexEntry| is_full |= !loaded.take(&entry, &mut numbers, bytes_max);
        if let Err(e) = read_run(core, &entry.name, &mut take) {
            tracing::warn!(error = %e, "a run of the dedup index is not readable; not used");
        }
        if is_full {
            break;
        }
    }
    loaded.hints.sort_unstable();
    loaded
}

impl Loaded {
    /// `false`: there is no room for it.
    fn take(&mut self, entry: &IndexEntry, numbers: &mut HashMap<Uuid, u32>, bytes_max: usize) -> bool {
        let PackRef { birth, held_in } = entry.place.pack;
        // Moved frames come with a later version, which knows where to look.
        if birth != held_in {
            return true;
        }
        if size_of_val(&self.hints[..]) + size_of_val(&self.packs[..]) >= bytes_max {
            return false;
        }
        let pack = *numbers.entry(birth).or_insert_with(|| {
            self.packs.push(birth);
            // Fewer than `bytes_max`.
            self.packs.len() as u32 - 1
        });
        self.hints.push(Hint { prefix: beginning(&entry.prefix), pack, slot: entry.place.slot });
        true
    }
}

fn read_run(core: &Core, name: &str, each: &mut dyn FnMut(IndexEntry)) -> Result<()> {
    let stored = core.store.get(name, Part::All)?;
    let plain = open_sealed(&core.keys, &core.keys.meta, ObjectKind::Index, name, &stored)?;
    drop(stored);
    index::decode(&plain, each).map_err(|m| RepoError::damaged(name, 0, m.0))
}
