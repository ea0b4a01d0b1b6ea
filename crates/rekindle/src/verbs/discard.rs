//! `discard NAME`: throws a restore away, by its owner or, when it was interrupted and nobody serves it, here.

use super::{status, steer};
use crate::cli::DiscardArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::names;
use crate::out::Out;
use crate::repositories::Access;
use crate::secret::source;
use crate::serve::control::{Request, SetStatus, Summary};
use crate::serve::owner::OwnerLock;
use crate::serve::restoring::{self, Found, StatePlace};
use crate::show::words;

/// Says what would be lost; does it once the name was typed again.
pub fn run(args: &DiscardArgs, out: Out) -> Outcome<u8> {
    names::set(&args.name)?;
    match status::one(&args.name)? {
        Some(status) if status.restore.is_some() || restoring::unsettled(&args.name)?.is_none() => {
            served(args, &status, out)
        }
        // Also while the name is served from another disk: then that has to end first, which is said.
        _ => at_rest(args, out),
    }
}

fn served(args: &DiscardArgs, status: &SetStatus, out: Out) -> Outcome<u8> {
    let Some(restore) = &status.restore else { return Err(steer::not_restoring(&args.name)) };
    let clients: u64 = status.volumes.iter().map(|v| v.connections).sum();
    let lost = format!(
        "everything written to {} since it was opened from {}, {} of it still in its log; {} connected",
        args.name,
        restore.moment,
        words::bytes(restore.log_bytes),
        words::count(clients, "client"),
    );
    match consent(args, &lost, out)? {
        Some(code) => Ok(code),
        None => steer::perform(&args.name, &Request::Discard, out),
    }
}

/// An interrupted one.
fn at_rest(args: &DiscardArgs, out: Out) -> Outcome<u8> {
    let (place, found) = interrupted(&args.name)?;
    let moment: String = found.app.snapshot.chars().take(8).collect();
    let lost = format!(
        "everything written to {} since it was opened from {}@{moment}; the half-restored {}",
        args.name,
        found.app.source_set,
        found.plan.volumes.iter().map(|v| v.destination.as_str()).collect::<Vec<_>>().join(" and "),
    );
    if let Some(code) = consent(args, &lost, out)? {
        return Ok(code);
    }
    let given = Access::given(&args.repo)?.filter(|a| a.place == found.app.repository);
    let own = Access { place: found.app.repository.clone(), source: source(&args.repo)? };
    let repository = given.unwrap_or(own).open();
    // What is half restored here is not needed by anybody, wherever its repository is. A wrong password is typed again.
    if let Err(f) = &repository
        && !matches!(f.exit, Exit::NoRepository | Exit::Unreachable)
    {
        return Err(f.clone());
    }
    let _lock = OwnerLock::take(&args.name, "discard", &found.destinations())?;
    let mut text = vec![format!("discarded {}", args.name)];
    text.extend(restoring::discard_at_rest(&found, &place, repository)?);
    let name = args.name.clone();
    steer::tell(&Summary { verb: "discard".into(), name, text, ..Summary::default() }, out);
    Ok(0)
}

fn interrupted(name: &str) -> Outcome<(StatePlace, Found)> {
    restoring::unsettled(name)?.ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("there is no restore {name} here"),
            "nobody serves one and none was interrupted",
            "see what is alive with `rekindle status`",
        )
    })
}

/// `Some`: it ends here (`-n`); a failure unless the name was typed.
fn consent(args: &DiscardArgs, lost: &str, out: Out) -> Outcome<Option<u8>> {
    if args.dry_run {
        return Ok(Some(steer::would("discard", &args.name, vec![format!("would lose {lost}")], out)));
    }
    if args.yes.as_deref() == Some(args.name.as_str()) {
        return Ok(None);
    }
    Err(Failure::refused(
        format!("{} was not discarded", args.name),
        format!("this would lose {lost}"),
        format!("if that is meant: rekindle discard {0} --yes {0}", args.name),
    ))
}
