//! `pause NAME`: filling stops; what the guest needs still comes.

use super::steer;
use crate::cli::NameArgs;
use crate::errors::Outcome;
use crate::out::Out;
use crate::serve::control::Request;

/// Asks the owner.
pub fn run(args: &NameArgs, out: Out) -> Outcome<u8> {
    if args.dry_run {
        steer::restoring(&args.name)?;
        let text = format!("would stop filling {}; its guest would still get what it asks for", args.name);
        return Ok(steer::would("pause", &args.name, vec![text], out));
    }
    steer::perform(&args.name, &Request::Pause, out)
}
