//! One promise, one short story.

use super::world::*;
use crate::backup::Changed;
use crate::live::{Adopted, FleeceOptions, Hooks, LiveOptions, LiveSet, LiveState, LiveVolume, Observer};
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, ExtentSet, Generation, Uuid};
use rekindle_io::block::{Block, BlockExt, FileBlock, FileOptions, ImageFacts, Info, Late, MemBlock, kit};
use rekindle_io::fault::{Crash, FaultOp, FaultPlan};
use rekindle_io::logfile::{FaultyDir, LogDir, MemDir, RealDir};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

fn r(start: u64, end: u64) -> ExtentRange {
    ExtentRange { start, end }
}
/// Marked and doubtful extents since a parent; panics when everything is to be compared.
fn since(i: &dyn crate::backup::SetInstant, p: &Snapshot) -> (Vec<ExtentRange>, Vec<ExtentRange>) {
    match i.volumes()[0].changed(p.tracking, p.generation) {
        Changed::Since { marked, compare } => (marked.ranges().collect(), compare.ranges().collect()),
        Changed::CompareAll(why) => panic!("everything, because {why}"),
    }
}
fn why(i: &dyn crate::backup::SetInstant, p: &Snapshot) -> String {
    match i.volumes()[0].changed(p.tracking, p.generation) {
        Changed::CompareAll(why) => why,
        since => panic!("{since:?}"),
    }
}

struct MemImage(Mutex<ImageFacts>);
impl crate::live::Image for MemImage {
    fn facts(&self) -> Result<ImageFacts> {
        Ok(*self.0.lock().unwrap())
    }
    fn settle(&self) -> Result<()> {
        Ok(())
    }
    fn is_failed(&self) -> bool {
        false
    }
}

#[test]
fn serves_its_image_unchanged() {
    for late in [Late::Never, Late::Soon] {
        kit::check(|| {
            let disk = MemBlock::new(kit::SIZE);
            disk.set_late(late);
            let facts = ImageFacts { inode: 1, size: kit::SIZE, ..ImageFacts::default() };
            LiveVolume::over(
                disk,
                Arc::new(MemImage(Mutex::new(facts))),
                &LiveOptions::new("v", MemDir::new()),
            )
            .unwrap()
        });
    }
}

#[test]
fn marks_follow_every_parent_and_survive_a_clean_stop() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
    v.write_at(5 * EXTENT, &[1; 4096]).unwrap();
    let b = backup(&*m.instant(&set).unwrap(), Some(&a)).unwrap();
    v.zero_at(9 * EXTENT - 4096, 8192).unwrap();
    set.close().unwrap();
    assert_eq!(v.write_at(0, &[1; 512]).unwrap_err().kind, Kind::Cancelled);
    let (v, set) = m.open().unwrap();
    v.trim_at(20 * EXTENT, 4096).unwrap();
    let i = m.instant(&set).unwrap();
    assert_eq!(since(&*i, &a), (vec![r(5, 6), r(8, 10), r(20, 21)], vec![]));
    assert_eq!(since(&*i, &b), (vec![r(8, 10), r(20, 21)], vec![]));
    let foreign = Snapshot { tracking: Uuid([9; 16]), ..b.clone() };
    assert!(why(&*i, &foreign).contains("first time"));
    let newer = Snapshot { generation: Generation(40), ..b };
    assert!(why(&*i, &newer).contains("older than its newest snapshot"));
    drop(i);
    assert!(why(&*m.instant(&set).unwrap(), &a).contains("older"), "a fresh tracking");
}

/// A state folder put back behind a backup counts its generation again. The comparing backup that finds this out fails, and
/// so does the process: what the guest wrote in that generation is compared all the same.
#[test]
fn a_doubt_about_a_parent_outlives_the_backup_and_the_process() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    v.checkpoint(true).unwrap();
    let copy = m.state.crash(Crash::Kill);
    let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
    let mut m = m.crash(Crash::Kill);
    m.state = copy;
    let (v, set) = m.open().unwrap();
    v.write_at(20 * EXTENT, &[2; 4096]).unwrap();
    v.checkpoint(true).unwrap();
    assert!(why(&*m.instant(&set).unwrap(), &a).contains("older than its newest snapshot"));
    let m = m.crash(Crash::Power { seed: 5 });
    let (v, set) = m.open().unwrap();
    let i = m.instant(&set).unwrap();
    let b = backup(&*i, Some(&a)).unwrap();
    assert!(b.blocks == full(&m.disk), "extents {:?} are missing", since(&*i, &a));
    drop(i);
    // The next one builds on that.
    v.write_at(5 * EXTENT, &[3; 4096]).unwrap();
    assert_eq!(since(&*m.instant(&set).unwrap(), &b), (vec![r(5, 6)], vec![]));
}

#[test]
fn after_an_unclean_stop_only_active_regions_are_compared() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    for _ in 0..2 {
        v.checkpoint(false).unwrap();
    }
    assert_eq!(v.active_regions(), 0);
    v.write_at(17 * EXTENT, &[1; 4096]).unwrap();
    let m = m.crash(Crash::Power { seed: 3 });
    let (v, set) = m.open().unwrap();
    let i = m.instant(&set).unwrap();
    assert_eq!(since(&*i, &a), (vec![r(0, 1)], vec![r(16, 32)]));
    let b = backup(&*i, Some(&a)).unwrap();
    drop(i);
    v.write_at(18 * EXTENT, &[1; 4096]).unwrap();
    let i = m.instant(&set).unwrap();
    assert_eq!(since(&*i, &b), (vec![r(18, 19)], vec![]), "the doubt was settled by that backup");
    assert_eq!(since(&*i, &a), (vec![r(0, 1), r(18, 19)], vec![r(16, 18), r(19, 32)]), "not for this parent");
}

#[test]
fn regions_written_all_the_time_cost_no_sync() {
    let m = Machine::new();
    let (v, _set) = m.open().unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    let before = m.plan.count();
    for n in 1..60 {
        v.write_at(n * 4096, &[1; 4096]).unwrap();
    }
    assert_eq!(m.plan.count() - before, 59, "nothing but the writes themselves");
    m.facts.clock.advance(Duration::from_secs(61));
    v.tick().unwrap();
    assert_eq!(v.active_regions(), 1);
    m.facts.clock.advance(Duration::from_secs(61));
    v.tick().unwrap();
    assert_eq!(v.active_regions(), 0);
}

#[test]
fn writes_behind_our_back_void_the_tracking() {
    let check = |behind: &dyn Fn(&Machine), clean: bool, word: &str| {
        let m = Machine::new();
        let (v, set) = m.open().unwrap();
        let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
        v.write_at(0, &[1; 4096]).unwrap();
        if clean {
            set.close().unwrap();
        }
        let m = m.crash(Crash::Kill);
        behind(&m);
        let (v, set) = m.open().unwrap();
        let i = m.instant(&set).unwrap();
        assert!(why(&*i, &a).contains(word) && v.tracked_since().contains(word), "{}", why(&*i, &a));
    };
    check(&|m| m.touch(30 * EXTENT, &[7; 4096]), true, "written by somebody else");
    check(&|m| m.touch(30 * EXTENT, &[7; 4096]), false, "touched it since");
    check(&|m| m.facts.facts.lock().unwrap().inode = 2, true, "another file");
    check(&|m| m.facts.facts.lock().unwrap().is_device = true, true, "device");
    check(&|m| m.state.open("pulse").unwrap().unwrap().set_len(0).unwrap(), false, "not known");
    let lost = |m: &Machine| {
        for n in m.state.names().unwrap().iter().filter(|n| n.starts_with("marks")) {
            m.state.remove(n).unwrap();
        }
    };
    check(&lost, true, "missing");
}

#[test]
fn a_grown_image_is_compared_a_shrunk_one_refused() {
    let m = Machine::new();
    let (_, set) = m.open().unwrap();
    let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
    set.close().unwrap();
    let reopen = |size| {
        let info = rekindle_io::block::Info { size, ..m.disk.info() };
        let facts = ImageFacts { size, ..*m.facts.facts.lock().unwrap() };
        let m =
            Machine::with(m.disk.reopened_as(info), m.state.crash(Crash::Kill), facts, m.facts.clock.clone());
        m.open().map(|(v, set)| (m, v, set))
    };
    let (m2, v, set) = reopen(SIZE + EXTENT).unwrap();
    assert_eq!(v.geometry().extents(), SIZE / EXTENT + 1);
    assert!(why(&*m2.instant(&set).unwrap(), &a).contains("size went from"));
    let e = reopen(SIZE - EXTENT).map(drop).unwrap_err();
    assert!(e.kind == Kind::Invalid && e.what.contains("cut short"), "{e}");
}

#[test]
fn a_failed_disk_or_state_folder_is_said_until_reopened() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    v.write_at(0, &[1; 512]).unwrap();
    v.flush().unwrap();
    assert_eq!(v.failed(), None);
    m.plan.fail_next(FaultOp::Sync, Kind::Failed);
    v.flush().unwrap_err();
    assert!(v.failed().unwrap().contains("a flush of the disk failed"));
    assert_eq!(v.write_at(0, &[2; 512]).unwrap_err().kind, Kind::Failed);
    drop((v, set));
    let (v, _set) = m.open().unwrap();
    assert_eq!(v.failed(), None);
    // The first write into a region is noted first.
    m.plan.fail_next(FaultOp::Write, Kind::Failed);
    v.write_at(40 * EXTENT, &[3; 512]).unwrap_err();
    assert!(v.failed().unwrap().contains("cannot be noted"));
}

#[test]
fn a_restore_becomes_live_with_its_snapshot_as_parent() {
    let m = Machine::new();
    let origin = Snapshot { tracking: Uuid([5; 16]), generation: Generation(7), blocks: full(&m.disk) };
    let o = m.options();
    let geometry = rekindle_core::volume::Geometry::new(SIZE, o.extent.unwrap(), 512, 4096).unwrap();
    let adopted = Adopted {
        name: "vm".into(),
        uuid: Uuid([6; 16]),
        geometry,
        origin: Some((origin.tracking, origin.generation)),
        tracking: Some((Uuid([8; 16]), Generation(3))),
        changed: vec![(r(3, 5), Generation(1)), (r(7, 8), Generation(3))],
        image: *m.facts.facts.lock().unwrap(),
    };
    LiveState::adopt(&*o.state, &adopted).unwrap();
    LiveState::adopt(&*o.state, &adopted).expect("a repeated hand-over");
    let m = m.crash(Crash::Power { seed: 1 });
    let (v, set) = m.open().unwrap();
    v.write_at(9 * EXTENT, &[1; 512]).unwrap();
    let i = m.instant(&set).unwrap();
    assert_eq!(i.volumes()[0].identity().uuid, adopted.uuid);
    assert_eq!(since(&*i, &origin).0, [r(3, 5), r(7, 8), r(9, 10)]);
    let meanwhile = Snapshot { tracking: Uuid([8; 16]), generation: Generation(2), ..origin.clone() };
    assert_eq!(since(&*i, &meanwhile).0, [r(7, 8), r(9, 10)], "a backup made while it was restored");
    for (tracking, g) in [(origin.tracking, 6), (origin.tracking, 8), (Uuid([1; 16]), 7)] {
        let wrong = Snapshot { tracking, generation: Generation(g), ..origin.clone() };
        assert!(why(&*i, &wrong).contains("restored"));
    }
}

#[test]
fn a_restore_to_a_larger_disk_with_other_blocks_is_adopted_as_its_moment_is() {
    let m = Machine::new();
    let disk = MemBlock::with_info(Info { size: SIZE + (1 << 20), physical_block: 512, ..m.disk.info() });
    let o = m.options();
    let geometry = rekindle_core::volume::Geometry::new(SIZE, o.extent.unwrap(), 512, 4096).unwrap();
    let image = ImageFacts { size: SIZE + (1 << 20), ..*m.facts.facts.lock().unwrap() };
    let adopted = Adopted {
        name: "vm".into(),
        uuid: Uuid([6; 16]),
        geometry,
        origin: Some((Uuid([5; 16]), Generation(7))),
        tracking: None,
        changed: vec![(r(3, 5), Generation(1))],
        image,
    };
    // What the configuration says of extents is for a volume that begins.
    let o = LiveOptions { extent: Some(ExtentBytes::new(2 * EXTENT).unwrap()), ..o };
    let v = LiveVolume::adopt(disk, m.facts.clone(), &adopted, &o).unwrap();
    assert_eq!((v.info().size, v.geometry().size), (SIZE, SIZE), "clients know it so");
    assert!(v.geometry().same_extents(&geometry));
    let set = LiveSet::new("vm", vec![v.clone()]);
    v.write_at(SIZE - 512, &[1; 512]).unwrap();
    let i = m.instant(&set).unwrap();
    let last = r(SIZE / EXTENT - 1, SIZE / EXTENT);
    let changed = i.volumes()[0].changed(Uuid([5; 16]), Generation(7));
    assert_eq!(
        changed,
        Changed::Since { marked: [r(3, 5), last].into_iter().collect(), compare: ExtentSet::default() }
    );
    assert_eq!(i.volumes()[0].identity().generation, Generation(1), "the first of a tracking of its own");
}

#[test]
fn generations_that_run_out_begin_a_fresh_tracking() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    v.write_at(0, &[1; 512]).unwrap();
    let mut last = backup(&*m.instant(&set).unwrap(), None).unwrap();
    // Not 65,535 instants: the record is moved close to the end.
    v.push_generation(Generation(u16::MAX - 1));
    for n in 0..4u64 {
        // The write before the fresh tracking lies in a region of its own, which nothing else keeps in doubt.
        let at = if n == 1 { 40 * EXTENT } else { n * EXTENT };
        v.write_at(at, &[n as u8 + 2; 4096]).unwrap();
        let i = m.instant(&set).unwrap();
        let next = backup(&*i, Some(&last)).unwrap();
        assert!(next.blocks == full(&m.disk), "instant {n}");
        assert_eq!(next.tracking == last.tracking, n != 1);
        assert_eq!(
            n == 1,
            matches!(i.volumes()[0].changed(last.tracking, last.generation), Changed::CompareAll(_))
        );
        last = next;
    }
    for seed in 0..8 {
        let m = m.crash(Crash::Power { seed });
        let (_, set) = m.open().unwrap();
        assert!(backup(&*m.instant(&set).unwrap(), Some(&last)).unwrap().blocks == full(&m.disk));
    }
}

#[test]
fn a_backup_reads_the_instant_whatever_the_guest_does() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    for e in [0, 1, 2, 3, 40] {
        v.write_at(e * EXTENT, &[e as u8 + 1; 8192]).unwrap();
    }
    let before = full(&m.disk);
    let i = m.instant(&set).unwrap();
    v.write_at(EXTENT - 4096, &[9; 8192]).unwrap();
    v.zero_at(2 * EXTENT, EXTENT).unwrap();
    v.trim_at(3 * EXTENT, EXTENT).unwrap();
    assert_eq!(full(&m.disk)[3 * 4], 4, "the trim was answered and not done");
    assert_eq!(m.instant(&set).map(drop).unwrap_err().kind, Kind::Busy);
    // The zeroed extent is a hole now, and was data.
    let mut data = Vec::new();
    let mut at = 0;
    while let Some(d) = i.volumes()[0].next_data(at).unwrap() {
        data.push(d.start / EXTENT);
        at = d.end();
    }
    assert!(data.contains(&2) && data.contains(&40), "{data:?}");
    assert!(backup(&*i, None).unwrap().blocks == before);
    i.volumes()[0].taken(r(0, 48));
    v.trim_at(3 * EXTENT, EXTENT).unwrap();
    assert_eq!(full(&m.disk)[3 * 4], 0);
    drop(i);
    assert!(m.instant(&set).is_ok());
}

#[test]
fn a_full_or_failing_fleece_gives_up_the_backup_never_the_guest() {
    for full_fleece in [true, false] {
        let m = Machine::new();
        let (v, set) = m.open().unwrap();
        for e in 0..14 {
            v.write_at(e * EXTENT, &[1; 4096]).unwrap();
        }
        // Faults of its own: the guest writes beside it.
        let plan = Arc::new(FaultPlan::new());
        let options = FleeceOptions {
            dir: FaultyDir::new(MemDir::new(), plan.clone()),
            ..m.fleece(if full_fleece { 2 * EXTENT } else { 1 << 30 })
        };
        let i = set.instant(&crate::live::NoHooks, &options).unwrap();
        // Two in memory, two in the file; what was taken makes room, wherever it lay.
        for e in 0..8 {
            v.write_at(e * EXTENT, &[2; 4096]).unwrap();
            if e < 4 {
                i.volumes()[0].taken(r(e, e + 1));
            }
        }
        i.intact().expect("there was room for four at any time");
        if !full_fleece {
            plan.fail_next(FaultOp::Write, Kind::Failed);
        }
        // The guest goes on at once; the backup hears of it when the file was written to.
        for e in 8..14 {
            v.write_at(e * EXTENT, &[2; 4096]).unwrap();
        }
        let begun = std::time::Instant::now();
        while i.intact().is_ok() && begun.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let e = i.intact().unwrap_err();
        assert_eq!(e.kind, if full_fleece { Kind::Full } else { Kind::Failed }, "{e}");
        assert!(i.volumes()[0].read(5, &mut vec![0; EXTENT as usize]).is_err());
        v.write_at(3 * EXTENT, &[3; 4096]).unwrap();
        drop(i);
        assert!(options.dir.names().unwrap().is_empty(), "the fleece is gone");
        assert!(m.instant(&set).unwrap().intact().is_ok(), "the next one starts afresh");
    }
}

/// The file's disk does not answer: the guest's writes go on until memory is full; then one waits, until the backup takes
/// what is urgent or is given up, or because the disk hangs.
#[test]
fn a_guest_waits_for_the_fleece_only_while_memory_is_full() {
    for (gives_up, hangs) in [(false, false), (true, false), (false, true)] {
        let m = Machine::new();
        let (v, set) = m.open().unwrap();
        (0..6).for_each(|e| v.write_at(e * EXTENT, &[e as u8 + 1; 4096]).unwrap());
        // Nobody writes out: an even memory of four extents is crowded with three, and the file takes nothing.
        let room_limit = Duration::from_millis(if hangs { 300 } else { 60_000 });
        let fleece = FleeceOptions { memory_bytes: 4 * EXTENT, room_limit, ..m.fleece(1 << 30) };
        let (held, stuck) = stuck(fleece.dir.clone());
        let i = set.instant(&crate::live::NoHooks, &FleeceOptions { dir: held, ..fleece }).unwrap();
        (0..4).for_each(|e| v.write_at(e * EXTENT, &[9; 4096]).unwrap());
        let fifth = std::thread::spawn({
            let v = v.clone();
            move || v.write_at(4 * EXTENT, &[9; 4096])
        });
        std::thread::sleep(Duration::from_millis(30));
        assert!(!fifth.is_finished(), "there is no room for it");
        v.write_at(3 * EXTENT, &[8; 4096]).expect("what is kept already needs no room");
        let volume = i.volumes()[0];
        if hangs {
            // Nobody takes anything, and the disk never answers.
            fifth.join().unwrap().unwrap();
            assert!(i.intact().unwrap_err().what.contains("took nothing"));
            (0..6).for_each(|e| v.write_at(e * EXTENT, &[7; 4096]).unwrap());
            v.flush().unwrap();
            stuck.store(false, SeqCst);
        } else if !gives_up {
            let (urgent, mut out) = (volume.urgent().unwrap(), vec![0; EXTENT as usize]);
            assert_eq!(urgent, 0, "the oldest");
            volume.read(urgent, &mut out).unwrap();
            assert_eq!(out[0], 1);
            volume.taken(r(urgent, urgent + 1));
            fifth.join().unwrap().unwrap();
            assert_eq!(volume.urgent(), Some(1));
            stuck.store(false, SeqCst);
        } else {
            // The instant ends while the disk still does not answer the thread that writes out.
            let ending = std::thread::spawn({
                let stuck = stuck.clone();
                move || {
                    std::thread::sleep(Duration::from_millis(30));
                    stuck.store(false, SeqCst);
                }
            });
            drop(i);
            fifth.join().unwrap().unwrap();
            ending.join().unwrap();
        }
    }
}

#[derive(Default)]
struct Script {
    log: Mutex<Vec<&'static str>>,
    refuse: bool,
}
impl Hooks for Script {
    fn before(&self, _limit: Duration) -> Result<()> {
        self.log.lock().unwrap().push("before");
        if self.refuse { Err(Error::new(Kind::Cancelled, "freeze failed")) } else { Ok(()) }
    }
    fn after(&self) {
        self.log.lock().unwrap().push("after");
    }
}

/// A region may leave the activity log only when nothing of it can be lost: the flush has to come after the writes.
#[test]
fn a_checkpoint_flushes_after_the_writes_that_ran_when_it_began() {
    let m = Machine::new();
    let (v, _set) = m.open().unwrap();
    m.disk.set_late(Late::Held);
    let spawn = |f: fn(&LiveVolume) -> Result<()>| {
        let v = v.clone();
        std::thread::spawn(move || f(&v))
    };
    let writer = spawn(|v| v.write_at(0, &[2; 512]));
    while m.disk.held() == 0 {
        std::thread::yield_now();
    }
    let checkpoint = spawn(|v| v.checkpoint(true));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(m.disk.held(), 1, "it flushed while a write was still on its way");
    m.disk.set_late(Late::Never);
    m.disk.let_go(10);
    writer.join().unwrap().unwrap();
    checkpoint.join().unwrap().unwrap();
    assert_eq!(v.active_regions(), 0);
    for seed in 0..8 {
        let after = m.disk.crash(Crash::Power { seed });
        assert_eq!(after.bytes()[..512], [2; 512], "nobody would compare it, so it must be there");
    }
}

#[test]
fn the_instant_waits_for_running_writes_and_gives_up_in_time() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    v.write_at(0, &[1; 512]).unwrap();
    m.disk.set_late(Late::Held);
    let writer = std::thread::spawn({
        let v = v.clone();
        move || v.write_at(0, &[2; 512])
    });
    while m.disk.held() == 0 {
        std::thread::yield_now();
    }
    let script = Script::default();
    let quick = FleeceOptions { drain_limit: Duration::from_millis(20), ..m.fleece(1 << 30) };
    let e = set.instant(&script, &quick).map(drop).unwrap_err();
    assert!(e.kind == Kind::Busy && e.what.contains("running writes"), "{e}");
    assert_eq!(*script.log.lock().unwrap(), ["before", "after"]);
    let refusing = Script { refuse: true, ..Script::default() };
    assert!(set.instant(&refusing, &quick).is_err());
    assert_eq!(*refusing.log.lock().unwrap(), ["before", "after"]);
    let helper = std::thread::spawn({
        let disk = m.disk.clone();
        move || {
            std::thread::sleep(Duration::from_millis(20));
            disk.set_late(Late::Never);
            disk.let_go(10);
        }
    });
    let i = set.instant(&script, &m.fleece(1 << 30)).unwrap();
    helper.join().unwrap();
    writer.join().unwrap().unwrap();
    assert_eq!(backup(&*i, None).unwrap().blocks[0], 2, "what ran when it began is in it");
}

#[derive(Default)]
struct Counts([AtomicU64; 2]);
impl Observer for Counts {
    fn read(&self, range: ByteRange) {
        self.0[0].fetch_add(range.len, SeqCst);
    }
    fn write(&self, range: ByteRange) {
        self.0[1].fetch_add(range.len, SeqCst);
    }
}

#[test]
fn the_observer_sees_the_guest_and_not_the_backup() {
    let m = Machine::new();
    let counts = Arc::new(Counts::default());
    let options = LiveOptions { observer: Some(counts.clone()), ..m.options() };
    let (v, set) = m.open_with(&options).unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    v.read_at(0, &mut [0; 512]).unwrap();
    backup(&*m.instant(&set).unwrap(), None).unwrap();
    assert_eq!(counts.0.each_ref().map(|c| c.load(SeqCst)), [512, 4096]);
}

#[test]
fn a_state_folder_that_fails_fails_the_first_write_of_a_region_only() {
    let m = Machine::new();
    let (v, _set) = m.open().unwrap();
    v.write_at(0, &[1; 512]).unwrap();
    m.plan.fail_next(FaultOp::Sync, Kind::Failed);
    assert_eq!(v.write_at(SIZE / 2, &[1; 512]).unwrap_err().kind, Kind::Failed);
    v.write_at(512, &[1; 512]).unwrap();
    assert!(full(&m.disk)[(SIZE / 2 / BLOCK) as usize] == 0, "not written without being known");
}

/// With a real file, real locks and real times.
#[test]
fn a_real_image_is_tracked_across_a_clean_stop() {
    let tmp = tempfile::tempdir().unwrap();
    let path = tmp.path().join("vm.raw");
    std::fs::File::create(&path).unwrap().set_len(8 << 20).unwrap();
    let open = || {
        let options = LiveOptions::new("vm", RealDir::open(&tmp.path().join("state")).unwrap());
        let v = LiveVolume::open(&path, &options).unwrap();
        (v.clone(), LiveSet::new("vm", vec![v]))
    };
    let fleece = FleeceOptions::new(RealDir::open(&tmp.path().join("fleece")).unwrap());
    let (v, set) = open();
    set.start().unwrap();
    let again = LiveOptions::new("vm", RealDir::open(&tmp.path().join("other")).unwrap());
    assert_eq!(LiveVolume::open(&path, &again).map(drop).unwrap_err().kind, Kind::Busy);
    v.write_at(0, &[1; 4096]).unwrap();
    let i = set.instant(&crate::live::NoHooks, &fleece).unwrap();
    let id = i.volumes()[0].identity();
    v.write_at(0, &[2; 4096]).unwrap();
    let mut old = vec![0; 65536];
    i.volumes()[0].read(0, &mut old).unwrap();
    assert_eq!((old[0], old[4096]), (1, 0));
    drop(i);
    v.write_at(3 << 16, &[1; 512]).unwrap();
    set.close().unwrap();
    drop((v, set));
    let changed = |set: &LiveSet| {
        set.instant(&crate::live::NoHooks, &fleece).unwrap().volumes()[0].changed(id.tracking, id.generation)
    };
    let (v, set) = open();
    assert_eq!(
        changed(&set),
        Changed::Since { marked: [r(0, 1), r(3, 4)].into_iter().collect(), compare: ExtentSet::default() }
    );
    set.close().unwrap();
    drop((v, set));
    let second = FileBlock::open(&path, &FileOptions::default()).unwrap();
    second.write_at(1 << 20, &[1; 512]).unwrap();
    drop(second);
    let (_v, set) = open();
    assert!(matches!(changed(&set), Changed::CompareAll(why) if why.contains("written by somebody else")));
}
