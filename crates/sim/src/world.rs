//! The world of one restore: two volumes, their moment in memory, a state folder and two disks that can lose power, a
//! guest that writes odd sizes, and background work stepped by hand in an order the seed chooses.

mod backups;
mod copies;

pub use copies::Copies;

use backups::{Backup, Parent};

use crate::model::{BLOCK, Model};
use crate::parts::{Sink, disk, moment};
use crate::rng::Rng;
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_engine::restore::{
    Adopt, Heat, LogLimits, MoverPace, NewVolume, Phase, RestoreOptions, RestoreSet, Settling, Step,
    Verifier, VolumeParts,
};
use rekindle_io::block::{Answer, Block, BlockExt, CompletionSink, FaultyBlock, MemBlock, Op, Request};
use rekindle_io::clock::{Clock, ManualClock};
use rekindle_io::fault::{Crash, FaultPlan};
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::{FaultyDir, LogDir, MemDir, TwoSlot};
use rekindle_io::{Kind, Result};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What a world is made of.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Bytes of each of the two volumes.
    pub size: u64,
    /// The destination had other contents before.
    pub used: bool,
    /// Bounds of the log.
    pub log: LogLimits,
}

impl Default for Shape {
    fn default() -> Self {
        let log =
            LogLimits { segment_bytes: 64 << 10, bytes_max: 320 << 10, pieces_max: 400, block_bytes: 4096 };
        Shape { size: (2 << 20) + (40 << 14) + 1536, used: false, log }
    }
}

enum Asked {
    Read { range: ByteRange, floors: Vec<u64> },
    Write { range: ByteRange, fua: bool },
}

struct InFlight {
    volume: usize,
    id: u64,
    asked: Asked,
}

/// The world.
pub struct World {
    /// Everything that goes wrong.
    pub plan: Arc<FaultPlan>,
    shape: Shape,
    dir: Arc<MemDir>,
    disks: Vec<Arc<MemBlock>>,
    holders: Vec<Arc<MemHolder>>,
    clock: Arc<ManualClock>,
    /// The set, while the process lives.
    pub set: Option<Arc<RestoreSet>>,
    models: Vec<Model>,
    sink: Arc<Sink>,
    flying: Vec<InFlight>,
    next_id: u64,
    /// Requests answered.
    pub answered: u64,
    /// Requests answered late.
    pub late: u64,
    /// The last life was ended by a power cut.
    power: bool,
    /// Handed over: the disks are the volumes.
    pub live: bool,
    backup: Option<Backup>,
    parents: Vec<Parent>,
    /// A copy of the state was put in place and closed a generation again.
    closed_twice: bool,
    /// A flush or write of some port was made to fail in this life.
    pub faulty: bool,
    /// Backups that read what their instant held, and backups that were given up.
    pub backups: (u64, u64),
}

/// The live side of a hand-over: checks what it is given, keeps a durable state of its own, serves the disk.
struct Adopter<'a> {
    world: &'a World,
    dir: Arc<dyn LogDir>,
    broken: Mutex<Option<String>>,
}

impl Adopt for Adopter<'_> {
    fn adopt(&self, volumes: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>> {
        TwoSlot::open(&*self.dir, "live", 100)?.store(b"live")?;
        for (v, s) in volumes.iter().enumerate() {
            let marked = |e: u64| s.marks.iter().any(|(r, g)| r.iter().contains(&e) && g.0 > 0);
            let missed = self.world.models[v].changed().find(|b| !marked(b * BLOCK / EXTENT));
            // Writes that waited for room were answered a moment ago: the model has not heard of it yet.
            let (model, all) = (&self.world.models[v], ByteRange::new(0, self.world.shape.size));
            let whole = model.check_read(all, &model.floors(all), &self.world.disks[v].bytes());
            let what = match missed {
                Some(b) => format!("volume {v}: block {b} differs from the moment and is not marked"),
                None => match whole {
                    Err(e) => format!("volume {v}: the destination is not the volume at the hand-over: {e}"),
                    Ok(()) => continue,
                },
            };
            self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
        }
        Ok(volumes.into_iter().map(|s| s.device).collect())
    }
}

/// The end of a life: the machine died, or a rule was broken.
#[derive(Debug)]
pub enum End {
    /// As planned.
    Died,
    /// A promise was broken.
    Broken(String),
}

impl From<String> for End {
    fn from(s: String) -> Self {
        End::Broken(s)
    }
}

const EXTENT: u64 = 16 << 10;

impl World {
    /// Two volumes with a moment of data and zeros, nothing restored yet.
    pub fn new(shape: Shape, seed: u64) -> World {
        let extent = ExtentBytes::new(EXTENT).expect("16 KiB is a size of extents");
        let g = Geometry::new(shape.size, extent, 512, 4096).expect("a multiple of 512");
        let n = g.extents();
        let data = [
            ExtentRange { start: 0, end: 3 },
            ExtentRange { start: 62, end: 70 },
            ExtentRange { start: 74, end: n - 40 },
            ExtentRange { start: n - 3, end: n },
        ];
        let holders: Vec<_> = (0..2).map(|v| MemHolder::from_pattern(g, &data, seed * 2 + v)).collect();
        let models = holders.iter().map(|h| Model::new(moment(h, &g))).collect();
        let disks = (0..2).map(|_| disk(shape)).collect();
        World {
            plan: Arc::new(FaultPlan::new()),
            shape,
            dir: MemDir::new(),
            disks,
            holders,
            clock: Arc::new(ManualClock::default()),
            set: None,
            models,
            sink: Arc::new(Sink::default()),
            flying: Vec::new(),
            next_id: 1,
            answered: 0,
            late: 0,
            power: false,
            live: false,
            backup: None,
            parents: Vec::new(),
            closed_twice: false,
            faulty: false,
            backups: (0, 0),
        }
    }
    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            log: self.shape.log,
            pace: MoverPace { move_after: Duration::from_secs(1), settle_after: Duration::from_secs(5) },
            stall_limit: Duration::from_secs(1 << 40),
            ..RestoreOptions::default()
        }
    }
    fn parts(&self, v: usize) -> VolumeParts {
        VolumeParts {
            holder: self.holders[v].clone(),
            target: FaultyBlock::new(self.disks[v].clone(), self.plan.clone()),
            fresh: !self.shape.used,
            usage: None,
        }
    }
    /// Starts the process: begins the restore, or goes on with it, and checks what it shows. A fresh plan of faults.
    pub fn open(&mut self) -> std::result::Result<(), End> {
        let dir = FaultyDir::new(self.dir.clone(), self.plan.clone());
        let peeked = rekindle_engine::restore::peek(&*dir);
        if let Ok(Some(plan)) = &peeked
            && plan.phase == Phase::Live
        {
            return self.open_live();
        }
        if self.live {
            return Err(End::Broken("a hand-over that was answered is forgotten".into()));
        }
        let opened = self.try_open();
        match opened {
            Ok(set) => self.set = Some(set),
            Err(e) if e.kind == Kind::Cancelled || self.plan.is_dead() => return Err(End::Died),
            Err(e) if self.faulty && matches!(e.kind, Kind::Failed | Kind::Full) => return Err(End::Died),
            Err(e) => return Err(End::Broken(format!("cannot be opened: {e:?}"))),
        }
        for v in 0..2 {
            let bytes = match self.read_all(v) {
                Err(_) if self.plan.is_dead() || self.faulty => return Err(End::Died),
                r => r?,
            };
            let power = self.power;
            self.models[v].recovered(&bytes, power)?;
            self.check_marks(v)?;
        }
        self.power = false;
        Ok(())
    }
    fn try_open(&self) -> Result<Arc<RestoreSet>> {
        let dir = FaultyDir::new(self.dir.clone(), self.plan.clone());
        let clock: Arc<dyn Clock> = self.clock.clone();
        let known = rekindle_engine::restore::peek(&*dir)?;
        if known.is_none() {
            let volume = |v: usize| NewVolume {
                name: ["data", "wal"][v].into(),
                volume: Uuid([v as u8; 16]),
                origin: Some((Uuid([9; 16]), Generation(4))),
                destination: format!("disk {v}"),
                parts: self.parts(v),
            };
            return RestoreSet::create(dir, "shop", (0..2).map(volume).collect(), self.options(), clock);
        }
        RestoreSet::resume(dir, self.options(), clock, |p| Ok(self.parts(usize::from(p.name == "wal"))))
    }
    /// After the hand-over: the disks alone are the volumes.
    fn open_live(&mut self) -> std::result::Result<(), End> {
        self.live = true;
        let power = std::mem::take(&mut self.power);
        for v in 0..2 {
            let bytes = self.disks[v].bytes();
            self.models[v].recovered(&bytes, power)?;
        }
        Ok(())
    }
    /// Verifies and hands over; then the guest writes directly, and the process ends.
    pub fn hand_over(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("handed over by a living process");
        let mut at = Verifier::default();
        while self.verified_step(&set, &mut at)? {}
        for _ in 0..4 {
            self.guest_write(rng, 0)?;
            self.guest_zero(rng, 1)?;
            self.collect()?;
        }
        let adopter = Adopter {
            world: self,
            dir: FaultyDir::new(self.dir.clone(), self.plan.clone()),
            broken: Mutex::default(),
        };
        let done = set.hand_over(&adopter, false);
        if let Some(what) = adopter.broken.into_inner().unwrap_or_else(PoisonError::into_inner) {
            return Err(End::Broken(what));
        }
        self.background(done.map(drop))?;
        self.live = true;
        // Emptying the log may have answered writes that waited.
        self.collect()?;
        for _ in 0..6 {
            self.guest_write(rng, 0)?;
            self.guest_write(rng, 1)?;
            self.guest_read(rng, 0)?;
            self.collect()?;
            self.direct_flush(rng)?;
        }
        Ok(())
    }
    fn verified_step(&self, set: &RestoreSet, at: &mut Verifier) -> std::result::Result<bool, End> {
        let step = set.verify_step(at);
        let worked = matches!(step, Ok(Step::Worked));
        self.background(step.map(drop))?;
        Ok(worked)
    }
    fn direct_flush(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("a guest talks to a living process");
        let v = rng.below(2) as usize;
        self.background(set.volumes()[v].flush())?;
        self.models[v].flush();
        Ok(())
    }
    /// Spoils one extent of a destination behind everybody's back.
    pub fn spoil(&self, v: usize, extent: u64) {
        self.disks[v].write_at(extent * EXTENT, &[0x55; 512]).expect("a disk in memory");
    }
    /// How many extents a verification mended.
    pub fn mended(&self) -> u64 {
        self.set.as_ref().map_or(0, |s| s.status().mended)
    }

    /// The whole volume through the front door. The holder answers inline for it.
    fn read_all(&mut self, v: usize) -> std::result::Result<Vec<u8>, String> {
        self.holders[v].answer_inline();
        self.holders[v].set_available(true);
        let set = self.set.clone().expect("read while the process lives");
        let mut out = vec![0; self.shape.size as usize];
        // Not the whole at once: a read that finds extents absent fills them in, and most should stay absent.
        let mut bytes = vec![0; EXTENT as usize];
        for (e, part) in out.chunks_mut(EXTENT as usize).enumerate() {
            if set.is_untouched(v as u16, e as u64) {
                self.holders[v].truth(e as u64, part);
                continue;
            }
            let bytes = &mut bytes[..part.len()];
            set.volumes()[v].read_at(e as u64 * EXTENT, bytes).map_err(|e| format!("read failed: {e:?}"))?;
            part.copy_from_slice(bytes);
        }
        Ok(out)
    }
    /// Whatever differs from the moment is marked (invariant 12).
    fn check_marks(&self, v: usize) -> std::result::Result<(), String> {
        let set = self.set.as_ref().expect("checked while the process lives");
        for b in self.models[v].changed() {
            let extent = b * BLOCK / EXTENT;
            if set.mark_of(v as u16, extent) == 0 {
                return Err(format!(
                    "block {b} of volume {v} differs from the moment, extent {extent} is unmarked"
                ));
            }
        }
        Ok(())
    }
    /// The machine goes down; what is in memory is lost.
    pub fn crash(&mut self, crash: Crash) {
        self.crash_apart(crash, crash);
    }
    /// State folder and destinations lose different things: a destination whose flush failed has lost what was written
    /// since its last good one though the process was only killed.
    pub fn crash_apart(&mut self, state: Crash, disks: Crash) {
        self.backup = None;
        // A log whose flush failed is cut at its last good one: what lay behind is lost, whatever the crash.
        let failed = self.set.as_ref().and_then(|s| s.status().failed);
        self.power |= failed.is_some_and(|f| f.contains("write log"));
        self.faulty = false;
        self.set = None;
        // The edges hold blocks of the guest's disk: a part of a block written there risks as much as on the disk itself.
        self.dir = self.dir.crash_tearing(state, &|name| !name.starts_with("edges-"));
        self.disks = self.disks.iter().map(|d| d.crash(disks)).collect();
        self.plan = Arc::new(FaultPlan::new());
        // Before the hand-over nothing is promised on behalf of a destination alone: the log still has it.
        self.power |=
            matches!(state, Crash::Power { .. }) || self.live && matches!(disks, Crash::Power { .. });
        self.sink = Arc::new(Sink::default());
        self.flying.clear();
        for h in &self.holders {
            h.answer_inline();
            h.set_available(true);
            h.release(usize::MAX);
        }
    }

    /// One step of this world, chosen by `rng`.
    pub fn step(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("steps are of a living process");
        let v = rng.below(2) as usize;
        let done = match rng.below(35) {
            32..35 => self.backup_step(rng),
            0..8 => self.guest_write(rng, v),
            8..11 => self.guest_zero(rng, v),
            11..16 => self.guest_read(rng, v),
            16..18 => self.guest_flush(v),
            18..23 => self.background(set.mover_step(rng.one_in(2)).map(drop)),
            23..26 => self.background(set.log_step().map(drop)),
            26 => {
                set.fetch(v as u16, &[64 + rng.below(40), rng.below(140)], Heat::Cold);
                Ok(())
            }
            27 => {
                let start = rng.below(set.shapes()[v].0.extents());
                let end = (start + 4).min(set.shapes()[v].0.extents());
                self.zeros(v, ExtentRange { start, end })
            }
            28 => {
                self.clock.advance(Duration::from_millis(rng.below(3000)));
                set.timer_step();
                Ok(())
            }
            29 => {
                let h = &self.holders[v];
                match rng.below(5) {
                    0 | 1 => h.hold(),
                    2 => h.set_available(false),
                    3 => h.set_available(true),
                    _ => h.answer_inline(),
                }
                Ok(())
            }
            30 => {
                self.holders[v].release(1 + rng.below(3) as usize);
                Ok(())
            }
            _ => {
                set.work_step();
                Ok(())
            }
        };
        self.collect()?;
        match done {
            Err(End::Died) => Err(End::Died),
            _ if self.plan.is_dead() => Err(End::Died),
            other => other,
        }
    }
    fn zeros(&self, v: usize, extents: ExtentRange) -> std::result::Result<(), End> {
        let set = self.set.as_ref().expect("steps are of a living process");
        let mut known = Vec::new();
        let holder: Arc<dyn rekindle_io::holder::Holder> = self.holders[v].clone();
        self.background(holder.presence(extents.start, extents.count(), &mut known))?;
        for (e, p) in extents.iter().zip(known) {
            if p == rekindle_io::holder::Presence::Zero {
                self.background(set.make_zero(v as u16, ExtentRange { start: e, end: e + 1 }).map(drop))?;
            }
        }
        self.background(set.write_zeros(v as u16, extents).map(drop))
    }
    fn background(&self, done: Result<()>) -> std::result::Result<(), End> {
        match done {
            // A planned fault ends this life: the process is killed and started again.
            Err(e) if self.faulty && e.kind == Kind::Failed => Err(End::Died),
            // No space is waited out.
            Err(e) if self.faulty && e.kind == Kind::Full => Ok(()),
            Err(e) if e.kind == Kind::Cancelled || self.plan.is_dead() => Err(End::Died),
            Err(e) => Err(End::Broken(format!("background work failed: {e:?}"))),
            Ok(()) => Ok(()),
        }
    }
    /// Around the edge of the first MiB, the tail, now and then anywhere; odd sizes.
    fn range(&self, rng: &mut Rng, aligned: bool) -> ByteRange {
        let size = self.shape.size / BLOCK;
        let len = match rng.below(8) {
            0..5 => 1 + rng.below(16),
            5 | 6 => 1 + rng.below(80),
            _ => 32 * (1 + rng.below(6)),
        };
        let near = match rng.below(8) {
            0..6 => (1 << 20) / BLOCK - 64 + rng.below(400),
            6 => size - 1 - rng.below(40),
            _ => rng.below(size),
        };
        let start = if aligned { near / 32 * 32 } else { near };
        let start = start.min(size - 1);
        ByteRange::new(start * BLOCK, len.min(size - start) * BLOCK)
    }
    fn guest_write(&mut self, rng: &mut Rng, v: usize) -> std::result::Result<(), End> {
        // A batch, as a connection hands it over: the writes of it may overlap.
        let n = 1 + rng.below(3);
        let ranges: Vec<ByteRange> = (0..n)
            .map(|_| {
                let a = rng.one_in(4);
                self.range(rng, a)
            })
            .collect();
        let fua = rng.one_in(8);
        let ids: Vec<u64> = (0..n).map(|i| self.next_id + i).collect();
        self.next_id += n;
        let data: Vec<Vec<u8>> = ids.iter().zip(&ranges).map(|(id, r)| Model::data(*id, *r)).collect();
        let requests = ids.iter().zip(&ranges).zip(&data).map(|((id, r), d)| Request {
            token: *id,
            offset: r.start,
            op: Op::Write { data: d, fua },
        });
        let mut requests: Vec<_> = requests.collect();
        self.submit_writes(v, &mut requests, &ids, &ranges, fua, false)
    }
    fn guest_zero(&mut self, rng: &mut Rng, v: usize) -> std::result::Result<(), End> {
        let aligned = rng.one_in(2);
        let range = self.range(rng, aligned);
        let (len, fua) = (range.len, rng.one_in(8));
        let op = match rng.below(3) {
            0 => Op::Trim { len, fua },
            1 => Op::Zero { len, fua, no_hole: true, fast: false },
            _ => Op::Zero { len, fua, no_hole: false, fast: true },
        };
        let id = self.next_id;
        self.next_id += 1;
        self.submit_writes(
            v,
            &mut [Request { token: id, offset: range.start, op }],
            &[id],
            &[range],
            fua,
            true,
        )
    }
    fn submit_writes(
        &mut self,
        v: usize,
        requests: &mut [Request<'_>],
        ids: &[u64],
        ranges: &[ByteRange],
        fua: bool,
        zero: bool,
    ) -> std::result::Result<(), End> {
        for (id, r) in ids.iter().zip(ranges) {
            self.models[v].issue(*id, *r, zero);
            self.flying.push(InFlight { volume: v, id: *id, asked: Asked::Write { range: *r, fua } });
        }
        let mut answers = Vec::new();
        let sink: Arc<dyn CompletionSink> = self.sink.clone();
        let set = self.set.clone().expect("a guest talks to a living process");
        set.volumes()[v].submit(requests, &mut answers, &sink);
        for (id, a) in ids.iter().zip(answers) {
            if let Answer::Done(result) = a {
                self.answered(*id, result.map(|()| Vec::new()))?;
            }
        }
        Ok(())
    }
    fn guest_read(&mut self, rng: &mut Rng, v: usize) -> std::result::Result<(), End> {
        let range = self.range(rng, false);
        let id = self.next_id;
        self.next_id += 1;
        let mut buf = vec![0; range.len as usize];
        let floors = self.models[v].floors(range);
        self.flying.push(InFlight { volume: v, id, asked: Asked::Read { range, floors } });
        let mut answers = Vec::new();
        let sink: Arc<dyn CompletionSink> = self.sink.clone();
        let set = self.set.clone().expect("a guest talks to a living process");
        let mut request = [Request { token: id, offset: range.start, op: Op::Read(&mut buf) }];
        set.volumes()[v].submit(&mut request, &mut answers, &sink);
        match answers.pop() {
            Some(Answer::Done(result)) => self.answered(id, result.map(|()| buf)),
            _ => Ok(()),
        }
    }
    fn guest_flush(&mut self, v: usize) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("a guest talks to a living process");
        match set.volumes()[v].flush() {
            // One log: a flush of one volume covers the set.
            Ok(()) => self.models.iter_mut().for_each(Model::flush),
            Err(e) if e.kind == Kind::Cancelled || self.plan.is_dead() => return Err(End::Died),
            Err(e) if self.faulty && matches!(e.kind, Kind::Failed | Kind::Full) => return Err(End::Died),
            Err(e) => return Err(End::Broken(format!("flush failed: {e:?}"))),
        }
        Ok(())
    }
    fn collect(&mut self) -> std::result::Result<(), End> {
        let came = std::mem::take(&mut *self.sink.came.lock().unwrap_or_else(PoisonError::into_inner));
        for c in came {
            self.late += 1;
            self.answered(c.token, c.result)?;
        }
        Ok(())
    }
    fn answered(&mut self, id: u64, result: Result<Vec<u8>>) -> std::result::Result<(), End> {
        let at = self.flying.iter().position(|f| f.id == id);
        let Some(at) = at else { return Err(End::Broken(format!("request {id} was answered twice"))) };
        let f = self.flying.remove(at);
        self.answered += 1;
        match (f.asked, result) {
            // A dead machine answers nobody; what it said to itself does not count.
            (_, Err(_)) if self.plan.is_dead() => {}
            (_, Err(e)) if e.kind == Kind::Unavailable => {}
            (_, Err(e)) if self.faulty && matches!(e.kind, Kind::Failed | Kind::Full) => {}
            (_, Err(e)) => return Err(End::Broken(format!("request {id} failed: {e:?}"))),
            (Asked::Write { range, fua }, Ok(_)) => self.models[f.volume].answer(id, range, fua),
            (Asked::Read { range, floors }, Ok(bytes)) => {
                self.models[f.volume].check_read(range, &floors, &bytes)?;
            }
        }
        Ok(())
    }
    /// Lets the mover move and settle what it can.
    pub fn settle(&mut self) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("settled by a living process");
        set.fetch(0, &[66, 67, 75, 80], Heat::Cold);
        // Long enough for a stamp where nothing can be moved, as while a backup holds its instant.
        self.clock.advance(Duration::from_secs(6));
        for _ in 0..14 {
            self.background(set.log_step().map(drop))?;
            self.background(set.mover_step(true).map(drop))?;
        }
        self.collect()?;
        if self.plan.is_dead() { Err(End::Died) } else { Ok(()) }
    }
    /// Restores everything, empties the log, and compares the destinations, edges included, with the model.
    pub fn complete(&mut self) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("completed by a living process");
        for h in &self.holders {
            h.answer_inline();
            h.set_available(true);
            h.release(usize::MAX);
        }
        self.backup = None;
        for round in 0..400 {
            self.clock.advance(Duration::from_secs(40));
            set.timer_step();
            for v in 0..2u16 {
                let n = set.shapes()[v as usize].0.extents();
                set.fetch(v, &(0..n).collect::<Vec<_>>(), Heat::Cold);
                self.background(set.write_zeros(v, ExtentRange { start: 0, end: n }).map(drop))?;
            }
            while set.work_step() == Step::Worked {}
            self.background(set.log_step().map(drop))?;
            for _ in 0..8 {
                self.background(set.mover_step(true).map(drop))?;
            }
            self.collect()?;
            if self.plan.is_dead() {
                return Err(End::Died);
            }
            if set.is_complete() && self.flying.is_empty() && set.is_settled() && round > 2 {
                break;
            }
        }
        if !set.is_complete() || !self.flying.is_empty() || !set.is_settled() {
            let n = self.flying.len();
            return Err(End::Broken(format!("does not come to an end: {n} in flight, {:?}", set.status())));
        }
        for v in 0..2 {
            let mut got = vec![0; self.shape.size as usize];
            set.volumes()[v].read_at(0, &mut got).map_err(|e| format!("read failed: {e:?}"))?;
            let all = ByteRange::new(0, self.shape.size);
            let model = &self.models[v];
            model.check_read(all, &model.floors(all), &got).map_err(|e| format!("volume {v}: {e}"))?;
        }
        self.backup()
    }
}
