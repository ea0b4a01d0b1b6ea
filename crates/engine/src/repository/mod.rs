//! The repository: a set's snapshots in immutable objects of any store. docs/format describes every byte.
//!
//! - **Opening** reads the config and the key slots; a snapshot's volume opens by reading nothing: pages come when an extent
//!   is first asked for (root, inner pages, leaf), each once, authenticated by the page that led to it. No index, no lock.
//! - **Writing** is a session (hazard record, upload, end, commit: `write`), so that a collector beside it, which this
//!   program does not have yet, is safe. Data is durable before the commit that names it; a commit is one create-if-absent.
//! - **A crash** at any point leaves snapshots that exist whole and objects nobody names.
//! - **A damaged object** is an error that names object and byte; never data.

mod core;
mod directory;
mod drills;
mod error;
mod history;
mod hold;
mod holder;
mod objects;
mod open;
mod pages;
mod snapshot;
#[cfg(any(test, feature = "synthetic"))]
pub mod synthetic;
mod tree;
mod write;

pub use error::{RepoError, Result};
pub use history::{Listing, SnapshotInfo};
pub use hold::HoldInfo;
pub use holder::SnapshotHolder;
pub use open::{InitOptions, KeyInfo};
pub use rekindle_core::repo::hold::ReleaseReason;
pub use rekindle_core::repo::key_slot::{KdfCost, SlotKind};
pub use rekindle_core::repo::{Cipher, Commit, Drill, HoldOwner, Id, VolumeRecord};
pub use rekindle_io::seal::{Credential, Secret};
pub use snapshot::Snapshot;
pub use write::{CommitMeta, Put, SnapshotWriter, VolumeSlot, WriteStats, WriterOptions};

use self::core::Core;
use rekindle_core::volume::Uuid;
use rekindle_io::store::Store;
use std::sync::Arc;

/// An open repository. Cheap to clone; safe from any thread.
#[derive(Clone)]
pub struct Repository {
    core: Arc<Core>,
}

/// Which snapshot of a set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// The newest.
    Latest,
    /// The one whose identity begins with these hex digits.
    Prefix(String),
    /// The newest at or before this time, nanoseconds since 1970.
    At(u64),
}

impl Repository {
    /// Makes a repository in an empty place.
    pub fn init(store: Arc<dyn Store>, options: &InitOptions) -> Result<Self> {
        open::init(store, options).map(|core| Repository { core: Arc::new(core) })
    }
    /// Opens a repository; `credential` must be given if and only if it is encrypted.
    pub fn open(store: Arc<dyn Store>, credential: Option<&Credential>) -> Result<Self> {
        Self::open_with(store, credential, open::PAGE_CACHE_BYTES)
    }
    /// The same with another bound (in bytes) of decoded metadata pages in memory.
    pub fn open_with(
        store: Arc<dyn Store>,
        credential: Option<&Credential>,
        page_cache: usize,
    ) -> Result<Self> {
        open::open(store, credential, page_cache).map(|core| Repository { core: Arc::new(core) })
    }
    /// Whether there is a repository at all, without opening it.
    pub fn exists(store: &dyn Store) -> Result<bool> {
        Ok(store.head(rekindle_core::repo::names::CONFIG)?.is_some())
    }
    /// The repository's identity.
    pub fn uuid(&self) -> Uuid {
        self.core.config.repository
    }
    /// Encrypted, or only checked against damage.
    pub fn cipher(&self) -> Cipher {
        self.core.config.cipher
    }
    /// Where it is, for people.
    pub fn place(&self) -> String {
        self.core.store.place()
    }
    /// The store.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.core.store
    }

    /// All snapshots, or those of one set, oldest first.
    pub fn snapshots(&self, set: Option<&str>) -> Result<Listing> {
        let tags = match set {
            Some(name) => vec![self.core.keys.ids.set_tag(name)],
            None => self.core.set_tags()?,
        };
        let mut all = Listing::default();
        for tag in tags {
            let one = self.core.history(&tag)?;
            all.snapshots.extend(one.snapshots);
            all.damaged.extend(one.damaged);
        }
        all.snapshots.sort_by(|a, b| (&a.commit.set, a.seq).cmp(&(&b.commit.set, b.seq)));
        Ok(all)
    }
    /// `ReadOnly` if it has features that only a newer program may write with.
    pub fn writable(&self) -> Result<()> {
        if self.core.config.writable() { Ok(()) } else { Err(RepoError::ReadOnly) }
    }
    /// One snapshot of a set.
    pub fn snapshot(&self, set: &str, which: &Which) -> Result<Snapshot> {
        let tag = self.core.keys.ids.set_tag(set);
        let none = |when: &str| RepoError::NoSnapshot { wanted: format!("{set}@{when}") };
        let info = match which {
            Which::Latest => self.core.newest(&tag)?.ok_or_else(|| none("latest"))?,
            Which::Prefix(prefix) => {
                let begins = |s: &SnapshotInfo| s.commit.snapshot.to_string().starts_with(prefix.as_str());
                let mut found = self.core.history(&tag)?.snapshots.into_iter().filter(begins);
                let one = found.next().ok_or_else(|| none(prefix))?;
                if found.next().is_some() {
                    return Err(RepoError::Ambiguous { wanted: format!("{set}@{prefix}") });
                }
                one
            }
            Which::At(time_ns) => {
                let mut before = self.core.history(&tag)?.snapshots;
                before.retain(|s| s.commit.time_ns <= *time_ns);
                before
                    .into_iter()
                    .max_by_key(|s| (s.commit.time_ns, s.seq))
                    .ok_or_else(|| none("that time"))?
            }
        };
        Ok(self.snapshot_of(info))
    }
    /// A snapshot by its whole identity, in any set.
    pub fn snapshot_by_uuid(&self, snapshot: Uuid) -> Result<Snapshot> {
        let found = self.core.find_uuid(snapshot)?;
        let info = found.ok_or_else(|| RepoError::NoSnapshot { wanted: snapshot.short() })?;
        Ok(self.snapshot_of(info))
    }
    /// Opens a snapshot that a listing gave; reads nothing.
    pub fn snapshot_of(&self, info: SnapshotInfo) -> Snapshot {
        Snapshot::new(self.core.clone(), info)
    }
    /// Begins a snapshot of `set`: opens a writer session that depends on `parent`.
    pub fn begin_snapshot(
        &self,
        set: &str,
        parent: Option<&Snapshot>,
        options: WriterOptions,
    ) -> Result<SnapshotWriter> {
        // Its frames lie in another store: naming them here would make a snapshot that cannot be read.
        if parent.is_some_and(|p| p.repository() != self.uuid()) {
            return Err(RepoError::Invalid("the parent snapshot lies in another repository".into()));
        }
        SnapshotWriter::begin(self.core.clone(), set, parent.map(Snapshot::info), options)
    }

    /// Pins a snapshot for a restore: nothing of it is collected until the hold is released.
    pub fn hold(&self, snapshot: &SnapshotInfo, owner: HoldOwner) -> Result<HoldInfo> {
        self.writable()?;
        self.core.hold(snapshot, owner)
    }
    /// Ends a hold; ending it twice is fine.
    pub fn release_hold(&self, hold: Uuid, reason: ReleaseReason, time_ns: u64) -> Result<()> {
        self.core.release_hold(hold, reason, time_ns)
    }
    /// All holds that stand.
    pub fn holds(&self) -> Result<Vec<HoldInfo>> {
        self.core.holds()
    }

    /// Keeps what the start of a drill of `volume` demanded, under a number above all others and above `after` (the newest
    /// that its map knew); gives the number.
    pub fn keep_drill(&self, volume: Uuid, after: u64, drill: &Drill) -> Result<u64> {
        self.writable()?;
        self.core.keep_drill(volume, after, drill)
    }
    /// The newest drill of `volume` and its number, if that is above `after`. One that is damaged is an error, which costs
    /// speed only.
    pub fn newest_drill(&self, volume: Uuid, after: u64) -> Result<Option<(u64, Drill)>> {
        self.core.newest_drill(volume, after)
    }

    /// The key slots.
    pub fn keys(&self) -> Result<Vec<KeyInfo>> {
        self.core.keys_list()
    }
    /// Lets another credential open the repository; gives the slot's name. No data is rewritten.
    pub fn add_key(&self, credential: &Credential, cost: KdfCost, time_ns: u64, label: &str) -> Result<Uuid> {
        self.core.key_add(credential, cost, time_ns, label)
    }
    /// Removes a slot; the last one stays. Whoever kept the master key can still read.
    pub fn remove_key(&self, slot: Uuid) -> Result<()> {
        self.core.key_remove(slot)
    }
}

#[cfg(test)]
mod tests;
