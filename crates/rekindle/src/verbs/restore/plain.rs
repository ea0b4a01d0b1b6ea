//! A plain copy of a moment: to new files, over devices, or to stdout.
//!
//! A file appears under its name only when it is whole: until then it is `DEST.SNAPSHOT-VOLUME.partial`, so that a half copy is
//! never taken for a volume, what was there stays until the last moment, and a copy of another moment neither goes on
//! with this one nor takes from it what it saved. A device is written in place, its first and last
//! MiB at the end. The same command goes on with either: what is right already is not fetched again.
//!
//! Damage in the repository costs what it hits. A file then keeps that name, whole but for zeros there; the exit code
//! says so, every range is named, and the same command asks for those alone.

use super::partial::{others, partial};
use super::plan::{Opened, Targets};
use crate::cli::RestoreArgs;
use crate::dest::{self, Dest, Found};
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::progress::{Meter, Shown};
use crate::serve::control::{Damage, RestoreSummary, Summary};
use crate::show::words;
use crate::signals::Asked;
use crate::units;
use crate::verbs::steer;
use rekindle_core::volume::Geometry;
use rekindle_engine::copy::{self, CopyOptions, CopyReport};
use rekindle_engine::progress::{Done, Progress};
use rekindle_engine::repository::{SnapshotHolder, VolumeRecord};
use rekindle_io::destination::{BlockDestination, Destination, FileDestination};
use rekindle_io::holder::Holder;
use rekindle_io::{Error, Kind};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Threads that open frames and write. As many as there are cores: a write past the page cache waits for the disk, but more
/// of them are no faster. One alone would leave the disk waiting for the core.
const THREADS: RangeInclusive<usize> = 2..=4;

/// Performs it.
pub fn run(args: &RestoreArgs, set: &str, opened: Opened, out: Out) -> Outcome<u8> {
    let limit = args.limit.as_deref().map(units::limit).transpose()?.flatten();
    dest::consent(&opened.dests.iter().collect::<Vec<_>>(), set, args.yes.as_deref())?;
    // Before any thread: they inherit the signal mask.
    let asked = Asked::listen()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.clamp(*THREADS.start(), *THREADS.end());
    let options = CopyOptions { threads, limit, read_back: !args.no_verify, ..CopyOptions::default() };
    let mut work = Work { asked, options, out, set, total: opened.size(), made: Made::default() };
    let begun = Instant::now();
    let to_stdout = matches!(opened.targets, Targets::Stdout(_));
    if to_stdout {
        work.stream(holder(&opened, &opened.volumes[0])?)?;
    }
    for (volume, dest) in opened.volumes.iter().zip(&opened.dests) {
        let partial = partial(&dest.path, opened.snapshot.info().commit.snapshot, volume.uuid);
        let copied = work.disk(&holder(&opened, volume)?, dest, &partial, !args.no_verify)?;
        work.made.add(&copied, &volume.name, dest, &partial);
    }
    let verified = !args.no_verify && !to_stdout;
    let summary = summary(&opened, &work.made, begun.elapsed(), verified);
    if to_stdout && !out.json {
        // stdout is the disk.
        summary.text.iter().for_each(|l| out.note(l));
    } else {
        steer::tell(&summary, out);
    }
    Ok(if work.made.damage.extents > 0 { Exit::Damage.code() } else { 0 })
}

fn holder(opened: &Opened, volume: &VolumeRecord) -> Outcome<Arc<SnapshotHolder>> {
    let holder = opened.snapshot.holder(&volume.name);
    holder.map_err(|e| crate::repositories::failure(format!("cannot open {}", volume.name), &e))
}

/// What was made so far.
#[derive(Default)]
struct Made {
    written: u64,
    fetched: u64,
    /// Bytes of volumes that are done.
    done: u64,
    damage: Damage,
    /// Where copies with damage lie, and what they would be called.
    partial: Vec<(PathBuf, PathBuf)>,
}

impl Made {
    fn add(&mut self, copied: &CopyReport, volume: &str, dest: &Dest, partial: &Path) {
        self.written += copied.written_bytes;
        self.fetched += copied.fetched_bytes;
        self.done += copied.size_bytes;
        self.damage.rest_complete = true;
        self.damage.add(volume, &copied.damage);
        if copied.damage.extents > 0 && !dest.is_device() {
            self.partial.push((partial.to_path_buf(), dest.path.clone()));
        }
    }
}

struct Work<'a> {
    asked: Arc<Asked>,
    options: CopyOptions,
    out: Out,
    set: &'a str,
    total: u64,
    made: Made,
}

impl Work<'_> {
    fn stream(&mut self, holder: Arc<SnapshotHolder>) -> Outcome {
        let mut stdout = stdout()?;
        let holder: Arc<dyn Holder> = holder;
        let copied = copy::copy_to_stream(&holder, &mut stdout, &self.options, &self.watch("copy"));
        let copied = copied.map_err(|e| self.failure(&e))?;
        (self.made.written, self.made.fetched) = (copied.size_bytes, copied.fetched_bytes);
        Ok(())
    }
    fn disk(
        &self,
        holder: &Arc<SnapshotHolder>,
        dest: &Dest,
        partial: &Path,
        verify: bool,
    ) -> Outcome<CopyReport> {
        let g = holder.geometry();
        if dest.is_device() {
            let device = dest::open(&dest.path, false, None)?;
            let device = BlockDestination::new(device, dest.path.display().to_string(), &g);
            let device = device.map_err(|e| Failure::io("cannot restore to this device", &e))?;
            return self.copy(holder, &device, verify);
        }
        others(partial, dest).iter().for_each(|other| {
            self.out.note(format!(
                "beside it {} is an unfinished copy of another moment: remove it if it is not needed",
                other.display()
            ));
        });
        let file = open_file(partial, dest, &g)?;
        let new = file.is_fresh();
        let copied = self.copy(holder, &file, verify).inspect_err(|f| {
            // What an earlier copy saved may be all there is of it; the same command goes on with that.
            if new && !matches!(f.exit, Exit::Interrupted | Exit::Unreachable | Exit::Busy) {
                let _ = std::fs::remove_file(partial);
            }
        })?;
        if copied.damage.extents == 0 {
            name(partial, dest)?;
        }
        Ok(copied)
    }
    fn copy(&self, holder: &Arc<SnapshotHolder>, to: &dyn Destination, verify: bool) -> Outcome<CopyReport> {
        let source: Arc<dyn Holder> = holder.clone();
        let copied = copy::copy(&source, Some(&**holder), to, &self.options, &self.watch("copy"));
        let copied = copied.map_err(|e| self.failure(&e))?;
        if verify {
            let watch = self.watch("verify");
            let wrong = copy::verify(&holder.geometry(), &**holder, to, &copied, &self.options, &watch);
            let wrong = wrong.map_err(|e| self.failure(&e))?;
            if wrong > 0 {
                return Err(Failure::new(
                    Exit::Failed,
                    format!("{} does not hold what was written", to.place()),
                    format!("{} read back wrong", words::count(wrong, "extent")),
                    "replace that disk; the snapshot is whole",
                ));
            }
        }
        Ok(copied)
    }
    fn watch<'s>(&'s self, activity: &'s str) -> Watch<'s> {
        Watch { work: self, activity, shown: Mutex::new((Meter::new(), Shown::new(self.out, self.set))) }
    }
    fn failure(&self, e: &Error) -> Failure {
        if e.kind == Kind::Cancelled && self.asked.stopping() {
            return Failure::interrupted("the copy").cure("run the same command again: it goes on from here");
        }
        let failure = Failure::io("the copy failed", e);
        if e.is_loss() {
            return failure.cure(
                "bring that object back from a copy of the repository, or use another snapshot (`rekindle timeline`); \
                 a restore to a file or device goes on without what is lost",
            );
        }
        failure
    }
}

/// Shows how far one activity is.
struct Watch<'a> {
    work: &'a Work<'a>,
    activity: &'a str,
    shown: Mutex<(Meter, Shown)>,
}

impl Progress for Watch<'_> {
    fn update(&self, done: Done) {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        let done = self.work.made.done + done.done_bytes;
        let progress = shown.0.progress(self.activity, done, Some(self.work.total));
        shown.1.show(&progress);
    }
    fn cancelled(&self) -> bool {
        self.work.asked.stopping()
    }
}

/// The unfinished file: made, or gone on with.
fn open_file(partial: &Path, dest: &Dest, g: &Geometry) -> Outcome<FileDestination> {
    let cannot = |e: Error| Failure::io(format!("cannot write {}", partial.display()), &e);
    let file = match FileDestination::create(partial, g.size) {
        Err(e) if e.kind == Kind::Exists => FileDestination::open(partial, g.size),
        other => other,
    };
    let file = file.map_err(cannot)?.apart();
    if matches!(dest.found, Found::File(_)) {
        let opened = std::fs::File::open(partial);
        let opened =
            opened.map_err(|e| Failure::system(format!("cannot write {}", partial.display()), &e))?;
        dest::like(&opened, &dest.path);
    }
    Ok(file)
}

/// The copy is whole and takes its name, if what lies there is what consent was given for, and nobody uses it.
fn name(partial: &Path, dest: &Dest) -> Outcome {
    if Dest::look(&dest.path)?.found != dest.found {
        return Err(Failure::refused(
            format!("the copy was not named {}", dest.path.display()),
            "another file appeared there, or that file changed, while it was made",
            format!("the copy is whole: mv {} to a name of your choice", partial.display()),
        ));
    }
    std::fs::rename(partial, &dest.path)
        .and_then(|()| dest::sync_folder_of(&dest.path))
        .map_err(|e| Failure::system(format!("cannot name the copy {}", dest.path.display()), &e))
}

/// stdout without a buffer of lines: these are disks.
fn stdout() -> Outcome<std::fs::File> {
    let cannot = |e: std::io::Error| Failure::system("cannot write to stdout", &e);
    rustix::stdio::stdout().try_clone_to_owned().map(std::fs::File::from).map_err(cannot)
}

fn summary(opened: &Opened, made: &Made, took: Duration, verified: bool) -> Summary {
    let damaged = made.damage.extents > 0;
    let s = RestoreSummary {
        snapshot: opened.snapshot.info().commit.snapshot.to_string(),
        size_bytes: opened.size(),
        written_bytes: made.written,
        fetched_bytes: made.fetched,
        elapsed_s: took.as_secs_f64(),
        verified,
        damage: damaged.then(|| Box::new(made.damage.clone())),
    };
    let mut text = vec![format!(
        "restored  {} of {}: {} fetched, {} written in {}{}",
        words::bytes(s.size_bytes - made.damage.bytes),
        opened.shown(),
        words::bytes(s.fetched_bytes),
        words::bytes(s.written_bytes),
        words::duration(took),
        match verified {
            true if damaged => "; what is there is verified",
            true => "; verified",
            false => "; NOT verified",
        }
    )];
    if damaged {
        text.extend(made.damage.lines(usize::MAX));
        text.push(
            "          zeros are in its place, or what an earlier copy had; when the object is back the same command \
             asks for it again"
                .into(),
        );
        let kept = made.partial.iter();
        text.extend(kept.map(|(is, name)| {
            format!("kept      {}: not whole, so not named {}", is.display(), name.display())
        }));
    }
    let name = opened.snapshot.info().commit.set.clone();
    Summary { verb: "restore".into(), name, text, restore: Some(s), ..Summary::default() }
}
