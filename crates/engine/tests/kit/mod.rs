//! What the tests of a restoring set share: a machine in memory that restores one volume, fails as its plan says, and
//! crashes as often as one likes.

#![allow(dead_code, clippy::unwrap_used)] // tests: not each uses all, and to fail is the point

use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_engine::restore::{
    Adopt, Heat, LogLimits, MoverPace, NewVolume, RestoreOptions, RestoreSet, Settling, Step, VolumeParts,
};
use rekindle_io::block::{
    Allocation, Answer, Block, BlockExt, Completion, CompletionSink, FaultyBlock, Info, MemBlock, Op, Request,
};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::{Crash, FaultPlan};
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::{FaultyDir, LogDir, MemDir};
use rekindle_io::{Error, Kind, Result};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub const EXTENT: u64 = 16 << 10;
pub const EXTENTS: u64 = 256;
pub const SIZE: u64 = EXTENTS * EXTENT;
/// An extent away from the first and the last MiB, with data.
pub const MID: u64 = 100;
pub const VOLUME: Uuid = Uuid([5; 16]);
/// What the moment is a generation of.
pub const ORIGIN: (Uuid, Generation) = (Uuid([6; 16]), Generation(3));

pub fn geometry() -> Geometry {
    Geometry::new(SIZE, ExtentBytes::new(EXTENT).unwrap(), 512, 4096).unwrap()
}
/// The mover at once, the log small.
pub fn options() -> RestoreOptions {
    let log = LogLimits { segment_bytes: 64 << 10, bytes_max: 256 << 10, pieces_max: 300, block_bytes: 4096 };
    let pace = MoverPace { move_after: Duration::ZERO, settle_after: Duration::ZERO };
    RestoreOptions { log, pace, stall_limit: Duration::from_secs(10), ..RestoreOptions::default() }
}
pub fn volume(parts: VolumeParts) -> NewVolume {
    let (name, destination) = ("data".into(), "/dev/disk".into());
    NewVolume { name, volume: VOLUME, origin: Some(ORIGIN), destination, parts }
}

/// The ports of one restore. State and disk fail as the plan says.
#[derive(Clone)]
pub struct Machine {
    pub plan: Arc<FaultPlan>,
    pub dir: Arc<MemDir>,
    pub disk: Arc<MemBlock>,
    pub holder: Arc<MemHolder>,
    pub clock: Arc<ManualClock>,
    pub sink: Arc<Sink>,
}

/// Keeps the answers that come later.
#[derive(Default)]
pub struct Sink {
    came: Mutex<Vec<Completion>>,
    pub gone: std::sync::atomic::AtomicBool,
}
impl CompletionSink for Sink {
    fn complete(&self, c: Completion) {
        self.came.lock().unwrap().push(c);
    }
    fn abandoned(&self) -> bool {
        self.gone.load(std::sync::atomic::Ordering::SeqCst)
    }
}

impl Machine {
    pub fn new() -> Self {
        Self::with_data(&[ExtentRange { start: 0, end: EXTENTS }])
    }
    /// The moment has data in these extents alone.
    pub fn with_data(data: &[ExtentRange]) -> Self {
        Machine {
            plan: Arc::default(),
            dir: MemDir::new(),
            disk: MemBlock::new(SIZE),
            holder: MemHolder::from_pattern(geometry(), data, 1),
            clock: Arc::default(),
            sink: Arc::default(),
        }
    }
    /// What a crash leaves, booted again.
    pub fn after(&self, crash: Crash) -> Self {
        let (dir, disk) = (self.dir.crash(crash), self.disk.crash(crash));
        Machine { dir, disk, holder: self.holder.clone(), ..Machine::new() }
    }
    pub fn parts(&self) -> VolumeParts {
        let target = FaultyBlock::new(self.disk.clone(), self.plan.clone());
        VolumeParts { holder: self.holder.clone(), target, fresh: true, usage: None }
    }
    pub fn state(&self) -> Arc<dyn LogDir> {
        FaultyDir::new(self.dir.clone(), self.plan.clone())
    }
    pub fn create(&self) -> Arc<RestoreSet> {
        self.create_with(options())
    }
    pub fn create_with(&self, options: RestoreOptions) -> Arc<RestoreSet> {
        let v = vec![volume(self.parts())];
        RestoreSet::create(self.state(), "shop", v, options, self.clock.clone()).unwrap()
    }
    pub fn create_of(&self, parts: VolumeParts) -> Arc<RestoreSet> {
        RestoreSet::create(self.state(), "shop", vec![volume(parts)], options(), self.clock.clone()).unwrap()
    }
    /// Everything is in the destination, and settled.
    pub fn complete(&self) -> Arc<RestoreSet> {
        let set = self.create();
        fill(&set);
        settle(&set);
        set
    }
    pub fn resume(&self) -> Result<Arc<RestoreSet>> {
        RestoreSet::resume(self.state(), options(), self.clock.clone(), |_| Ok(self.parts()))
    }
    /// With another disk at the place of the destination.
    pub fn resume_on(&self, disk: Arc<MemBlock>) -> Result<Arc<RestoreSet>> {
        Machine { disk, ..self.clone() }.resume()
    }
    pub fn truth(&self, extent: u64) -> Vec<u8> {
        let mut out = vec![0; EXTENT as usize];
        self.holder.truth(extent, &mut out);
        out
    }
    fn ask(&self, set: &RestoreSet, token: u64, offset: u64, op: Op<'_>) -> Option<Result<()>> {
        let mut answers = Vec::new();
        let sink: Arc<dyn CompletionSink> = self.sink.clone();
        set.volumes()[0].submit(&mut [Request { token, offset, op }], &mut answers, &sink);
        match answers.pop().unwrap() {
            Answer::Done(r) => Some(r),
            Answer::Later => None,
        }
    }
    /// `None`: it waits.
    pub fn read(&self, set: &RestoreSet, token: u64, at: u64, len: usize) -> Option<Result<Vec<u8>>> {
        let mut buf = vec![0; len];
        let done = self.ask(set, token, at, Op::Read(&mut buf))?;
        Some(done.map(|()| buf))
    }
    /// `None`: it waits.
    pub fn write(&self, set: &RestoreSet, token: u64, at: u64, data: &[u8]) -> Option<Result<()>> {
        self.ask(set, token, at, Op::Write { data, fua: false })
    }
    /// What was answered later since it was last asked.
    pub fn came(&self) -> Vec<Completion> {
        std::mem::take(&mut *self.sink.came.lock().unwrap())
    }
}

/// All of an extent.
pub fn read(set: &RestoreSet, extent: u64) -> Vec<u8> {
    let mut out = vec![0; EXTENT as usize];
    set.volumes()[0].read_at(extent * EXTENT, &mut out).unwrap();
    out
}
pub fn fill(set: &RestoreSet) {
    set.fetch(0, &(0..EXTENTS).collect::<Vec<_>>(), Heat::Cold);
    assert!(set.is_complete());
}
/// Steps the mover and the log until nothing is left to do.
pub fn settle(set: &RestoreSet) {
    for _ in 0..200 {
        set.log_step().unwrap();
        set.mover_step(true).unwrap();
        if set.is_settled() {
            return;
        }
    }
}
/// Steps the mover as long as that does anything.
pub fn work(set: &RestoreSet) {
    while set.mover_step(true).unwrap() == Step::Worked {}
}
/// One of the two copies of the restore record becomes garbage, durably.
pub fn damage_record(dir: &dyn LogDir, copy: u64) {
    const SLOT: u64 = 260 << 10;
    let file = dir.open("restore").unwrap().unwrap();
    let mut magic = [0; 8];
    file.read_at(copy * SLOT, &mut magic).unwrap();
    assert_eq!(&magic, b"RKSLOT01", "the layout changed");
    file.write_at(copy * SLOT, &[&[0x55; 512]]).unwrap();
    file.sync().unwrap();
}

/// Takes the devices as they are, when this is done with them.
pub struct After<F>(pub F);
impl<F: Fn(&[Settling]) -> Result<()>> Adopt for After<F> {
    fn adopt(&self, v: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>> {
        (self.0)(&v)?;
        Ok(v.into_iter().map(|s| s.device).collect())
    }
}
/// Takes the devices as they are.
pub fn as_is() -> impl Adopt {
    After(|_: &[Settling]| Ok(()))
}
/// Cannot take them.
pub fn full() -> impl Adopt {
    After(|_: &[Settling]| Err(Error::new(Kind::Full, "no space for the live state")))
}

/// A disk at whose next flush something else happens, behind the flush and before it is answered.
pub struct During {
    disk: Arc<MemBlock>,
    then: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}
impl During {
    pub fn new(disk: &Arc<MemBlock>) -> Arc<Self> {
        Arc::new(During { disk: disk.clone(), then: Mutex::default() })
    }
    pub fn at_next_flush(&self, then: impl FnOnce() + Send + 'static) {
        *self.then.lock().unwrap() = Some(Box::new(then));
    }
    /// It has not happened yet.
    pub fn waits(&self) -> bool {
        self.then.lock().unwrap().is_some()
    }
}
impl Block for During {
    fn info(&self) -> Info {
        self.disk.info()
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        self.disk.submit(batch, answers, sink);
        if batch.iter().any(|r| matches!(r.op, Op::Flush)) {
            let then = self.then.lock().unwrap().take();
            then.into_iter().for_each(|then| then());
        }
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.disk.allocation(range, out)
    }
}
