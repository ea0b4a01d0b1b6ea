//! Goal: the rules of a hand-over that no crash of one thread shows. Method: the record fails, one of its copies is damaged,
//! a backup begins in between, a removal is cut short.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Geometry, Uuid};
use rekindle_engine::backup::SetInstant;
use rekindle_engine::restore::{
    Adopt, MoverPace, NewVolume, Phase, RestoreOptions, RestoreSet, RestoreState, Settling, Step,
    VolumeParts, clear, peek,
};
use rekindle_io::block::{Allocation, Answer, Block, BlockExt, CompletionSink, Info, MemBlock, Op, Request};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::{Crash, FaultOp, FaultPlan};
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::{FaultyDir, LogDir, MemDir};
use rekindle_io::{Kind, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EXTENT: u64 = 16 << 10;
const EXTENTS: u64 = 200;
type Then = Box<dyn FnOnce() + Send>;

/// A disk at whose next flush something happens.
struct AtFlush(Arc<MemBlock>, Mutex<Option<Then>>);
impl Block for AtFlush {
    fn info(&self) -> Info {
        self.0.info()
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        if batch.iter().any(|r| matches!(r.op, Op::Flush)) {
            let then = self.1.lock().unwrap().take();
            then.into_iter().for_each(|f| f());
        }
        self.0.submit(batch, answers, sink);
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.0.allocation(range, out)
    }
}

struct Machine {
    plan: Arc<FaultPlan>,
    state: Arc<MemDir>,
    disk: Arc<AtFlush>,
}

impl Machine {
    fn new() -> Self {
        let disk = MemBlock::new(EXTENTS * EXTENT);
        Machine {
            plan: Arc::default(),
            state: MemDir::new(),
            disk: Arc::new(AtFlush(disk, Mutex::default())),
        }
    }
    /// A set that is complete, with a write of the guest in its log.
    fn complete(&self) -> Arc<RestoreSet> {
        let g = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap();
        let holder = MemHolder::from_pattern(g, &[ExtentRange { start: 0, end: EXTENTS }], 1);
        let parts =
            VolumeParts { holder, target: self.disk.clone(), fresh: true, usage: None, uncache: None };
        let v = NewVolume {
            name: "db".into(),
            volume: Uuid([5; 16]),
            origin: None,
            destination: "disk".into(),
            parts,
        };
        let pace = MoverPace { move_after: Duration::ZERO, settle_after: Duration::ZERO };
        let options = RestoreOptions { pace, ..RestoreOptions::default() };
        let state = FaultyDir::new(self.state.clone(), self.plan.clone());
        let set =
            RestoreSet::create(state, "db", vec![v], options, Arc::new(ManualClock::default())).unwrap();
        for first in (0..EXTENTS).step_by(50) {
            set.fetch(0, &(first..first + 50).collect::<Vec<_>>());
        }
        while set.mover_step(true).unwrap() == Step::Worked {}
        assert!(set.is_complete());
        set.volumes()[0].write_at(100 * EXTENT, &[7; 512]).unwrap();
        set
    }
}

/// The devices as they are; before that `then`.
struct Direct<F>(F);
impl<F: Fn()> Adopt for Direct<F> {
    fn adopt(&self, v: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>> {
        (self.0)();
        Ok(v.into_iter().map(|s| s.device).collect())
    }
}

/// Nothing may be written to the destination directly unless the record says so.
#[test]
fn a_hand_over_whose_record_fails_does_not_switch() {
    let m = Machine::new();
    let set = m.complete();
    let e = set.hand_over(&Direct(|| m.plan.fail_next(FaultOp::Write, Kind::Failed)), true).unwrap_err();
    assert_eq!((e.kind, set.status().state), (Kind::Failed, RestoreState::Failed));
    // Which of the two is found the next time is not known: a log that nobody reads would lose this.
    let volume = &set.volumes()[0];
    assert!(volume.write_at(100 * EXTENT, &[8; 512]).is_err() && volume.flush().is_err());
    let mut out = [0; 512];
    volume.read_at(100 * EXTENT, &mut out).unwrap();
    assert_eq!(out, [7; 512]);
    assert_eq!(peek(&*m.state).unwrap().unwrap().phase, Phase::Restoring);
}

/// Log and state are gone: no copy of the record may send anybody back to them.
#[test]
fn both_copies_of_the_record_say_live() {
    const SLOT: u64 = 260 << 10;
    for copy in [0, 1] {
        let m = Machine::new();
        m.complete().hand_over(&Direct(|| ()), true).unwrap();
        let after = m.state.crash(Crash::Power { seed: copy });
        let file = after.open("restore").unwrap().unwrap();
        let mut magic = [0; 8];
        file.read_at(copy * SLOT, &mut magic).unwrap();
        assert_eq!(&magic, b"RKSLOT01", "the layout changed");
        file.write_at(copy * SLOT, &[&[0x55; 512]]).unwrap();
        assert_eq!(peek(&*after).unwrap().unwrap().phase, Phase::Live, "copy {copy}");
    }
}

/// A backup that begins while the hand-over moves the last of the log reads its instant; the hand-over comes again.
#[test]
fn a_backup_that_begins_during_the_approach_holds_the_hand_over_up() {
    let m = Machine::new();
    let set = m.complete();
    let instant: Arc<Mutex<Option<Box<dyn SetInstant>>>> = Arc::default();
    *m.disk.1.lock().unwrap() = Some(Box::new({
        let (set, instant) = (set.clone(), instant.clone());
        move || *instant.lock().unwrap() = Some(set.instant().unwrap())
    }));
    let e = set.hand_over(&Direct(|| ()), true).unwrap_err();
    assert!(e.kind == Kind::Busy && e.what.contains("a backup of this set has begun"), "{e:?}");
    set.volumes()[0].write_at(100 * EXTENT, &[9; 512]).unwrap();
    let taken = instant.lock().unwrap().take().unwrap();
    let mut out = vec![0; EXTENT as usize];
    taken.volumes()[0].read(100, &mut out).unwrap();
    assert_eq!(out[..512], [7; 512]);
    drop(taken);
    set.hand_over(&Direct(|| ()), true).unwrap();
}

/// A folder without its record is no restore; so the record goes last, whatever of the removals a power cut takes back.
#[test]
fn what_is_cleared_says_what_it_was_until_all_of_it_is_gone() {
    for k in 0..8 {
        for seed in 0..3 {
            let m = Machine::new();
            drop(m.complete());
            m.plan.die_at(m.plan.count() + k);
            let cleared = clear(&*FaultyDir::new(m.state.clone(), m.plan.clone()));
            let after = m.state.crash(Crash::Power { seed });
            let left = after.names().unwrap();
            assert!(left.is_empty() || left.iter().any(|n| n == "restore"), "{k} {seed}: {left:?}");
            assert!(cleared.is_err() || k > 3);
        }
    }
}
