//! Goal: state and destination stay together through hand-overs that were given up, stores that found no space and stops that
//! found a settling under way; and no other disk takes the place of the destination then. Method: the machine dies, loses
//! power or is full at the very step, then each of the disks is offered.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_engine::restore::{Heat, PlanRecord, RestoreSet, RestoreState, Settling, Step, Verifier, peek};
use rekindle_io::block::MemBlock;
use rekindle_io::fault::{Crash, FaultOp};
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind};

/// Died where the edges are in place of the label, and the record does not say live yet.
fn dies_in_a_hand_over(m: &Machine, set: &RestoreSet) {
    let die = After(|_: &[Settling]| {
        m.plan.die_now();
        Err(Error::new(Kind::Cancelled, "dead"))
    });
    set.hand_over(&die, true).unwrap_err();
}

/// How many stamps the record names.
fn named(plan: &PlanRecord) -> usize {
    serde_json::to_value(plan).unwrap()["stamps"].as_array().unwrap().len()
}

/// Blank it would pass for a destination whose edges were being written back, if the record still spoke of that.
fn refuses_a_blank_disk(m: &Machine) {
    let e = m.resume_on(MemBlock::new(SIZE)).map(drop).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.what.contains("does not carry the label"), "{e:?}");
}

#[test]
fn after_a_hand_over_that_was_given_up_its_destination_goes_on_and_no_other() {
    let m = Machine::new();
    let set = m.complete();
    assert_eq!(set.hand_over(&full(), true).unwrap_err().kind, Kind::Full);
    refuses_a_blank_disk(&m.after(Crash::Kill));
    for seed in 0..8 {
        // The label was flushed before the record relied on it.
        let after = m.after(Crash::Power { seed });
        let set = after.resume().unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        assert!(read(&set, 0) == m.truth(0) && read(&set, EXTENTS - 1) == m.truth(EXTENTS - 1));
    }
}

#[test]
fn after_a_hand_over_that_was_cut_short_its_destination_goes_on_and_no_other() {
    let m = Machine::new();
    dies_in_a_hand_over(&m, &m.complete());
    let m = m.after(Crash::Kill);
    // With the label gone by rights, another one is told all the same.
    let other = Machine::new();
    drop(other.create());
    let e = m.resume_on(other.disk).map(drop).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.what.contains("of another restore"), "{e:?}");
    drop(m.resume().unwrap());
    // Labelled anew by that, durably, before anything was settled.
    refuses_a_blank_disk(&m);
    (0..8).for_each(|seed| drop(m.after(Crash::Power { seed }).resume().unwrap()));
    let set = m.resume().unwrap();
    assert!(read(&set, 0) == m.truth(0));
}

/// What verification mended in the edges is durable there before it is put in place: else the destination would differ from
/// the state that judges it.
#[test]
fn edges_that_were_mended_are_durable_before_they_are_put_in_place() {
    for seed in 0..8 {
        let m = Machine::new();
        let set = m.complete();
        let edges = m.dir.open("edges-0").unwrap().unwrap();
        edges.write_at(3 * EXTENT, &[&[0xbb; EXTENT as usize]]).and_then(|()| edges.sync()).unwrap();
        let mut verifier = Verifier::default();
        set.verify_step(&mut verifier).unwrap();
        assert_eq!(verifier.mended, 1);
        dies_in_a_hand_over(&m, &set);
        let set = m.after(Crash::Power { seed }).resume().unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        assert!(read(&set, 3) == m.truth(3));
    }
}

/// Each stamp that is named is one more copy that is not refused, and the record is bounded.
#[test]
fn a_record_that_finds_no_space_names_no_more_stamps_than_there_can_be() {
    let m = Machine::new();
    let set = m.create();
    set.fetch(0, &[MID], Heat::Cold);
    for _ in 0..100 {
        m.plan.fail_next(FaultOp::Write, Kind::Full);
        set.mover_step(true).unwrap();
    }
    assert_eq!(set.status().trouble.map(|why| why.contains("restore record")), Some(true));
    m.plan.heal();
    while named(&peek(&*m.dir).unwrap().unwrap()) == 1 {
        assert_eq!(set.mover_step(true).unwrap(), Step::Worked);
    }
    assert_eq!(named(&set.plan()), 2, "the one that is there, the one that is to come");
    settle(&set);
    assert!(set.is_settled() && set.status().state != RestoreState::Failed);
}

/// A stop names a stamp of its own, and whoever still settles does not take that back.
#[test]
fn a_settling_that_ends_behind_a_stop_leaves_the_stamp_of_the_stop() {
    for steps in 0..9 {
        let m = Machine::new();
        let set = m.create();
        set.fetch(0, &[MID], Heat::Cold);
        for _ in 0..steps {
            set.mover_step(true).unwrap();
        }
        // The settling that is under way waits for space; the stop finds some.
        m.plan.fail_next(FaultOp::Write, Kind::Full);
        set.stop().unwrap();
        work(&set);
        drop(set);
        let set = m.resume().unwrap_or_else(|e| panic!("{steps} steps: {e:?}"));
        assert!(read(&set, MID) == m.truth(MID));
    }
}
