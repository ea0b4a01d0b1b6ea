//! What goes wrong, as one shared plan: every operation of every port of a run is counted by one counter, so that a
//! test can say "crash at I/O k, for all k". The decorators (`FaultyDir`, `FaultyBlock`) ask it before each operation.

use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How the machine went down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Crash {
    /// kill -9 of the process: everything written is there, unsynced bytes stay unsynced.
    Kill,
    /// Power cut: of each unsynced 512-byte sector and each unsynced name one of its states is found, chosen by `seed`.
    Power {
        /// Chooses; the same seed finds the same states.
        seed: u64,
    },
}

/// A class of operation, for `FaultPlan::fail_next`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[allow(missing_docs)]
pub enum FaultOp {
    Read,
    Write,
    Zero,
    Trim,
    Sync,
    SetLen,
    Punch,
    Create,
    Replace,
    Remove,
    SyncNames,
}

/// What the plan says about one operation.
#[derive(Debug)]
pub enum Verdict {
    /// Do it.
    Go,
    /// Do nothing, answer this.
    Fail(Error),
    /// The machine dies in the middle: do this many thousandths of a write (nothing of anything else), answer this.
    Torn(u64, Error),
}

#[derive(Default)]
struct State {
    count: u64,
    fail: BTreeMap<u64, Kind>,
    next: Vec<(FaultOp, Kind)>,
    dies_at: Option<u64>,
    torn: u64,
    stalls: Vec<u64>,
    waiting: u64,
    trace: Option<Vec<String>>,
}

/// The plan of one run. Operations are numbered from 0; reads are not numbered, but fail once the machine is dead.
#[derive(Default)]
pub struct FaultPlan {
    state: Mutex<State>,
    changed: Condvar,
}

impl FaultPlan {
    /// A plan in which nothing goes wrong.
    pub fn new() -> Self {
        FaultPlan::default()
    }
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Operations seen so far (reads excepted).
    pub fn count(&self) -> u64 {
        self.lock().count
    }
    /// Operation `n` fails once with `kind`, and does nothing.
    pub fn fail_at(&self, n: u64, kind: Kind) {
        self.lock().fail.insert(n, kind);
    }
    /// The next operation of this class fails once with `kind`, and does nothing.
    pub fn fail_next(&self, op: FaultOp, kind: Kind) {
        self.lock().next.push((op, kind));
    }
    /// The machine dies before operation `n`: it and everything after fails with `Kind::Cancelled` and does nothing.
    pub fn die_at(&self, n: u64) {
        let mut s = self.lock();
        (s.dies_at, s.torn) = (Some(n), 0);
    }
    /// As `die_at`, in the middle of operation `n`: of a write the first `thousandths` are done, whole sectors.
    pub fn die_within(&self, n: u64, thousandths: u64) {
        let mut s = self.lock();
        (s.dies_at, s.torn) = (Some(n), thousandths.min(1000));
    }
    /// The machine is dead from now on.
    pub fn die_now(&self) {
        let mut s = self.lock();
        (s.dies_at, s.torn) = (Some(s.count), 0);
        self.changed.notify_all();
    }
    /// Everything planned is off, the machine lives again; the counter goes on.
    pub fn heal(&self) {
        let mut s = self.lock();
        let kept = (s.count, s.trace.take());
        *s = State { count: kept.0, trace: kept.1, ..State::default() };
        self.changed.notify_all();
    }
    /// Operation `n` blocks its caller until `release`.
    pub fn stall_at(&self, n: u64) {
        self.lock().stalls.push(n);
    }
    /// Lets every stalled operation go on.
    pub fn release(&self) {
        self.lock().stalls.clear();
        self.changed.notify_all();
    }
    /// Waits until `n` operations are stalled.
    pub fn wait_stalled(&self, n: u64) {
        let mut s = self.lock();
        while s.waiting < n {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
    /// The machine has died.
    pub fn is_dead(&self) -> bool {
        let s = self.lock();
        s.dies_at.is_some_and(|d| s.count >= d)
    }
    /// From now on a line per operation is kept.
    pub fn keep_trace(&self) {
        self.lock().trace = Some(Vec::new());
    }
    /// The lines kept so far.
    pub fn trace(&self) -> Vec<String> {
        self.lock().trace.clone().unwrap_or_default()
    }

    /// Asked by a decorator before each operation; `what` names it for errors and the trace.
    pub fn ask(&self, op: FaultOp, what: &dyn Fn() -> String) -> Verdict {
        let mut s = self.lock();
        let n = s.count;
        let dead = || Error::new(Kind::Cancelled, "the machine died here");
        if op == FaultOp::Read {
            if s.dies_at.is_some_and(|d| n >= d) {
                return Verdict::Fail(dead());
            }
        } else {
            s.count += 1;
            if let Some(trace) = &mut s.trace {
                trace.push(format!("{n} {op:?} {}", what()));
            }
            if s.stalls.contains(&n) {
                s = self.stall(s, n);
            }
            match s.dies_at {
                Some(d) if n == d && op == FaultOp::Write && s.torn > 0 => {
                    return Verdict::Torn(s.torn, dead());
                }
                Some(d) if n >= d => return Verdict::Fail(dead()),
                _ => {}
            }
            if let Some(kind) = s.fail.remove(&n) {
                return Verdict::Fail(Error::new(kind, format!("{}: planned fault at {n}", what())));
            }
        }
        if let Some(i) = s.next.iter().position(|(o, _)| *o == op) {
            let (_, kind) = s.next.remove(i);
            return Verdict::Fail(Error::new(kind, format!("{}: planned fault", what())));
        }
        Verdict::Go
    }
    /// For operations that cannot be done in part.
    pub fn check(&self, op: FaultOp, what: &dyn Fn() -> String) -> Result<()> {
        match self.ask(op, what) {
            Verdict::Go => Ok(()),
            Verdict::Fail(e) | Verdict::Torn(_, e) => Err(e),
        }
    }
    fn stall<'a>(&'a self, mut s: MutexGuard<'a, State>, n: u64) -> MutexGuard<'a, State> {
        s.waiting += 1;
        self.changed.notify_all();
        while s.stalls.contains(&n) {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
        s.waiting -= 1;
        s
    }
}

/// A small mixing function (splitmix64): deterministic choices from a seed.
pub(crate) fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
