//! Holds: the pin of a restore. See core::repo::hold for why silence never ends one.

use super::core::Core;
use super::error::{RepoError, Result};
use super::history::SnapshotInfo;
use super::objects::{Created, create_sealed, open_sealed};
use rekindle_core::repo::hold::{ReleaseReason, Released};
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::{Hold, HoldOwner, names};
use rekindle_core::volume::Uuid;
use rekindle_io::random;
use rekindle_io::store::{Part, StoreExt};
use std::collections::BTreeSet;

/// A hold that stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldInfo {
    /// Its identity: what `release_hold` takes, and what a restore keeps in its state.
    pub uuid: Uuid,
    /// What it holds, and for whom.
    pub hold: Hold,
}

impl Core {
    /// Takes a hold: create first, look for the snapshot second (see the protocol in core).
    pub(super) fn hold(&self, snapshot: &SnapshotInfo, owner: HoldOwner) -> Result<HoldInfo> {
        let hold = Hold {
            set_tag: snapshot.set_tag.clone(),
            snapshot: snapshot.commit.snapshot,
            owner,
            token: random::uuid(),
        };
        let uuid = random::uuid();
        let name = names::hold(uuid);
        match create_sealed(
            &*self.store,
            &self.keys,
            &self.keys.meta,
            ObjectKind::Hold,
            &name,
            &hold.encode(),
        )? {
            Created::Won => (),
            Created::Lost(_) => return Err(RepoError::Invalid(format!("the fresh name {name} was taken"))),
        }
        if !self.exists(snapshot)? {
            self.release_hold(uuid, ReleaseReason::Done, hold.owner.time_ns)?;
            return Err(RepoError::NoSnapshot { wanted: snapshot.commit.snapshot.short() });
        }
        Ok(HoldInfo { uuid, hold })
    }
    /// Ends a hold; ending it twice is fine.
    pub(super) fn release_hold(&self, uuid: Uuid, reason: ReleaseReason, time_ns: u64) -> Result<()> {
        let released = Released { reason, time_ns, token: random::uuid() }.encode();
        let name = names::hold_released(uuid);
        create_sealed(&*self.store, &self.keys, &self.keys.meta, ObjectKind::HoldReleased, &name, &released)
            .map(drop)
    }
    /// Holds that were not released.
    pub(super) fn holds(&self) -> Result<Vec<HoldInfo>> {
        let list = self.store.list_all(names::HOLDS)?;
        let all: BTreeSet<&str> = list.iter().map(|e| e.name.as_str()).collect();
        let mut out = Vec::new();
        for name in &all {
            let Ok(uuid) = name[names::HOLDS.len()..].parse::<Uuid>() else { continue };
            if all.contains(names::hold_released(uuid).as_str()) {
                continue;
            }
            let stored = self.store.get(name, Part::All)?;
            let plain = open_sealed(&self.keys, &self.keys.meta, ObjectKind::Hold, name, &stored)?;
            let hold = Hold::decode(&plain).map_err(|m| RepoError::damaged(*name, 0, m.0))?;
            out.push(HoldInfo { uuid, hold });
        }
        Ok(out)
    }
}
