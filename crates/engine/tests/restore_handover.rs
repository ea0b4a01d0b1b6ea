//! Goal: the rules of a hand-over that no crash of one thread shows. Method: the record fails, one of its copies is damaged,
//! a backup begins in between, a removal is cut short.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_engine::backup::SetInstant;
use rekindle_engine::restore::{Heat, Phase, RestoreSet, RestoreState, Settling, VolumeParts, clear, peek};
use rekindle_io::Kind;
use rekindle_io::block::BlockExt;
use rekindle_io::fault::{Crash, FaultOp};
use rekindle_io::logfile::{FaultyDir, LogDir};
use std::sync::{Arc, Mutex};

/// A set that is complete, with a write of the guest in its log.
fn complete(m: &Machine) -> Arc<RestoreSet> {
    let set = m.complete();
    set.volumes()[0].write_at(MID * EXTENT, &[7; 512]).unwrap();
    set
}

/// Nothing may be written to the destination directly unless the record says so.
#[test]
fn a_hand_over_whose_record_fails_does_not_switch() {
    let m = Machine::new();
    let set = complete(&m);
    let fails = After(|_: &[Settling]| {
        m.plan.fail_next(FaultOp::Write, Kind::Failed);
        Ok(())
    });
    let e = set.hand_over(&fails, true).unwrap_err();
    assert_eq!((e.kind, set.status().state), (Kind::Failed, RestoreState::Failed));
    // Which of the two is found the next time is not known: a log that nobody reads would lose this.
    let volume = &set.volumes()[0];
    assert!(volume.write_at(MID * EXTENT, &[8; 512]).is_err() && volume.flush().is_err());
    let mut out = [0; 512];
    volume.read_at(MID * EXTENT, &mut out).unwrap();
    assert_eq!(out, [7; 512]);
    assert_eq!(peek(&*m.dir).unwrap().unwrap().phase, Phase::Restoring);
}

/// Log and state are gone: no copy of the record may send anybody back to them.
#[test]
fn both_copies_of_the_record_say_live() {
    for copy in [0, 1] {
        let m = Machine::new();
        complete(&m).hand_over(&as_is(), true).unwrap();
        let after = m.dir.crash(Crash::Power { seed: copy });
        damage_record(&*after, copy);
        assert_eq!(peek(&*after).unwrap().unwrap().phase, Phase::Live, "copy {copy}");
    }
}

/// The guest waits for what the holder, which is away, has; then it overwrites that, and nothing is missing. Nobody asks the
/// holder once the set is live, nor looks how long somebody waits.
#[test]
fn a_read_that_waits_for_the_holder_is_answered_at_the_hand_over() {
    let m = Machine::new();
    let set = m.create();
    set.fetch(0, &(0..EXTENTS).filter(|e| *e != MID).collect::<Vec<_>>(), Heat::Cold);
    m.holder.set_available(false);
    assert!(m.read(&set, 3, MID * EXTENT - 512, 1024).is_none());
    assert!(m.read(&set, 4, MID * EXTENT + 512, 512).is_none());
    set.volumes()[0].write_at(MID * EXTENT, &vec![7; EXTENT as usize]).unwrap();
    settle(&set);
    assert!(set.is_complete() && m.came().is_empty());
    // Given up or not: they have their answer.
    set.hand_over(&full(), true).unwrap_err();
    let mut came = m.came();
    came.sort_by_key(|c| c.token);
    let [one, other] = &came[..] else { panic!("{came:?}") };
    assert_eq!((one.token, other.token, other.result.as_deref().unwrap()), (3, 4, &[7; 512][..]));
    let before = m.truth(MID - 1)[EXTENT as usize - 512..].to_vec();
    assert_eq!(*one.result.as_ref().unwrap(), [before, vec![7; 512]].concat());
    set.timer_step();
    set.hand_over(&as_is(), true).unwrap();
    assert!(m.came().is_empty());
}

/// A backup that begins while the hand-over moves the last of the log reads its instant; the hand-over comes again.
#[test]
fn a_backup_that_begins_during_the_approach_holds_the_hand_over_up() {
    let m = Machine::new();
    let disk = During::new(&m.disk);
    let set = m.create_of(VolumeParts { target: disk.clone(), ..m.parts() });
    fill(&set);
    settle(&set);
    set.volumes()[0].write_at(MID * EXTENT, &[7; 512]).unwrap();
    let instant: Arc<Mutex<Option<Box<dyn SetInstant>>>> = Arc::default();
    disk.at_next_flush({
        let (set, instant) = (set.clone(), instant.clone());
        move || *instant.lock().unwrap() = Some(set.instant().unwrap())
    });
    let e = set.hand_over(&as_is(), true).unwrap_err();
    assert!(e.kind == Kind::Busy && e.what.contains("a backup of this set has begun"), "{e:?}");
    set.volumes()[0].write_at(MID * EXTENT, &[9; 512]).unwrap();
    let taken = instant.lock().unwrap().take().unwrap();
    let mut out = vec![0; EXTENT as usize];
    taken.volumes()[0].read(MID, &mut out).unwrap();
    assert_eq!(out[..512], [7; 512]);
    drop(taken);
    set.hand_over(&as_is(), true).unwrap();
}

/// A folder without its record is no restore; so the record goes last, whatever of the removals a power cut takes back.
#[test]
fn what_is_cleared_says_what_it_was_until_all_of_it_is_gone() {
    for k in 0..8 {
        for seed in 0..3 {
            let m = Machine::new();
            drop(complete(&m));
            m.plan.die_at(m.plan.count() + k);
            let cleared = clear(&*FaultyDir::new(m.dir.clone(), m.plan.clone()));
            let after = m.dir.crash(Crash::Power { seed });
            let left = after.names().unwrap();
            assert!(left.is_empty() || left.iter().any(|n| n == "restore"), "{k} {seed}: {left:?}");
            assert!(cleared.is_err() || k > 3);
        }
    }
}
