//! Time as a port: a monotonic clock for everything that decides, a wall clock only for what people read.

mod manual;
pub use manual::ManualClock;

use std::sync::OnceLock;
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

/// The system's clocks. All of a process count from one start, so that what one of them dated another may compare.
#[derive(Clone, Copy, Default)]
pub struct SystemClock;

impl SystemClock {
    /// The clock.
    pub fn new() -> Self {
        SystemClock
    }
}
impl Clock for SystemClock {
    fn now(&self) -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed()
    }
    fn wall_ns(&self) -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64)
    }
    fn sleep(&self, d: Duration) {
        std::thread::sleep(d);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_clocks_agree() {
        let early = SystemClock::new();
        early.now();
        early.sleep(Duration::from_millis(2));
        let (a, b, c) = (early.now(), SystemClock::new().now(), early.now());
        assert!(a >= Duration::from_millis(2) && a <= b && b <= c, "{a:?} {b:?} {c:?}");
    }
}
