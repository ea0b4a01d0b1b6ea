//! The backups of an owned set: one at a time, asked for by a person or by the schedule.

use super::control::{BackupStatus, Message, Progress, Summary, Trouble};
use super::schedule::Schedule;
use crate::repositories::Access;
use crate::show::words;
use jiff::Timestamp;
use rekindle_io::clock::{Clock, SystemClock};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What is known of the backups of a set.
#[derive(Default)]
pub struct Backups {
    /// The repository the owner was configured with.
    access: Option<Access>,
    schedule: Mutex<Option<Schedule>>,
    facts: Mutex<Facts>,
    cancelled: AtomicBool,
}

#[derive(Clone, Default)]
struct Facts {
    last: Option<Summary>,
    last_ns: Option<u64>,
    last_error: Option<String>,
    trouble: Option<Trouble>,
    running: Option<Progress>,
}

/// The one backup that may run. Dropping it lets the next one begin.
pub struct Turn<'a>(&'a Backups);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.facts().running = None;
    }
}

impl Backups {
    /// With a repository and a schedule, where there are any.
    pub fn new(access: Option<Access>, schedule: Option<Schedule>) -> Backups {
        Backups { access, schedule: Mutex::new(schedule), ..Backups::default() }
    }
    /// The repository the owner was configured with.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_ref()
    }
    /// Another schedule from now on.
    pub fn reschedule(&self, schedule: Option<Schedule>) {
        *self.schedule.lock().unwrap_or_else(PoisonError::into_inner) = schedule;
    }
    /// Whether the schedule fires now.
    pub fn due(&self, now: Timestamp) -> bool {
        let mut schedule = self.schedule.lock().unwrap_or_else(PoisonError::into_inner);
        schedule.as_mut().is_some_and(|s| s.due(now))
    }
    /// Begins a backup, unless one runs.
    pub fn begin(&self) -> Option<Turn<'_>> {
        let mut facts = self.facts();
        if facts.running.is_some() {
            return None;
        }
        facts.running = Some(Progress { activity: "backup".into(), ..Progress::default() });
        Some(Turn(self))
    }
    /// Keeps the progress of the running one.
    pub fn progressed(&self, p: &Progress) {
        self.facts().running = Some(p.clone());
    }
    /// Keeps how one ended.
    pub fn ended(&self, end: &Result<Message, crate::errors::Failure>) {
        let mut facts = self.facts();
        match end {
            Ok(Message::Summary(summary)) => {
                facts.last = Some(summary.clone());
                facts.last_ns = Some(SystemClock::new().wall_ns());
                facts.last_error = None;
                facts.trouble = None;
            }
            Ok(_) => {}
            Err(f) => facts.last_error = Some(format!("{}: {}", f.error, f.cause)),
        }
    }
    /// What keeps the repository from being used, or that nothing does.
    pub fn trouble(&self, trouble: Option<Trouble>) {
        self.facts().trouble = trouble;
    }
    /// There is a schedule.
    pub fn is_scheduled(&self) -> bool {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
    /// The running backup should stop; none begins any more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }
    /// It was asked to stop.
    pub fn cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
    /// One is running.
    pub fn running(&self) -> bool {
        self.facts().running.is_some()
    }
    /// For `status`; `None` when there is nothing to say.
    pub fn status(&self) -> Option<BackupStatus> {
        let facts = self.facts().clone();
        let next =
            self.schedule.lock().unwrap_or_else(PoisonError::into_inner).as_ref().and_then(Schedule::next);
        let nothing = self.access.is_none() && facts.last.is_none() && facts.last_error.is_none();
        if nothing && facts.running.is_none() {
            return None;
        }
        let ns = |t: Timestamp| u64::try_from(t.as_nanosecond()).unwrap_or(0);
        Some(BackupStatus {
            repository: self.access.as_ref().map(|a| a.place.display().to_string()).unwrap_or_default(),
            last: facts.last.and_then(|s| s.backup),
            last_time: facts.last_ns.map(words::rfc3339),
            last_error: facts.last_error,
            trouble: facts.trouble,
            next: next.map(|t| words::rfc3339(ns(t))),
            running: facts.running,
        })
    }
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
