//! Opening the moment a user named.

use crate::cli::RepoArgs;
use crate::errors::{Failure, Outcome};
use crate::moments::{self, Wanted};
use crate::repositories::{Access, failure};
use crate::show::words;
use jiff::Zoned;
use rekindle_core::moment::Named;
use rekindle_engine::repository::{RepoError, Repository, Snapshot, VolumeRecord, Which};

/// Opens repository and snapshot.
pub fn open(repo: &RepoArgs, moment: &str) -> Outcome<(Repository, Snapshot)> {
    let named = moments::named(moment)?;
    let wanted = moments::wanted(named.when.as_ref(), &Zoned::now())?;
    let repository = Access::needed(repo)?.open()?;
    let snapshot = find(&repository, &named, &wanted)?;
    Ok((repository, snapshot))
}

/// Finds a snapshot. A time before all snapshots is never rounded: the failure names the first.
pub fn find(repository: &Repository, named: &Named, wanted: &Wanted) -> Outcome<Snapshot> {
    let which = match wanted {
        Wanted::Latest => Which::Latest,
        Wanted::At(ns) => Which::At(*ns),
        Wanted::Id(id) => Which::Prefix(id.clone()),
    };
    repository.snapshot(&named.name, &which).map_err(|e| match (&e, wanted) {
        (RepoError::NoSnapshot { .. }, _) => missing(repository, named, wanted),
        _ => failure(format!("cannot open {named}"), &e),
    })
}

fn missing(repository: &Repository, named: &Named, wanted: &Wanted) -> Failure {
    // By its time: a clock that was set back makes a later one the first.
    let all = repository.snapshots(Some(&named.name)).map_or(Vec::new(), |l| l.snapshots);
    let first = all.into_iter().min_by_key(|s| s.commit.time_ns);
    let (cause, cure) = match (first, wanted) {
        (None, _) => (
            format!("{} has no snapshots in {}", named.name, repository.place()),
            "see what there is with `rekindle timeline`".to_string(),
        ),
        (Some(first), Wanted::At(_)) => (
            format!("the first snapshot is of {}", words::time(first.commit.time_ns)),
            format!("open that one: {}@{}", named.name, first.commit.snapshot.short()),
        ),
        (Some(_), _) => ("no snapshot has that id".into(), format!("see `rekindle timeline {}`", named.name)),
    };
    Failure::new(crate::errors::Exit::Failed, format!("cannot open {named}"), cause, cure)
}

/// The volumes a moment names: all of its set, or the one of `NAME/VOLUME`.
pub fn volumes<'a>(snapshot: &'a Snapshot, named: &Named) -> Outcome<Vec<&'a VolumeRecord>> {
    match &named.volume {
        None => Ok(snapshot.volumes().iter().collect()),
        Some(v) => {
            snapshot.volume(v).map(|r| vec![r]).map_err(|e| failure(format!("cannot open {named}"), &e))
        }
    }
}
