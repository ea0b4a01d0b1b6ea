//! `init`: makes a repository, after trying out what the store really does.

use crate::cli::InitArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::repositories::{self, Access, credential, failure};
use crate::show::words;
use rekindle_engine::repository::{InitOptions, Repository};
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::store::{DirStore, Probe, probe};
use schemars::JsonSchema;
use serde::Serialize;
use std::path::Path;

/// What was made, or with `-n` would be.
#[derive(Serialize, JsonSchema)]
pub struct Init {
    /// Where.
    repository: String,
    /// Its identity; absent with `-n`.
    id: Option<String>,
    /// Encrypted.
    encrypted: bool,
    /// Several writers at once are safe.
    several_writers: bool,
    /// What the store does not do as it must.
    faults: Vec<String>,
}

/// Probes the store, then makes the repository.
pub fn run(args: &InitArgs, out: Out) -> Outcome<u8> {
    let access = Access::needed(&args.repo)?;
    if access.place.to_str().is_some_and(|p| p.starts_with(repositories::BENCH_STORE)) {
        return Err(Failure::usage(
            format!("cannot make a repository at {}", access.place.display()),
            "a repository is made in a directory, on the machine that has it",
            "name a directory",
        ));
    }
    let existed = access.place.exists();
    let made = make(args, &access, out);
    // A directory made for a probe or a failed attempt is taken back; one that holds anything stays.
    if !existed && (args.dry_run || made.is_err()) {
        remove_empty(&access.place);
    }
    made.map(|()| 0)
}

fn make(args: &InitArgs, access: &Access, out: Out) -> Outcome {
    let shown = access.place.display().to_string();
    let cannot = format!("cannot make a repository at {shown}");
    empty(&access.place, &cannot)?;
    // The secret first: nobody waits for a probe to be told that a file is missing.
    let secret = if args.no_encryption || args.dry_run { None } else { Some(access.source.read(true)?) };
    let store = DirStore::create(&access.place).map_err(|e| Failure::io(&cannot, &e))?;
    let found = probe(&*store).map_err(|e| Failure::io(&cannot, &e))?;
    let mut said = Init {
        repository: shown.clone(),
        id: None,
        encrypted: !args.no_encryption,
        several_writers: found.several_writers,
        faults: found.faults.clone(),
    };
    if !args.dry_run {
        let now = SystemClock::new().wall_ns();
        let options = InitOptions { label: label(), ..InitOptions::new(secret.map(credential), now) };
        let repository = Repository::init(store, &options).map_err(|e| failure(&cannot, &e))?;
        said.id = Some(repository.uuid().to_string());
    }
    out.document(&said);
    tell(&said, &found, out);
    Ok(())
}

fn tell(said: &Init, found: &Probe, out: Out) {
    match &said.id {
        Some(id) => out.line(format!("made      repository {} at {}", &id[..8], said.repository)),
        None => out.line(format!("would     make a repository at {}", said.repository)),
    }
    out.line(match said.encrypted {
        true => "key       encrypted; without its password or key file nobody can read it, you included",
        false => "key       NOT encrypted: whoever can read the directory can read the disks",
    });
    let use_for = match said.several_writers {
        true => "several writers at once",
        false => "ONE writer at a time",
    };
    let took = words::duration(found.took);
    out.line(format!(
        "store     good for {use_for} (tried {} in {took})",
        words::count(found.rounds as u64, "race")
    ));
    said.faults.iter().for_each(|f| out.line(format!("fault     {f}")));
}

/// Refuses a directory that holds anything: our objects would lie among files nobody could tell apart.
fn empty(place: &Path, cannot: &str) -> Outcome {
    let mut entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Failure::system(cannot, &e)),
    };
    if entries.next().is_none() {
        return Ok(());
    }
    let store = repositories::store(place)?;
    let there = Repository::exists(&*store).map_err(|e| failure(cannot, &e))?;
    let cause = if there { "there is one already" } else { "the directory is not empty" };
    Err(Failure::new(Exit::Failed, cannot, cause, "name another directory, or use what is there"))
}

/// Removes a tree of folders that hold nothing; a file, whoever made it, keeps its folders.
fn remove_empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_empty(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(dir);
}

/// Who made the key, for `key list`.
fn label() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("init on {host}")
}
