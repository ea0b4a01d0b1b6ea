//! A machine in memory: one image, one state folder, one plan of what goes wrong, and a clock.

use crate::backup::{Changed, SetInstant};
use crate::live::{FleeceOptions, Image, LiveOptions, LiveSet, LiveVolume, NoHooks};
use rekindle_core::volume::{ExtentBytes, Generation, Uuid};
use rekindle_io::block::{BlockExt, FaultyBlock, ImageFacts, MemBlock};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::{Crash, FaultPlan};
use rekindle_io::logfile::{Asked, FaultyDir, LogDir, MemDir, WatchedDir};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const EXTENT: u64 = 16 << 10;
/// 48 extents in three regions (of the size they have in tests).
pub const SIZE: u64 = 48 * EXTENT;

pub struct Facts {
    pub facts: Mutex<ImageFacts>,
    pub clock: Arc<ManualClock>,
    plan: Arc<FaultPlan>,
    device: Mutex<Option<Arc<FaultyBlock>>>,
}

impl Image for Facts {
    fn facts(&self) -> Result<ImageFacts> {
        Ok(*self.facts.lock().unwrap())
    }
    fn settle(&self) -> Result<()> {
        if self.plan.is_dead() { Err(Error::new(Kind::Cancelled, "the machine died here")) } else { Ok(()) }
    }
    fn is_failed(&self) -> bool {
        self.device.lock().unwrap().as_ref().is_some_and(|d| d.is_failed())
    }
}

/// The machine.
pub struct Machine {
    pub disk: Arc<MemBlock>,
    pub state: Arc<MemDir>,
    pub plan: Arc<FaultPlan>,
    pub facts: Arc<Facts>,
}

impl Machine {
    pub fn new() -> Machine {
        let facts = ImageFacts { inode: 1, size: SIZE, ..ImageFacts::default() };
        Machine::with(MemBlock::new(SIZE), MemDir::new(), facts, Arc::default())
    }
    pub fn with(
        disk: Arc<MemBlock>,
        state: Arc<MemDir>,
        facts: ImageFacts,
        clock: Arc<ManualClock>,
    ) -> Machine {
        let plan = Arc::new(FaultPlan::new());
        let facts =
            Arc::new(Facts { facts: Mutex::new(facts), clock, plan: plan.clone(), device: Mutex::default() });
        Machine { disk, state, plan, facts }
    }
    /// The machine after it went down and came back.
    pub fn crash(&self, crash: Crash) -> Machine {
        let facts = *self.facts.facts.lock().unwrap();
        Machine::with(
            self.disk.crash(crash),
            self.state.crash_tearing(crash, &|_| true),
            facts,
            self.facts.clock.clone(),
        )
    }
    pub fn options(&self) -> LiveOptions {
        let dir: Arc<dyn LogDir> = FaultyDir::new(self.state.clone(), self.plan.clone());
        LiveOptions {
            extent: Some(ExtentBytes::new(EXTENT).unwrap()),
            clock: self.facts.clock.clone(),
            ..LiveOptions::new("vm", dir)
        }
    }
    pub fn open(&self) -> Result<(Arc<LiveVolume>, LiveSet)> {
        self.open_with(&self.options())
    }
    pub fn open_with(&self, options: &LiveOptions) -> Result<(Arc<LiveVolume>, LiveSet)> {
        let disk = FaultyBlock::new(self.disk.clone(), self.plan.clone());
        *self.facts.device.lock().unwrap() = Some(disk.clone());
        let v = LiveVolume::over(disk, self.facts.clone(), options)?;
        let set = LiveSet::new("vm", vec![v.clone()]);
        Ok((v, set))
    }
    /// Somebody writes to the image while we do not serve it.
    pub fn touch(&self, at: u64, data: &[u8]) {
        self.disk.write_at(at, data).unwrap();
        self.facts.clock.advance(Duration::from_secs(1000));
        let now = rekindle_io::clock::Clock::wall_ns(&*self.facts.clock);
        let mut f = self.facts.facts.lock().unwrap();
        (f.modified_ns, f.changed_ns) = (now, now);
    }
    pub fn fleece(&self, bytes: u64) -> FleeceOptions {
        // Little memory, so that the files are used.
        FleeceOptions {
            bytes,
            memory_bytes: 2 * EXTENT,
            room_limit: Duration::from_secs(60),
            ..FleeceOptions::new(FaultyDir::new(MemDir::new(), self.plan.clone()))
        }
    }
    pub fn instant(&self, set: &LiveSet) -> Result<Box<dyn SetInstant>> {
        set.instant(&NoHooks, &self.fleece(1 << 30))
    }
}

/// What a repository keeps of one snapshot: whose moment it is, and the image (a byte stands for each 4 KiB block).
#[derive(Clone)]
pub struct Snapshot {
    pub tracking: Uuid,
    pub generation: Generation,
    pub blocks: Vec<u8>,
}

pub const BLOCK: u64 = 4096;

/// Reads the first byte of each block of an extent.
fn digest(extent: &[u8]) -> impl Iterator<Item = u8> + '_ {
    extent.chunks(BLOCK as usize).map(|b| b[0])
}

/// A backup as the engine makes it: what is proven unchanged comes from the parent, all else is read.
pub fn backup(instant: &dyn SetInstant, parent: Option<&Snapshot>) -> Result<Snapshot> {
    let v = instant.volumes()[0];
    let id = v.identity();
    let mut all = vec![0; (SIZE / BLOCK) as usize];
    let changed =
        parent.map_or(Changed::CompareAll("no parent".into()), |p| v.changed(p.tracking, p.generation));
    let mut read: Vec<u64> = (0..SIZE / EXTENT).collect();
    if let (Changed::Since { marked, compare }, Some(p)) = (changed, parent) {
        all.clone_from(&p.blocks);
        read = marked.ranges().chain(compare.ranges()).flat_map(|r| r.iter()).collect();
    }
    let mut buf = vec![0; EXTENT as usize];
    for e in read {
        v.read(e, &mut buf)?;
        let per = (EXTENT / BLOCK) as usize;
        let at = e as usize * per;
        all[at..at + per].iter_mut().zip(digest(&buf)).for_each(|(a, b)| *a = b);
    }
    instant.intact()?;
    Ok(Snapshot { tracking: id.tracking, generation: id.generation, blocks: all })
}

/// The truth: every block as it is on the disk now.
pub fn full(disk: &MemBlock) -> Vec<u8> {
    let mut out = Vec::new();
    let mut buf = vec![0; EXTENT as usize];
    for e in 0..SIZE / EXTENT {
        disk.read_at(e * EXTENT, &mut buf).unwrap();
        out.extend(digest(&buf));
    }
    out
}

/// A folder whose files do not answer writes while it is stuck, and what says so.
pub fn stuck(inner: Arc<dyn LogDir>) -> (Arc<dyn LogDir>, Arc<AtomicBool>) {
    let stuck = Arc::new(AtomicBool::new(true));
    let until = stuck.clone();
    let dir = WatchedDir::new(inner, move |_, asked| {
        while matches!(asked, Asked::Write(..)) && until.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    (dir, stuck)
}
