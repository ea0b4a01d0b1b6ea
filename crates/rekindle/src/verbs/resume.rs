//! `resume NAME`: filling goes on.

use super::steer;
use crate::cli::NameArgs;
use crate::errors::Outcome;
use crate::out::Out;
use crate::serve::control::Request;

/// Asks the owner.
pub fn run(args: &NameArgs, out: Out) -> Outcome<u8> {
    if args.dry_run {
        steer::restoring(&args.name)?;
        return Ok(steer::would(
            "resume",
            &args.name,
            vec![format!("would go on filling {}", args.name)],
            out,
        ));
    }
    steer::perform(&args.name, &Request::Resume, out)
}
