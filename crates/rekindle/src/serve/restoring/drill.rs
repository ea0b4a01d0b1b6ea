//! What a restore leaves that is thrown away: its guest's start was one on this very data, so what it demanded is kept with
//! the volume, for the next restore and the next backup. A hint: what cannot be kept is said, and nothing else fails.

use super::state::Found;
use super::upkeep::MAP;
use crate::serve::backup::host;
use crate::serve::record;
use crate::show::words;
use rekindle_core::volume::Uuid;
use rekindle_engine::repository::{Drill, Repository, Snapshot};
use rekindle_engine::usage::UsageMap;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::RealDir;
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;

/// The start of one volume's guest.
pub struct Started {
    /// The volume the moment is of.
    source: Uuid,
    /// The newest drill its map knew.
    after: u64,
    drill: Drill,
}

impl Started {
    /// From the map of a volume restored from `source` of `snapshot`; `None` if nobody read from it.
    pub fn of(map: &UsageMap, snapshot: &Snapshot, source: &str) -> Result<Option<Started>> {
        let record = snapshot.volume(source)?;
        let demanded = map.demanded()?;
        if demanded.extents() == 0 {
            return Ok(None);
        }
        let drill = Drill {
            snapshot: snapshot.info().commit.snapshot,
            host: host(),
            time_ns: SystemClock::new().wall_ns(),
            extent: record.geometry.extent,
            demanded,
            token: rekindle_io::random::uuid(),
        };
        Ok(Some(Started { source: record.uuid, after: map.summary().drill, drill }))
    }
}

/// Keeps them in the repository; what became of it, a line each.
pub fn keep(repository: &Repository, started: Vec<Result<Option<Started>>>) -> Vec<String> {
    let one = |started: Result<Option<Started>>| -> Result<Option<String>> {
        let Some(s) = started? else { return Ok(None) };
        repository.keep_drill(s.source, s.after, &s.drill)?;
        let bytes = s.drill.demanded.extents() * s.drill.extent.get();
        let what = words::bytes(bytes);
        Ok(Some(format!(
            "kept      what its guest's start read ({what}): the next restore brings that first"
        )))
    };
    let told = started.into_iter().map(|s| one(s).unwrap_or_else(|e| Some(not_kept(&e))));
    told.flatten().collect()
}

/// The line for what could not be kept.
pub fn not_kept(why: &dyn std::fmt::Display) -> String {
    format!("not kept  what its guest's start read, which would speed up the next restore: {why}")
}

/// Of a restore that no process serves: from the maps it left.
pub fn at_rest(found: &Found, repository: &Repository) -> Vec<Result<Option<Started>>> {
    let snapshot = found.app.snapshot.parse().map_err(|e| Error::new(Kind::Corrupt, format!("{e}")));
    let snapshot = match snapshot.and_then(|id| Ok(repository.snapshot_by_uuid(id)?)) {
        Ok(snapshot) => snapshot,
        Err(e) => return vec![Err(e)],
    };
    let volumes = found.plan.volumes.iter().zip(&found.app.source_volumes);
    let started = volumes.map(|(v, source)| match left_map(found, v)? {
        Some(map) => Started::of(&map, &snapshot, source),
        None => Ok(None),
    });
    started.collect()
}

fn left_map(found: &Found, v: &rekindle_engine::restore::PlannedVolume) -> Result<Option<Arc<UsageMap>>> {
    let folder = record::volume_folder(&found.plan.set, &v.name)
        .map_err(|f| Error::new(Kind::Corrupt, f.to_string()))?;
    if !folder.join(MAP).exists() {
        return Ok(None);
    }
    UsageMap::open(&*RealDir::open(&folder)?, MAP, v.volume()?, v.geometry()?).map(Some)
}
