//! `serve`: be the process of all sets of a configuration, or of one named ad hoc.

use crate::cli::{RepoArgs, ServeArgs};
use crate::config::{self, Config};
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::repositories::Access;
use crate::secret::source;
use crate::serve::backups::Backups;
use crate::serve::calendar::Calendar;
use crate::serve::exports::Exports;
use crate::serve::guard;
use crate::serve::listen;
use crate::serve::live::{Live, LivePlan};
use crate::serve::owner::OwnerLock;
use crate::serve::process::Process;
use crate::serve::record;
use crate::serve::restoring::{self, Found, Restoring, StatePlace, Wishes};
use crate::serve::schedule::Schedule;
use crate::serve::set::OwnedSet;
use crate::show::words;
use crate::signals::Asked;
use crate::verbs::restore::going_on;
use crate::{beneath, names, places};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use rekindle_export::nbd::Listen;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Everything there is to serve.
struct Plan {
    sets: Vec<SetPlan>,
    access: Option<Access>,
    listen: Vec<Listen>,
    /// Read again on SIGHUP.
    config: Option<PathBuf>,
}

struct SetPlan {
    name: String,
    disks: Vec<(String, PathBuf)>,
    read_only: bool,
    backup: Option<Calendar>,
}

/// Serves until asked to stop.
pub fn run(args: &ServeArgs, out: Out) -> Outcome<u8> {
    let plan = plan(args)?;
    if args.check {
        return check(&plan, out);
    }
    // Before any thread: they inherit the signal mask.
    let asked = Asked::listen()?;
    guard::arm();
    places::runtime_dir()?;
    let sets = plan.sets.iter().map(|s| open(s, plan.access.as_ref(), out)).collect::<Outcome<Vec<_>>>()?;
    let single = sets.iter().map(|s| s.volumes.len()).sum::<usize>() == 1;
    let exports = Exports::bind(plan.listen, single)?;
    let mut process = Process::start(sets, exports, asked, out)?;
    plan.access.iter().for_each(|repository| process.look_at(repository));
    if let Some(command) = &args.run {
        process.run_command(command)?;
    }
    process.serve(&mut |sets| reload(plan.config.as_deref(), sets, out))
}

fn plan(args: &ServeArgs) -> Outcome<Plan> {
    let Some(name) = &args.name else { return configured(args) };
    names::set(name)?;
    if args.disks.is_empty() {
        return Err(Failure::usage(
            format!("there is no disk to serve as {name}"),
            "a set served ad hoc needs at least one",
            format!("rekindle serve {name} /path/to/disk"),
        ));
    }
    let disks = names::disks(name, &args.disks)?;
    let set = SetPlan { name: name.clone(), disks, read_only: args.read_only, backup: None };
    let listen = listen::addresses(&args.listen, &format!("{name}.nbd"))?;
    Ok(Plan { sets: vec![set], access: Access::given(&args.repo)?, listen, config: None })
}

fn configured(args: &ServeArgs) -> Outcome<Plan> {
    let path = args.config.clone().unwrap_or_else(|| config::DEFAULT_PATH.into());
    let config = config::read(&path)?;
    let words =
        if args.listen.is_empty() { config.listen.iter().cloned().collect() } else { args.listen.clone() };
    let set = |(name, set): (&String, &config::SetConfig)| SetPlan {
        name: name.clone(),
        disks: set.volumes.named(name),
        read_only: set.read_only || args.read_only,
        backup: set.backup.clone(),
    };
    Ok(Plan {
        sets: config.set.iter().map(set).collect(),
        access: access(args, &config)?,
        listen: listen::addresses(&words, "nbd")?,
        config: Some(path),
    })
}

/// The command line goes before the configuration.
fn access(args: &ServeArgs, config: &Config) -> Outcome<Option<Access>> {
    match Access::given(&args.repo)? {
        Some(access) => Ok(Some(access)),
        None => Access::configured(config),
    }
}

/// What `--check` found, as JSON.
#[derive(Serialize, JsonSchema)]
pub struct Check {
    /// The sets, by name.
    sets: Vec<CheckedSet>,
    /// The repository, which opens; absent if none is named.
    repository: Option<String>,
}

/// A set that can be served.
#[derive(Serialize, JsonSchema)]
pub struct CheckedSet {
    /// Its name.
    name: String,
    /// Its disks, by volume name.
    disks: BTreeMap<String, String>,
    /// When the schedule would fire next; RFC 3339, UTC.
    next_backup: Option<String>,
}

fn check(plan: &Plan, out: Out) -> Outcome<u8> {
    let mut found = Check { sets: Vec::new(), repository: None };
    for set in &plan.sets {
        for (volume, path) in &set.disks {
            std::fs::metadata(path).map_err(|e| {
                Failure::system(
                    format!("{volume} of {} cannot be served from {}", set.name, path.display()),
                    &e,
                )
            })?;
        }
        let next = set.backup.as_ref().and_then(|c| c.next(Timestamp::now(), &TimeZone::system()));
        let next = next.map(|t| u64::try_from(t.as_nanosecond()).unwrap_or(0));
        let backup = next.map_or(String::new(), |ns| format!(", next backup {}", words::time(ns)));
        out.line(format!("{:<9} {}{backup}", set.name, words::count(set.disks.len() as u64, "volume")));
        found.sets.push(CheckedSet {
            name: set.name.clone(),
            disks: set.disks.iter().map(|(v, p)| (v.clone(), p.display().to_string())).collect(),
            next_backup: next.map(words::rfc3339),
        });
    }
    if let Some(access) = &plan.access {
        access.open()?;
        out.line(format!("repo      {} opens", access.place.display()));
        found.repository = Some(access.place.display().to_string());
    }
    out.document(&found);
    Ok(0)
}

fn open(plan: &SetPlan, access: Option<&Access>, out: Out) -> Outcome<OwnedSet> {
    let begun = Instant::now();
    let paths: Vec<PathBuf> = plan.disks.iter().map(|d| d.1.clone()).collect();
    let lock = OwnerLock::take(&plan.name, "serve", &paths)?;
    if !plan.read_only {
        beneath::check("state", &places::state_dir()?)?.into_iter().for_each(|w| out.warn(w));
    }
    let backups = Backups::new(access.cloned(), schedule(plan.backup.as_ref()));
    if let Some((place, found)) = restoring::find(&plan.name, &plan.disks)? {
        if !found.is_live() {
            let restoring = resume(plan, access, place, &found, begun)?;
            out.note(going_on(&plan.name, &restoring.wishes()));
            return Ok(OwnedSet::restoring(restoring, lock, backups));
        }
        // Settled, and the process died before it removed this: void.
        let dir = place.open()?;
        restoring::remove_state(&*dir, &place, &found.destinations());
    }
    let live = Live::open(&LivePlan { name: &plan.name, disks: &plan.disks, read_only: plan.read_only })?;
    record::remember(&plan.name, &plan.disks)?;
    Ok(OwnedSet::live(&plan.name, &plan.disks, live, lock, backups))
}

/// Goes on with a restore to these very disks.
fn resume(
    plan: &SetPlan,
    access: Option<&Access>,
    place: StatePlace,
    found: &Found,
    begun: Instant,
) -> Outcome<Arc<Restoring>> {
    if !found.is_of(&plan.name, &plan.disks) {
        return Err(found.refuse(&plan.disks[0].1));
    }
    // The restore knows its repository; how that is opened comes from the environment.
    let own = Access { place: found.app.repository.clone(), source: source(&RepoArgs::default())? };
    let configured = access.filter(|a| a.place == own.place);
    let repository = configured.unwrap_or(&own).open()?;
    let wishes = Wishes::kept(&place);
    let restoring = restoring::resume(place, found, repository, wishes, begun)?;
    restoring.start()?;
    Ok(restoring)
}

fn schedule(calendar: Option<&Calendar>) -> Option<Schedule> {
    calendar.map(|c| Schedule::new(c.clone(), Timestamp::now(), TimeZone::system()))
}

/// SIGHUP: schedules change at once; what needs the disks to be opened again needs a restart, and says so.
fn reload(path: Option<&std::path::Path>, sets: &[Arc<OwnedSet>], out: Out) {
    let Some(path) = path else { return };
    let config = match config::read(path) {
        Ok(config) => config,
        Err(failure) => return out.warn(format!("the configuration was not taken over: {failure}")),
    };
    for set in sets {
        match config.set.get(&set.name) {
            Some(fresh) => set.backups.reschedule(schedule(fresh.backup.as_ref())),
            None => out.warn(format!("{} is no longer configured; it is served until the restart", set.name)),
        }
    }
    for name in config.set.keys().filter(|n| !sets.iter().any(|s| s.name == **n)) {
        out.warn(format!("{name} is newly configured; it is served after a restart"));
    }
    out.note("configuration read again");
}
