//! All benchmarks by name, at their real size, briefly, or tiny.

use crate::rig::report::Report;
use crate::{Result, backup_guest, copies, fail, fill, flush, growth, script, served, trace};
use std::path::PathBuf;

/// How much of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Figures to be judged by: minutes a section on two cores.
    Full,
    /// About a minute, to see where things stand.
    Brief,
    /// Seconds: the harness is alive.
    Tiny,
}

/// How much of it, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Sizes and times.
    pub scale: Scale,
    /// Rounds, where not those of the scale.
    pub rounds: Option<usize>,
}

impl Plan {
    /// The value of its scale.
    pub fn pick<T>(&self, full: T, brief: T, tiny: T) -> T {
        match self.scale {
            Scale::Full => full,
            Scale::Brief => brief,
            Scale::Tiny => tiny,
        }
    }

    /// Rounds: five at least where ratios are judged.
    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(self.pick(5, 2, 1)).max(1)
    }
}

type Benchmark = (&'static str, fn(Plan, &Report) -> Result<()>);

const BENCHMARKS: [Benchmark; 12] = [
    ("served", |plan, report| served::run(&served::Size::of(plan), report)),
    ("copies", |plan, report| copies::run(&copies::Size::of(plan), report)),
    ("flush", |plan, report| flush::run(&flush::Size::of(plan), report)),
    ("backup-guest", |plan, report| backup_guest::run(&backup_guest::Size::of(plan), report)),
    ("growth", |plan, report| growth::run(&growth::Size::of(plan), report)),
    ("fill", |plan, report| {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: fill needs root for its link");
            return Ok(());
        }
        fill::run(&fill::Size::of(plan), report)
    }),
    ("trace", |_, report| trace::run(report)),
    ("predict", |plan, report| script::predict(plan, &[], report)),
    ("instant-10g", |plan, report| script::instant("10g", plan, &[], report)),
    ("instant-1g", |plan, report| not_tiny(plan, || script::instant("1g", plan, &[], report))),
    ("instant-100m", |plan, report| not_tiny(plan, || script::instant("100m", plan, &[], report))),
    ("instant-25m", |plan, report| not_tiny(plan, || script::instant("25m", plan, &[], report))),
];

/// The script was alive over the quickest link: enough.
fn not_tiny(plan: Plan, run: impl FnOnce() -> Result<()>) -> Result<()> {
    if plan.scale == Scale::Tiny { Ok(()) } else { run() }
}

/// Runs every benchmark whose name contains `only`, each writing its section as it ends. One that fails does not stop the
/// others.
pub fn each(plan: Plan, only: &str, docs: Option<&PathBuf>) -> Result<()> {
    let mut failed = Vec::new();
    for (name, run) in BENCHMARKS.iter().filter(|(name, _)| name.contains(only)) {
        let began = std::time::Instant::now();
        println!("== {name}");
        if let Err(error) = run(plan, &Report::new(docs.cloned())) {
            println!("FAILED {name}: {error}");
            failed.push(*name);
        }
        println!("-- {name}: {:.0} s", began.elapsed().as_secs_f64());
    }
    if failed.is_empty() { Ok(()) } else { fail(format!("failed: {}", failed.join(", "))) }
}
