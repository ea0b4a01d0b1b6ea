//! The process that serves sets, from ready to a clean end. `serve` and `restore --listen` are this with different sets.
//!
//! Threads: the main one ticks once a second and hears signals; NBD and control have their own; a scheduled backup gets
//! one. End: no new clients, running requests answered, a running backup cancelled, every set closed with its state
//! durable, locks let go last, so that whoever takes over finds everything at rest.

use super::backup;
use super::control::{ControlServer, Event, Message};
use super::exports::{Exports, GRACE};
use super::notify;
use super::set::OwnedSet;
use super::steering::{Shared, Steering};
use crate::errors::Outcome;
use crate::out::Out;
use crate::show::words;
use crate::signals::Asked;
use jiff::Timestamp;
use rekindle_export::nbd::Listen;
use rekindle_io::clock::{Clock, SystemClock};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between ticks.
const TICK: Duration = Duration::from_secs(1);
/// Between looks at a restore that is not online yet.
const OPENING: Duration = Duration::from_millis(10);

/// The process.
pub struct Process {
    shared: Arc<Shared>,
    controls: Vec<ControlServer>,
    captive: Option<super::captive::Captive>,
}

impl Process {
    /// Listens for NBD clients and for verbs. What is online is exported at once.
    pub fn start(sets: Vec<OwnedSet>, listen: Vec<Listen>, asked: Arc<Asked>, out: Out) -> Outcome<Process> {
        let single = sets.iter().map(|s| s.volumes.len()).sum::<usize>() == 1;
        if let Some(warning) = super::listen::exposed(&listen) {
            out.warn(warning);
        }
        let exports = Exports::start(listen, single)?;
        let sets: Vec<Arc<OwnedSet>> = sets.into_iter().map(Arc::new).collect();
        let shared = Arc::new(Shared { sets, exports, asked, out });
        let mut process = Process { shared, controls: Vec::new(), captive: None };
        process.show()?;
        for set in &process.shared.sets {
            let steering = Steering { shared: process.shared.clone(), set: set.clone() };
            process.controls.push(ControlServer::start(set.socket(), Arc::new(steering))?);
        }
        Ok(process)
    }
    /// Runs `command` beside; its end is ours.
    pub fn run_command(&mut self, command: &str) -> Outcome {
        self.captive = Some(super::captive::Captive::start(command, &self.shared)?);
        Ok(())
    }
    /// Serves until asked to stop; the exit code is that of the captive command, or 0.
    pub fn serve(mut self, reload: &mut dyn FnMut(&[Arc<OwnedSet>])) -> Outcome<u8> {
        notify::ready("online");
        let watchdog = notify::watchdog();
        let mut alive = Instant::now();
        let served = loop {
            let pace = if self.shared.sets.iter().all(|s| s.online()) { TICK } else { OPENING };
            if self.shared.asked.wait(watchdog.map_or(pace, |w| w.min(pace))) {
                break Ok(());
            }
            if self.shared.asked.take_reload() {
                notify::reloading();
                reload(&self.shared.sets);
                notify::ready("online");
            }
            if let Err(f) = self.show() {
                break Err(f);
            }
            self.tick();
            if watchdog.is_some_and(|w| alive.elapsed() >= w / 2) {
                notify::alive("online");
                alive = Instant::now();
            }
        };
        self.end();
        let code = self.captive.take().map_or(0, super::captive::Captive::code);
        served.map(|()| code)
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
        let word = set.state().word();
        if self.shared.out.json {
            self.shared.out.message(&Message::Event(Event {
                time: words::rfc3339(SystemClock::new().wall_ns()),
                name: set.name.clone(),
                event: word.into(),
                text: format!("{} is {word}", set.name),
                elapsed_s: None,
                uris,
            }));
            return;
        }
        for uri in uris {
            self.shared.out.announce(format!("{word:<9} {uri}"));
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
