//! What an owner does to a restore when a verb asks.

use super::control::{Event, First, Message, Reply, State, Status, Summary, Tune};
use super::restoring::Restoring;
use super::set::Body;
use super::steering::Steering;
use crate::errors::{Exit, Failure, Outcome};
use crate::show::words;
use rekindle_core::volume::ByteRange;
use rekindle_io::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between looks while a cutover waits.
const LOOK: Duration = Duration::from_millis(50);
/// Between its words.
const REPORT: Duration = Duration::from_millis(500);

impl Steering {
    fn restoring(&self) -> Outcome<Arc<Restoring>> {
        match self.set.body() {
            Body::Restoring(r) if !self.set.is_discarded() => Ok(r),
            Body::Restoring(_) | Body::Live(_) => Err(crate::verbs::not_restoring(&self.set.name)),
        }
    }
    /// Checks everything before it changes anything.
    pub(super) fn tune(&self, tune: Tune) -> Outcome<Message> {
        let r = self.restoring()?;
        let first = tune.first.iter().map(|f| self.first(&r, f)).collect::<Outcome<Vec<_>>>()?;
        let mut text = Vec::new();
        if let Some(limit) = tune.limit {
            let limit = (limit > 0).then_some(limit);
            text.push(match limit {
                Some(l) => format!("background work of {} is limited to {}", r.name, words::rate(l as f64)),
                None => format!("background work of {} is not limited", r.name),
            });
            r.with_fill(move |fill| fill.set_limit(limit));
            r.wish(|w| w.limit = limit);
        }
        if tune.verify {
            r.wish(|w| w.no_verify = false);
            text.push(format!("{} is verified once it is complete", r.name));
        }
        if let Some(weight) = tune.weight {
            let volumes = r.volumes.len();
            r.with_fill(move |fill| (0..volumes).for_each(|v| fill.set_weight(v, weight)));
            text.push(format!("{} weighs {weight}", r.name));
        }
        if !first.is_empty() {
            let bytes: u64 = tune.first.iter().map(|f| f.len).sum();
            text.push(format!("{} of {} come next", words::bytes(bytes), r.name));
            r.with_fill(move |fill| {
                for (volume, extents) in first {
                    if let Err(e) = fill.first(volume, extents) {
                        tracing::warn!("not all of what was wanted first is kept in mind: {e:?}");
                        break;
                    }
                }
            });
        }
        if tune.online_now {
            r.set.set_online();
            r.with_fill(|fill| fill.online_now());
            text.push(format!("{} is online", r.name));
        }
        Ok(self.done("tune", text))
    }
    fn first(&self, r: &Restoring, f: &First) -> Outcome<(usize, rekindle_core::volume::ExtentRange)> {
        let bad = |why: String| {
            Failure::usage(
                format!("{}+{} cannot come first", f.start, f.len),
                why,
                "see `rekindle status NAME`",
            )
        };
        let at = match &f.volume {
            Some(name) => r.volumes.iter().position(|v| v.name == *name),
            None => (r.volumes.len() == 1).then_some(0),
        };
        let at = at.ok_or_else(|| {
            let names: Vec<&str> = r.volumes.iter().map(|v| v.name.as_str()).collect();
            bad(format!("say which volume: {}", names.join(", ")))
        })?;
        let geometry = r.set.volumes()[at].geometry();
        let range = ByteRange::new(f.start, f.len);
        if !geometry.contains(range) {
            return Err(bad(format!("{} ends at {}", r.volumes[at].name, geometry.size)));
        }
        Ok((at, geometry.touched(range)))
    }
    pub(super) fn pause(&self, paused: bool) -> Outcome<Message> {
        let r = self.restoring()?;
        r.set.pause(paused);
        // Whoever mended the repository says so with `resume`.
        r.with_fill(move |fill| if paused { fill.wake() } else { fill.retry_damaged() });
        let (verb, text) = match paused {
            true => ("pause", format!("{} is paused; its guest still gets what it asks for", r.name)),
            false => ("resume", format!("{} goes on filling", r.name)),
        };
        Ok(self.done(verb, vec![text]))
    }
    /// Waits until it may be handed over, then hands it over.
    pub(super) fn cutover(&self, no_verify: bool, reply: &mut Reply) -> Outcome<Message> {
        let r = self.restoring()?;
        let mut reported = None::<Instant>;
        while !r.is_ready(no_verify) {
            if let Some(failure) = r.failed() {
                return Err(failure);
            }
            if let Some(damage) = r.damage().filter(|d| d.rest_complete) {
                // What is not there would read as zeros on the live disk, and nobody would know.
                let error = format!("{} cannot be settled: it is not whole", r.name);
                return Err(damage.failure(Exit::Refused, error, &r.name));
            }
            if let Some(lost) = r.uncompared().filter(|u| u.rest_complete && !no_verify) {
                return Err(lost.failure_uncompared(Exit::Refused, &r.name));
            }
            if reply.gone() || self.shared.asked.stopping() {
                return Err(Failure::interrupted(format!("the cutover of {}", r.name)));
            }
            if reported.is_none_or(|t| t.elapsed() >= REPORT) {
                reported = Some(Instant::now());
                let status = Status { name: r.name.clone(), progress: r.progress(), set: None };
                reply.send(&Message::Status(status));
            }
            std::thread::sleep(LOOK);
        }
        if self.set.backups.running() {
            return Err(Failure::new(
                Exit::Busy,
                format!("{} cannot be settled now", r.name),
                "a backup of it is running",
                "wait for the backup, then run the same command again",
            ));
        }
        // Two cutovers at once: the first one does it.
        let _one = self.set.settling();
        self.restoring()?;
        let (live, summary) = r.cut_over(no_verify)?;
        self.set.settled(live);
        let text = vec![format!(
            "settled   {}; switched in {}; {}; live, the next backup {}",
            words::bytes(summary.size_bytes),
            words::duration(Duration::from_secs_f64(summary.pause_ms / 1e3)),
            if summary.verified { "verified" } else { "NOT verified" },
            if r.has_parent() { "is incremental" } else { "is its first, a full one" }
        )];
        let Message::Summary(done) = self.done("cutover", text) else {
            unreachable!("`done` gives summaries")
        };
        Ok(Message::Summary(Summary { cutover: Some(summary), ..done }))
    }
    pub(super) fn discard(&self) -> Outcome<Message> {
        // A cutover that runs ends first: what it made live is the guest's, and is not thrown away.
        let _one = self.set.settling();
        let r = self.restoring()?;
        // Refused as long as it goes on: whose disk stays is neither cut off nor left without backups.
        r.discardable()?;
        self.set.backups.cancel();
        self.shared.exports.hide(&self.set);
        let mut text = vec![format!("discarded {}", r.name)];
        text.extend(r.discard()?);
        self.set.discarded();
        if self.shared.sets.len() == 1 {
            self.shared.asked.stop();
        }
        Ok(self.done("discard", text))
    }
}

/// An event of a set, now.
pub fn event(name: &str, state: State, elapsed: Option<Duration>, uris: Vec<String>) -> Event {
    Event {
        time: words::rfc3339(SystemClock::new().wall_ns()),
        name: name.into(),
        event: state.word().into(),
        text: format!("{name} is {}", state.word()),
        elapsed_s: elapsed.map(|d| d.as_secs_f64()),
        uris,
    }
}
