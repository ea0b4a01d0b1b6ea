//! Goal: the claim protocol and the reuse of log space over all interleavings of threads (invariant 3, rules `claim`,
//! `local_only`, `log_first`, `epoch`, `cas_free` of the write path). Method: shuttle explores random schedules of the real
//! claim table around a medium, a log and a holder of one extent; each rule is also broken, and must be missed.
//! `cargo test -p rekindle-engine --features shuttle --lib shuttle_tests`

use super::claims::Claims;
use rekindle_core::hydrate::Place;
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

const MOMENT: u64 = 7;

#[derive(Clone, Copy, Default)]
struct Broken {
    look: bool,
    claim: bool,
    log_first: bool,
    cas: bool,
}

/// One extent: what the target holds, what the log holds (sequence = value), what was answered.
struct Extent {
    claims: Claims,
    target: Mutex<u64>,
    log: Mutex<Option<u64>>,
    answered: Mutex<u64>,
    rules: Broken,
}

impl Extent {
    fn guest(&self) {
        for value in 100..103 {
            *self.log.lock().unwrap() = Some(value);
            *self.answered.lock().unwrap() = value;
        }
    }
    fn fill(&self) {
        // The fetch: long before the claim.
        let absent = self.claims.state(0).place() == Place::Absent;
        thread::yield_now();
        if !absent {
            return;
        }
        if self.rules.claim {
            *self.target.lock().unwrap() = MOMENT;
            self.claims.claim(0).release(Place::Local);
            return;
        }
        let claim = self.claims.claim(0);
        if claim.place() == Place::Absent || self.rules.look {
            *self.target.lock().unwrap() = MOMENT;
            claim.release(Place::Local);
        }
    }
    fn mover(&self) {
        for _ in 0..3 {
            let claim = self.claims.claim(0);
            // Looked at under the claim: the extent is covered whole, so it may be moved though it is absent.
            let Some(value) = *self.log.lock().unwrap() else { continue };
            *self.target.lock().unwrap() = value;
            claim.release(Place::Local);
            let mut log = self.log.lock().unwrap();
            if *log == Some(value) || self.rules.cas {
                *log = None;
            }
        }
    }
    fn from_state(&self) -> u64 {
        match self.claims.state(0).place() {
            Place::Absent => MOMENT,
            Place::Zero => 0,
            Place::Local => *self.target.lock().unwrap(),
        }
    }
    fn reader(&self) {
        for _ in 0..3 {
            let promised = *self.answered.lock().unwrap();
            let got = if self.rules.log_first {
                let state = self.from_state();
                self.log.lock().unwrap().unwrap_or(state)
            } else {
                let log = *self.log.lock().unwrap();
                log.unwrap_or_else(|| self.from_state())
            };
            assert!(got >= promised && (got == MOMENT || got >= 100), "read {got}, promised {promised}");
        }
    }
}

fn world(rules: Broken) {
    let e = Arc::new(Extent {
        claims: Claims::new(1),
        target: Mutex::new(0),
        log: Mutex::new(None),
        answered: Mutex::new(MOMENT),
        rules,
    });
    let run = |f: fn(&Extent)| {
        let e = e.clone();
        thread::spawn(move || f(&e))
    };
    let all = [run(Extent::guest), run(Extent::fill), run(Extent::mover), run(Extent::reader)];
    all.into_iter().for_each(|t| t.join().unwrap());
    e.reader();
}

fn found(rules: Broken) -> bool {
    std::panic::catch_unwind(|| shuttle::check_random(move || world(rules), 4_000)).is_err()
}

#[test]
fn a_guest_write_is_never_overwritten_by_older_data() {
    shuttle::check_random(|| world(Broken::default()), 4_000);
}

#[test]
fn without_the_second_look_it_is() {
    assert!(found(Broken { look: true, ..Broken::default() }));
}

#[test]
fn without_the_claim_it_is() {
    assert!(found(Broken { claim: true, ..Broken::default() }));
}

#[test]
fn asking_the_state_before_the_log_reads_the_past() {
    assert!(found(Broken { log_first: true, ..Broken::default() }));
}

#[test]
fn freeing_what_was_not_moved_loses_a_write() {
    assert!(found(Broken { cas: true, ..Broken::default() }));
}

/// The set counts as complete, and may be handed over, when nothing is missing: never while an extent is on its way.
#[test]
fn an_extent_on_its_way_from_absent_to_zero_is_missing() {
    shuttle::check_random(
        || {
            let claims = Arc::new(Claims::new(1));
            let fill = {
                let claims = claims.clone();
                thread::spawn(move || claims.claim(0).release(Place::Zero))
            };
            assert_ne!(claims.missing(), (0, 0));
            fill.join().unwrap();
            assert_eq!(claims.missing(), (0, 1));
        },
        1_000,
    );
}

/// Log space is used again only when every read that resolved to it has ended: the segment itself is what readers hold.
fn space(wait: bool) {
    let index = Arc::new(Mutex::new(Some(Arc::new(Mutex::new(1u64)))));
    let reader = {
        let index = index.clone();
        thread::spawn(move || {
            let held = index.lock().unwrap().clone();
            thread::yield_now();
            if let Some(segment) = held {
                assert_eq!(*segment.lock().unwrap(), 1, "a read returned another block's bytes");
            }
        })
    };
    let segment = index.lock().unwrap().take();
    let Some(mut segment) = segment else { return };
    loop {
        match Arc::try_unwrap(segment) {
            Ok(s) => {
                *s.lock().unwrap() = 2;
                break;
            }
            Err(held) if wait => {
                segment = held;
                thread::yield_now();
            }
            Err(held) => {
                *held.lock().unwrap() = 2;
                break;
            }
        }
    }
    reader.join().unwrap();
}

#[test]
fn space_is_reused_behind_the_last_reader() {
    shuttle::check_random(|| space(true), 2_000);
    assert!(std::panic::catch_unwind(|| shuttle::check_random(|| space(false), 2_000)).is_err());
}
