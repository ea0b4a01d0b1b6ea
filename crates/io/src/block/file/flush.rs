//! Group flush: one fdatasync serves everybody who asked before it began.
//!
//! A flush joins only a round that begins after it arrived: the round that is running may have passed the page that
//! this caller's write dirtied. It waits for nothing else, above all not for writes that were not answered yet.

use crate::latch::Latch;
use crate::{Error, Result};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Called with how its round ended.
pub(super) type Then = Box<dyn FnOnce(Result<()>) + Send>;

#[derive(Default)]
struct State {
    /// Rounds begun and ended; one runs at most.
    begun: u64,
    ended: u64,
    /// Callers that do not wait, for the next round.
    late: Vec<Then>,
    /// The first failure; the inode is latched then.
    failure: Option<Error>,
}

/// The rounds of one file.
#[derive(Default)]
pub(super) struct GroupFlush {
    state: Mutex<State>,
    ended: Condvar,
}

impl GroupFlush {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Adds a caller that is told later. `true`: nobody is going to begin a round, so the caller must have `lead` run
    /// on some thread.
    pub(super) fn add(&self, then: Then) -> bool {
        let mut s = self.lock();
        s.late.push(then);
        s.begun == s.ended && s.late.len() == 1
    }
    /// Runs or joins a round that begins after this call. `true` in the second place: late callers came meanwhile, so
    /// the caller must have `lead` run on some thread.
    pub(super) fn wait(&self, latch: &Latch, sync: impl Fn() -> Result<()>) -> (Result<()>, bool) {
        let mut s = self.lock();
        let mine = s.begun + 1;
        loop {
            if s.ended >= mine {
                return (s.failure.clone().map_or(Ok(()), Err), false);
            }
            if s.begun == s.ended {
                return self.round(s, latch, sync);
            }
            s = self.ended.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
    /// Runs rounds until no late caller is left.
    pub(super) fn lead(&self, latch: &Latch, sync: impl Fn() -> Result<()>) {
        let mut s = self.lock();
        while !s.late.is_empty() {
            if s.begun == s.ended {
                // Each late caller is told; this thread only carries the round out.
                let (_told, _more) = self.round(s, latch, &sync);
                s = self.lock();
            } else {
                s = self.ended.wait(s).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }
    fn round(
        &self,
        mut s: MutexGuard<'_, State>,
        latch: &Latch,
        sync: impl Fn() -> Result<()>,
    ) -> (Result<()>, bool) {
        s.begun += 1;
        let served = std::mem::take(&mut s.late);
        drop(s);
        // Never tried again: after a failure the kernel calls the lost pages clean, and a second try would succeed.
        let result = sync();
        if result.is_err() {
            latch.fail();
        }
        let mut s = self.lock();
        s.ended = s.begun;
        if let Err(e) = &result {
            s.failure.get_or_insert_with(|| e.clone());
        }
        let more = !s.late.is_empty();
        drop(s);
        self.ended.notify_all();
        for then in served {
            then(result.clone());
        }
        (result, more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
    use std::sync::mpsc;

    /// A flush that arrives while one runs is not served by it, and all that arrive then share the next one.
    #[test]
    fn joins_only_a_round_that_begins_later() {
        let g = Arc::new(GroupFlush::default());
        let syncs = Arc::new(AtomicU64::new(0));
        let (go, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let first = {
            let (g, syncs) = (g.clone(), syncs.clone());
            std::thread::spawn(move || {
                g.wait(&Latch::default(), || {
                    syncs.fetch_add(1, SeqCst);
                    gate.lock().unwrap().recv().unwrap();
                    Ok(())
                })
            })
        };
        while syncs.load(SeqCst) == 0 {
            std::thread::yield_now();
        }
        let (told, heard) = mpsc::channel();
        for n in 0..3 {
            let told = told.clone();
            let lead = g.add(Box::new(move |r| told.send((n, r.is_ok())).unwrap()));
            assert!(!lead, "the running round's thread takes care");
        }
        let waits = std::thread::spawn({
            let (g, syncs) = (g.clone(), syncs.clone());
            move || {
                g.wait(&Latch::default(), || {
                    syncs.fetch_add(1, SeqCst);
                    Ok(())
                })
            }
        });
        // It has looked at the running round when it waits; nothing tells, so give it time.
        std::thread::sleep(std::time::Duration::from_millis(50));
        go.send(()).unwrap();
        let (r, more) = first.join().unwrap();
        assert!(r.is_ok() && more);
        waits.join().unwrap().0.unwrap();
        for _ in 0..2 {
            g.lead(&Latch::default(), || {
                syncs.fetch_add(1, SeqCst);
                Ok(())
            });
        }
        assert_eq!((heard.try_iter().count(), syncs.load(SeqCst)), (3, 2));
    }
}
