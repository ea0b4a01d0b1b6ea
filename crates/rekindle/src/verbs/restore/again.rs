//! `restore -n` where a restore was interrupted: what going on with it would move. Changes nothing.

use super::plan::{self, Opened, Target, Targets};
use crate::cli::RestoreArgs;
use crate::dest::{self, Dest};
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::repositories::{Access, failure};
use crate::serve::restoring::{Found, StatePlace, Wishes};
use crate::show::words;
use rekindle_engine::repository::VolumeRecord;
use rekindle_engine::restore::{missing, would_go_on};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Prints it; refuses what the command would refuse.
pub fn tell(args: &RestoreArgs, set: &str, place: &StatePlace, found: &Found, out: Out) -> Outcome<u8> {
    let repository = super::online::same(args, set, place, found, &Access::needed(&args.repo)?)?;
    let cannot = format!("cannot go on with the restore of {set}");
    let damaged =
        |e| Failure::new(Exit::Failed, &cannot, e, "its record is damaged; restore to another place");
    let id = found.app.snapshot.parse().map_err(damaged)?;
    let snapshot = repository.snapshot_by_uuid(id).map_err(|e| failure(&cannot, &e))?;
    let mut volumes: Vec<VolumeRecord> = Vec::new();
    let (mut disks, mut dests, mut fetch, mut write) = (Vec::new(), Vec::new(), 0, 0);
    for (i, source) in found.app.source_volumes.iter().enumerate() {
        let record = snapshot.volume(source).map_err(|e| failure(&cannot, &e))?.clone();
        let path = PathBuf::from(&found.plan.volumes[i].destination);
        let left = left(place, found, i, &path)?.min(record.stored_extents);
        fetch += record.stored_bytes / record.stored_extents.max(1) * left;
        write += left * record.geometry.extent.get();
        disks.push(Target { volume: found.plan.volumes[i].name.clone(), path: path.clone() });
        dests.push(Dest { path, found: dest::Found::Nothing });
        volumes.push(record);
    }
    let opened = Opened { repository, snapshot, volumes, targets: Targets::Disks(disks), dests };
    let asked = super::online::asked(args)?.over(Wishes::kept(place));
    let rate = plan::rate(args, &opened)?;
    let rate = asked.limit.map_or(rate, |l| rate.min(l as f64));
    let plan = plan::going_on(&opened, fetch, write, rate);
    out.document(&plan);
    let begun = words::time(opened.snapshot.info().commit.time_ns);
    out.line(format!("moment    {} of {begun}: {}", opened.shown(), words::bytes(opened.size())));
    for d in &opened.dests {
        out.line(format!("plan      go on with {}, which was interrupted", d.path.display()));
    }
    out.line(format!("left      at most {} to fetch, {} to write", words::bytes(fetch), words::bytes(write)));
    out.line(format!("state     {} (part of the volume until settled)", place.path.display()));
    let time = words::duration(Duration::from_secs_f64((fetch as f64 / rate).clamp(0.0, 1e9)));
    if !asked.words().is_empty() {
        out.line(format!("asked     {}", asked.words()));
    }
    let online = if asked.online_at.is_empty() { "online at once, " } else { "" };
    out.line(format!("forecast  at {}: {online}complete {time}", words::rate(rate)));
    Ok(0)
}

/// Extents that are not in the destination yet; fails if it is not the one to go on with.
fn left(place: &StatePlace, found: &Found, volume: usize, path: &Path) -> Outcome<u64> {
    if path.symlink_metadata().is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound) {
        return Err(found.gone(path, place));
    }
    let dir = place.open()?;
    let device = path.metadata().is_ok_and(|m| !m.is_file());
    let block = dest::open(path, true, (!device).then_some(found.plan.volumes[volume].blocks.0))?;
    would_go_on(&*dir, &found.plan, volume, block).map_err(|e| found.no_pair(&e))?;
    let cannot = |e| Failure::io(format!("cannot read the restore in {}", place.path.display()), &e);
    missing(&*dir, &found.plan, volume).map_err(cannot)
}
