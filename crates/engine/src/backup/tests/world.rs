//! A model of a tracked set: plain bytes, a mark an extent, and what a crash or a stranger may do to them. It says what
//! the port promises and asserts what the port may demand.

use super::super::{Changed, InstantVolume, SetInstant, VolumeIdentity};
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub const EXTENT: usize = 16 << 10;
/// Extents of one region of the activity log.
const REGION: usize = 4;

/// One volume as its owner knows it.
#[derive(Clone)]
pub struct Volume {
    pub name: &'static str,
    pub uuid: Uuid,
    pub geometry: Geometry,
    pub image: Vec<u8>,
    tracking: Uuid,
    /// The open generation; the last instant closed the one before.
    open: u16,
    marks: Vec<u16>,
    /// Regions written since the last checkpoint.
    active: BTreeSet<usize>,
    /// Extents in doubt against every parent that closed this generation or an earlier one.
    doubtful: Vec<(ExtentRange, u16)>,
    /// Generation 0 of this history is that moment.
    origin: Option<(Uuid, Generation)>,
}

impl Volume {
    pub fn new(name: &'static str, n: u8, bytes: usize) -> Self {
        let extent = ExtentBytes::new(EXTENT as u64).unwrap();
        let geometry = Geometry::new(bytes as u64, extent, 512, 4096).unwrap();
        let mut volume = Volume {
            name,
            uuid: Uuid([n; 16]),
            geometry,
            image: vec![0; bytes],
            tracking: Uuid::default(),
            open: 0,
            marks: Vec::new(),
            active: BTreeSet::new(),
            doubtful: Vec::new(),
            origin: None,
        };
        volume.begin_history(None);
        volume
    }
    /// A fresh tracking uuid: all known marks are void.
    pub fn begin_history(&mut self, origin: Option<(Uuid, Generation)>) {
        self.tracking = rekindle_io::random::uuid();
        self.open = 1;
        self.marks = vec![0; self.geometry.extents() as usize];
        self.active.clear();
        self.doubtful.clear();
        self.origin = origin;
    }
    /// The next instant but one overflows.
    pub fn nearly_overflow(&mut self) {
        self.begin_history(None);
        self.open = u16::MAX - 1;
        self.marks.fill(self.open);
    }
    fn scribble(&mut self, extent: usize, tag: u8) {
        let extent = extent % self.marks.len();
        let r = self.geometry.extent_bytes(extent as u64);
        let bytes = &mut self.image[r.start as usize..r.end() as usize];
        match tag % 4 {
            0 => bytes.fill(0),
            // Few different contents, so that equal extents meet.
            1 => bytes.fill(tag),
            _ => bytes[512..1024].fill(tag),
        }
    }
    /// The guest writes.
    pub fn write(&mut self, extent: usize, tag: u8) {
        let extent = extent % self.marks.len();
        self.active.insert(extent / REGION);
        self.scribble(extent, tag);
        self.marks[extent] = self.open;
    }
    /// Marks are durable now: nothing is active any more.
    pub fn checkpoint(&mut self) {
        self.active.clear();
    }
    /// Power is cut: unflushed writes of active regions come and go, marks of them too.
    pub fn crash(&mut self, salt: u8) {
        for region in std::mem::take(&mut self.active) {
            let (start, end) = (region * REGION, ((region + 1) * REGION).min(self.marks.len()));
            let victim = start + salt as usize % (end - start);
            self.scribble(victim, salt);
            self.marks[victim] = self.marks[victim].min(self.open - 1);
            self.doubtful.push((ExtentRange { start: start as u64, end: end as u64 }, self.open));
        }
    }
    /// Somebody wrote behind our back; the owner noticed.
    pub fn stranger(&mut self, extent: usize, tag: u8) {
        self.scribble(extent, tag);
        self.begin_history(None);
    }
    fn close_generation(&mut self) -> Instant {
        let instant = Instant {
            at: self.clone(),
            taken: Mutex::new(vec![false; self.marks.len()]),
            reads: AtomicUsize::new(0),
            fail_read: usize::MAX,
        };
        match self.open.checked_add(1) {
            Some(next) => self.open = next,
            None => self.begin_history(None),
        }
        instant
    }
}

/// One volume at an instant.
pub struct Instant {
    pub at: Volume,
    taken: Mutex<Vec<bool>>,
    pub reads: AtomicUsize,
    fail_read: usize,
}

impl InstantVolume for Instant {
    fn identity(&self) -> VolumeIdentity {
        VolumeIdentity {
            name: self.at.name.into(),
            uuid: self.at.uuid,
            tracking: self.at.tracking,
            generation: Generation(self.at.open),
        }
    }
    fn geometry(&self) -> Geometry {
        self.at.geometry
    }
    fn changed(&self, tracking: Uuid, generation: Generation) -> Changed {
        let since = match self.at.origin {
            _ if tracking == self.at.tracking => generation.0,
            Some(origin) if origin == (tracking, generation) => 0,
            _ => return Changed::CompareAll("another history".into()),
        };
        let one = |e: u64| ExtentRange { start: e, end: e + 1 };
        let marks = self.at.marks.iter().zip(0..);
        let marked = marks.filter(|(m, _)| **m > since).map(|(_, e)| one(e)).collect();
        let doubtful = self.at.doubtful.iter().filter(|(_, until)| since <= *until);
        let compare = doubtful.map(|(r, _)| *r).collect();
        Changed::Since { marked, compare }
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let zero = |b: &[u8]| b.iter().all(|b| *b == 0);
        let size = self.at.geometry.size;
        // Blocks of 4 KiB, as a file system knows holes.
        let block = |at: u64| &self.at.image[at as usize..(at + 4096).min(size) as usize];
        let begin = (from / 4096 * 4096..size).step_by(4096);
        let Some(start) = begin.clone().find(|at| !zero(block(*at))) else { return Ok(None) };
        let end = (start..size).step_by(4096).find(|at| zero(block(*at))).unwrap_or(size);
        Ok(Some(ByteRange::new(start.max(from), end - start.max(from))))
    }
    fn read(&self, extent: u64, out: &mut [u8]) -> Result<()> {
        assert!(!self.taken.lock().unwrap()[extent as usize], "extent {extent} was taken and is read");
        if self.reads.fetch_add(1, Ordering::Relaxed) >= self.fail_read {
            return Err(Error::new(Kind::Failed, "planned: the disk cannot be read"));
        }
        let r = self.at.geometry.extent_bytes(extent);
        out.copy_from_slice(&self.at.image[r.start as usize..r.end() as usize]);
        Ok(())
    }
    fn taken(&self, extents: ExtentRange) {
        let mut taken = self.taken.lock().unwrap();
        for e in extents.iter() {
            assert!(!std::mem::replace(&mut taken[e as usize], true), "extent {e} was taken twice");
        }
    }
}

/// A set at an instant.
pub struct Moment {
    pub volumes: Vec<Instant>,
    /// Answers of `intact` until it fails.
    pub lasts: AtomicUsize,
}

impl Moment {
    pub fn of(volumes: &mut [Volume]) -> Self {
        let volumes = volumes.iter_mut().map(Volume::close_generation).collect();
        Moment { volumes, lasts: AtomicUsize::new(usize::MAX) }
    }
    pub fn fail_read(mut self, volume: usize, after: usize) -> Self {
        self.volumes[volume].fail_read = after;
        self
    }
    /// Everything was read or given up.
    pub fn all_taken(&self) -> bool {
        self.volumes.iter().all(|v| v.taken.lock().unwrap().iter().all(|t| *t))
    }
}

impl SetInstant for Moment {
    fn volumes(&self) -> Vec<&dyn InstantVolume> {
        self.volumes.iter().map(|v| v as &dyn InstantVolume).collect()
    }
    fn intact(&self) -> Result<()> {
        match self.lasts.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(Error::new(Kind::Full, "planned: the fleece is full")),
            _ => Ok(()),
        }
    }
}
