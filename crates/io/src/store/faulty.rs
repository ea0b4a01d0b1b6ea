//! A store that fails on purpose. It stands in front of another store; operations are counted from 0, and a fault is
//! planned for one of them ("every I/O point": run once to count, then once for each number).

use super::{Entry, GetDone, Part, Put, Store};
use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One operation of the port.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum StoreOp {
    /// `put_new`
    Put,
    /// `start_get`
    Get,
    /// `head`
    Head,
    /// `list`
    List,
    /// `delete`
    Delete,
}

/// What happens to one operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// Nothing is done; this kind of error is the answer.
    Error(Kind),
    /// It is done, but the answer is `Kind::Unavailable`: the ambiguous create.
    AnswerLost,
    /// Nothing is done, and nothing from here on until [`FaultyStore::set_available`]: the process or the link died before.
    Dies,
    /// It is done, the answer is lost, and nothing from here on: the process or the link died after.
    DiesAfter,
    /// A read brings this many bytes less than asked for, as a broken server would. Other operations go unharmed.
    Truncate(usize),
    /// A read comes with bit 0 of byte n (modulo its length) flipped. Other operations go unharmed.
    Flip(usize),
}

/// What was asked of a store so far, faults included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// All operations.
    pub ops: u64,
    /// `put_new`
    pub puts: u64,
    /// `start_get`
    pub gets: u64,
    /// `head`
    pub heads: u64,
    /// `list`
    pub lists: u64,
    /// `delete`
    pub deletes: u64,
    /// Bytes handed to `put_new`.
    pub bytes_up: u64,
    /// Bytes that reads answered.
    pub bytes_down: u64,
}

type Hook = Arc<dyn Fn(u64, StoreOp, &str) + Send + Sync>;

#[derive(Default)]
struct Plan {
    counts: Counts,
    faults: BTreeMap<u64, Fault>,
    away: bool,
    delay: Duration,
    hook: Option<Hook>,
    held: Option<Vec<Box<dyn FnOnce() + Send>>>,
}

/// The decorator.
pub struct FaultyStore {
    inner: Arc<dyn Store>,
    plan: Arc<Mutex<Plan>>,
}

impl FaultyStore {
    /// In front of `inner`, without faults so far.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        FaultyStore { inner, plan: Arc::default() }
    }
    /// Operation number `op` (counted from 0 since the beginning) suffers `fault`.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.lock().faults.insert(op, fault);
    }
    /// The next operation suffers `fault`.
    pub fn fail_next(&self, fault: Fault) {
        let mut p = self.lock();
        let next = p.counts.ops;
        p.faults.insert(next, fault);
    }
    /// Forgets planned faults that have not happened.
    pub fn clear_faults(&self) {
        self.lock().faults.clear();
    }
    /// Away: every operation is answered `Kind::Unavailable` and does nothing. Back: as before.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }
    /// Reads are answered from another thread after this time; other operations take it on the asking thread.
    pub fn set_delay(&self, delay: Duration) {
        self.lock().delay = delay;
    }
    /// Reads are kept unanswered until [`FaultyStore::release`], so that a test decides what happens meanwhile.
    pub fn hold_reads(&self) {
        self.lock().held.get_or_insert_with(Vec::new);
    }
    /// Answers up to `n` held reads on this thread, oldest first; returns how many. The rest stay held.
    pub fn release(&self, n: usize) -> usize {
        let mut batch: Vec<_> = match &mut self.lock().held {
            Some(held) => held.drain(..n.min(held.len())).collect(),
            None => Vec::new(),
        };
        let count = batch.len();
        batch.drain(..).for_each(|answer| answer());
        count
    }
    /// Answers all held reads and holds no more.
    pub fn release_all(&self) {
        let held = self.lock().held.take();
        held.into_iter().flatten().for_each(|answer| answer());
    }
    /// Called before every operation with its number, without a lock held: a test lets another actor go between.
    pub fn set_hook(&self, hook: impl Fn(u64, StoreOp, &str) + Send + Sync + 'static) {
        self.lock().hook = Some(Arc::new(hook));
    }
    /// What was asked so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }
    /// The store behind.
    pub fn inner(&self) -> &Arc<dyn Store> {
        &self.inner
    }

    fn lock(&self) -> MutexGuard<'_, Plan> {
        lock(&self.plan)
    }

    /// Counts the operation and says what is planned for it.
    fn begin(&self, op: StoreOp, name: &str, up: u64) -> (Option<Fault>, Duration) {
        let (number, hook) = {
            let mut p = self.lock();
            let number = p.counts.ops;
            p.counts.count(op, up);
            (number, p.hook.clone())
        };
        if let Some(hook) = hook {
            hook(number, op, name);
        }
        let mut p = self.lock();
        let fault = match p.faults.remove(&number) {
            _ if p.away => Some(Fault::Dies),
            other => other,
        };
        if matches!(fault, Some(Fault::Dies | Fault::DiesAfter)) {
            p.away = true;
        }
        (fault, p.delay)
    }

    /// An operation without a body to damage.
    fn plain<T>(&self, op: StoreOp, name: &str, up: u64, run: impl FnOnce() -> Result<T>) -> Result<T> {
        let (fault, delay) = self.begin(op, name, up);
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        match fault {
            None | Some(Fault::Truncate(_) | Fault::Flip(_)) => run(),
            Some(Fault::Error(kind)) => Err(planned(kind, op, name)),
            Some(Fault::Dies) => Err(planned(Kind::Unavailable, op, name)),
            Some(Fault::AnswerLost | Fault::DiesAfter) => {
                // Whatever came of it, nobody hears.
                let _ = run();
                Err(planned(Kind::Unavailable, op, name))
            }
        }
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

fn planned(kind: Kind, op: StoreOp, name: &str) -> Error {
    Error::new(kind, format!("{op:?} {name}: planned fault"))
}

impl Counts {
    fn count(&mut self, op: StoreOp, up: u64) {
        self.ops += 1;
        self.bytes_up += up;
        *match op {
            StoreOp::Put => &mut self.puts,
            StoreOp::Get => &mut self.gets,
            StoreOp::Head => &mut self.heads,
            StoreOp::List => &mut self.lists,
            StoreOp::Delete => &mut self.deletes,
        } += 1;
    }
}

/// What a read brings under `fault`.
fn spoil(answer: Result<Vec<u8>>, fault: Option<Fault>, name: &str) -> Result<Vec<u8>> {
    let mut bytes = answer?;
    match fault {
        Some(Fault::Truncate(n)) => bytes.truncate(bytes.len().saturating_sub(n)),
        Some(Fault::Flip(n)) if !bytes.is_empty() => {
            let at = n % bytes.len();
            bytes[at] ^= 1;
        }
        Some(Fault::AnswerLost | Fault::DiesAfter) => {
            return Err(planned(Kind::Unavailable, StoreOp::Get, name));
        }
        _ => {}
    }
    Ok(bytes)
}

impl Store for FaultyStore {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
        let up = parts.iter().map(|p| p.len() as u64).sum();
        self.plain(StoreOp::Put, name, up, || self.inner.put_new(name, parts))
    }

    fn start_get(&self, name: &str, part: Part, done: GetDone) {
        let (fault, delay) = self.begin(StoreOp::Get, name, 0);
        let plan = self.plan.clone();
        let shown = name.to_string();
        let done: GetDone = Box::new(move |answer| {
            let answer = spoil(answer, fault, &shown);
            if let Ok(bytes) = &answer {
                lock(&plan).counts.bytes_down += bytes.len() as u64;
            }
            done(answer);
        });
        let inner = self.inner.clone();
        let name = name.to_string();
        let run: Box<dyn FnOnce() + Send> = Box::new(move || match fault {
            Some(Fault::Error(kind)) => done(Err(planned(kind, StoreOp::Get, &name))),
            Some(Fault::Dies) => done(Err(planned(Kind::Unavailable, StoreOp::Get, &name))),
            _ => inner.start_get(&name, part, done),
        });
        let run = match &mut self.lock().held {
            Some(held) => return held.push(run),
            None => run,
        };
        if delay.is_zero() {
            run();
        } else {
            std::thread::spawn(move || {
                std::thread::sleep(delay);
                run();
            });
        }
    }

    fn head(&self, name: &str) -> Result<Option<u64>> {
        self.plain(StoreOp::Head, name, 0, || self.inner.head(name))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>> {
        self.plain(StoreOp::List, prefix, 0, || self.inner.list(prefix, after, limit))
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.plain(StoreOp::Delete, name, 0, || self.inner.delete(name))
    }

    fn answers_inline(&self) -> bool {
        let p = self.lock();
        self.inner.answers_inline() && p.delay.is_zero() && p.held.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{MemStore, StoreExt};
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    fn store() -> FaultyStore {
        FaultyStore::new(Arc::new(MemStore::new()))
    }

    #[test]
    fn without_faults_it_conforms() {
        super::super::kit::check(&|| Arc::new(store()));
    }

    #[test]
    fn an_ambiguous_create_lands() {
        let s = store();
        s.fail_next(Fault::AnswerLost);
        assert_eq!(s.put_new("a", &[b"1"]).unwrap_err().kind, Kind::Unavailable);
        assert_eq!(s.put_new("a", &[b"1"]).unwrap(), Put::Exists);
        assert_eq!(s.get("a", Part::All).unwrap(), b"1");
    }

    #[test]
    fn dying_before_does_nothing_dying_after_does_it_and_both_stay_away() {
        for (fault, lands) in [(Fault::Dies, false), (Fault::DiesAfter, true)] {
            let s = store();
            s.fail_at(1, fault);
            s.put_new("a", &[b"1"]).unwrap();
            assert_eq!(s.put_new("b", &[b"2"]).unwrap_err().kind, Kind::Unavailable);
            assert_eq!(s.head("a").unwrap_err().kind, Kind::Unavailable);
            s.set_available(true);
            assert_eq!((s.head("a").unwrap(), s.head("b").unwrap().is_some()), (Some(1), lands));
        }
    }

    #[test]
    fn reads_are_spoiled_held_and_counted() {
        let s = store();
        s.put_new("a", &[b"abcd"]).unwrap();
        s.fail_at(1, Fault::Truncate(3));
        s.fail_at(2, Fault::Flip(5));
        s.fail_at(3, Fault::Error(Kind::Retry));
        assert_eq!(s.get("a", Part::All).unwrap(), b"a");
        assert_eq!(s.get("a", Part::All).unwrap(), b"accd");
        assert_eq!(s.get("a", Part::All).unwrap_err().kind, Kind::Retry);
        let answered = Arc::new(AtomicU64::new(0));
        s.hold_reads();
        assert!(!s.answers_inline());
        for _ in 0..3 {
            let answered = answered.clone();
            s.start_get(
                "a",
                Part::All,
                Box::new(move |r| {
                    answered.fetch_add(r.unwrap().len() as u64, Ordering::SeqCst);
                }),
            );
        }
        assert_eq!(
            (answered.load(Ordering::SeqCst), s.release(1), answered.load(Ordering::SeqCst)),
            (0, 1, 4)
        );
        s.release_all();
        assert_eq!(answered.load(Ordering::SeqCst), 12);
        s.set_delay(Duration::from_millis(1));
        assert_eq!(s.get("a", Part::Tail(1)).unwrap(), b"d");
        let want = Counts { ops: 8, puts: 1, gets: 7, bytes_up: 4, bytes_down: 18, ..Counts::default() };
        assert_eq!(s.counts(), want);
    }

    #[test]
    fn the_hook_runs_between() {
        let s = store();
        let behind = s.inner().clone();
        s.set_hook(move |_, op, name| {
            if op == StoreOp::Put {
                behind.put_new(name, &[b"theirs"]).unwrap();
            }
        });
        assert_eq!(s.put_new("a", &[b"ours"]).unwrap(), Put::Exists);
        assert_eq!(s.get("a", Part::All).unwrap(), b"theirs");
    }
}
