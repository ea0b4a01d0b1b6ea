//! `timeline [NAME]` (alias `snapshots`): the moments that can be restored.

use crate::cli::TimelineArgs;
use crate::errors::{Exit, Outcome};
use crate::out::Out;
use crate::repositories::{Access, failure};
use crate::show::snapshot::Snapshot;
use crate::show::table::Table;
use crate::show::words;
use crate::{moments, names};
use jiff::Zoned;
use rekindle_engine::repository::SnapshotInfo;
use schemars::JsonSchema;
use serde::Serialize;

/// What is printed under `--json`.
#[derive(Serialize, JsonSchema)]
pub struct Timeline {
    /// By set, oldest first.
    snapshots: Vec<Snapshot>,
    /// What exists and cannot be read.
    damaged: Vec<String>,
}

/// Lists; damage is named and gives exit code 3.
pub fn run(args: &TimelineArgs, out: Out) -> Outcome<u8> {
    args.name.as_deref().map(names::set).transpose()?;
    let since = args.since.as_deref().map(|t| moments::since(t, &Zoned::now())).transpose()?;
    let repository = Access::needed(&args.repo)?.open()?;
    let listing =
        repository.snapshots(args.name.as_deref()).map_err(|e| failure("cannot list the snapshots", &e))?;
    let chosen: Vec<&SnapshotInfo> =
        listing.snapshots.iter().filter(|s| since.is_none_or(|t| s.commit.time_ns >= t)).collect();
    out.document(&Timeline {
        snapshots: chosen.iter().map(|s| Snapshot::from(*s)).collect(),
        damaged: listing.damaged.iter().map(ToString::to_string).collect(),
    });
    if chosen.is_empty() {
        let whose = args.name.as_ref().map_or(String::new(), |n| format!(" of {n}"));
        out.note(format!("no snapshots{whose} in {}", repository.place()));
    } else {
        table(&chosen).iter().for_each(|l| out.line(l));
    }
    listing.damaged.iter().for_each(|d| out.warn(d.to_string()));
    Ok(if listing.damaged.is_empty() { 0 } else { Exit::Damage.code() })
}

fn table(snapshots: &[&SnapshotInfo]) -> Vec<String> {
    let mut t = Table::new(&["MOMENT", "TIME", ">SIZE", ">CHANGED", ">ADDED", "TAGS", "HOST"]);
    for info in snapshots {
        let s = Snapshot::from(*info);
        t.row([
            format!("{}@{}", s.set, info.commit.snapshot.short()),
            words::time(info.commit.time_ns),
            words::bytes(s.size_bytes),
            words::bytes(s.volumes.iter().map(|v| v.changed_bytes).sum()),
            words::bytes(s.new_bytes),
            s.tags.join(","),
            s.host,
        ]);
    }
    t.lines()
}
