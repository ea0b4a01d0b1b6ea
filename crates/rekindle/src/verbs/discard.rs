//! `discard NAME`: throws a restore away.

use super::steer;
use crate::cli::DiscardArgs;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::serve::control::Request;
use crate::show::words;

/// Says what would be lost; does it once the name was typed again.
pub fn run(args: &DiscardArgs, out: Out) -> Outcome<u8> {
    let status = steer::restoring(&args.name)?;
    let restore = status.restore.as_ref().expect("`restoring` gives restores only");
    let clients: u64 = status.volumes.iter().map(|v| v.connections).sum();
    let lost = format!(
        "everything written to {} since it was opened from {}, {} of it still in its log; {} connected",
        args.name,
        restore.moment,
        words::bytes(restore.log_bytes),
        words::count(clients, "client"),
    );
    if args.dry_run {
        return Ok(steer::would("discard", &args.name, vec![format!("would lose {lost}")], out));
    }
    if args.yes.as_deref() != Some(args.name.as_str()) {
        return Err(Failure::refused(
            format!("{} was not discarded", args.name),
            format!("this would lose {lost}"),
            format!("if that is meant: rekindle discard {0} --yes {0}", args.name),
        ));
    }
    steer::perform(&args.name, &Request::Discard, out)
}
