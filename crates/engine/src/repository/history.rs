//! The snapshots of a repository. A snapshot exists if and only if its commit's object exists: names are the truth,
//! checkpoints only save reading each commit.

use super::core::Core;
use super::error::{RepoError, Result};
use super::objects::{Created, create_sealed, get_many, open_sealed};
use rekindle_core::repo::commit::CHECKPOINT_EVERY;
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::{Checkpoint, Commit, names};
use rekindle_core::volume::Uuid;
use rekindle_io::Kind;
use rekindle_io::store::{Part, StoreExt};
use std::collections::{BTreeMap, BTreeSet};

/// A snapshot as its commit describes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotInfo {
    /// Its number in the set's history.
    pub seq: u64,
    /// The set's part of object names.
    pub set_tag: String,
    /// The commit.
    pub commit: Commit,
}

impl SnapshotInfo {
    pub(super) fn object(&self) -> String {
        names::commits(&self.set_tag) + &names::number(self.seq)
    }
}

/// What a listing found. Damage of one commit does not hide the others.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Snapshots, by set, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// What exists and cannot be read.
    pub damaged: Vec<RepoError>,
}

/// Numbers taken in a set's history.
pub(super) struct Numbers {
    /// Commits that exist, ascending.
    pub live: BTreeSet<u64>,
    /// The highest number ever taken, 0 for none.
    pub last: u64,
    /// The newest checkpoint.
    pub checkpoint: Option<u64>,
}

impl Core {
    /// Tags of all sets that have a history: one small list request a set.
    pub(super) fn set_tags(&self) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        let mut after = String::new();
        loop {
            let page = self.store.list(names::SETS, &after, 1)?;
            let Some(entry) = page.first() else { return Ok(tags) };
            let tag = entry.name[names::SETS.len()..].split('/').next().unwrap_or_default().to_string();
            // '0' sorts right behind '/': the next request begins behind everything of this set.
            after = format!("{}{tag}0", names::SETS);
            tags.push(tag);
        }
    }
    fn numbers_under(&self, prefix: &str) -> Result<BTreeSet<u64>> {
        let list = self.store.list_all(prefix)?;
        Ok(list.iter().filter_map(|e| names::parse_number(&e.name, prefix)).collect())
    }
    /// Which numbers of a set are taken.
    pub(super) fn numbers(&self, tag: &str) -> Result<Numbers> {
        let mut live = self.numbers_under(&names::commits(tag))?;
        let forgotten = self.numbers_under(&names::forgotten(tag))?;
        let checkpoint = self.numbers_under(&names::checkpoints(tag))?.last().copied();
        let last = [live.last().copied(), forgotten.last().copied(), checkpoint].into_iter().flatten().max();
        live.retain(|n| !forgotten.contains(n));
        Ok(Numbers { live, last: last.unwrap_or(0), checkpoint })
    }
    pub(super) fn open_commit(&self, tag: &str, seq: u64, stored: &[u8]) -> Result<SnapshotInfo> {
        let name = names::commits(tag) + &names::number(seq);
        let plain = open_sealed(&self.keys, &self.keys.commits, ObjectKind::Commit, &name, stored)?;
        let commit = Commit::decode(&plain).map_err(|m| RepoError::damaged(&name, 0, m.0))?;
        Ok(SnapshotInfo { seq, set_tag: tag.to_string(), commit })
    }
    /// One commit; `None` if it does not exist.
    pub(super) fn read_commit(&self, tag: &str, seq: u64) -> Result<Option<SnapshotInfo>> {
        match self.store.get(&(names::commits(tag) + &names::number(seq)), Part::All) {
            Ok(stored) => self.open_commit(tag, seq, &stored).map(Some),
            Err(e) if e.kind == Kind::Gone => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
    fn read_checkpoint(&self, tag: &str, seq: u64) -> Result<Checkpoint> {
        let name = names::checkpoints(tag) + &names::number(seq);
        let stored = self.store.get(&name, Part::All)?;
        let plain = open_sealed(&self.keys, &self.keys.commits, ObjectKind::Checkpoint, &name, &stored)?;
        Checkpoint::decode(&plain).map_err(|m| RepoError::damaged(&name, 0, m.0))
    }
    /// All snapshots of a set: the newest checkpoint, and the commits it does not know.
    pub(super) fn history(&self, tag: &str) -> Result<Listing> {
        let numbers = self.numbers(tag)?;
        let mut known: BTreeMap<u64, Commit> = BTreeMap::new();
        if let Some(seq) = numbers.checkpoint {
            // A damaged checkpoint costs time only: every commit is still there to be read.
            match self.read_checkpoint(tag, seq) {
                Ok(c) => known.extend(c.commits),
                Err(e) => tracing::warn!(error = %e, "checkpoint not readable; reading each commit"),
            }
        }
        let missing: Vec<u64> = numbers.live.iter().copied().filter(|n| !known.contains_key(n)).collect();
        let objects: Vec<String> = missing.iter().map(|n| names::commits(tag) + &names::number(*n)).collect();
        let mut listing = Listing::default();
        for (seq, stored) in missing.iter().zip(get_many(&*self.store, &objects)) {
            // Gone since it was listed: it does not exist any more.
            let Some(stored) = stored? else { continue };
            match self.open_commit(tag, *seq, &stored) {
                Ok(info) => drop(known.insert(*seq, info.commit)),
                Err(e) => listing.damaged.push(e),
            }
        }
        let live = known.into_iter().filter(|(seq, _)| numbers.live.contains(seq));
        listing.snapshots =
            live.map(|(seq, commit)| SnapshotInfo { seq, set_tag: tag.to_string(), commit }).collect();
        Ok(listing)
    }
    /// The newest snapshot of a set, at the cost of lists and one read. A damaged one is an error, not an older one.
    pub(super) fn newest(&self, tag: &str) -> Result<Option<SnapshotInfo>> {
        for seq in self.numbers(tag)?.live.into_iter().rev() {
            if let Some(info) = self.read_commit(tag, seq)? {
                return Ok(Some(info));
            }
        }
        Ok(None)
    }
    /// The snapshot still exists: its commit is there and no tombstone is.
    pub(super) fn exists(&self, snapshot: &SnapshotInfo) -> Result<bool> {
        let tombstone = names::forgotten(&snapshot.set_tag) + &names::number(snapshot.seq);
        Ok(self.store.head(&snapshot.object())?.is_some() && self.store.head(&tombstone)?.is_none())
    }
    /// A snapshot by its identity, in any set.
    pub(super) fn find_uuid(&self, snapshot: Uuid) -> Result<Option<SnapshotInfo>> {
        for tag in self.set_tags()? {
            let found = self.history(&tag)?.snapshots.into_iter().find(|s| s.commit.snapshot == snapshot);
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
    /// Writes a checkpoint when the last one is 256 commits back. Not needed for anything but speed: failures are logged.
    pub(super) fn checkpoint_if_due(&self, tag: &str, seq: u64, last: Option<u64>) {
        if seq - last.unwrap_or(0).min(seq) < CHECKPOINT_EVERY {
            return;
        }
        let written = self.history(tag).and_then(|listing| {
            let commits =
                listing.snapshots.into_iter().filter(|s| s.seq <= seq).map(|s| (s.seq, s.commit)).collect();
            let name = names::checkpoints(tag) + &names::number(seq);
            let plain = Checkpoint { commits }.encode();
            create_sealed(&*self.store, &self.keys, &self.keys.commits, ObjectKind::Checkpoint, &name, &plain)
        });
        match written {
            Ok(Created::Won | Created::Lost(_)) => (),
            Err(e) => tracing::warn!(error = %e, "checkpoint not written; listing stays slower"),
        }
    }
}
