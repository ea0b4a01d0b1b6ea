//! What the verbs that steer an owner have in common: find it, ask it, show what it says.

use super::status::nobody;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::progress::Shown;
use crate::serve::control::{Message, Request, SetStatus, Status, Summary, follow};
use crate::serve::owner;

/// Asks the owner of `name`, shows progress and events, then what it did.
pub fn perform(name: &str, request: &Request, out: Out) -> Outcome<u8> {
    crate::names::set(name)?;
    let mut shown = Shown::new(out, name);
    let last = follow(&owner::socket(name)?, request, |m| message(m, &mut shown, out))?;
    drop(shown);
    let Some(Message::Summary(summary)) = last else { return Err(nobody(name)) };
    tell(&summary, out);
    Ok(0)
}

/// Shows one message of long work.
pub fn message(m: &Message, shown: &mut Shown, out: Out) {
    match m {
        Message::Status(Status { progress: Some(p), .. }) => shown.show(p),
        Message::Event(e) => {
            shown.clear();
            if out.json {
                out.message(m);
            } else {
                out.note(&e.text);
            }
        }
        _ => out.message(m),
    }
}

/// Shows the end of work.
pub fn tell(summary: &Summary, out: Out) {
    out.message(&Message::Summary(summary.clone()));
    summary.text.iter().for_each(|l| out.line(l));
}

/// For `-n`: the status of `name`, which must be restoring.
pub fn restoring(name: &str) -> Outcome<SetStatus> {
    let status = super::status::one(name)?.ok_or_else(|| nobody(name))?;
    if status.restore.is_none() {
        return Err(not_restoring(name));
    }
    Ok(status)
}

/// The failure of steering a restore that is none.
pub fn not_restoring(name: &str) -> Failure {
    Failure::new(
        crate::errors::Exit::Failed,
        format!("{name} is not being restored"),
        "it is live on its own disks",
        "nothing has to be done; see `rekindle status`",
    )
}

/// For `-n`: says what would be done, as a summary that did nothing.
pub fn would(verb: &str, name: &str, text: Vec<String>, out: Out) -> u8 {
    tell(&Summary { verb: verb.into(), name: name.into(), text, ..Summary::default() }, out);
    0
}
