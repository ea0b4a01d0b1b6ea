//! What an owner does when a verb asks: the other end of the control socket.

use super::backup;
use super::condition::Condition;
use super::control::{Handler, Message, Reply, Request, SetStatus, Status, Summary};
use super::exports::Exports;
use super::set::OwnedSet;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::signals::Asked;
use crate::verbs::wait::timed_out;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks at the state for `wait`.
const LOOK: Duration = Duration::from_millis(20);
/// Between the status lines a `wait` sends.
const REPORT: Duration = Duration::from_secs(1);

/// What all threads of the process share.
pub struct Shared {
    /// All sets it owns.
    pub sets: Vec<Arc<OwnedSet>>,
    /// Its NBD server.
    pub exports: Exports,
    /// Signals.
    pub asked: Arc<Asked>,
    /// Where it speaks.
    pub out: Out,
}

impl Shared {
    /// Everything about a set.
    pub fn status(&self, set: &OwnedSet) -> SetStatus {
        set.status(|export| self.exports.served(export))
    }
}

/// Answers for one set.
pub struct Steering {
    /// The process.
    pub shared: Arc<Shared>,
    /// The set.
    pub set: Arc<OwnedSet>,
}

impl Handler for Steering {
    fn handle(&self, request: Request, reply: &mut Reply) -> Outcome<Message> {
        tracing::info!(set = self.set.name, ?request, "asked");
        match request {
            Request::Status => Ok(Message::Status(Status {
                name: self.set.name.clone(),
                progress: None,
                set: Some(Box::new(self.shared.status(&self.set))),
            })),
            Request::Wait { r#for, timeout_ms } => self.wait(&r#for, timeout_ms, reply),
            Request::Backup(request) => backup::asked(&self.shared, &self.set, &request, reply),
            Request::Usage { volume, by, rows } => {
                super::usage::tell(&self.set, volume.as_deref(), &by, rows, reply)
            }
            Request::Stop => {
                self.shared.asked.stop();
                Ok(self.done("stop", vec![format!("{} is being stopped", self.set.name)]))
            }
            Request::Tune(tune) => self.tune(tune),
            Request::Pause => self.pause(true),
            Request::Resume => self.pause(false),
            Request::Cutover { no_verify } => self.cutover(no_verify, reply),
            Request::Discard => self.discard(),
        }
    }
}

impl Steering {
    pub(super) fn done(&self, verb: &str, text: Vec<String>) -> Message {
        Message::Summary(Summary {
            verb: verb.into(),
            name: self.set.name.clone(),
            text,
            ..Summary::default()
        })
    }
    fn wait(&self, state: &str, timeout_ms: Option<u64>, reply: &mut Reply) -> Outcome<Message> {
        let condition = Condition::parse(state)?;
        let begun = Instant::now();
        let mut reported = begun;
        loop {
            let looked = Instant::now();
            let status = self.shared.status(&self.set);
            // On a large disk a look takes up to ten milliseconds, and the guest may want the processor.
            let rest = (looked.elapsed() * 20).clamp(LOOK, 10 * LOOK);
            if condition.met(&status)? {
                let text = vec![format!("{} is {}", self.set.name, status.state.word())];
                return Ok(self.done("wait", text));
            }
            if timeout_ms.is_some_and(|t| begun.elapsed() >= Duration::from_millis(t)) {
                return Err(timed_out(&self.set.name, state));
            }
            if reply.gone() || self.shared.asked.stopping() {
                return Err(Failure::interrupted(format!("waiting for {}", self.set.name)));
            }
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                let status =
                    Status { name: status.name.clone(), progress: None, set: Some(Box::new(status)) };
                reply.send(&Message::Status(status));
            }
            std::thread::sleep(rest);
        }
    }
}
