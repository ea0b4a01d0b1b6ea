//! Which snapshot a backup builds upon, and what is proven about the rest.
//!
//! The newest snapshot of the set, in this very repository, that closed a generation the volumes' tracking knows: all
//! else is skipped unread. Else the newest one of the same volumes: everything is read and compared by id. Else none.
//! What another repository holds, what failed, or what was forgotten here is not looked at and so cannot mislead.

use super::source::{Changed, InstantVolume};
use crate::repository::{SnapshotInfo, VolumeRecord};

/// What is known of one volume against the chosen parent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Basis {
    /// Changes are proven.
    Tracked(Changed),
    /// The parent has this volume, nothing is proven: compare, because of this.
    Compare(String),
    /// The parent has no such volume: read everything, because of this.
    Full(String),
}

/// The choice.
#[derive(Debug)]
pub(super) struct Choice {
    pub parent: Option<SnapshotInfo>,
    /// One for each volume of the instant, in its order.
    pub bases: Vec<Basis>,
}

/// Chooses among `snapshots` (oldest first).
pub(super) fn choose(volumes: &[&dyn InstantVolume], snapshots: Vec<SnapshotInfo>) -> Choice {
    let mut untracked: Option<(SnapshotInfo, Vec<Basis>)> = None;
    // Why the newest one does not serve, should none.
    let mut refused: Option<Vec<Basis>> = None;
    for info in snapshots.into_iter().rev() {
        let bases: Vec<Basis> = volumes.iter().map(|v| basis(*v, &info)).collect();
        if bases.iter().any(|b| matches!(b, Basis::Tracked(_))) {
            return Choice { parent: Some(info), bases };
        }
        if untracked.is_none() && bases.iter().any(|b| matches!(b, Basis::Compare(_))) {
            untracked = Some((info, bases));
        } else {
            refused.get_or_insert(bases);
        }
    }
    match untracked {
        Some((info, bases)) => Choice { parent: Some(info), bases },
        None => {
            let first =
                |_: &&dyn InstantVolume| Basis::Full("the repository has no snapshot of this set".into());
            Choice { parent: None, bases: refused.unwrap_or_else(|| volumes.iter().map(first).collect()) }
        }
    }
}

/// The parent's volume that `volume` can build upon, as the writer chooses it too.
fn record_of<'a>(volume: &dyn InstantVolume, info: &'a SnapshotInfo) -> Option<&'a VolumeRecord> {
    let (uuid, geometry) = (volume.identity().uuid, volume.geometry());
    info.commit.volumes.iter().find(|v| v.uuid == uuid && v.geometry.same_extents(&geometry))
}

fn basis(volume: &dyn InstantVolume, info: &SnapshotInfo) -> Basis {
    let Some(record) = record_of(volume, info) else {
        let other = info.commit.volumes.iter().find(|v| v.uuid == volume.identity().uuid);
        return Basis::Full(match other.map(|v| v.geometry.size) {
            Some(size) if size != volume.geometry().size => {
                format!("its size went from {size} to {} bytes", volume.geometry().size)
            }
            Some(_) => "its extents changed their size".into(),
            None => "no snapshot has this volume".into(),
        });
    };
    match volume.changed(record.tracking, record.generation) {
        since @ Changed::Since { .. } => Basis::Tracked(since),
        Changed::CompareAll(why) => Basis::Compare(why),
    }
}
