//! A clock that a test or a simulation turns by hand.

use super::Clock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// Stands still until told.
#[derive(Default)]
pub struct ManualClock {
    now_ns: AtomicU64,
    wall_ns: AtomicU64,
}

impl ManualClock {
    /// Both clocks go forward.
    pub fn advance(&self, d: Duration) {
        self.now_ns.fetch_add(d.as_nanos() as u64, SeqCst);
        self.wall_ns.fetch_add(d.as_nanos() as u64, SeqCst);
    }
    /// The wall clock jumps, backwards too.
    pub fn set_wall_ns(&self, ns: u64) {
        self.wall_ns.store(ns, SeqCst);
    }
}
impl Clock for ManualClock {
    fn now(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(SeqCst))
    }
    fn wall_ns(&self) -> u64 {
        self.wall_ns.load(SeqCst)
    }
    fn sleep(&self, d: Duration) {
        self.advance(d);
    }
}
