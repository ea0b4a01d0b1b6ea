//! Time as a port: a monotonic clock for everything that decides, a wall clock only for what people read.

mod manual;
pub use manual::ManualClock;

use std::time::{Duration, Instant, SystemTime};

/// A source of time. No decision about data depends on wall time: clocks decide liveness only.
pub trait Clock: Send + Sync {
    /// Time since some fixed start; never goes back.
    fn now(&self) -> Duration;
    /// Nanoseconds since 1970 UTC; may jump either way.
    fn wall_ns(&self) -> u64;
    /// Waits at least this long (a simulated clock advances instead).
    fn sleep(&self, d: Duration);
}

/// The system's clocks.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Monotonic time starts now.
    pub fn new() -> Self {
        SystemClock { start: Instant::now() }
    }
}
impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}
impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }
    fn wall_ns(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }
    fn sleep(&self, d: Duration) {
        std::thread::sleep(d);
    }
}
