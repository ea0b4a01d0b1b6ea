//! Goal: a write with FUA on a restoring volume is durable when it is answered, on each of its ways through the log. Method:
//! the power is cut at the very moment of the answer, several ways. And: what entered the log in part arrives whole.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_engine::restore::RestoreSet;
use rekindle_io::Kind;
use rekindle_io::block::{Answer, Block, BlockExt, Completion, CompletionSink, Op, Request};
use rekindle_io::fault::Crash;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the power leaves, several ways.
fn cut(m: &Machine) -> Vec<Machine> {
    (0..8).map(|seed| m.after(Crash::Power { seed })).collect()
}

fn first_byte(m: &Machine, at: u64) -> u8 {
    // What was lost is to be seen, not waited for.
    m.holder.set_available(true);
    let mut out = [0; 512];
    m.resume().unwrap().volumes()[0].read_at(at, &mut out).unwrap();
    assert!(out.iter().all(|b| *b == out[0]), "torn");
    out[0]
}

/// Cuts the power when an answer comes.
struct AtAnswer(Machine, Mutex<Vec<(u64, bool, Vec<Machine>)>>);
impl CompletionSink for AtAnswer {
    fn complete(&self, c: Completion) {
        self.1.lock().unwrap().push((c.token, c.result.is_ok(), cut(&self.0)));
    }
    fn abandoned(&self) -> bool {
        false
    }
}

/// The answer, and the machines after it; `None`: it waits.
fn write(
    m: &Machine,
    set: &RestoreSet,
    sink: &Arc<AtAnswer>,
    token: u64,
    at: u64,
    data: &[u8],
    fua: bool,
) -> Option<Vec<Machine>> {
    let sink: Arc<dyn CompletionSink> = sink.clone();
    let mut answers = Vec::new();
    let mut batch = [Request { token, offset: at, op: Op::Write { data, fua } }];
    set.volumes()[0].submit(&mut batch, &mut answers, &sink);
    match answers.pop().unwrap() {
        Answer::Done(r) => {
            r.unwrap();
            Some(cut(m))
        }
        Answer::Later => None,
    }
}

fn all_have(after: &[Machine], at: u64, byte: u8) {
    assert_eq!(after.iter().map(|m| first_byte(m, at)).collect::<Vec<_>>(), vec![byte; after.len()]);
}

#[test]
fn a_write_with_fua_is_durable_when_it_is_answered() {
    let m = Machine::new();
    let set = m.create();
    let sink = Arc::new(AtAnswer(m.clone(), Mutex::default()));
    // There is room.
    let after = write(&m, &set, &sink, 1, 3 * EXTENT, &[7; 512], true).expect("there is room");
    all_have(&after, 3 * EXTENT, 7);
    // Nothing can leave the log, until a write waits.
    m.holder.set_available(false);
    let mut extent = 100;
    while write(&m, &set, &sink, extent, extent * EXTENT + 512, &[extent as u8; 8192], false).is_some() {
        set.log_step().unwrap();
        extent += 1;
        assert!(extent < 200, "the log is bounded");
    }
    // Behind it, one that needs no fetch has room still: it passes.
    set.volumes()[0].flush().unwrap();
    let after = write(&m, &set, &sink, 2, 30 * EXTENT, &[8; EXTENT as usize], true).expect("the last eighth");
    all_have(&after, 30 * EXTENT, 8);
    // And one has to wait itself.
    assert!(write(&m, &set, &sink, 3, 40 * EXTENT + 512, &[9; 512], true).is_none());
    m.holder.set_available(true);
    for _ in 0..100 {
        m.clock.advance(Duration::from_millis(50));
        set.log_step().unwrap();
        set.mover_step(false).unwrap();
    }
    let came = std::mem::take(&mut *sink.1.lock().unwrap());
    let (_, ok, after) = came.into_iter().find(|c| c.0 == 3).expect("answered");
    assert!(ok);
    all_have(&after, 40 * EXTENT + 512, 9);
}

/// A large write enters the log in part, at once and again whenever there is room; each part goes where it belongs.
#[test]
fn a_write_larger_than_the_log_arrives_whole() {
    const LEN: usize = 768 << 10;
    let m = Machine::new();
    let set = m.create();
    let sink = Arc::new(AtAnswer(m.clone(), Mutex::default()));
    let data: Vec<u8> = (0..LEN / 8).flat_map(|i| (i as u64 + 1).to_le_bytes()).collect();
    let at = 100 * EXTENT;
    assert!(write(&m, &set, &sink, 1, at, &data, true).is_none(), "the log has 256 KiB");
    for _ in 0..200 {
        m.clock.advance(Duration::from_millis(50));
        set.log_step().unwrap();
        set.mover_step(false).unwrap();
    }
    let came = std::mem::take(&mut *sink.1.lock().unwrap());
    assert!(came.len() == 1 && came[0].1);
    let read = |set: &RestoreSet| {
        let mut out = vec![0; LEN + 2 * EXTENT as usize];
        set.volumes()[0].read_at(at - EXTENT, &mut out).unwrap();
        out
    };
    let mut want = vec![0; LEN + 2 * EXTENT as usize];
    m.holder.truth(99, &mut want[..EXTENT as usize]);
    want[EXTENT as usize..][..LEN].copy_from_slice(&data);
    m.holder.truth(148, &mut want[LEN + EXTENT as usize..]);
    assert!(read(&set) == want);
    for after in &came[0].2 {
        assert!(read(&after.resume().unwrap()) == want);
    }
}

/// A flush that fails is an answer that says so, to a write that waited too. Method: each operation on the state fails once.
#[test]
fn a_write_with_fua_that_waited_is_durable_or_says_that_it_failed() {
    let mut failed = 0;
    for k in 0..60 {
        let m = Machine::new();
        let set = m.create();
        let sink = Arc::new(AtAnswer(m.clone(), Mutex::default()));
        let mut extent = 100;
        while write(&m, &set, &sink, extent, extent * EXTENT, &[1; EXTENT as usize], false).is_some() {
            set.log_step().unwrap();
            extent += 1;
        }
        assert!(write(&m, &set, &sink, 3, 40 * EXTENT, &[9; EXTENT as usize], true).is_none());
        m.plan.fail_at(m.plan.count() + k, Kind::Failed);
        for _ in 0..100 {
            m.clock.advance(Duration::from_millis(50));
            let _what_failed_is_answered = (set.log_step(), set.mover_step(false));
        }
        let came = std::mem::take(&mut *sink.1.lock().unwrap());
        match came.into_iter().find(|c| c.0 == 3) {
            Some((_, true, after)) => all_have(&after, 40 * EXTENT, 9),
            Some(_) => failed += 1,
            None => {}
        }
    }
    assert!(failed > 0, "its flush never failed");
}
