//! `usage NAME[@WHEN]`: what a volume's I/O touches, of a served set or of a snapshot.

use super::moment;
use crate::cli::{By, UsageArgs};
use crate::errors::{Failure, Outcome};
use crate::moments;
use crate::out::Out;
use crate::serve::control::{Message, Request, follow};
use crate::serve::owner;
use crate::show::drill::DrillReport;
use crate::show::usage::{UsageReport, UsageRow};
use rekindle_core::usage::{Coverage, Order};
use rekindle_engine::backup::StoredUsage;
use rekindle_engine::repository::Snapshot;
use rekindle_io::Kind;
use std::io::Write;

/// Prints it.
pub fn run(args: &UsageArgs, out: Out) -> Outcome<u8> {
    let named = moments::named(&args.moment)?;
    let mut rows = Rows { on: args.csv, begun: false, failed: None };
    // What is served now is asked of its owner; a moment, or a set nobody serves, of the repository.
    let reports = match named.when {
        None => match served(args, &named, &mut rows)? {
            Some(reports) => reports,
            None => stored(args, &named, &mut rows)?,
        },
        Some(_) => stored(args, &named, &mut rows)?,
    };
    rows.end()?;
    if let Some(path) = &args.svg {
        let [report] = &reports[..] else {
            return Err(Failure::usage(
                "one picture shows one volume",
                format!("{} has {}", named.name, reports.len()),
                format!("name one: {}/VOLUME", named.name),
            ));
        };
        std::fs::write(path, report.svg())
            .map_err(|e| Failure::system(format!("cannot write {}", path.display()), &e))?;
        out.note(format!("drawn     {}", path.display()));
    }
    out.document(&reports);
    if !args.csv {
        for (i, report) in reports.iter().enumerate() {
            if i > 0 {
                out.line("");
            }
            report.lines().iter().for_each(|l| out.line(l));
        }
    }
    Ok(0)
}

/// CSV lines, written as they come: a volume may have millions.
struct Rows {
    on: bool,
    begun: bool,
    failed: Option<std::io::Error>,
}

impl Rows {
    fn put(&mut self, volume: &str, row: &UsageRow) {
        if !self.on || self.failed.is_some() {
            return;
        }
        let mut text = String::new();
        if !std::mem::replace(&mut self.begun, true) {
            text = format!("{}\n", UsageRow::CSV_HEAD);
        }
        text.push_str(&row.csv(volume));
        text.push('\n');
        self.failed = std::io::stdout().write_all(text.as_bytes()).err();
    }
    /// Half a table is not taken for a whole one. A reader that went away has what it wanted.
    fn end(mut self) -> Outcome {
        if self.failed.is_none() && self.on {
            self.failed = std::io::stdout().flush().err();
        }
        match self.failed {
            Some(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::system("cannot write the table to stdout", &e))
            }
            _ => Ok(()),
        }
    }
}

fn served(
    args: &UsageArgs,
    named: &rekindle_core::moment::Named,
    rows: &mut Rows,
) -> Outcome<Option<Vec<UsageReport>>> {
    let request =
        Request::Usage { volume: named.volume.clone(), by: order(args.by).name().into(), rows: args.csv };
    let mut reports = Vec::new();
    let last = follow(&owner::socket(&named.name)?, &request, |m| match m {
        Message::Usage(report) => reports.push(report.clone()),
        Message::UsageRows(r) => r.rows.iter().for_each(|row| rows.put(&r.volume, row)),
        _ => {}
    })?;
    Ok(last.map(|_| reports))
}

fn stored(
    args: &UsageArgs,
    named: &rekindle_core::moment::Named,
    rows: &mut Rows,
) -> Outcome<Vec<UsageReport>> {
    let (repository, snapshot) = moment::open(&args.repo, &args.moment)?;
    let mut reports = Vec::new();
    for v in moment::volumes(&snapshot, named)? {
        let drill = StoredUsage::new(&snapshot, v.uuid).newest_drill(&repository, v.uuid);
        let drill = drill.inspect_err(|e| tracing::warn!("the newest drill of {} is not known: {e}", v.name));
        let report = one(&snapshot, v, order(args.by), rows)?;
        let drill = drill.ok().flatten().map(|(_, d)| DrillReport::new(&v.name, &d));
        reports.push(UsageReport { drill, ..report });
    }
    Ok(reports)
}

fn one(
    snapshot: &Snapshot,
    v: &rekindle_engine::repository::VolumeRecord,
    by: Order,
    rows: &mut Rows,
) -> Outcome<UsageReport> {
    let name =
        format!("{}/{}@{}", snapshot.info().commit.set, v.name, snapshot.info().commit.snapshot.short());
    let usage = StoredUsage::new(snapshot, v.uuid);
    let cannot = |e: rekindle_io::Error| match e.kind {
        Kind::Gone => Failure::io(format!("{name} has no usage"), &e)
            .cure("back the set up while it is served (rekindle serve), so that its usage is counted"),
        _ => Failure::io(format!("cannot read the usage of {name}"), &e),
    };
    // The tick first: decayed values are of the moment of the snapshot.
    let mut nothing = |_: u64, _: &rekindle_core::usage::Facts| ();
    let (summary, damaged) = usage.visit(v.uuid, &mut nothing).map_err(cannot)?;
    let mut coverage = Coverage::new(by, summary.tick);
    usage
        .visit(v.uuid, &mut |extent, facts| {
            coverage.add(facts);
            rows.put(&name, &UsageRow::new(&v.geometry, extent, facts, summary.tick));
        })
        .map_err(cannot)?;
    if damaged > 0 {
        tracing::warn!("{damaged} pages of the usage of {name} cannot be used");
    }
    Ok(UsageReport::new(name, by, &v.geometry, &coverage, &summary))
}

fn order(by: By) -> Order {
    match by {
        By::Trace => Order::Trace,
        By::Count => Order::Count,
        By::Rate => Order::Rate,
        By::Score => Order::Score,
    }
}

/// Nothing to tell: the summary of a request that had reports before it.
pub fn done(name: &str) -> Message {
    Message::Summary(crate::serve::control::Summary {
        verb: "usage".into(),
        name: name.into(),
        ..crate::serve::control::Summary::default()
    })
}
