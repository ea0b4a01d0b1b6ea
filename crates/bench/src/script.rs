//! The benchmarks around PostgreSQL are scripts: they drive many programs and judge no microsecond. Python of the
//! distribution: libnbd's binding belongs to it.

use crate::rig::report::Report;
use crate::rig::servers::rekindle;
use crate::suite::{Plan, Scale};
use crate::{Result, fail};
use std::path::Path;
use std::process::Command;

/// What a script says when something it needs is not there.
const SKIPPED: i32 = 77;

/// Does the usage map predict a cold restart.
pub fn predict(plan: Plan, more: &[String], report: &Report) -> Result<()> {
    run("predict", "predict.py", plan, more, report)
}

/// Instant restore over the link of that name.
pub fn instant(link: &str, plan: Plan, more: &[String], report: &Report) -> Result<()> {
    let more: Vec<String> = [format!("--link={link}")].into_iter().chain(more.iter().cloned()).collect();
    run(&format!("instant-{link}"), "instant.py", plan, &more, report)
}

/// Runs a script of crates/bench/pg; what it writes becomes the section.
fn run(section: &str, script: &str, plan: Plan, more: &[String], report: &Report) -> Result<()> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("pg").join(script);
    let folder = tempfile::tempdir()?;
    let body = folder.path().join("body.md");
    let mut command = Command::new("/usr/bin/python3");
    command.arg(&script).arg("--out").arg(&body).args(more);
    match plan.scale {
        Scale::Full => {}
        Scale::Brief => {
            command.arg("--brief");
        }
        Scale::Tiny => {
            command.arg("--tiny");
        }
    }
    if let Some(rounds) = plan.rounds {
        command.arg(format!("--rounds={rounds}"));
    }
    command.env("REKINDLE_BIN", rekindle()).env("REKINDLE_BENCH_BIN", std::env::current_exe()?);
    let status = command.status().map_err(|e| format!("/usr/bin/python3: {e}"))?;
    match status.code() {
        Some(0) => report.section(section, &std::fs::read_to_string(body)?),
        Some(SKIPPED) => Ok(()),
        _ => fail(format!("{}: {status}", script.display())),
    }
}
