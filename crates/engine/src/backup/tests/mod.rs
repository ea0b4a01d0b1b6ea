//! An incremental equals a full backup of the same instant, bit for bit, whatever happened between (invariant 8): random
//! histories of a set, two repositories, failures at random store operations, crashes, strangers, forgotten parents.

mod diff;
mod lost;
mod single;
mod world;

use super::*;
use crate::progress::Unwatched;
use crate::repository::{InitOptions, Repository, Snapshot, WriterOptions};
use proptest::prelude::*;
use rekindle_core::volume::Uuid;
use rekindle_io::holder::kit::Collected;
use rekindle_io::holder::{FetchSink, Fetched, Holder, Urgency};
use rekindle_io::store::{Fault, FaultyStore, MemStore, Store, StoreExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use world::{EXTENT, Moment, Volume};

/// A repository whose store can fail.
pub struct Place {
    pub store: Arc<FaultyStore>,
    pub repo: Repository,
}

pub fn place() -> Place {
    let store = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let repo = Repository::init(store.clone(), &InitOptions::new(None, 1)).unwrap();
    Place { store, repo }
}

pub fn options(time_ns: u64, readers: usize) -> BackupOptions {
    BackupOptions {
        readers,
        writer: WriterOptions { pack_bytes: 64 << 10, threads: 0, time_ns, ..WriterOptions::default() },
        ..BackupOptions::new("shop", time_ns)
    }
}

/// Everything a volume of a snapshot reads as.
pub fn read_all(snapshot: &Snapshot, volume: &str) -> Vec<u8> {
    let holder = snapshot.holder(volume).unwrap();
    let g = holder.geometry();
    let mut out = vec![0xee; g.size as usize];
    let sink = Collected::new();
    let extents: Vec<u64> = (0..g.extents()).collect();
    holder.clone().fetch(&extents, Urgency::Background, &(sink.clone() as Arc<dyn FetchSink>));
    for (e, what) in sink.wait(extents.len()) {
        let r = g.extent_bytes(e);
        let bytes = &mut out[r.start as usize..r.end() as usize];
        match what.unwrap() {
            Fetched::Zero => bytes.fill(0),
            Fetched::Sealed(s) => s.open(bytes).unwrap(),
        }
    }
    out
}

#[derive(Clone, Debug)]
enum Event {
    Write {
        volume: usize,
        extent: usize,
        tag: u8,
    },
    Checkpoint,
    Crash {
        salt: u8,
    },
    Stranger {
        volume: usize,
        extent: usize,
        tag: u8,
    },
    NearOverflow {
        volume: usize,
    },
    Backup {
        place: usize,
        readers: usize,
        compare: bool,
    },
    /// The store fails at this operation of the backup, in this way; then guests go on.
    FailedBackup {
        place: usize,
        op: u64,
        fault: Fault,
    },
    /// The guest's fleece runs full, or its disk cannot be read.
    LostInstant {
        place: usize,
        after: usize,
    },
    Forget {
        place: usize,
        which: usize,
    },
    /// The set is restored from a snapshot that some place has.
    Restore {
        place: usize,
        which: usize,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let write = (0..2usize, 0..30usize, any::<u8>());
    let fault = prop_oneof![
        Just(Fault::Error(rekindle_io::Kind::Full)),
        Just(Fault::AnswerLost),
        Just(Fault::Dies),
        Just(Fault::DiesAfter),
    ];
    prop_oneof![
        8 => write.clone().prop_map(|(volume, extent, tag)| Event::Write { volume, extent, tag }),
        1 => Just(Event::Checkpoint),
        1 => any::<u8>().prop_map(|salt| Event::Crash { salt }),
        1 => write.prop_map(|(volume, extent, tag)| Event::Stranger { volume, extent, tag }),
        1 => (0..2usize).prop_map(|volume| Event::NearOverflow { volume }),
        6 => (0..2usize, 0..3usize, any::<bool>())
            .prop_map(|(place, readers, c)| Event::Backup { place, readers, compare: c && readers == 1 }),
        2 => (0..2usize, 0..40u64, fault).prop_map(|(place, op, fault)| Event::FailedBackup { place, op, fault }),
        1 => (0..2usize, 0..20usize).prop_map(|(place, after)| Event::LostInstant { place, after }),
        1 => (0..2usize, 0..9usize).prop_map(|(place, which)| Event::Forget { place, which }),
        1 => (0..2usize, 0..9usize).prop_map(|(place, which)| Event::Restore { place, which }),
    ]
}

/// Images of both volumes at an instant, by the instant's time.
type Truth = BTreeMap<u64, [Vec<u8>; 2]>;

struct World {
    volumes: [Volume; 2],
    places: [Place; 2],
    truth: Truth,
    clock: u64,
}

impl World {
    fn new() -> Self {
        let volumes = [Volume::new("data", 1, 24 * EXTENT - 512), Volume::new("wal", 2, 9 * EXTENT)];
        World { volumes, places: [place(), place()], truth: Truth::new(), clock: 0 }
    }
    fn moment(&mut self) -> Moment {
        self.clock += 1;
        self.truth.insert(self.clock, [self.volumes[0].image.clone(), self.volumes[1].image.clone()]);
        Moment::of(&mut self.volumes)
    }
    fn apply(&mut self, event: &Event) {
        match event.clone() {
            Event::Write { volume, extent, tag } => self.volumes[volume].write(extent, tag),
            Event::Checkpoint => self.volumes.iter_mut().for_each(Volume::checkpoint),
            Event::Crash { salt } => self.volumes.iter_mut().for_each(|v| v.crash(salt)),
            Event::Stranger { volume, extent, tag } => self.volumes[volume].stranger(extent, tag),
            Event::NearOverflow { volume } => self.volumes[volume].nearly_overflow(),
            Event::Backup { place, readers, compare } => {
                let moment = self.moment();
                let compare = compare.then(|| "as asked for".into());
                let options = BackupOptions { compare, ..options(self.clock, readers) };
                let report = run(&moment, &self.places[place].repo, &options, &Unwatched).unwrap();
                assert!(moment.all_taken(), "what is not taken is kept for nothing");
                self.check_snapshot(&self.places[place].repo.snapshot_of(report.snapshot));
            }
            Event::FailedBackup { place, op, fault } => {
                let moment = self.moment();
                let place = &self.places[place];
                place.store.fail_at(place.store.counts().ops + op, fault);
                let done = run(&moment, &place.repo, &options(self.clock, 0), &Unwatched);
                place.store.clear_faults();
                place.store.set_available(true);
                if let Ok(report) = done {
                    self.check_snapshot(&place.repo.snapshot_of(report.snapshot));
                }
            }
            Event::LostInstant { place, after } => {
                let moment = self.moment();
                let moment = moment.fail_read(after % 2, after / 2);
                moment.lasts.store(after, std::sync::atomic::Ordering::Relaxed);
                let done =
                    run(&moment, &self.places[place].repo, &options(self.clock, after % 3), &Unwatched);
                if done.is_err() {
                    let left = self.snapshots(place).iter().any(|s| s.info().commit.time_ns == self.clock);
                    assert!(!left, "a backup that failed before its commit is visible");
                }
            }
            Event::Forget { place, which } => self.forget(place, which),
            Event::Restore { place, which } => self.restore(place, which),
        }
    }
    fn snapshots(&self, place: usize) -> Vec<Snapshot> {
        let repo = &self.places[place].repo;
        let listing = repo.snapshots(Some("shop")).unwrap();
        assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
        listing.snapshots.into_iter().map(|info| repo.snapshot_of(info)).collect()
    }
    fn pick(&self, place: usize, which: usize) -> Option<Snapshot> {
        let all = self.snapshots(place);
        (!all.is_empty()).then(|| all[which % all.len()].clone())
    }
    fn forget(&self, place: usize, which: usize) {
        let store = &self.places[place].store;
        let commits: Vec<String> =
            store.list_all("").unwrap().into_iter().map(|e| e.name).filter(|n| n.contains("/c/")).collect();
        if let Some(name) = commits.get(which % commits.len().max(1)) {
            store.delete(name).unwrap();
        }
    }
    fn restore(&mut self, place: usize, which: usize) {
        let Some(snapshot) = self.pick(place, which) else { return };
        for volume in &mut self.volumes {
            let record = snapshot.volume(volume.name).unwrap();
            volume.image = read_all(&snapshot, volume.name);
            volume.begin_history(Some((record.tracking, record.generation)));
        }
    }
    fn check_snapshot(&self, snapshot: &Snapshot) {
        let truth = &self.truth[&snapshot.info().commit.time_ns];
        for (volume, image) in self.volumes.iter().zip(truth) {
            let got = read_all(snapshot, volume.name);
            let wrong = got.chunks(EXTENT).zip(image.chunks(EXTENT)).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{} of the backup at {}", volume.name, snapshot.info().commit.time_ns);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, max_shrink_iters: 4000, ..ProptestConfig::default() })]
    #[test]
    fn incremental_equals_full(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::new();
        for event in &events {
            world.apply(event);
        }
        for place in 0..2 {
            world.snapshots(place).iter().for_each(|s| world.check_snapshot(s));
        }
    }
}

/// The uuid under which the model knows its first volume.
pub const DATA: Uuid = Uuid([1; 16]);
