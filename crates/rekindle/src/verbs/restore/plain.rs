//! A plain copy of a moment: to new files, over devices, or to stdout.
//!
//! A file appears under its name only when it is whole: until then it is `DEST.partial`, so that a half copy is never
//! taken for a volume, and what was there stays until the last moment. A device is written in place.

use super::plan::{Opened, Targets, holders};
use crate::cli::RestoreArgs;
use crate::copy::dest::{self, Dest, Found};
use crate::copy::{Copy, Counters};
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::progress::{Meter, Shown};
use crate::serve::control::{RestoreSummary, Summary};
use crate::show::words;
use crate::signals::Asked;
use crate::units;
use crate::verbs::steer;
use rekindle_io::holder::Holder;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Performs it.
pub fn run(args: &RestoreArgs, set: &str, opened: Opened, out: Out) -> Outcome<u8> {
    let limit = args.limit.as_deref().map(units::limit).transpose()?.flatten();
    dest::consent(&opened.dests.iter().collect::<Vec<_>>(), set, args.yes.as_deref())?;
    // Before any thread: they inherit the signal mask.
    let asked = Asked::listen()?;
    let begun = Instant::now();
    let work = Work { asked, limit, out, set, total: opened.size(), counters: Arc::default() };
    let all = holders(&opened)?;
    match &opened.targets {
        Targets::Stdout(_) => {
            let stdout = stdout()?;
            work.shown("copy", &|| work.copy(&all[0]).to_stream(&mut &stdout))?;
        }
        Targets::Disks(_) => {
            for (holder, dest) in all.iter().zip(&opened.dests) {
                work.disk(holder, dest, !args.no_verify)?;
            }
        }
    }
    let to_stdout = matches!(opened.targets, Targets::Stdout(_));
    let summary = summary(&opened, &work.counters, begun.elapsed(), !args.no_verify && !to_stdout);
    if to_stdout && !out.json {
        // stdout is the disk.
        summary.text.iter().for_each(|l| out.note(l));
    } else {
        steer::tell(&summary, out);
    }
    Ok(0)
}

struct Work<'a> {
    asked: Arc<Asked>,
    limit: Option<u64>,
    out: Out,
    set: &'a str,
    total: u64,
    counters: Arc<Counters>,
}

impl Work<'_> {
    fn copy(&self, holder: &Arc<dyn Holder>) -> Copy {
        Copy { holder: holder.clone(), limit: self.limit, counters: self.counters.clone() }
    }
    fn disk(&self, holder: &Arc<dyn Holder>, dest: &Dest, verify: bool) -> Outcome {
        if matches!(dest.found, Found::Device { .. }) {
            let device = dest::open(&dest.path, false, None)?;
            self.shown("copy", &|| self.copy(holder).to_block(&*device, false))?;
            return if verify { self.verify(holder, &dest.path) } else { Ok(()) };
        }
        let partial = partial(&dest.path);
        let made = self.file(holder, dest, &partial, verify);
        if made.is_err() {
            let _ = std::fs::remove_file(&partial);
        }
        made
    }
    fn file(&self, holder: &Arc<dyn Holder>, dest: &Dest, partial: &Path, verify: bool) -> Outcome {
        let g = holder.geometry();
        // Left by a copy that was killed; nobody else makes such names.
        let _ = std::fs::remove_file(partial);
        let file = dest::make_file(partial, g.size)?;
        if matches!(dest.found, Found::File(_)) {
            dest::like(&file, &dest.path);
        }
        let block = dest::open(partial, false, Some(g.logical_block))?;
        self.shown("copy", &|| self.copy(holder).to_block(&*block, true))?;
        drop(block);
        if verify {
            self.verify(holder, partial)?;
        }
        std::fs::rename(partial, &dest.path)
            .and_then(|()| dest::sync_folder_of(&dest.path))
            .map_err(|e| Failure::system(format!("cannot name the copy {}", dest.path.display()), &e))
    }
    /// Reads back what the medium holds, not what the page cache remembers.
    fn verify(&self, holder: &Arc<dyn Holder>, path: &Path) -> Outcome {
        let cannot = |e: std::io::Error| Failure::system("cannot read the copy back", &e);
        let file = std::fs::File::open(path).map_err(cannot)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(|e| cannot(e.into()))?;
        let block = dest::open(path, true, Some(holder.geometry().logical_block))?;
        let before = self.counters.done.swap(0, Relaxed);
        let wrong = self.shown("verify", &|| {
            let copy = Copy { holder: holder.clone(), limit: None, counters: self.counters.clone() };
            match copy.verify(&*block)? {
                0 => Ok(()),
                n => Err(Failure::new(
                    Exit::Failed,
                    format!("{} does not hold what was written", path.display()),
                    format!("{} read back wrong", words::count(n, "extent")),
                    "replace that disk; the snapshot is whole",
                )),
            }
        });
        self.counters.done.store(before, Relaxed);
        wrong
    }
    /// Runs `work` while this thread shows how far it is.
    fn shown(&self, activity: &str, work: &(dyn Fn() -> Outcome + Sync)) -> Outcome {
        let (mut meter, mut shown) = (Meter::new(), Shown::new(self.out, self.set));
        std::thread::scope(|s| {
            let worker = s.spawn(work);
            while !worker.is_finished() {
                if self.asked.wait(Duration::from_millis(10)) {
                    self.counters.stop.store(true, Relaxed);
                }
                shown.show(&meter.progress(activity, self.counters.done.load(Relaxed), Some(self.total)));
            }
            worker.join().expect("a copy does not panic")
        })
    }
}

/// stdout without a buffer of lines: these are disks.
fn stdout() -> Outcome<std::fs::File> {
    let cannot = |e: std::io::Error| Failure::system("cannot write to stdout", &e);
    rustix::stdio::stdout().try_clone_to_owned().map(std::fs::File::from).map_err(cannot)
}

fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

fn summary(opened: &Opened, counters: &Counters, took: Duration, verified: bool) -> Summary {
    let s = RestoreSummary {
        snapshot: opened.snapshot.info().commit.snapshot.to_string(),
        size_bytes: opened.size(),
        written_bytes: counters.written.load(Relaxed),
        fetched_bytes: counters.fetched.load(Relaxed),
        elapsed_s: took.as_secs_f64(),
        verified,
    };
    let text = format!(
        "restored  {} of {}: {} fetched, {} written in {}{}",
        words::bytes(s.size_bytes),
        opened.shown(),
        words::bytes(s.fetched_bytes),
        words::bytes(s.written_bytes),
        words::duration(took),
        if verified { "; verified" } else { "; NOT verified" }
    );
    let name = opened.snapshot.info().commit.set.clone();
    Summary { verb: "restore".into(), name, text: vec![text], restore: Some(s), ..Summary::default() }
}
