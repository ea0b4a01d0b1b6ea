//! What the activity log and the pulse say after something failed.

use super::world::*;
use crate::backup::Changed;
use crate::live::activity_log::ActivityLog;
use rekindle_core::volume::{ExtentRange, ExtentSet, Uuid};
use rekindle_io::Kind;
use rekindle_io::block::BlockExt;
use rekindle_io::fault::{Crash, FaultOp};
use rekindle_io::logfile::{LogDir, MemDir};
use std::time::Duration;

/// A sector that was written to another's place says nothing of the regions there.
#[test]
fn a_sector_in_the_wrong_place_is_damaged() {
    const REGIONS: u64 = 3968 + 100;
    let (dir, tracking) = (MemDir::new(), Uuid([7; 16]));
    let file = dir.create("a").unwrap();
    let log = ActivityLog::create(file.clone(), tracking, REGIONS).unwrap();
    log.enter(&[3].into()).unwrap();
    let mut second = [0; 512];
    file.read_at(512, &mut second).unwrap();
    file.write_at(0, &[&second]).unwrap();
    assert_eq!(ActivityLog::read(&*file, tracking, REGIONS).unwrap().len(), 3968);
}

/// What a failed checkpoint did not do, the next one does.
#[test]
fn a_checkpoint_that_failed_is_made_up_for() {
    let m = Machine::new();
    let (v, set) = m.open().unwrap();
    let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
    v.write_at(0, &[1; 4096]).unwrap();
    m.plan.fail_next(FaultOp::Write, Kind::Full);
    assert!(v.checkpoint(true).is_err());
    assert_eq!(v.active_regions(), 1);
    v.checkpoint(true).unwrap();
    let m = m.crash(Crash::Power { seed: 1 });
    let (_v, set) = m.open().unwrap();
    let since = m.instant(&set).unwrap().volumes()[0].changed(a.tracking, a.generation);
    let marked = [ExtentRange { start: 0, end: 1 }].into_iter().collect();
    assert_eq!(since, Changed::Since { marked, compare: ExtentSet::default() });
}

/// A checkpoint makes the pulse durable: an image that was written for hours is still ours after a power cut.
#[test]
fn hours_of_writing_and_a_power_cut_void_nothing() {
    for seed in 0..8 {
        let m = Machine::new();
        let (v, set) = m.open().unwrap();
        let a = backup(&*m.instant(&set).unwrap(), None).unwrap();
        for n in 0..120 {
            v.write_at(n % 48 * EXTENT, &[1; 4096]).unwrap();
            let now = rekindle_io::clock::Clock::wall_ns(&*m.facts.clock);
            let mut facts = m.facts.facts.lock().unwrap();
            (facts.modified_ns, facts.changed_ns) = (now, now);
            drop(facts);
            m.facts.clock.advance(Duration::from_secs(61));
            v.tick().unwrap();
        }
        let m = m.crash(Crash::Power { seed });
        let (_v, set) = m.open().unwrap();
        let since = m.instant(&set).unwrap().volumes()[0].changed(a.tracking, a.generation);
        assert!(matches!(since, Changed::Since { .. }), "{since:?}");
    }
}
