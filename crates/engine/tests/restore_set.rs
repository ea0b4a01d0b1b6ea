//! Goal: what a restoring set promises, one short story each. Method: ports in memory, every background step by hand.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Generation, Uuid};
use rekindle_engine::backup::Changed;
use rekindle_engine::restore::{
    Heat, Phase, RestoreSet, RestoreState, Settling, Step, Verifier, VolumeParts, clear, is_destination, peek,
};
use rekindle_io::Kind;
use rekindle_io::block::{Block, BlockExt, Info, MemBlock};
use rekindle_io::fault::{Crash, FaultOp};
use rekindle_io::logfile::{LogDir, MemDir};
use std::sync::Arc;
use std::time::Duration;

/// What the fill lands while the destination is being flushed is not covered by that flush.
#[test]
fn what_lands_during_a_flush_is_settled_by_the_next_one() {
    let b = Machine::new();
    let during = During::new(&b.disk);
    let set = b.create_of(VolumeParts { target: during.clone(), ..b.parts() });
    assert_eq!(set.fetch(0, &[MID], Heat::Cold), 1);
    let filling = set.clone();
    during.at_next_flush(move || assert_eq!(filling.fetch(0, &[MID + 1], Heat::Cold), 1));
    while during.waits() {
        set.mover_step(true).unwrap();
    }
    // The record names the stamp, then the pages become durable.
    (0..2).for_each(|_| assert_eq!(set.mover_step(true).unwrap(), Step::Worked));
    for seed in 0..8 {
        let after = b.after(Crash::Power { seed });
        let set = after.resume().unwrap();
        assert!(!set.is_absent(0, MID), "it was flushed, and its page is durable");
        let got = after.read(&set, 1, (MID + 1) * EXTENT, EXTENT as usize).unwrap().unwrap();
        assert!(got == b.truth(MID + 1), "seed {seed}: a page names what no flush has covered");
    }
}

#[test]
fn one_fetch_however_many_wait() {
    let b = Machine::new();
    let set = b.create();
    b.holder.hold();
    for token in 0..5 {
        assert!(b.read(&set, token, MID * EXTENT + token * 512, 512).is_none());
    }
    assert_eq!((b.holder.fetches_of(MID), set.status().reads_waiting), (1, 5));
    b.holder.release(1);
    let came = b.came();
    assert_eq!(came.len(), 5);
    for c in came {
        let at = c.token as usize * 512;
        assert_eq!(c.result.unwrap(), b.truth(MID)[at..at + 512]);
    }
    // It is here now: read at once, from the destination.
    assert_eq!(b.read(&set, 9, MID * EXTENT, 512).unwrap().unwrap(), b.truth(MID)[..512]);
    assert_eq!(b.holder.fetches_of(MID), 1);
}

#[test]
fn a_read_mixes_log_destination_and_holder() {
    let b = Machine::new();
    let set = b.create();
    assert_eq!(set.fetch(0, &[MID], Heat::Cold), 1);
    b.write(&set, 1, (MID + 1) * EXTENT - 512, &[7; 1024]).unwrap().unwrap();
    let got = b.read(&set, 2, MID * EXTENT, 2 * EXTENT as usize).unwrap().unwrap();
    let mut want = [b.truth(MID), b.truth(MID + 1)].concat();
    want[EXTENT as usize - 512..EXTENT as usize + 512].fill(7);
    assert!(got == want);
}

#[test]
fn a_write_over_a_whole_extent_cancels_its_fetch_in_part_it_waits_for_it() {
    let b = Machine::new();
    let set = b.create();
    b.holder.hold();
    set.fetch(0, &[MID, MID + 1], Heat::Cold);
    b.write(&set, 1, MID * EXTENT, &[3; EXTENT as usize]).unwrap().unwrap();
    b.write(&set, 2, (MID + 1) * EXTENT + 512, &[4; 512]).unwrap().unwrap();
    settle(&set);
    assert!(
        !set.is_absent(0, MID) && set.status().volumes[0].absent == 255,
        "covered whole: moved without a fetch"
    );
    b.holder.release(2);
    assert_eq!(b.read(&set, 3, MID * EXTENT, 512).unwrap().unwrap(), [3; 512]);
    settle(&set);
    let mut want = b.truth(MID + 1);
    want[512..1024].fill(4);
    assert!(set.is_settled());
    let mut got = vec![0; EXTENT as usize];
    b.disk.read_at((MID + 1) * EXTENT, &mut got).unwrap();
    assert!(got == want, "fetched, merged, written");
}

#[test]
fn trims_and_zeros_of_whole_extents_need_no_fetch() {
    let b = Machine::new();
    let set = b.create();
    set.volumes()[0].trim_at(MID * EXTENT, 3 * EXTENT).unwrap();
    set.volumes()[0].zero_at((MID + 9) * EXTENT, EXTENT).unwrap();
    b.holder.set_available(false);
    settle(&set);
    assert!(set.is_settled());
    for e in [MID, MID + 2, MID + 9] {
        assert_eq!(b.read(&set, 1, e * EXTENT, EXTENT as usize).unwrap().unwrap(), vec![0; EXTENT as usize]);
    }
    assert_eq!((b.holder.fetches(), set.status().volumes[0].absent), ((0, 0), 252));
}

#[test]
fn a_holder_that_is_away_stalls_reads_until_the_limit() {
    let b = Machine::new();
    let set = b.create();
    b.holder.set_available(false);
    assert!(b.read(&set, 1, MID * EXTENT, 512).is_none());
    assert_eq!(set.status().state, RestoreState::Stalled);
    // Everything that needs no fetch goes on.
    b.write(&set, 2, MID * EXTENT, &[1; 512]).unwrap().unwrap();
    assert_eq!(b.read(&set, 3, MID * EXTENT, 512).unwrap().unwrap(), [1; 512]);
    b.clock.advance(Duration::from_secs(5));
    set.timer_step();
    assert!(b.came().is_empty());
    b.holder.set_available(true);
    b.clock.advance(Duration::from_secs(4));
    set.timer_step();
    let came = b.came();
    assert_eq!(came.len(), 1, "tried again, and back");
    // A read keeps what it had resolved when it began.
    assert_eq!(came[0].result.as_ref().unwrap()[..], b.truth(MID)[..512]);
    b.holder.set_available(false);
    assert!(b.read(&set, 4, (MID + 50) * EXTENT, 512).is_none());
    b.clock.advance(Duration::from_secs(11));
    set.timer_step();
    assert_eq!(b.came().pop().unwrap().result.unwrap_err().kind, Kind::Unavailable);
}

#[test]
fn a_damaged_frame_is_an_error_and_never_data() {
    let b = Machine::new();
    let set = b.create();
    b.holder.set_damaged(MID, true);
    assert_eq!(b.read(&set, 1, MID * EXTENT, 512).unwrap().unwrap_err().kind, Kind::Corrupt);
    let damage = set.damage(1).volumes[0].1.clone();
    assert!(
        set.is_absent(0, MID) && damage.extents == 1 && damage.ranges[0].why.contains("authentication"),
        "{damage:?}"
    );
    b.holder.set_damaged(MID, false);
    assert_eq!(b.read(&set, 2, MID * EXTENT, 512).unwrap().unwrap(), b.truth(MID)[..512]);
}

#[test]
fn a_full_log_makes_writes_wait_in_order_and_flush_not_at_all() {
    let b = Machine::new();
    let set = b.create();
    b.holder.set_available(false);
    let mut token = 0;
    // Parts of absent extents: nothing of it can leave the log.
    let waited = loop {
        token += 1;
        set.log_step().unwrap();
        match b.write(&set, token, (MID + token) * EXTENT + 512, &[token as u8; 8192]) {
            Some(done) => done.unwrap(),
            None => break token,
        }
        assert!(token < 60, "the log is bounded");
    };
    let place = (MID + waited) * EXTENT + 512;
    assert!(b.write(&set, 1000, place, &[0xaa; 512]).is_none(), "behind the one it overlaps");
    // The last eighth is for writes that can leave the log without the backup.
    b.write(&set, 1001, EXTENT * 30, &[0xbb; EXTENT as usize])
        .or_else(|| b.came().pop().map(|_| Ok(())))
        .unwrap()
        .unwrap();
    set.volumes()[0].flush().unwrap();
    assert_eq!(set.status().writes_waiting, 2);
    b.holder.set_available(true);
    for _ in 0..100 {
        b.clock.advance(Duration::from_millis(50));
        set.log_step().unwrap();
        set.mover_step(false).unwrap();
    }
    let came = b.came();
    assert!(came.iter().all(|c| c.result.is_ok()), "{came:?}");
    let tokens: Vec<u64> = came.iter().map(|c| c.token).collect();
    assert_eq!(tokens, [waited, 1000], "let in, in order, when the mover had made room");
    let got = b.read(&set, 2000, place, 1024).unwrap().unwrap();
    assert_eq!((got[0], got[512]), (0xaa, waited as u8));
}

#[test]
fn a_waiting_write_of_a_dead_connection_is_dropped() {
    let b = Machine::new();
    let set = b.create();
    b.holder.set_available(false);
    let mut token = 0;
    while b.write(&set, token, (MID + token) * EXTENT + 512, &[1; 8192]).is_some() {
        set.log_step().unwrap();
        token += 1;
    }
    b.sink.gone.store(true, std::sync::atomic::Ordering::SeqCst);
    b.holder.set_available(true);
    for _ in 0..100 {
        b.clock.advance(Duration::from_secs(1));
        set.log_step().unwrap();
        set.mover_step(false).unwrap();
    }
    assert_eq!((set.status().writes_waiting, b.came().len()), (0, 0));
    let got = b.read(&set, 2000, (MID + token) * EXTENT + 512, 512).unwrap().unwrap();
    assert_eq!(got, b.truth(MID + token)[512..1024], "nothing lands later on its own");
}

#[test]
fn a_failed_flush_of_the_log_is_final_and_said_after_reopening() {
    let b = Machine::new();
    let set = b.create();
    let device = set.volumes()[0].clone();
    device.write_at(MID * EXTENT, &[1; 512]).unwrap();
    device.flush().unwrap();
    device.write_at(MID * EXTENT, &[2; 512]).unwrap();
    b.plan.fail_next(FaultOp::Sync, Kind::Failed);
    assert_eq!(device.flush().unwrap_err().kind, Kind::Failed);
    assert_eq!(device.flush().unwrap_err().kind, Kind::Failed, "never tried again");
    assert_eq!(device.write_at(0, &[2; 512]).unwrap_err().kind, Kind::Failed);
    assert_eq!(set.status().state, RestoreState::Failed);
    drop((set, device));
    let set = b.resume().unwrap();
    assert!(set.status().lost_after_failed_flush);
    assert_eq!(b.read(&set, 1, MID * EXTENT, 512).unwrap().unwrap(), [1; 512], "cut at the last good flush");
    drop(set);
    assert!(!b.resume().unwrap().status().lost_after_failed_flush, "said once");
}

#[test]
fn a_half_restored_destination_is_no_volume() {
    let b = Machine::new();
    let set = b.create();
    assert!(b.disk.bytes().starts_with(b"rekindle: this is not a volume yet"), "before any data");
    fill(&set);
    b.write(&set, 1, 0, &[9; 512]).unwrap().unwrap();
    settle(&set);
    let bytes = b.disk.bytes();
    assert!(
        bytes.starts_with(b"rekindle: this is not a volume yet")
            && bytes[12288..1 << 20].iter().all(|b| *b == 0)
    );
    assert!(
        bytes[SIZE as usize - (1 << 20)..].iter().all(|b| *b == 0),
        "the tail of a GPT is not there either"
    );
    assert_eq!(b.read(&set, 2, 0, 512).unwrap().unwrap(), [9; 512]);
    let marked = After(|v: &[Settling]| {
        assert_eq!(v[0].marks, [(ExtentRange { start: 0, end: 1 }, Generation(1))]);
        assert_eq!((v[0].origin, v[0].generation), (Some(ORIGIN), Generation(1)));
        Ok(())
    });
    assert_eq!(set.hand_over(&marked, false).unwrap_err().kind, Kind::Busy, "not before verification");
    set.hand_over(&marked, true).unwrap();
    let mut head = b.truth(0);
    head[..512].fill(9);
    assert!(b.disk.bytes()[..EXTENT as usize] == head[..] && b.disk.bytes().ends_with(&b.truth(255)));
    assert_eq!(peek(&*b.dir).unwrap().unwrap().phase, Phase::Live);
    assert_eq!(b.resume().map(drop).unwrap_err().kind, Kind::Exists);
    clear(&*b.dir).unwrap();
    assert!(peek(&*b.dir).unwrap().is_none() && b.dir.names().unwrap().is_empty());
}

#[test]
fn a_hand_over_that_cannot_be_adopted_goes_on_restoring() {
    let b = Machine::new();
    let set = b.create();
    fill(&set);
    assert_eq!(set.hand_over(&full(), true).unwrap_err().kind, Kind::Full);
    b.write(&set, 1, MID * EXTENT, &[8; 512]).unwrap().unwrap();
    settle(&set);
    assert!(b.disk.bytes().starts_with(b"rekindle: this is not a volume"), "the label is back");
    assert_eq!(b.read(&set, 2, 0, 512).unwrap().unwrap(), b.truth(0)[..512]);
    let set = {
        drop(set);
        b.resume().unwrap()
    };
    assert_eq!(b.read(&set, 3, MID * EXTENT, 512).unwrap().unwrap(), [8; 512]);
}

#[test]
fn only_one_restore_a_folder_and_only_the_same_moment_resumes() {
    let b = Machine::new();
    let set = b.create();
    let refused = RestoreSet::create(b.state(), "shop", vec![volume(b.parts())], options(), b.clock.clone());
    assert_eq!(refused.map(drop).unwrap_err().kind, Kind::Exists);
    drop(set);
    let other = Machine::new();
    let resumed = RestoreSet::resume(b.state(), options(), b.clock.clone(), |_| Ok(other.parts()));
    assert_eq!(resumed.map(drop).unwrap_err().kind, Kind::Invalid);
    let nothing = RestoreSet::resume(MemDir::new(), options(), b.clock.clone(), |_| Ok(b.parts()));
    assert_eq!(nothing.map(drop).unwrap_err().kind, Kind::Gone);
}

#[test]
fn a_destination_that_cannot_carry_the_volume_is_refused() {
    let b = Machine::new();
    let with = |target: Arc<dyn Block>| {
        let v = vec![volume(VolumeParts { target, ..b.parts() })];
        RestoreSet::create(MemDir::new(), "shop", v, options(), b.clock.clone()).map(drop)
    };
    assert_eq!(with(MemBlock::new(SIZE - 512)).unwrap_err().kind, Kind::Invalid);
    let large_blocks = Info { logical_block: 4096, ..b.disk.info() };
    assert_eq!(with(MemBlock::with_info(large_blocks)).unwrap_err().kind, Kind::Invalid);
    with(MemBlock::new(SIZE + (1 << 20))).unwrap();
}

#[test]
fn a_backup_while_restoring_reads_its_instant_and_nothing_it_need_not() {
    let b = Machine::new();
    let set = b.create();
    b.write(&set, 1, MID * EXTENT + 512, &[1; 512]).unwrap().unwrap();
    let instant = set.instant().unwrap();
    assert_eq!(set.instant().map(drop).unwrap_err().kind, Kind::Busy);
    b.write(&set, 2, MID * EXTENT + 512, &[2; 512]).unwrap().unwrap();
    b.write(&set, 3, 7 * EXTENT, &[2; 512]).unwrap().unwrap();
    settle(&set);
    let volume = instant.volumes()[0];
    let Changed::Since { marked, compare } = volume.changed(ORIGIN.0, ORIGIN.1) else { panic!("known") };
    assert!(compare.is_empty() && marked.contains(MID));
    assert!(matches!(volume.changed(Uuid([7; 16]), Generation(3)), Changed::CompareAll(_)));
    let mut got = vec![0; EXTENT as usize];
    volume.read(MID, &mut got).unwrap();
    let mut want = b.truth(MID);
    want[512..1024].fill(1);
    assert!(got == want);
    let identity = volume.identity();
    assert_eq!(identity.generation, Generation(1));
    assert_eq!(volume.next_data(0).unwrap(), Some(ByteRange::new(0, SIZE)));
    drop(instant);
    // The next one is incremental to it.
    let instant = set.instant().unwrap();
    let changed = instant.volumes()[0].changed(identity.tracking, identity.generation);
    let expected = [7, MID].map(|e| ExtentRange { start: e, end: e + 1 }).into_iter().collect();
    assert_eq!(changed, Changed::Since { marked: expected, compare: ExtentSet::default() });
    drop(instant);
    // Also after a crash.
    drop(set);
    let after = b.after(Crash::Kill);
    let set = after.resume().unwrap();
    let instant = set.instant().unwrap();
    let Changed::Since { marked, .. } = instant.volumes()[0].changed(identity.tracking, identity.generation)
    else {
        panic!("known")
    };
    assert!(marked.contains(7));
}

#[test]
fn no_space_for_the_state_is_waited_out() {
    let b = Machine::new();
    let set = b.create();
    b.write(&set, 1, MID * EXTENT, &[1; EXTENT as usize]).unwrap().unwrap();
    let mut full = 0;
    for _ in 0..40 {
        // The fourth write of a settling is a state page; any of them may find no space.
        b.plan.fail_next(FaultOp::Write, Kind::Full);
        match set.mover_step(true) {
            Ok(Step::Idle) if set.status().trouble.is_some() => full += 1,
            _ => {}
        }
    }
    b.plan.heal();
    settle(&set);
    assert!(full > 0 && set.is_settled() && set.status().state != RestoreState::Failed, "{:?}", set.status());
    assert_eq!(set.status().trouble, None);
}

#[test]
fn an_instant_keeps_the_space_it_reads_from() {
    let b = Machine::new();
    let mut options = options();
    options.log.bytes_max = 2 << 20;
    let set = b.create_with(options);
    for i in 0..10u64 {
        b.write(&set, 1, (MID + i) * EXTENT, &[1; 8192]).unwrap().unwrap();
        set.log_step().unwrap();
    }
    let instant = set.instant().unwrap();
    // Everything up to the instant leaves the log; its files would be used again by what comes now.
    set.fetch(0, &(MID..MID + 10).collect::<Vec<_>>(), Heat::Cold);
    settle(&set);
    for i in 0..60u64 {
        b.write(&set, 1, (MID + i % 10) * EXTENT, &[2; 8192]).unwrap().unwrap();
        set.log_step().unwrap();
        set.mover_step(true).unwrap();
    }
    let mut got = vec![0; EXTENT as usize];
    for i in 0..10 {
        instant.volumes()[0].read(MID + i, &mut got).unwrap();
        let mut want = b.truth(MID + i);
        want[..8192].fill(1);
        assert!(got == want, "extent {i}");
    }
}

#[test]
fn a_record_that_hides_another_is_durable_before_that_one_is_gone() {
    for (k, m) in (0..9).flat_map(|k| (0..6).map(move |m| (k, m))) {
        let b = Machine::new();
        let set = b.create();
        let place = MID * EXTENT + 512;
        // Part of an absent extent, promised; then so much that its segment is full and all else in it can be moved.
        b.write(&set, 1, place, &[1; 512]).unwrap().unwrap();
        set.volumes()[0].flush().unwrap();
        for i in 1..6 {
            set.log_step().unwrap();
            for at in (0..EXTENT).step_by(8192) {
                b.write(&set, 2, (MID + i) * EXTENT + at, &[3; 8192]).unwrap().unwrap();
            }
        }
        for _ in 0..k {
            set.mover_step(true).unwrap();
        }
        // Hidden by one that no flush covers.
        b.write(&set, 3, place, &[2; 512]).unwrap().unwrap();
        for _ in 0..m {
            set.mover_step(false).unwrap();
        }
        drop(set);
        for seed in 0..4 {
            let crash = Crash::Power { seed };
            let after = b.after(crash);
            let set = after.resume().unwrap();
            let got = after.read(&set, 4, place, 512).unwrap().unwrap();
            assert!(
                got == [1; 512] || got == [2; 512],
                "after {k} and {m} steps, seed {seed}: what was flushed is gone"
            );
        }
    }
}

#[test]
fn a_verification_that_outlives_an_unverified_hand_over_mends_nothing() {
    let b = Machine::new();
    let set = b.create();
    fill(&set);
    let mut verifier = Verifier::default();
    set.verify_step(&mut verifier).unwrap();
    set.hand_over(&as_is(), true).unwrap();
    // No mark says any more what the guest wrote.
    b.write(&set, 1, MID * EXTENT, &[7; 512]).unwrap().unwrap();
    let after = b.disk.bytes();
    for _ in 0..10 {
        assert_eq!(set.verify_step(&mut verifier).unwrap_err().kind, Kind::Gone);
    }
    assert!(b.disk.bytes() == after && set.status().mended == 0, "the moment lies over what the guest wrote");
}

#[test]
fn what_comes_again_after_a_crash_is_verified_again() {
    let b = Machine::new();
    let set = b.create();
    fill(&set);
    let mut verifier = Verifier::default();
    while set.verify_step(&mut verifier).unwrap() == Step::Worked {}
    assert_eq!(set.status().state, RestoreState::Verified);
    // Nothing was settled: no page says yet that anything is there.
    drop(set);
    for _ in 0..2 {
        let set = b.resume().unwrap();
        fill(&set);
        assert_eq!(set.status().state, RestoreState::Complete);
        assert_eq!(set.hand_over(&as_is(), false).unwrap_err().kind, Kind::Busy, "not read back");
        settle(&set);
    }
}

#[test]
fn a_log_that_lost_its_table_is_damaged_and_not_empty() {
    let b = Machine::new();
    let set = b.create();
    b.write(&set, 1, MID * EXTENT, &[7; 512]).unwrap().unwrap();
    set.volumes()[0].flush().unwrap();
    drop(set);
    b.dir.remove("log-table").unwrap();
    for _ in 0..2 {
        assert_eq!(
            b.resume().map(drop).unwrap_err().kind,
            Kind::Corrupt,
            "a flushed write vanished silently"
        );
    }
}

const BLOCK: u64 = 4096;

#[test]
fn a_state_copied_while_it_ran_does_not_fit_after_a_clean_stop() {
    let b = Machine::new();
    let set = b.create();
    let old = b.dir.crash(Crash::Kill);
    b.write(&set, 1, MID * EXTENT, &[7; 512]).unwrap().unwrap();
    set.volumes()[0].flush().unwrap();
    set.stop().unwrap();
    drop(set);
    let older = Machine { dir: old, ..b.after(Crash::Kill) };
    let e = older.resume().map(drop).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.what.contains("older copy"), "{e:?}");
    let set = b.resume().unwrap();
    assert_eq!(b.read(&set, 2, MID * EXTENT, 512).unwrap().unwrap(), [7; 512]);
}

#[test]
fn what_was_flushed_and_cannot_be_moved_ages_a_copy_of_the_state_too() {
    let b = Machine::new();
    let set = b.create();
    b.holder.set_available(false);
    let old = b.dir.crash(Crash::Kill);
    // A part of an extent that only the holder has: nothing to move, nothing to settle.
    b.write(&set, 1, MID * EXTENT + 512, &[7; 512]).unwrap().unwrap();
    set.volumes()[0].flush().unwrap();
    for _ in 0..20 {
        b.clock.advance(Duration::from_secs(1));
        set.mover_step(false).unwrap();
    }
    drop(set);
    let older = Machine { dir: old, ..b.after(Crash::Kill) };
    assert_eq!(older.resume().map(drop).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn one_damaged_stamp_is_harmless_two_are_refused() {
    let b = Machine::new();
    let set = b.complete();
    drop(set);
    let whole = b.disk.bytes();
    let stamps = &whole[BLOCK as usize..3 * BLOCK as usize];
    assert!(stamps.starts_with(b"RKSTAMP1") && stamps[BLOCK as usize..].starts_with(b"RKSTAMP1"));
    let with_lost = |lost: &[u64]| {
        let after = b.after(Crash::Kill);
        lost.iter().for_each(|at| after.disk.write_at(*at, &[0xff; 512]).unwrap());
        after.resume().map(drop)
    };
    with_lost(&[BLOCK]).unwrap();
    with_lost(&[2 * BLOCK]).unwrap();
    with_lost(&[0]).unwrap();
    assert_eq!(with_lost(&[BLOCK, 2 * BLOCK]).unwrap_err().kind, Kind::Invalid);
}

#[test]
fn a_disk_that_took_the_place_of_another_in_a_hand_over_is_refused() {
    let mut refused = 0;
    for k in 0..200 {
        let b = Machine::new();
        let set = b.complete();
        b.plan.die_within(b.plan.count() + k, k % 4 * 300);
        set.hand_over(&full(), true).map(drop).unwrap_err();
        if !b.plan.is_dead() {
            break;
        }
        drop(set);
        let after = b.after(Crash::Power { seed: k });
        let strange = MemBlock::new(SIZE);
        strange.write_at(0, &vec![0xa5; SIZE as usize]).unwrap();
        let e = after.resume_on(strange).map(drop).unwrap_err();
        assert!(e.kind == Kind::Invalid, "crash at {k}: {e:?}");
        let set = after.resume().unwrap_or_else(|e| panic!("crash at {k}: {e:?}"));
        assert_eq!(b.read(&set, 1, 0, 512).unwrap().unwrap(), b.truth(0)[..512], "crash at {k}");
        refused += 1;
    }
    assert!(refused > 40, "{refused}");
}

#[test]
fn what_a_destination_is_can_be_asked() {
    let b = Machine::new();
    let set = b.create();
    let plan = set.plan();
    drop(set);
    let is = |disk: Arc<MemBlock>| is_destination(&*b.dir, &plan, 0, disk).map_err(|e| e.what);
    let killed = b.disk.crash(Crash::Kill);
    is(killed.clone()).unwrap();
    // A disk that is served may be asked: it goes on as it is.
    assert!(b.disk.expects_cold() && !killed.expects_cold());
    assert!(is(MemBlock::new(SIZE)).unwrap_err().contains("does not carry the label of this restore"));
    let other = Machine::new();
    drop(other.create());
    assert!(is(other.disk.clone()).unwrap_err().contains("destination of another restore"));
    let resumed = b.resume().unwrap();
    settle(&resumed);
    is(b.disk.clone()).unwrap();
    // Also with the state of before: that is what an older state is thrown away with.
    assert!(plan.phase == Phase::Restoring);
}

#[test]
fn a_hand_over_lets_waiting_writes_in_before_it_switches() {
    let b = Machine::new();
    let set = b.complete();
    // No segment is prepared: a write waits although the mover can empty the log.
    let waited = (0..60).find(|t| b.write(&set, *t, (MID + t) * EXTENT, &[*t as u8 + 1; 8192]).is_none());
    let waited = waited.expect("the log is bounded");
    let behind = b.write(&set, 1000, (MID + waited) * EXTENT + 512, &[0xaa; 512]);
    assert!(behind.is_none() && set.status().writes_waiting == 2);
    set.hand_over(&as_is(), true).unwrap();
    let came: Vec<_> = b.came().into_iter().map(|c| (c.token, c.result.is_ok())).collect();
    assert_eq!(came, [(waited, true), (1000, true)], "answered, in order");
    let at = ((MID + waited) * EXTENT) as usize;
    let got = &b.disk.bytes()[at..at + 8192];
    assert!(got[..512] == [waited as u8 + 1; 512] && got[512..1024] == [0xaa; 512], "and in the volume");
}

#[test]
fn a_hand_over_without_space_for_the_state_says_so_and_can_be_repeated() {
    let b = Machine::new();
    // Only the state's file system is full.
    let set = b.create_of(VolumeParts { target: b.disk.clone(), ..b.parts() });
    fill(&set);
    settle(&set);
    b.write(&set, 1, MID * EXTENT, &[7; 512]).unwrap().unwrap();
    (0..4000).for_each(|_| b.plan.fail_next(FaultOp::Write, Kind::Full));
    let e = set.hand_over(&as_is(), true).unwrap_err();
    b.plan.heal();
    assert!(e.kind == Kind::Full && e.what.contains("cannot be moved into the destination"), "{e:?}");
    assert_eq!(b.read(&set, 2, MID * EXTENT, 512).unwrap().unwrap(), [7; 512], "it goes on");
    assert!(b.disk.bytes().starts_with(b"rekindle: this is not a volume yet"));
    assert_ne!(set.status().state, RestoreState::Failed);
    set.hand_over(&as_is(), true).unwrap();
    let at = (MID * EXTENT) as usize;
    assert_eq!(b.disk.bytes()[at..at + 512], [7; 512]);
}

/// Goal: what verification compares, and what it cannot. Method: the destination loses bytes of three extents: one as the
/// backup has it, one that the guest wrote in part, one that is written whole.
#[test]
fn verification_compares_what_came_from_the_backup_alone() {
    let b = Machine::new();
    let set = b.create();
    b.write(&set, 1, MID * EXTENT, &[7; 512]).unwrap().unwrap();
    b.write(&set, 2, (MID + 1) * EXTENT, &[7; EXTENT as usize]).unwrap().unwrap();
    // The extent that is written whole is not fetched: the mover brings it.
    set.fetch(0, &(0..256).collect::<Vec<_>>(), Heat::Cold);
    settle(&set);
    for extent in [MID - 1, MID, MID + 1] {
        b.disk.write_at(extent * EXTENT + 4096, &[0xbb; 512]).unwrap();
    }
    let mut verifier = Verifier::default();
    while set.verify_step(&mut verifier).unwrap() == Step::Worked {}
    assert_eq!((verifier.mended, verifier.skipped), (1, 2));
    assert_eq!(b.read(&set, 3, (MID - 1) * EXTENT, EXTENT as usize).unwrap().unwrap(), b.truth(MID - 1));
}

/// Goal: marks are a byte. Method: as many backups during one restore as they can tell apart, and two more.
#[test]
fn after_254_backups_of_one_restore_the_next_ones_compare() {
    let b = Machine::new();
    let set = b.create();
    fill(&set);
    let mut parent = set.instant().unwrap().volumes()[0].identity();
    for n in 2..=256u64 {
        settle(&set);
        b.write(&set, n, n % 250 * EXTENT, &[1; 512]).unwrap().unwrap();
        let instant = set.instant().unwrap();
        let volume = instant.volumes()[0];
        match volume.changed(parent.tracking, parent.generation) {
            Changed::Since { marked, .. } => {
                let extent = n % 250;
                assert!(n <= 254 && marked.count() == 1 && marked.contains(extent), "{n}: {marked:?}");
            }
            Changed::CompareAll(why) => assert!(n > 254 && !why.is_empty(), "{n}: {why}"),
        }
        // To the moment itself everything the guest ever wrote is told.
        assert!(matches!(volume.changed(ORIGIN.0, ORIGIN.1), Changed::Since { .. }));
        parent = volume.identity();
    }
}

/// Garbage or zeros in any sector of record, segment table or pages, at any time of a short life.
#[test]
fn a_damaged_sector_of_the_state_is_an_error_or_harmless_never_loss() {
    let b = Machine::new();
    let set = b.create();
    let mut flushed = Vec::new();
    let damage_all = |when: &str, flushed: &[(u64, u8)]| {
        for name in ["restore", "log-table", "state-0"] {
            let len = b.dir.open(name).unwrap().unwrap().len().unwrap();
            for (sector, fill) in (0..len.div_ceil(512)).flat_map(|s| [(s, 0), (s, 0xff)]) {
                let mut raw = [0; 512];
                let after = b.after(Crash::Kill);
                let file = after.dir.open(name).unwrap().unwrap();
                file.read_at(sector * 512, &mut raw).unwrap();
                // What was never written is not damaged.
                if raw == [0; 512] {
                    continue;
                }
                file.write_at(sector * 512, &[&[fill; 512]]).unwrap();
                let set = match after.resume() {
                    Ok(set) => set,
                    Err(e) => {
                        assert!(
                            e.kind != Kind::Gone,
                            "{when}: sector {sector} of {name}: there was a restore"
                        );
                        continue;
                    }
                };
                for (at, byte) in flushed {
                    let got = after.read(&set, 1, *at, 512).unwrap().unwrap();
                    assert!(
                        got == [*byte; 512],
                        "{when}: sector {sector} of {name} became {fill}: {at} is gone"
                    );
                }
            }
        }
    };
    damage_all("begun", &flushed);
    for round in 1..5u8 {
        // Parts of extents that are absent, and of extents that are here; segments roll.
        set.fetch(0, &[MID + u64::from(round)], Heat::Cold);
        for e in 0..5u64 {
            let at = (MID + u64::from(round) + e * 2) * EXTENT + 512 * u64::from(round);
            // A segment is prepared when it is needed, and used at once.
            let done = b.write(&set, 1, at, &[round; 8192]).or_else(|| {
                set.log_step().unwrap();
                b.came().pop().map(|c| c.result.map(drop))
            });
            done.expect("room in the log").unwrap();
            flushed.retain(|(old, _)| *old + 512 <= at || at + 8192 <= *old);
            flushed.push((at, round));
        }
        set.volumes()[0].flush().unwrap();
        damage_all("flushed", &flushed);
        set.fetch(0, &(MID..MID + 20).collect::<Vec<_>>(), Heat::Cold);
        for _ in 0..14 {
            set.mover_step(true).unwrap();
        }
        damage_all("settled", &flushed);
    }
}

#[test]
fn a_damaged_record_that_was_durable_is_an_error_and_not_the_end_of_the_log() {
    let b = Machine::new();
    let set = b.create();
    for e in 0..5 {
        b.write(&set, 1, (MID + e) * EXTENT + 512, &[7; 512]).unwrap().unwrap();
    }
    set.volumes()[0].flush().unwrap();
    // The table hears of it when the next segment is prepared.
    set.log_step().unwrap();
    drop(set);
    let mut refused = 0;
    for sector in 8..16 {
        let after = b.after(Crash::Kill);
        let file = after.dir.open("log-000001").unwrap().unwrap();
        file.write_at(sector * 512, &[&[0xff; 512]]).unwrap();
        match after.resume() {
            Err(e) => {
                refused += 1;
                assert_eq!(e.kind, Kind::Corrupt);
            }
            Ok(set) => (0..5).for_each(|e| {
                let got = after.read(&set, 1, (MID + e) * EXTENT + 512, 512).unwrap().unwrap();
                assert!(got == [7; 512], "sector {sector}: a flushed write is gone");
            }),
        }
    }
    assert!(refused > 4, "{refused}");
}
