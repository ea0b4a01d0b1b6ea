//! Writes in flight: counted, so that a checkpoint can wait for those that began before it, and an instant can stop
//! new ones and wait for all.
//!
//! Writers count themselves into the current of two epochs. A checkpoint moves on to the other epoch and waits until
//! the old one is empty: nobody is held up. An instant closes the gate first. Cost for a writer: two atomic additions
//! and two loads.

use super::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, SeqCst, lock};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

/// The gate of one volume.
#[derive(Default)]
pub(super) struct Gate {
    /// Its lowest bit chooses the counter.
    epoch: AtomicU64,
    inside: [AtomicU64; 2],
    closed: AtomicBool,
    /// How many wait for a counter to reach zero.
    awaited: AtomicU64,
    lock: Mutex<()>,
    changed: Condvar,
}

/// What `enter` counted: give it back to `leave`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entered(u64);

impl Gate {
    /// Counts `n` requests in, waiting while the gate is closed.
    pub(super) fn enter(&self, n: u64) -> Entered {
        loop {
            let epoch = self.epoch.load(SeqCst);
            self.inside[(epoch & 1) as usize].fetch_add(n, SeqCst);
            if !self.closed.load(SeqCst) && self.epoch.load(SeqCst) == epoch {
                return Entered(epoch);
            }
            self.leave(Entered(epoch), n);
            let mut guard = lock(&self.lock);
            while self.closed.load(SeqCst) {
                guard = self.wait(guard);
            }
        }
    }
    /// Counts `n` of them out.
    pub(super) fn leave(&self, entered: Entered, n: u64) {
        let before = self.inside[(entered.0 & 1) as usize].fetch_sub(n, SeqCst);
        assert!(before >= n, "more requests ended than began");
        if before == n && self.awaited.load(SeqCst) > 0 {
            drop(lock(&self.lock));
            self.changed.notify_all();
        }
    }
    fn wait<'a>(&'a self, guard: MutexGuard<'a, ()>) -> MutexGuard<'a, ()> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }
    /// Waits until every request that entered before this call has left. One caller at a time.
    pub(super) fn pass(&self) {
        let old = self.epoch.fetch_add(1, SeqCst);
        self.awaited.fetch_add(1, SeqCst);
        let mut guard = lock(&self.lock);
        while self.inside[(old & 1) as usize].load(SeqCst) > 0 {
            guard = self.wait(guard);
        }
        drop(guard);
        self.awaited.fetch_sub(1, SeqCst);
    }
    /// Holds new requests from now on.
    pub(super) fn close(&self) {
        self.closed.store(true, SeqCst);
    }
    /// Waits until nothing is in flight; `false` when that took longer than `limit`. The gate is closed.
    pub(super) fn drained(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        self.awaited.fetch_add(1, SeqCst);
        let mut guard = lock(&self.lock);
        let empty = loop {
            if self.inside.iter().all(|c| c.load(SeqCst) == 0) {
                break true;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break false;
            }
            guard = self.changed.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(guard);
        self.awaited.fetch_sub(1, SeqCst);
        empty
    }
    /// Lets requests in again.
    pub(super) fn open(&self) {
        self.closed.store(false, SeqCst);
        drop(lock(&self.lock));
        self.changed.notify_all();
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pass_waits_for_those_before_and_not_for_those_after() {
        let g = Arc::new(Gate::default());
        let before = g.enter(2);
        let passing = std::thread::spawn({
            let g = g.clone();
            move || g.pass()
        });
        while g.epoch.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let after = g.enter(1);
        g.leave(before, 1);
        assert!(!passing.is_finished());
        g.leave(before, 1);
        passing.join().unwrap();
        assert!(!g.drained(Duration::ZERO));
        g.leave(after, 1);
        assert!(g.drained(Duration::ZERO));
    }

    #[test]
    fn a_closed_gate_holds_requests() {
        let g = Arc::new(Gate::default());
        g.close();
        let waiting = std::thread::spawn({
            let g = g.clone();
            move || g.leave(g.enter(1), 1)
        });
        assert!(g.drained(Duration::from_secs(5)));
        std::thread::sleep(Duration::from_millis(5));
        assert!(!waiting.is_finished());
        g.open();
        waiting.join().unwrap();
    }
}
