//! What fetches report to the fill: an inbox of its own, so that a report never waits for a decision.

use super::super::fetch::FetchObserver;
use super::super::lock;
use rekindle_io::Error;
use rekindle_io::clock::Clock;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Reports kept; ends of our own fetches are bounded by the window, the others may be forgotten.
const KEPT_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) enum Report {
    /// The guest missed here. `at`: when, not when it is heard of: a thread that hears of a miss and of its end together
    /// would take the link for one without latency, and never fill its pipe.
    Missed { volume: u16, extent: u64, at: Duration },
    /// A fetch ended; `at`: when the answer was there.
    Arrived { volume: u16, extent: u64, at: Duration, outcome: Result<u32, Error> },
}

#[derive(Default)]
struct Letters {
    reports: VecDeque<Report>,
    rung: bool,
}

pub(super) struct Inbox {
    letters: Mutex<Letters>,
    came: Condvar,
    clock: Arc<dyn Clock>,
}

impl Inbox {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Inbox {
        Inbox { letters: Mutex::default(), came: Condvar::new(), clock }
    }
    fn put(&self, report: Report) {
        let mut l = lock(&self.letters);
        l.rung = true;
        l.reports.push_back(report);
        drop(l);
        self.came.notify_all();
    }
    /// Moves all reports to `out`, oldest first.
    pub(super) fn take(&self, out: &mut VecDeque<Report>) {
        out.append(&mut lock(&self.letters).reports);
    }
    /// Wakes who waits.
    pub(super) fn ring(&self) {
        lock(&self.letters).rung = true;
        self.came.notify_all();
    }
    /// Waits for a report or a ring.
    pub(super) fn wait(&self, at_most: Duration) {
        let mut l = lock(&self.letters);
        if !l.rung {
            l = self.came.wait_timeout(l, at_most).unwrap_or_else(PoisonError::into_inner).0;
        }
        l.rung = false;
    }
}

impl FetchObserver for Inbox {
    fn missed(&self, volume: u16, extent: u64) {
        if lock(&self.letters).reports.len() < KEPT_MAX {
            self.put(Report::Missed { volume, extent, at: self.clock.now() });
        }
    }
    fn arrived(&self, volume: u16, extent: u64, at: Duration, demand: bool, outcome: Result<u32, Error>) {
        // A demand fetch only measures the link; one of ours must be heard of, or its bytes would count as under way for
        // ever. (One of ours that somebody then waited for is both: kept.)
        if !demand || lock(&self.letters).reports.len() < 2 * KEPT_MAX {
            self.put(Report::Arrived { volume, extent, at, outcome });
        }
    }
}
