//! `restore --listen`: online at once, then filling; settled by `cutover`, interrupted by Ctrl-C, resumed by the same
//! command.

use super::plan::{Opened, Target, Targets};
use crate::cli::{OrderArg, RestoreArgs};
use crate::dest::{self, Found as There};
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::repositories::Access;
use crate::serve::backups::Backups;
use crate::serve::exports::Exports;
use crate::serve::guard;
use crate::serve::listen;
use crate::serve::owner::{OwnerLock, disk_busy, must_be_free, owner_of};
use crate::serve::process::Process;
use crate::serve::record;
use crate::serve::restoring::{self, Asked, Begin, Found, NewDest, Restoring, StatePlace, Wishes};
use crate::serve::set::OwnedSet;
use crate::signals::Asked as Signals;
use crate::{beneath, names, places, units};
use rekindle_core::usage::Order;
use rekindle_engine::repository::Repository;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// What this command asks for, beside moment and destinations.
struct Ask {
    name: String,
    renamed: bool,
    asked: Asked,
    access: Access,
    begun: Instant,
}

/// Begins, or goes on with, the restore and serves it.
pub fn run(args: &RestoreArgs, set: &str, out: Out) -> Outcome<u8> {
    let ask = Ask {
        name: set.into(),
        renamed: args.named.is_some(),
        asked: asked(args)?,
        access: Access::needed(&args.repo)?,
        begun: Instant::now(),
    };
    let listen = listen::addresses(&args.listen, set)?;
    // Before any thread: they inherit the signal mask.
    let asked = Signals::listen()?;
    guard::arm();
    let paths = destinations(args)?;
    let lock = OwnerLock::take(set, "restore", &paths)?;
    for (what, place) in [("state", places::state_dir()?), ("repository", ask.access.place.clone())] {
        beneath::check(what, &place)?.into_iter().for_each(|w| out.warn(w));
    }
    // Before anything begins: an address that cannot be had must not leave half a restore behind. Each volume of the moment
    // has one destination.
    let exports = Exports::bind(listen, paths.len() == 1)?;
    let restoring = match unfinished(set, &paths)? {
        Some((place, found)) => resume(args, &ask, place, &found, out)?,
        None => begin(args, &ask)?,
    };
    restoring.start()?;
    let disks: Vec<(String, PathBuf)> =
        restoring.volumes.iter().map(|v| (v.name.clone(), v.path.clone())).collect();
    let backups = Backups::new(Some(ask.access), None);
    let owned = OwnedSet::restoring(restoring, lock, backups);
    let process = Process::start(vec![owned], exports, asked, out);
    // After it is served: nobody waits for this. If it cannot be, it lies there all the same, and is to be found.
    record::remember(set, &disks)?;
    let mut process = process?;
    process.restores();
    process.serve(&mut |_| ())
}

/// What this command line asks for.
pub fn asked(args: &RestoreArgs) -> Outcome<Asked> {
    Ok(Asked {
        online_at: args.online_at.iter().map(|t| units::threshold(t)).collect::<Outcome<_>>()?,
        order: args.order.map(|order| match order {
            OrderArg::Auto => Order::Auto,
            OrderArg::Trace => Order::Trace,
            OrderArg::Score => Order::Score,
            OrderArg::Rate => Order::Rate,
            OrderArg::Count => Order::Count,
            OrderArg::Linear => Order::Linear,
        }),
        limit: args.limit.as_deref().map(units::limit).transpose()?,
        no_verify: (args.no_verify || args.verify).then_some(args.no_verify),
        listen: args
            .listen
            .iter()
            .map(|l| listen::address(l).map(|a| listen::word(&a)))
            .collect::<Outcome<_>>()?,
    })
}

fn destinations(args: &RestoreArgs) -> Outcome<Vec<PathBuf>> {
    args.to.iter().map(|w| names::disk(w).map(|(_, path)| path)).collect()
}

/// The restore that one of these destinations, or this name, belongs to.
fn unfinished(set: &str, paths: &[PathBuf]) -> Outcome<Option<(StatePlace, Found)>> {
    let disks: Vec<(String, PathBuf)> = paths.iter().map(|p| (String::new(), p.clone())).collect();
    match restoring::find(set, &disks)? {
        Some((place, found)) if found.is_live() => {
            // Settled, and the process died before it removed this: void.
            let dir = place.open()?;
            restoring::remove_state(&*dir, &place, &found.destinations());
            Ok(None)
        }
        other => Ok(other),
    }
}

/// The interrupted restore that this command would go on with. Changes nothing.
pub fn interrupted(args: &RestoreArgs, set: &str) -> Outcome<Option<(StatePlace, Found)>> {
    must_be_free(set)?;
    let paths = destinations(args)?;
    if let Some((path, holder)) = paths.iter().find_map(|p| owner_of(p).map(|h| (p, h))) {
        return Err(disk_busy(path, &format!("process {} has it", holder.pid)));
    }
    let disks: Vec<(String, PathBuf)> = paths.into_iter().map(|p| (String::new(), p)).collect();
    Ok(restoring::find(set, &disks)?.filter(|(_, found)| !found.is_live()))
}

/// Fails unless this command means the very restore that was found. Opens its repository.
pub fn same(
    args: &RestoreArgs,
    set: &str,
    place: &StatePlace,
    found: &Found,
    access: &Access,
) -> Outcome<Repository> {
    let names: Vec<String> = found.plan.volumes.iter().map(|v| v.name.clone()).collect();
    let Targets::Disks(disks) = super::targets(args, &names)? else {
        return Err(found.refuse(&place.path));
    };
    let disks: Vec<(String, PathBuf)> = disks.into_iter().map(|t: Target| (t.volume, t.path)).collect();
    if !found.is_of(set, &disks) {
        return Err(found.refuse(&disks[0].1));
    }
    let repository = access.open()?;
    same_moment(args, &repository, found)?;
    Ok(repository)
}

fn resume(
    args: &RestoreArgs,
    ask: &Ask,
    place: StatePlace,
    found: &Found,
    out: Out,
) -> Outcome<Arc<Restoring>> {
    let repository = same(args, &ask.name, &place, found, &ask.access)?;
    let wishes = ask.asked.over(Wishes::kept(&place));
    out.note(going_on(&ask.name, &wishes));
    restoring::resume(place, found, repository, wishes, ask.begun)
}

/// Said when an interrupted restore is taken up.
pub fn going_on(name: &str, wishes: &Wishes) -> String {
    let asked = wishes.words();
    let asked = if asked.is_empty() { asked } else { format!(" ({asked})") };
    format!("going on with the restore of {name} that was interrupted{asked}")
}

/// `shop@latest` may have moved on since the restore began; what was begun is finished.
fn same_moment(args: &RestoreArgs, repository: &Repository, found: &Found) -> Outcome {
    use crate::moments::{Wanted, named, wanted};
    let named = named(&args.moment)?;
    let begun: String = found.app.snapshot.chars().take(8).collect();
    let other = |wants: &str| {
        Err(Failure::refused(
            format!("{} was begun from another moment", found.plan.set),
            format!("from {}@{begun}, not from {wants}", found.app.source_set),
            format!(
                "go on with {}@{begun}, or throw it away first: rekindle discard {}",
                found.app.source_set, found.plan.set
            ),
        ))
    };
    match wanted(named.when.as_ref(), &jiff::Zoned::now())? {
        _ if named.name != found.app.source_set => other(&named.to_string()),
        Wanted::Id(id) if !found.app.snapshot.starts_with(&id) => other(&named.to_string()),
        w @ Wanted::At(_) => {
            let snapshot = crate::verbs::moment::find(repository, &named, &w)?;
            if snapshot.info().commit.snapshot.to_string() == found.app.snapshot {
                Ok(())
            } else {
                other(&named.to_string())
            }
        }
        _ => Ok(()),
    }
}

fn begin(args: &RestoreArgs, ask: &Ask) -> Outcome<Arc<Restoring>> {
    let Opened { repository, snapshot, volumes, targets, dests } = super::plan::open(args)?;
    let Targets::Disks(disks) = targets else {
        return Err(Failure::new(
            Exit::Usage,
            "stdout cannot be served",
            "it is no disk",
            "name a file or device",
        ));
    };
    dest::consent(&dests.iter().collect::<Vec<_>>(), &ask.name, args.yes.as_deref())?;
    let device = matches!(dests[0].found, There::Device { .. });
    let state = StatePlace::of(&ask.name, &dests[0].path, device)?;
    let named = crate::moments::named(&args.moment)?;
    let lone = volumes.len() == 1 && (volumes[0].name == named.name || named.volume.is_some());
    let dests = disks.iter().zip(dests).zip(volumes).map(|((t, d), record)| NewDest {
        // A lone disk is named as its set, whatever it was called before.
        name: if lone { ask.name.clone() } else { t.volume.clone() },
        record,
        path: d.path,
        device: matches!(d.found, There::Device { .. }),
        made: d.found == There::Nothing,
    });
    restoring::begin(Begin {
        name: ask.name.clone(),
        renamed: ask.renamed,
        repository,
        snapshot,
        dests: dests.collect(),
        state,
        wishes: ask.asked.over(Wishes::default()),
        begun: ask.begun,
    })
}
