//! A backup of an owned set: asked for over the control socket, due by the schedule, or of a set at rest.

use super::backups::Backups;
use super::control::{BackupRequest, BackupSummary, Message, Reply, Status, Summary};
use super::hooks::ShellHooks;
use super::set::OwnedSet;
use super::steering::Shared;
use crate::errors::{Exit, Failure, Outcome};
use crate::progress::Meter;
use crate::repositories;
use crate::serve::control;
use crate::show::words;
use rekindle_engine::backup::{self, BackupOptions, BackupReport, Failed};
use rekindle_engine::progress::{Done, Progress};
use rekindle_engine::repository::{Repository, WriterOptions};
use rekindle_io::Kind;
use rekindle_io::clock::{Clock, SystemClock};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Between words to whoever watches.
const TELL: Duration = Duration::from_millis(250);

/// Hears of progress; `false` asks to stop.
pub type Watch<'a> = dyn FnMut(&control::Progress) -> bool + Send + 'a;

/// A backup somebody asked for: its progress goes back to them, and ends with them.
pub fn asked(
    shared: &Shared,
    set: &OwnedSet,
    request: &BackupRequest,
    reply: &mut Reply,
) -> Outcome<Message> {
    let name = set.name.clone();
    let mut last = None::<Instant>;
    let mut watch = |p: &control::Progress| {
        if last.is_none_or(|t| t.elapsed() >= TELL) {
            last = Some(Instant::now());
            reply.send(&Message::Status(Status { name: name.clone(), progress: Some(p.clone()), set: None }));
        }
        !reply.gone() && !shared.asked.stopping()
    };
    run(set, request, &mut watch)
}

/// A backup the schedule asks for, on a thread of its own.
pub fn scheduled(shared: &Arc<Shared>, set: &Arc<OwnedSet>) {
    let (shared, set) = (shared.clone(), set.clone());
    let spawned = std::thread::Builder::new().name("backup".into()).spawn(move || {
        let end = run(&set, &BackupRequest::default(), &mut |_| !shared.asked.stopping());
        match end {
            Ok(Message::Summary(s)) => s.text.iter().for_each(|l| shared.out.announce(l)),
            Ok(_) => {}
            Err(f) => shared.out.warn(format!("the scheduled backup of {}: {f}", set.name)),
        }
    });
    if let Err(e) = spawned {
        tracing::error!("cannot begin the scheduled backup: {e}");
    }
}

/// Backs a set up; one backup of a set at a time.
pub fn run(set: &OwnedSet, request: &BackupRequest, watch: &mut Watch<'_>) -> Outcome<Message> {
    let turn = set.backups.begin().ok_or_else(|| {
        Failure::new(
            Exit::Busy,
            format!("a backup of {} is running", set.name),
            "one at a time",
            format!("wait for it: rekindle status {}", set.name),
        )
    })?;
    let end = perform(set, request, watch);
    set.backups.ended(&end);
    drop(turn);
    end
}

fn perform(set: &OwnedSet, request: &BackupRequest, watch: &mut Watch<'_>) -> Outcome<Message> {
    // The repository first: a wrong password must not cost the guest an instant.
    let (repository, near) = open(set, request)?;
    repository.writable().map_err(|e| repositories::failure(format!("cannot back up {}", set.name), &e))?;
    let hooks = ShellHooks::new(request.pre_hook.clone(), request.post_hook.clone());
    let mut compare = None;
    let mut report = loop {
        match attempt(set, request, &repository, &hooks, compare.clone(), watch)? {
            Ok(report) => break report,
            // The disk has what the repository lost: once more, from another instant, as the first is given up in part.
            Err(failed) if failed.parent_lost && compare.is_none() => {
                compare = Some(format!("part of the parent's manifest is lost: {}", failed.error));
            }
            Err(failed) => return Err(failure(set, &failed.error)),
        }
    };
    report.warnings.extend(near);
    report.warnings.iter().for_each(|w| tracing::warn!("{w}"));
    Ok(Message::Summary(summary(&set.name, &report)))
}

/// One instant, backed up or not; `compare`: all of it is read, because of this.
fn attempt(
    set: &OwnedSet,
    request: &BackupRequest,
    repository: &Repository,
    hooks: &ShellHooks,
    compare: Option<String>,
    watch: &mut Watch<'_>,
) -> Outcome<Result<BackupReport, Failed>> {
    let now = SystemClock::new().wall_ns();
    let instant = set.instant(hooks).map_err(|f| hooks.explain(f))?;
    let usual = BackupOptions::new(set.name.clone(), now);
    let options = BackupOptions {
        tags: request.tags.clone(),
        compare,
        usage: set.maps(),
        writer: WriterOptions { host: host(), ..usual.writer.clone() },
        ..usual
    };
    let watching = Watching { backups: &set.backups, inner: Mutex::new((Meter::new(), watch, false)) };
    // The instant above stops the guest for a moment, so it hurries; what follows may take its time.
    let unhurried = || {
        rekindle_io::background::background();
        backup::run(&*instant, repository, &options, &watching)
    };
    let ended = std::thread::scope(|s| s.spawn(unhurried).join());
    Ok(ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

fn failure(set: &OwnedSet, e: &rekindle_io::Error) -> Failure {
    match e.kind {
        Kind::Cancelled => Failure::interrupted(format!("the backup of {}", set.name))
            .cure("run it again: it begins from the last one that was committed"),
        _ => Failure::io(format!("the backup of {} failed", set.name), e),
    }
}

/// The repository, and a warning about where it lies.
fn open(set: &OwnedSet, request: &BackupRequest) -> Outcome<(Repository, Option<String>)> {
    let near = |place: &Path| crate::beneath::check("repository", place);
    match (&request.repository, set.backups.access()) {
        (Some(requested), _) => {
            let near = near(Path::new(&requested.place))?;
            Ok((repositories::open_requested(requested)?, near))
        }
        (None, Some(access)) => {
            let near = near(&access.place)?;
            Ok((access.open()?, near))
        }
        (None, None) => Err(Failure::usage(
            format!("there is no repository to back {} up to", set.name),
            "its owner was started without one and the request names none",
            "give -r REPO or set REKINDLE_REPO",
        )),
    }
}

/// Shows the engine's progress and carries the wish to stop to it.
struct Watching<'a, 'w> {
    backups: &'a Backups,
    inner: Mutex<(Meter, &'a mut Watch<'w>, bool)>,
}

impl Progress for Watching<'_, '_> {
    fn update(&self, done: Done) {
        let (meter, watch, stop) = &mut *self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let p = meter.progress("backup", done.done_bytes, Some(done.total_bytes));
        self.backups.progressed(&p);
        *stop |= !watch(&p);
    }
    fn cancelled(&self) -> bool {
        self.backups.cancelled() || self.inner.lock().unwrap_or_else(PoisonError::into_inner).2
    }
}

/// The machine's name, for people.
pub fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn summary(set: &str, r: &BackupReport) -> Summary {
    let id = r.snapshot.commit.snapshot;
    let compared = r.compared();
    let whole = r.whole();
    let parent = match r.parent {
        Some(p) => format!("after {}", p.short()),
        None if whole.is_empty() => "the first".to_string(),
        None => "read whole".to_string(),
    };
    let mut text = vec![format!(
        "backup    {set}@{}, {parent}: {} read, {} changed, {} stored in {}",
        id.short(),
        words::bytes(r.read_bytes()),
        words::bytes(r.changed_bytes()),
        words::bytes(r.stored_bytes),
        words::duration(r.took)
    )];
    text.extend(compared.iter().map(|why| format!("compared  {why}")));
    text.extend(whole.iter().map(|why| format!("whole     {why}")));
    text.extend(r.warnings.iter().map(|w| format!("warning   {w}")));
    Summary {
        verb: "backup".into(),
        name: set.into(),
        text,
        backup: Some(BackupSummary {
            snapshot: id.to_string(),
            parent: r.parent.map(|p| p.to_string()),
            size_bytes: r.size_bytes(),
            read_bytes: r.read_bytes(),
            changed_bytes: r.changed_bytes(),
            stored_bytes: r.stored_bytes,
            elapsed_s: r.took.as_secs_f64(),
            compared,
            whole,
        }),
        ..Summary::default()
    }
}
