//! Goal: verification believes the medium and no cache, mends without harming the guest, and says when a destination does
//! not keep what is written to it. Method: a disk with a page cache that loses what it is told to lose.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_core::volume::{ByteRange, ExtentRange};
use rekindle_engine::restore::{RestoreSet, RestoreState, Step, Verifier, VolumeParts, peek};
use rekindle_io::block::{Allocation, Answer, Block, BlockExt, CompletionSink, Info, MemBlock, Op, Request};
use rekindle_io::fault::Crash;
use rekindle_io::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;
use std::sync::{Arc, Mutex};

/// The moment has nothing there.
const ZEROS: ExtentRange = ExtentRange { start: 120, end: 140 };

#[derive(Default)]
struct Switches {
    dirty: BTreeSet<u64>,
    /// Extents whose next so many write-outs are lost.
    loses: BTreeMap<u64, u32>,
    fails: bool,
    /// Happens when the medium is next read, before that is answered.
    meanwhile: Option<Box<dyn FnOnce() + Send>>,
}

/// Reads see the cache, which forgets nothing; only a flush, or a read of the medium, brings it there.
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
    fn write_out(&self, extents: impl RangeBounds<u64>) -> Result<()> {
        let mut s = self.switches.lock().unwrap();
        if s.fails {
            return Err(Error::new(Kind::Failed, "the flush failed"));
        }
        let out: Vec<u64> = s.dirty.range(extents).copied().collect();
        for extent in out {
            s.dirty.remove(&extent);
            match s.loses.get_mut(&extent).filter(|n| **n > 0) {
                Some(n) => *n -= 1,
                None => Self::copy(&self.cache, &self.medium, extent),
            }
        }
        Ok(())
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
                    answers.push(Answer::Done(self.write_out(..)));
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
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let meanwhile = self.switches.lock().unwrap().meanwhile.take();
        meanwhile.into_iter().for_each(|then| then());
        let end = offset + buf.len() as u64;
        self.write_out(offset / EXTENT..end.div_ceil(EXTENT))?;
        self.medium.read_at(offset, buf)
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.medium.allocation(range, out)
    }
}

/// Everything has come to a disk with a cache; nothing of it was flushed.
struct World {
    m: Machine,
    disk: Arc<Cached>,
}

impl World {
    fn new() -> Self {
        let data =
            [ExtentRange { start: 0, end: ZEROS.start }, ExtentRange { start: ZEROS.end, end: EXTENTS }];
        let (cache, medium) = (MemBlock::new(SIZE), MemBlock::new(SIZE));
        let m = Machine::with_data(&data);
        m.holder.know_identities();
        World { m, disk: Arc::new(Cached { cache, medium, switches: Mutex::default() }) }
    }
    fn create(&self) -> Arc<RestoreSet> {
        self.m.create_of(VolumeParts { target: self.disk.clone(), ..self.m.parts() })
    }
    fn complete(&self) -> Arc<RestoreSet> {
        let set = self.create();
        fill(&set);
        set
    }
    fn loses(&self, extent: u64, times: u32) {
        self.disk.switches.lock().unwrap().loses.insert(extent, times);
    }
}

fn verify(set: &RestoreSet) -> Result<Verifier> {
    let mut v = Verifier::default();
    while set.verify_step(&mut v)? == Step::Worked {}
    Ok(v)
}

#[test]
fn what_the_disk_lost_is_found_behind_its_cache_and_mended_on_the_medium() {
    let w = World::new();
    let set = w.complete();
    w.loses(MID, 1);
    assert_eq!(verify(&set).unwrap().mended, 1);
    assert!(w.disk.on_medium(MID) == w.m.truth(MID));
    // What was found right is known after a power cut too.
    let after = w.m.dir.crash(Crash::Power { seed: 1 });
    assert!(peek(&*after).unwrap().unwrap().verified);
}

/// Neighbours are read at once; what the guest wrote and holes are not. The edges come from the medium of their own file.
#[test]
fn a_run_is_read_at_once_and_nothing_that_is_not_compared() {
    let w = World::new();
    let disk = w.m.disk.clone();
    let set = w.m.create_of(VolumeParts { target: disk.clone(), ..w.m.parts() });
    fill(&set);
    set.volumes()[0].write_at(MID * EXTENT, &[7; 512]).unwrap();
    work(&set);
    verify(&set).unwrap();
    // 16 KiB an extent: 64 are a run, and the first and the last 64 lie in the edges file.
    let read: Vec<_> = disk.read_from_medium().iter().map(|r| (r.start / EXTENT, r.len / EXTENT)).collect();
    assert_eq!(read, [(64, MID - 64), (MID + 1, ZEROS.start - MID - 1), (ZEROS.end, 192 - ZEROS.end)]);
    assert_eq!(w.m.dir.read_from_medium("edges-0"), 2 << 20);
}

/// The guest writes an extent while its neighbour and it are read, and the mover would bring that.
#[test]
fn a_guest_that_writes_while_the_medium_is_read_is_no_damage() {
    let w = World::new();
    let set = w.complete();
    let guest = set.clone();
    w.disk.switches.lock().unwrap().meanwhile = Some(Box::new(move || {
        guest.volumes()[0].write_at(MID * EXTENT, &[7; EXTENT as usize]).unwrap();
        for _ in 0..100 {
            guest.mover_step(true).unwrap();
        }
    }));
    assert_eq!(verify(&set).unwrap().mended, 0);
    work(&set);
    assert!(set.is_settled() && read(&set, MID).iter().all(|b| *b == 7));
}

#[test]
fn a_disk_that_loses_what_was_mended_is_failed() {
    let w = World::new();
    let set = w.complete();
    w.loses(MID, 2);
    let e = verify(&set).err().expect("it does not keep extent 100");
    assert!(e.kind == Kind::Corrupt && e.what.contains("does not keep"), "{e:?}");
    assert_eq!(set.status().state, RestoreState::Failed);
    assert!(!peek(&*w.m.dir).unwrap().unwrap().verified);
}

#[test]
fn a_flush_that_fails_in_a_verification_fails_the_destination() {
    let w = World::new();
    let set = w.complete();
    w.disk.switches.lock().unwrap().fails = true;
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Failed);
    assert_eq!(set.status().state, RestoreState::Failed);
}

#[test]
fn garbage_where_the_moment_has_nothing_is_found() {
    let w = World::new();
    let set = w.complete();
    assert_eq!(verify(&set).unwrap().mended, 0);
    w.disk.medium.write_at(ZEROS.start * EXTENT + 512, &[1; 512]).unwrap();
    assert_eq!(verify(&set).unwrap().mended, 1);
    assert!(w.disk.on_medium(ZEROS.start) == w.m.truth(ZEROS.start));
}

#[test]
fn nothing_is_verified_before_everything_is_there() {
    let w = World::new();
    let set = w.create();
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Busy);
    assert!(!peek(&*w.m.dir).unwrap().unwrap().verified);
}

/// While the extent is fetched again the guest writes it, and the mover brings that to the destination.
#[test]
fn mending_leaves_what_the_guest_wrote_meanwhile() {
    let w = World::new();
    let set = w.complete();
    w.loses(MID, 1);
    let guest = set.clone();
    w.m.holder.at_next_fetch(move || {
        guest.volumes()[0].write_at(MID * EXTENT, &[7; EXTENT as usize]).unwrap();
        work(&guest);
        assert!(guest.is_settled());
    });
    verify(&set).unwrap();
    assert!(read(&set, MID).iter().all(|b| *b == 7), "the moment came back over what the guest wrote");
}

/// While the extent is fetched again the set is handed over, and from there nobody marks what the guest writes.
#[test]
fn mending_ends_at_a_hand_over() {
    let w = World::new();
    let set = w.complete();
    w.loses(MID, 1);
    let guest = set.clone();
    w.m.holder.at_next_fetch(move || {
        guest.hand_over(&as_is(), true).unwrap();
        guest.volumes()[0].write_at(MID * EXTENT, &[7; EXTENT as usize]).unwrap();
    });
    assert_eq!(verify(&set).err().unwrap().kind, Kind::Gone);
    assert!(read(&set, MID).iter().all(|b| *b == 7), "the moment came back over what the guest wrote");
}
