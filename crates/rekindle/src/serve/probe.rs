//! Whether the repository that `serve` was given can be used: looked at beside serving, on a thread of its own. The disks
//! are served whatever is found, and nobody waits for a store that hangs; but who started the process is told now and not
//! by the first backup, and `status` tells it as long as it is so.

use super::control::Trouble;
use super::steering::Shared;
use crate::errors::Outcome;
use crate::repositories::Access;
use crate::secret::Source;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks for a repository that is not there: a mount may come late, and the cure is typed by somebody.
const AGAIN: Duration = Duration::from_secs(2);
/// Between looks whether the process ends.
const PACE: Duration = Duration::from_millis(50);

/// Looks, until it can be used or until looking again is of no use.
pub fn start(shared: &Arc<Shared>, access: &Access) {
    let (shared, access) = (shared.clone(), access.clone());
    let spawned =
        std::thread::Builder::new().name("repository".into()).spawn(move || watch(&shared, &access));
    if let Err(e) = spawned {
        tracing::warn!("cannot look whether the repository can be used: {e}");
    }
}

fn watch(shared: &Shared, access: &Access) {
    let mut told = false;
    while !shared.asked.stopping() {
        let there = access.is_encrypted();
        let again = there.is_err();
        let Err(f) = there.and_then(|encrypted| opens(shared, access, encrypted)) else { break };
        let trouble = Trouble { cause: format!("{}: {}", f.error, f.cause), cure: f.cure };
        if !std::mem::replace(&mut told, true) {
            let Trouble { cause, cure } = &trouble;
            shared.out.warn(format!(
                "nothing can be backed up: {cause}\n  {cure}\n  disks are served all the same"
            ));
        }
        shared.sets.iter().for_each(|s| s.backups.trouble(Some(trouble.clone())));
        if !again {
            return; // A wrong secret stays wrong.
        }
        let begun = Instant::now();
        while begun.elapsed() < AGAIN && !shared.asked.stopping() {
            std::thread::sleep(PACE);
        }
    }
    shared.sets.iter().for_each(|s| s.backups.trouble(None));
    if told && !shared.asked.stopping() {
        shared.out.note(format!("the repository {} can be used now", access.place.display()));
    }
}

/// Nobody is asked for a password here. Without one, backups that a person asks for bring theirs; a schedule cannot.
fn opens(shared: &Shared, access: &Access, encrypted: bool) -> Outcome {
    let scheduled = || shared.sets.iter().any(|s| s.backups.is_scheduled());
    match access.source {
        Source::Prompt if encrypted && scheduled() => Err(access.key_needed()),
        Source::Prompt => Ok(()),
        _ => access.open().map(drop),
    }
}
