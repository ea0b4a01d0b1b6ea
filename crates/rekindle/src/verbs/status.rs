//! `status`: everything alive in one table, or one set in full.

use crate::cli::StatusArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::serve::control::{Message, Request, SetStatus, Status, ask};
use crate::serve::{owner, record, restoring};
use crate::show::status;
use crate::signals::Asked;
use std::io::Write;
use std::time::Duration;

/// Between redraws of `--watch`.
const WATCH: Duration = Duration::from_secs(1);

/// Prints once, or until interrupted.
pub fn run(args: &StatusArgs, out: Out) -> Outcome<u8> {
    if !args.watch {
        let sets = gather(args.name.as_deref())?;
        out.document(&sets);
        lines(args, &sets).iter().for_each(|l| out.line(l));
        return Ok(0);
    }
    let asked = Asked::listen()?;
    let mut drawn = 0;
    loop {
        let sets = gather(args.name.as_deref())?;
        if out.json {
            for set in sets {
                let status = Status { name: set.name.clone(), progress: None, set: Some(Box::new(set)) };
                out.message(&Message::Status(status));
            }
        } else {
            drawn = redraw(&lines(args, &sets), drawn, out.terminal);
        }
        if asked.wait(WATCH) {
            return Ok(0);
        }
    }
}

/// Asks every owner, or the one of `name`; restores that were interrupted are looked at. An owner that dies between the
/// two looks is left out of the table.
fn gather(name: Option<&str>) -> Outcome<Vec<SetStatus>> {
    if let Some(name) = name {
        let mut sets: Vec<SetStatus> = one(name)?.into_iter().collect();
        if !restores(&sets, name) && (!sets.is_empty() || owner::must_be_free(name).is_ok()) {
            sets.extend(restoring::interrupted(name)?);
        }
        return if sets.is_empty() { Err(nobody(name)) } else { Ok(sets) };
    }
    let (mut sets, alive) = (Vec::new(), owner::alive()?);
    for holder in &alive {
        match one(&holder.name) {
            Ok(set) => sets.extend(set),
            Err(f) if f.exit == Exit::Unreachable => tracing::warn!("{f}"),
            Err(f) => return Err(f),
        }
    }
    // Who has the name and did not answer may be at the very restore.
    let free = |name: &str| match sets.iter().any(|s| s.name == name) {
        true => !restores(&sets, name),
        false => !alive.iter().any(|h| h.name == name),
    };
    let interrupted = interrupted(free);
    sets.extend(interrupted);
    Ok(sets)
}

/// One of these is the restore of that name. Else the name may be served from another disk while a restore lies there.
fn restores(sets: &[SetStatus], name: &str) -> bool {
    sets.iter().any(|s| s.name == name && s.restore.is_some())
}

/// Restores that were interrupted and that nobody has. What cannot be read hides nothing else.
fn interrupted(free: impl Fn(&str) -> bool) -> Vec<SetStatus> {
    // Who has no state directory has no restores.
    let names = record::names().unwrap_or_default();
    let look = |n: &String| {
        restoring::interrupted(n).unwrap_or_else(|f| {
            tracing::warn!("{f}");
            None
        })
    };
    names.iter().filter(|n| free(n)).filter_map(look).collect()
}

/// The status of one set; `None` if nobody serves it.
pub fn one(name: &str) -> Outcome<Option<SetStatus>> {
    crate::names::set(name)?;
    Ok(match ask(&owner::socket(name)?, &Request::Status)? {
        Some(Message::Status(Status { set: Some(set), .. })) => Some(*set),
        _ => None,
    })
}

/// The failure of steering what nobody serves.
pub fn nobody(name: &str) -> Failure {
    if let Ok(Some(SetStatus { interrupted: Some(i), .. })) = restoring::interrupted(name) {
        return Failure::new(
            Exit::Unreachable,
            format!("nobody serves {name} here"),
            "its restore was interrupted",
            i.trouble
                .map_or(format!("go on with it first: {}", i.go_on), |t| format!("{}: {}", t.cause, t.cure)),
        );
    }
    Failure::new(
        Exit::Unreachable,
        format!("nobody serves {name} here"),
        "no process of this user holds it",
        "see what is alive with `rekindle status`; start it with `rekindle serve` or `rekindle restore`",
    )
}

fn lines(args: &StatusArgs, sets: &[SetStatus]) -> Vec<String> {
    let now = std::time::SystemTime::now();
    match (&args.name, sets) {
        (Some(_), [set]) => status::full(set, now),
        (_, []) => vec!["nothing is alive here".into()],
        (_, sets) => status::table(sets, now),
    }
}

/// Draws a block over the one drawn before; on something else than a terminal, below it.
fn redraw(lines: &[String], drawn: usize, terminal: bool) -> usize {
    let mut text = String::new();
    if terminal && drawn > 0 {
        text.push_str(&format!("\x1b[{drawn}A\x1b[J"));
    }
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
    let mut stdout = std::io::stdout();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    lines.len()
}
