//! The process that serves sets, from ready to a clean end. `serve` and `restore --listen` are this with different sets.
//!
//! Threads: the main one ticks once a second and hears signals; NBD and control have their own; a scheduled backup gets
//! one. End: no new clients, running requests answered, a running backup cancelled, every set closed with its state
//! durable, locks let go last, so that whoever takes over finds everything at rest.

use super::backup;
use super::control::{ControlServer, Message, State};
use super::exports::{Exports, GRACE};
use super::notify;
use super::probe;
use super::set::OwnedSet;
use super::steer_restore::event;
use super::steering::{Shared, Steering};
use super::watch::Watch;
use crate::errors::{Exit, Outcome};
use crate::out::Out;
use crate::repositories::Access;
use crate::show::words;
use crate::signals::Asked;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between ticks.
const TICK: Duration = Duration::from_secs(1);
/// Between looks at what goes on.
const SHOW: Duration = Duration::from_millis(200);
/// Between looks at a restore that is not online yet.
const OPENING: Duration = Duration::from_millis(10);

/// The process.
pub struct Process {
    shared: Arc<Shared>,
    controls: Vec<ControlServer>,
    captive: Option<super::captive::Captive>,
    watch: Watch,
    restore: bool,
}

impl Process {
    /// Lets in NBD clients at addresses that are listened at, and verbs. What is online is exported at once.
    pub fn start(sets: Vec<OwnedSet>, exports: Exports, asked: Arc<Asked>, out: Out) -> Outcome<Process> {
        if let Some(warning) = super::listen::exposed(exports.addresses()) {
            out.warn(warning);
        }
        let sets: Vec<Arc<OwnedSet>> = sets.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared { sets, exports, asked, out });
        let mut process =
            Process { shared, controls: Vec::new(), captive: None, watch: Watch::default(), restore: false };
        // Before anything is announced: whoever reads that a set is online steers it the next moment.
        for set in &process.shared.sets {
            let steering = Steering { shared: process.shared.clone(), set: set.clone() };
            process.controls.push(ControlServer::start(set.socket(), Arc::new(steering))?);
        }
        process.show()?;
        process.shared.exports.open()?;
        Ok(process)
    }
    /// Says when backups could not be made with this repository, beside serving.
    pub fn look_at(&self, repository: &Access) {
        probe::start(&self.shared, repository);
    }
    /// Runs `command` beside; its end is ours.
    pub fn run_command(&mut self, command: &str) -> Outcome {
        self.captive = Some(super::captive::Captive::start(command, &self.shared)?);
        Ok(())
    }
    /// Serves until asked to stop; the exit code is that of the captive command, or 0.
    pub fn serve(mut self, reload: &mut dyn FnMut(&[Arc<OwnedSet>])) -> Outcome<u8> {
        let watchdog = notify::watchdog();
        let (mut alive, mut ticked, mut ready) = (Instant::now(), Instant::now(), false);
        let served = loop {
            if let Err(f) = self.show() {
                break Err(f);
            }
            let online = self.shared.sets.iter().all(|s| s.online());
            if online && !std::mem::replace(&mut ready, true) {
                notify::ready("online");
            }
            let pace = if online { SHOW } else { OPENING };
            if self.shared.asked.wait(watchdog.map_or(pace, |w| w.min(pace))) {
                break Ok(());
            }
            if self.shared.asked.take_reload() {
                notify::reloading();
                reload(&self.shared.sets);
                notify::ready("online");
            }
            self.watch.look(&self.shared);
            if ticked.elapsed() >= TICK {
                ticked = Instant::now();
                self.tick();
            }
            if watchdog.is_some_and(|w| alive.elapsed() >= w / 2) {
                notify::alive("online");
                alive = Instant::now();
            }
        };
        self.watch.end();
        let unfinished: Vec<String> =
            self.shared.sets.iter().filter(|s| s.unfinished()).map(|s| s.name.clone()).collect();
        self.end();
        for name in &unfinished {
            self.shared.out.note(format!("{name} is not settled; the same command goes on with it"));
        }
        let code = self.captive.take().map(super::captive::Captive::code);
        // A restore that was begun in this terminal was interrupted; one that `serve` found goes on with the next `serve`.
        let usual = if self.restore && !unfinished.is_empty() { Exit::Interrupted.code() } else { 0 };
        served.map(|()| code.unwrap_or(usual))
    }
    /// This process was started to restore.
    pub fn restores(&mut self) {
        self.restore = true;
    }
    /// Exports what has come online.
    fn show(&self) -> Outcome {
        for set in self.shared.sets.iter().filter(|s| s.online()) {
            if set.announced() {
                continue;
            }
            self.shared.exports.show(set)?;
            self.announce(set);
        }
        Ok(())
    }
    fn announce(&self, set: &OwnedSet) {
        let uris: Vec<String> =
            set.volumes.iter().flat_map(|v| self.shared.exports.uris(&v.export)).collect();
        let after = set.online_after();
        // A restore that is complete already when it is resumed is online all the same.
        let state = if set.state() == State::Live { State::Live } else { State::Online };
        if self.shared.out.json {
            return self.shared.out.message(&Message::Event(event(&set.name, state, after, uris)));
        }
        let after = after.map_or(String::new(), |d| format!("{}  ", words::duration(d)));
        for uri in uris {
            self.shared.out.announce(format!("{:<9} {after}{uri}", state.word()));
        }
    }
    fn tick(&self) {
        for set in &self.shared.sets {
            set.tick();
            if set.backups.due(Timestamp::now()) {
                backup::scheduled(&self.shared, set);
            }
        }
    }
    fn end(&mut self) {
        notify::stopping(GRACE * 2);
        self.shared.sets.iter().for_each(|s| s.backups.cancel());
        if let Some(captive) = &mut self.captive {
            captive.stop();
        }
        if !self.shared.exports.stop() {
            self.shared.out.warn("a request was still inside a disk when time was up; it was not answered");
        }
        self.controls.clear();
        // A cancelled backup ends its session in the repository; it reads through the set, so it must be over first.
        let begun = Instant::now();
        while self.shared.sets.iter().any(|s| s.backups.running()) && begun.elapsed() < GRACE {
            std::thread::sleep(Duration::from_millis(5));
        }
        for trouble in self.shared.sets.iter().flat_map(|s| s.close()) {
            self.shared.out.warn(trouble);
        }
    }
}
