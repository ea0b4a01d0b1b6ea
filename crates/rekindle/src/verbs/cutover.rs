//! `cutover NAME`: settles a restore; the set is live on its new disks and goes on being served.

use super::steer;
use crate::cli::CutoverArgs;
use crate::errors::Outcome;
use crate::out::Out;
use crate::serve::control::{Request, State};
use crate::show::words;

/// Prints the plan, or asks the owner.
pub fn run(args: &CutoverArgs, out: Out) -> Outcome<u8> {
    if !args.dry_run {
        return steer::perform(&args.name, &Request::Cutover { no_verify: args.no_verify }, out);
    }
    let status = steer::restoring(&args.name)?;
    let restore = status.restore.as_ref().expect("`restoring` gives restores only");
    let mut plan = Vec::new();
    if let Some(damage) = &restore.damage {
        plan.push("refused   as long as bytes of it are damaged in the repository:".into());
        plan.extend(damage.status(&args.name));
    }
    if !matches!(status.state, State::Complete | State::Verified) {
        plan.push(format!(
            "wait      until complete: {} of {}",
            words::bytes(restore.local_bytes),
            words::bytes(restore.total_bytes)
        ));
    }
    if args.no_verify {
        plan.push("verify    no: the source is let go uncompared".into());
    } else if status.state != State::Verified {
        plan.push("wait      until verified".into());
    }
    plan.push(format!(
        "move      {} of guest writes from the log to the disks, while serving",
        words::bytes(restore.log_bytes)
    ));
    plan.push("switch    hold requests, flush, write back the first and last MiB, record, go on: a pause of milliseconds".into());
    plan.push("release   the hold on the snapshot; the next backup is incremental, unless `restore` gave another name (--as)".into());
    Ok(steer::would("cutover", &args.name, plan, out))
}
