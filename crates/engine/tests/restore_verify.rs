//! Goal: verification believes the medium and no cache, mends without harming the guest, and says when a destination does
//! not keep what is written to it. Method: a disk with a page cache that loses what it is told to lose.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Geometry, Uuid};
use rekindle_engine::restore::{
    Adopt, MoverPace, NewVolume, RestoreOptions, RestoreSet, RestoreState, Settling, Step, Verifier,
    VolumeParts, peek,
};
use rekindle_io::block::{Allocation, Answer, Block, BlockExt, CompletionSink, Info, MemBlock, Op, Request};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::Crash;
use rekindle_io::holder::{Difference, FetchSink, Holder, Identity, MemHolder, Presence, Urgency};
use rekindle_io::logfile::MemDir;
use rekindle_io::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const EXTENT: u64 = 16 << 10;
const EXTENTS: u64 = 200;
/// The moment has nothing there.
const ZEROS: ExtentRange = ExtentRange { start: 120, end: 140 };
/// In the midst of the destination, with data.
const MID: u64 = 100;
type Then = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Switches {
    dirty: BTreeSet<u64>,
    /// Extents whose next so many write-outs are lost.
    loses: BTreeMap<u64, u32>,
    fails: bool,
}

/// Reads see the cache; only a flush brings it to the medium, only what is clean can be dropped from it.
struct Cached {
    cache: Arc<MemBlock>,
    medium: Arc<MemBlock>,
    switches: Mutex<Switches>,
}

impl Cached {
    fn copy(from: &MemBlock, to: &MemBlock, extent: u64) {
        let mut bytes = vec![0; EXTENT as usize];
        from.read_at(extent * EXTENT, &mut bytes).unwrap();
        to.write_at(extent * EXTENT, &bytes).unwrap();
    }
    fn write_out(&self) -> Result<()> {
        let mut s = self.switches.lock().unwrap();
        if s.fails {
            return Err(Error::new(Kind::Failed, "the flush failed"));
        }
        for extent in std::mem::take(&mut s.dirty) {
            match s.loses.get_mut(&extent).filter(|n| **n > 0) {
                Some(n) => *n -= 1,
                None => Self::copy(&self.cache, &self.medium, extent),
            }
        }
        Ok(())
    }
    fn uncache(&self, range: ByteRange) {
        let s = self.switches.lock().unwrap();
        let clean = (range.start / EXTENT..range.end().div_ceil(EXTENT)).filter(|e| !s.dirty.contains(e));
        clean.for_each(|e| Self::copy(&self.medium, &self.cache, e));
    }
    fn on_medium(&self, extent: u64) -> Vec<u8> {
        let mut bytes = vec![0; EXTENT as usize];
        self.medium.read_at(extent * EXTENT, &mut bytes).unwrap();
        bytes
    }
}
impl Block for Cached {
    fn info(&self) -> Info {
        self.cache.info()
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        for r in batch {
            let range = r.range();
            match r.op {
                Op::Flush => {
                    answers.push(Answer::Done(self.write_out()));
                    continue;
                }
                Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. } if range.len > 0 => {
                    let touched = range.start / EXTENT..range.end().div_ceil(EXTENT);
                    self.switches.lock().unwrap().dirty.extend(touched);
                }
                _ => {}
            }
            self.cache.submit(std::slice::from_mut(r), answers, sink);
        }
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.cache.allocation(range, out)
    }
}

/// A holder at whose next fetch something else happens first.
struct AtFetch(Arc<MemHolder>, Mutex<Option<Then>>);
impl Holder for AtFetch {
    fn identity(&self) -> Identity {
        self.0.identity()
    }
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }
    fn presence(&self, first: u64, count: u64, out: &mut Vec<Presence>) -> Result<()> {
        self.0.presence(first, count, out)
    }
    fn fetch(self: Arc<Self>, extents: &[u64], urgency: Urgency, sink: &Arc<dyn FetchSink>) {
        let then = self.1.lock().unwrap().take();
        then.into_iter().for_each(|f| f());
        self.0.clone().fetch(extents, urgency, sink);
    }
    fn check(&self, extent: u64, bytes: &[u8]) -> Result<Option<bool>> {
        let mut truth = vec![0; bytes.len()];
        self.0.truth(extent, &mut truth);
        Ok(Some(truth == bytes))
    }
    fn difference(&self, base: Uuid) -> Result<Difference> {
        self.0.difference(base)
    }
    fn answers_inline(&self) -> bool {
        true
    }
}

struct Machine {
    state: Arc<MemDir>,
    disk: Arc<Cached>,
    holder: Arc<AtFetch>,
}

impl Machine {
    fn new() -> Self {
        let g = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap();
        let data =
            [ExtentRange { start: 0, end: ZEROS.start }, ExtentRange { start: ZEROS.end, end: EXTENTS }];
        let (cache, medium) = (MemBlock::new(g.size), MemBlock::new(g.size));
        Machine {
            state: MemDir::new(),
            disk: Arc::new(Cached { cache, medium, switches: Mutex::default() }),
            holder: Arc::new(AtFetch(MemHolder::from_pattern(g, &data, 1), Mutex::default())),
        }
    }
    fn create(&self) -> Arc<RestoreSet> {
        let disk = self.disk.clone();
        let parts = VolumeParts {
            holder: self.holder.clone(),
            target: self.disk.clone(),
            fresh: true,
            usage: None,
            uncache: Some(Arc::new(move |r| {
                disk.uncache(r);
                Ok(())
            })),
        };
        let (name, volume) = ("db".into(), Uuid([5; 16]));
        let v = NewVolume { name, volume, origin: None, destination: "disk".into(), parts };
        let pace = MoverPace { move_after: Duration::ZERO, settle_after: Duration::ZERO };
        let options = RestoreOptions { pace, ..RestoreOptions::default() };
        let clock = Arc::new(ManualClock::default());
        RestoreSet::create(self.state.clone(), "db", vec![v], options, clock).unwrap()
    }
    /// Everything has come; nothing of it was flushed.
    fn complete(&self) -> Arc<RestoreSet> {
        let set = self.create();
        for first in (0..EXTENTS).step_by(50) {
            set.fetch(0, &(first..first + 50).collect::<Vec<_>>());
        }
        assert!(set.is_complete());
        set
    }
    fn loses(&self, extent: u64, times: u32) {
        self.disk.switches.lock().unwrap().loses.insert(extent, times);
    }
    fn truth(&self, extent: u64) -> Vec<u8> {
        let mut out = vec![0; EXTENT as usize];
        self.holder.0.truth(extent, &mut out);
        out
    }
    fn at_fetch(&self, then: impl FnOnce() + Send + 'static) {
        *self.holder.1.lock().unwrap() = Some(Box::new(then));
    }
}

fn verify(set: &RestoreSet) -> Result<Verifier> {
    let mut v = Verifier::default();
    while set.verify_step(&mut v)? == Step::Worked {}
    Ok(v)
}

#[test]
fn what_the_disk_lost_is_found_behind_its_cache_and_mended_on_the_medium() {
    let m = Machine::new();
    let set = m.complete();
    m.loses(MID, 1);
    assert_eq!(verify(&set).unwrap().mended, 1);
    assert!(m.disk.on_medium(MID) == m.truth(MID));
    // What was found right is known after a power cut too.
    let after = m.state.crash(Crash::Power { seed: 1 });
    assert!(peek(&*after).unwrap().unwrap().verified);
}

#[test]
fn a_disk_that_loses_what_was_mended_is_failed() {
    let m = Machine::new();
    let set = m.complete();
    m.loses(MID, 2);
    let e = verify(&set).err().expect("it does not keep extent 100");
    assert!(e.kind == Kind::Corrupt && e.what.contains("does not keep"), "{e:?}");
    assert_eq!(set.status().state, RestoreState::Failed);
    assert!(!peek(&*m.state).unwrap().unwrap().verified);
}

#[test]
fn a_flush_that_fails_in_a_verification_fails_the_destination() {
    let m = Machine::new();
    let set = m.complete();
    m.disk.switches.lock().unwrap().fails = true;
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Failed);
    assert_eq!(set.status().state, RestoreState::Failed);
}

#[test]
fn garbage_where_the_moment_has_nothing_is_found() {
    let m = Machine::new();
    let set = m.complete();
    assert_eq!(verify(&set).unwrap().mended, 0);
    m.disk.medium.write_at(ZEROS.start * EXTENT + 512, &[1; 512]).unwrap();
    assert_eq!(verify(&set).unwrap().mended, 1);
    assert!(m.disk.on_medium(ZEROS.start) == m.truth(ZEROS.start));
}

#[test]
fn nothing_is_verified_before_everything_is_there() {
    let m = Machine::new();
    let set = m.create();
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Busy);
    assert!(!peek(&*m.state).unwrap().unwrap().verified);
}

/// While the extent is fetched again the guest writes it, and the mover brings that to the destination.
#[test]
fn mending_leaves_what_the_guest_wrote_meanwhile() {
    let m = Machine::new();
    let set = m.complete();
    m.loses(MID, 1);
    let guest = set.clone();
    m.at_fetch(move || {
        guest.volumes()[0].write_at(MID * EXTENT, &[7; EXTENT as usize]).unwrap();
        while guest.mover_step(true).unwrap() == Step::Worked {}
        assert!(guest.is_settled());
    });
    verify(&set).unwrap();
    let mut out = vec![0; EXTENT as usize];
    set.volumes()[0].read_at(MID * EXTENT, &mut out).unwrap();
    assert!(out.iter().all(|b| *b == 7), "the moment came back over what the guest wrote");
}

/// The devices as they are.
struct Direct;
impl Adopt for Direct {
    fn adopt(&self, v: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>> {
        Ok(v.into_iter().map(|s| s.device).collect())
    }
}

/// While the extent is fetched again the set is handed over, and from there nobody marks what the guest writes.
#[test]
fn mending_ends_at_a_hand_over() {
    let m = Machine::new();
    let set = m.complete();
    m.loses(MID, 1);
    let guest = set.clone();
    m.at_fetch(move || {
        guest.hand_over(&Direct, true).unwrap();
        guest.volumes()[0].write_at(MID * EXTENT, &[7; EXTENT as usize]).unwrap();
    });
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Gone);
    let mut out = vec![0; EXTENT as usize];
    set.volumes()[0].read_at(MID * EXTENT, &mut out).unwrap();
    assert!(out.iter().all(|b| *b == 7), "the moment came back over what the guest wrote");
}
