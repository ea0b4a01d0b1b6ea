//! What a store really does, tried out by `init` and `check --store`: whether of racing creators exactly one wins, and
//! whether what was written is read and listed at once. A store where two creators win (some S3 servers ignore the
//! condition) gets one writer only, and its user is told so.

use super::{Part, Put, Store, StoreExt};
use crate::{Kind, Result};
use rekindle_core::volume::ByteRange;
use std::sync::Barrier;
use std::time::{Duration, Instant};

/// Creators that race for one name.
const CREATORS: usize = 4;
/// Names raced for, unless time is up before.
const ROUNDS: usize = 8;
/// No round begins after this.
const TIME: Duration = Duration::from_millis(700);

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Of racing creators exactly one won, every time: several writers at once are safe.
    pub several_writers: bool,
    /// Names raced for.
    pub rounds: usize,
    /// What the store does not do as it must, for a person; empty for a good store.
    pub faults: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Tries the store out under a fresh name and removes what it made. Takes less than a second on a store that answers
/// in tens of milliseconds. An error means that the store cannot be used at all (read-only, full, away).
pub fn probe(store: &dyn Store) -> Result<Probe> {
    let begin = Instant::now();
    let folder = format!("probe/{}", crate::random::uuid());
    let mut found = Probe { several_writers: true, rounds: 0, faults: Vec::new(), took: Duration::ZERO };
    let mut result = Ok(());
    while result.is_ok() && found.rounds < ROUNDS && (found.rounds == 0 || begin.elapsed() < TIME) {
        let name = format!("{folder}/{}", found.rounds);
        result = race(store, &name, &mut found);
        found.rounds += 1;
    }
    if result.is_ok() {
        result = read_and_list(store, &folder, &mut found);
    }
    for round in 0..found.rounds {
        // A leftover of a probe is a few bytes that no reader looks at.
        let _ = store.delete(&format!("{folder}/{round}"));
    }
    found.took = begin.elapsed();
    result.map(|()| found)
}

/// Several creators, one name.
fn race(store: &dyn Store, name: &str, found: &mut Probe) -> Result<()> {
    let barrier = Barrier::new(CREATORS);
    let answers: Vec<(usize, Result<Put>)> = std::thread::scope(|s| {
        let creators: Vec<_> = (0..CREATORS)
            .map(|me| {
                let barrier = &barrier;
                s.spawn(move || {
                    barrier.wait();
                    (me, store.put_new(name, &[&token(me)]))
                })
            })
            .collect();
        creators.into_iter().filter_map(|c| c.join().ok()).collect()
    });
    let there = store.get(name, Part::All);
    let (mut won, mut doubtful) = (0, 0);
    for (me, answer) in answers {
        match answer {
            Ok(Put::Created) if there.as_ref().is_ok_and(|t| *t == token(me)) => won += 1,
            Ok(Put::Created) => {
                found.several_writers = false;
                found.faults.push("a creator was told that it won, and its bytes are not there".into());
            }
            Ok(Put::Exists) => {}
            // Ambiguous answers are legal: the bytes decide.
            Err(e) if matches!(e.kind, Kind::Retry | Kind::Unavailable) => doubtful += 1,
            Err(e) => return Err(e),
        }
    }
    there?;
    if won > 1 || (won == 0 && doubtful == 0) {
        found.several_writers = false;
        found.faults.push(format!("of {CREATORS} creators of one name, {won} were told that they won"));
    }
    Ok(())
}

fn read_and_list(store: &dyn Store, folder: &str, found: &mut Probe) -> Result<()> {
    let name = format!("{folder}/0");
    let whole = store.get(&name, Part::All)?;
    let middle = store.get(&name, Part::Range(ByteRange::new(3, 5)))?;
    let mut fault = |bad: bool, what: &str| {
        if bad {
            found.faults.push(what.into());
        }
    };
    fault(
        whole.get(3..8) != Some(&middle[..]),
        "a read of a range gives other bytes than a read of the whole",
    );
    fault(store.head(&name)? != Some(whole.len() as u64), "an object has another size than its bytes");
    let listed = store.list(&format!("{folder}/"), "", ROUNDS + 1)?;
    fault(!listed.iter().any(|e| e.name == name), "an object just written is not listed");
    fault(!listed.is_sorted_by(|a, b| a.name < b.name), "names are not listed in byte order");
    store.delete(&name)?;
    fault(store.head(&name)?.is_some(), "an object just deleted is still there");
    Ok(())
}

fn token(me: usize) -> [u8; 32] {
    std::array::from_fn(|i| (i * 7 + me * 41) as u8)
}

#[cfg(test)]
mod tests {
    use super::super::{Entry, Fault, FaultyStore, GetDone, MemStore};
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_good_store_is_found_good_and_left_empty() {
        let s = MemStore::new();
        let p = probe(&s).unwrap();
        assert!(p.several_writers && p.faults.is_empty() && p.rounds == ROUNDS, "{p:?}");
        assert_eq!(s.list_all("").unwrap(), []);
    }

    /// Tells every creator that it won: the last one's bytes stay or the first one's, both are found out.
    struct Careless(MemStore);
    impl Store for Careless {
        fn place(&self) -> String {
            self.0.place()
        }
        fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
            self.0.put_new(name, parts).map(|_| Put::Created)
        }
        fn start_get(&self, name: &str, part: Part, done: GetDone) {
            self.0.start_get(name, part, done)
        }
        fn head(&self, name: &str) -> Result<Option<u64>> {
            self.0.head(name)
        }
        fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>> {
            self.0.list(prefix, after, limit)
        }
        fn delete(&self, name: &str) -> Result<()> {
            self.0.delete(name)
        }
        fn answers_inline(&self) -> bool {
            true
        }
    }

    #[test]
    fn a_store_where_two_win_is_found_out() {
        let p = probe(&Careless(MemStore::new())).unwrap();
        assert!(!p.several_writers && !p.faults.is_empty(), "{p:?}");
    }

    #[test]
    fn ambiguous_answers_are_no_fault_a_read_only_store_is_an_error() {
        let s = FaultyStore::new(Arc::new(MemStore::new()));
        (0..CREATORS as u64).for_each(|op| s.fail_at(op, Fault::AnswerLost));
        assert!(probe(&s).unwrap().several_writers);
        s.fail_next(Fault::Error(Kind::ReadOnly));
        assert_eq!(probe(&s).unwrap_err().kind, Kind::ReadOnly);
        assert_eq!(s.list_all("").unwrap(), []);
    }
}
