//! The threads of a restore: each only loops over a step.

use super::lock;
use super::mover::Step;
use super::plan::Phase;
use super::set::RestoreSet;
use rekindle_io::{Error, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// Between two pieces of a segment that is prepared: 8 MiB in about a tenth of a second.
const PAUSE: Duration = Duration::from_micros(250);

impl RestoreSet {
    /// Lets threads loop over the steps: mover, log and timer, flusher, and `workers` for fetches.
    pub fn start(self: &Arc<Self>, workers: usize) -> Result<()> {
        self.parts.threaded.store(true, Release);
        let spawn = |name: String, body: Box<dyn Fn(&RestoreSet) + Send>| -> Result<()> {
            // Weak, so that a set that is dropped without `stop` ends its threads too.
            let weak = Arc::downgrade(self);
            let thread = std::thread::Builder::new().name(name).spawn(move || {
                while let Some(set) = weak.upgrade().filter(|s| !s.parts.stopping.load(Acquire)) {
                    body(&set);
                }
            });
            lock(&self.threads).push(thread.map_err(|e| Error::os("starting a thread", &e))?);
            Ok(())
        };
        spawn("rk-mover".into(), Box::new(|s| s.mover_round()))?;
        spawn("rk-log".into(), Box::new(|s| s.log_round()))?;
        spawn("rk-flush".into(), Box::new(|s| s.flush_round()))?;
        for i in 0..workers.max(1) {
            spawn(format!("rk-fetch-{i}"), Box::new(|s| s.work_round()))?;
        }
        Ok(())
    }
    fn mover_round(&self) {
        match self.mover_step(false) {
            Ok(Step::Worked) => {}
            Ok(Step::Idle) => self.parts.mover_signal.wait(Duration::from_millis(200)),
            Err(_) => self.parts.mover_signal.wait(Duration::from_secs(1)),
        }
    }
    fn log_round(&self) {
        match self.log_step_gently(&|| std::thread::sleep(PAUSE)) {
            Ok(Step::Worked) => {}
            Ok(Step::Idle) => self.parts.log.wait_until_wanted(Duration::from_millis(100)),
            Err(e) => {
                *lock(&self.parts.health.trouble) = Some(e.at("preparing the write log"));
                std::thread::sleep(Duration::from_secs(1));
            }
        }
        self.timer_step();
    }
    fn flush_round(&self) {
        let asked = std::mem::take(&mut *lock(&self.parts.flush_queue));
        if asked.is_empty() {
            return self.parts.flush_signal.wait(Duration::from_millis(200));
        }
        let done = self.parts.log.flush();
        for (token, sink) in asked {
            let result = done.clone().map(|()| Vec::new());
            sink.complete(rekindle_io::block::Completion { token, result });
        }
    }
    fn work_round(&self) {
        if !self.parts.work_step() {
            self.parts.wait_for_work(Duration::from_millis(200));
        }
    }
    /// Ends the threads; everything answered is durable then, and so is what was filled, which the next opening does not fetch
    /// again. What is in the log stays there: that finds it. The destinations are stamped once more, so that a state copied
    /// while this ran does not fit them.
    pub fn stop(&self) -> Result<()> {
        self.parts.stopping.store(true, Release);
        self.parts.mover_signal.ring();
        self.parts.flush_signal.ring();
        self.parts.work_came.notify_all();
        for t in std::mem::take(&mut *lock(&self.threads)) {
            if t.join().is_err() {
                tracing::error!("a thread of the restore panicked");
            }
        }
        self.parts.threaded.store(false, Release);
        self.answer_flushes();
        self.parts.log.flush()?;
        if lock(&self.parts.plan).1.phase == Phase::Live {
            return Ok(());
        }
        let settled = lock(&self.mover).settle_now(&self.parts);
        let _ = settled.inspect_err(|e| tracing::warn!("{}: not settled: {e}", self.state.place()));
        if self.parts.failed().is_none() {
            let stamped = self.parts.stamp_unflushed();
            let _ = stamped.inspect_err(|e| tracing::warn!("{}: no last stamp: {e}", self.state.place()));
        }
        Ok(())
    }
    /// Answers the flushes that the flusher's thread, which has ended, left.
    pub(super) fn answer_flushes(&self) {
        if !lock(&self.parts.flush_queue).is_empty() {
            self.flush_round();
        }
    }
}
