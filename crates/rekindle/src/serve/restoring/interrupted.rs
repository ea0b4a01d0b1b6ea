//! Restores that were interrupted: their state lies there and no process serves them. Found by what the state directory
//! remembers; nothing is changed, and no lock is taken that an owner could meet.

use super::state::{Found, StatePlace, find};
use super::wishes::Wishes;
use crate::errors::Outcome;
use crate::serve::control::{Interrupted, SetStatus, State, Trouble, VolumeStatus};
use crate::serve::record;
use rekindle_engine::restore::missing;
use rekindle_io::logfile::RealDir;
use std::path::PathBuf;

/// Extents whose state is read for a status: 64 MiB of it, a TiB of 64 KiB. A GiB a second is no look.
const COUNTED_MAX: u64 = 1 << 24;

/// The restore `name`, not settled, as the state directory remembers it: that of its disks, or the newest that is left.
/// Whether somebody serves it is not looked at.
pub fn unsettled(name: &str) -> Outcome<Option<(StatePlace, Found)>> {
    let ours = |f: &Found| f.plan.set == name && !f.is_live();
    let disks: Vec<_> = record::recall(name)?
        .map_or(Vec::new(), |r| r.volumes.into_iter().map(|v| (v.name, v.path)).collect());
    if let Some(found) = find(name, &disks)?.filter(|(_, f)| ours(f)) {
        return Ok(Some(found));
    }
    for path in record::restores(name)?.into_iter().rev() {
        let place = StatePlace { path };
        if let Some(found) = place.look()?.filter(ours) {
            return Ok(Some((place, found)));
        }
    }
    Ok(None)
}

/// How the restore `name` stands, if it was interrupted. For a set that nobody restores.
pub fn interrupted(name: &str) -> Outcome<Option<SetStatus>> {
    Ok(unsettled(name)?.map(|(place, found)| status(&place, &found)))
}

fn status(place: &StatePlace, found: &Found) -> SetStatus {
    let set = &found.plan.set;
    let volume = |v: &rekindle_engine::restore::PlannedVolume| VolumeStatus {
        name: v.name.clone(),
        path: v.destination.clone(),
        size_bytes: v.size,
        extent_bytes: v.extent,
        ..VolumeStatus::default()
    };
    let wishes = Wishes::kept(place);
    let interrupted = Interrupted {
        moment: found.moment(),
        total_bytes: found.plan.volumes.iter().map(|v| v.size).sum(),
        local_bytes: local(place, found),
        asked: wishes.words(),
        state_place: place.path.display().to_string(),
        go_on: found.command(&wishes.listen),
        throw_away: format!("rekindle discard {set} --yes {set}"),
        trouble: trouble(place, found),
    };
    SetStatus {
        name: set.clone(),
        state: State::Interrupted,
        failure: None,
        pid: None,
        since: None,
        volumes: found.plan.volumes.iter().map(volume).collect(),
        restore: None,
        interrupted: Some(interrupted),
        backup: None,
    }
}

/// Bytes that need not be fetched again; `None` if the state cannot be read, or is too large to be read for a look. Whoever
/// goes on, or asks what that would do, is told.
fn local(place: &StatePlace, found: &Found) -> Option<u64> {
    if found.plan.volumes.iter().map(|v| v.size.div_ceil(v.extent)).sum::<u64>() > COUNTED_MAX {
        return None;
    }
    let dir = RealDir::open(&place.path).ok()?;
    let volumes = found.plan.volumes.iter().enumerate();
    volumes.map(|(i, v)| Some(v.size.saturating_sub(missing(&*dir, &found.plan, i).ok()? * v.extent))).sum()
}

fn trouble(place: &StatePlace, found: &Found) -> Option<Trouble> {
    let gone = |p: &PathBuf| p.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound);
    let failure = found.destinations().iter().find(|p| gone(p)).map(|p| found.gone(p, place))?;
    Some(Trouble { cause: failure.cause, cure: failure.cure })
}
