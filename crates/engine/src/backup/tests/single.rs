//! One property a test: what is read, what is written, what a stop leaves, what order packs get.

use super::*;
use crate::progress::{Done, Progress};
use crate::usage::UsageMap;
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, ExtentSet, Generation, Geometry};
use rekindle_io::logfile::MemDir;
use rekindle_io::{Kind, Result};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

fn written(extents: &[usize]) -> [Volume; 1] {
    let mut volume = Volume::new("shop", 1, 64 * EXTENT);
    extents.iter().for_each(|e| volume.write(*e, (42 + *e * 4) as u8));
    [volume]
}

fn back_up(volumes: &mut [Volume], place: &Place, time: u64) -> BackupReport {
    run(&Moment::of(volumes), &place.repo, &options(time, 2), &Unwatched).unwrap()
}

#[test]
fn an_incremental_reads_what_changed_and_nothing_else() {
    let (place, mut v) = (place(), written(&[1, 2, 3, 40]));
    let first = back_up(&mut v, &place, 1);
    assert!(matches!(&first.volumes[0].how, How::Full(why) if why.contains("no snapshot")));
    assert_eq!(
        (first.read_bytes(), first.volumes[0].stored, first.volumes[0].zero),
        (4 * EXTENT as u64, 4, 60)
    );
    v[0].write(2, 101);
    v[0].write(50, 0);
    let second = back_up(&mut v, &place, 2);
    let r = &second.volumes[0];
    assert_eq!(r.how, How::Incremental);
    assert_eq!((r.read_bytes, r.zero, r.unchanged, r.stored), (EXTENT as u64, 1, 0, 1));
    assert_eq!((r.changed_bytes, second.parent), (EXTENT as u64, Some(first.snapshot.commit.snapshot)));
    // The tracking is lost: everything is compared, nothing is stored again.
    v[0].begin_history(None);
    let third = back_up(&mut v, &place, 3);
    assert_eq!(third.compared(), ["shop: another history"]);
    assert_eq!((third.volumes[0].unchanged, third.stored_bytes), (4, 0));
    // As asked for, although nothing changed.
    let all = BackupOptions { compare: Some("as asked for".into()), ..options(4, 0) };
    let fourth = run(&Moment::of(&mut v), &place.repo, &all, &Unwatched).unwrap();
    assert_eq!((fourth.volumes[0].unchanged, fourth.changed_bytes()), (4, 0));
}

#[test]
fn a_volume_of_another_size_or_identity_is_read_whole() {
    let (place, mut v) = (place(), written(&[1]));
    back_up(&mut v, &place, 1);
    let mut larger = [Volume::new("shop", 1, 65 * EXTENT)];
    larger[0].write(1, 2);
    let report = back_up(&mut larger, &place, 2);
    assert!(matches!(&report.volumes[0].how, How::Full(why) if why.contains("size")), "{report:?}");
    assert_eq!(report.parent, None);
    let mut other = [Volume::new("shop", 9, 64 * EXTENT)];
    assert!(matches!(back_up(&mut other, &place, 3).volumes[0].how, How::Full(_)));
    // The set grows by a volume: the old one stays incremental, although snapshots of others lie between.
    let mut two = [v[0].clone(), Volume::new("new", 7, 3 * EXTENT)];
    two[0].write(5, 3);
    let report = back_up(&mut two, &place, 4);
    assert_eq!(report.volumes[0].how, How::Incremental);
    assert!(matches!(&report.volumes[1].how, How::Full(why) if why.contains("no snapshot has this volume")));
}

#[test]
fn other_blocks_are_no_other_volume() {
    let (place, mut v) = (place(), written(&[1, 2, 3]));
    back_up(&mut v, &place, 1);
    // Restored to a disk that prefers larger blocks.
    v[0].geometry.physical_block = 8192;
    v[0].write(2, 101);
    let report = back_up(&mut v, &place, 2);
    assert_eq!((report.volumes[0].how.clone(), report.read_bytes()), (How::Incremental, EXTENT as u64));
    assert_eq!(report.snapshot.commit.volumes[0].geometry.physical_block, 8192);
}

/// A TiB of which nothing changed; data everywhere, so that reading any of it would show.
struct Huge {
    marked: ExtentSet,
}
impl InstantVolume for Huge {
    fn identity(&self) -> VolumeIdentity {
        VolumeIdentity { name: "shop".into(), uuid: DATA, tracking: DATA, generation: Generation(2) }
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(1 << 40, ExtentBytes::DEFAULT, 512, 4096).unwrap()
    }
    fn changed(&self, _: Uuid, _: Generation) -> Changed {
        Changed::Since { marked: self.marked.clone(), compare: ExtentSet::default() }
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let bytes = self.marked.next_range(0).map(|r| ByteRange::new(r.start << 16, r.count() << 16));
        Ok(bytes.filter(|r| r.end() > from))
    }
    fn read(&self, extent: u64, out: &mut [u8]) -> Result<()> {
        assert!(self.marked.contains(extent));
        out.fill(extent as u8 | 1);
        Ok(())
    }
    fn taken(&self, _: ExtentRange) {}
}
struct HugeSet(Huge);
impl SetInstant for HugeSet {
    fn volumes(&self) -> Vec<&dyn InstantVolume> {
        vec![&self.0]
    }
    fn intact(&self) -> Result<()> {
        Ok(())
    }
}

/// What this thread has computed: unlike the clock on the wall it does not run while others have the machine.
fn computed() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    Duration::from_millis(10 * ticks)
}

#[test]
fn nothing_changed_costs_nothing_that_grows() {
    let place = place();
    let marked: ExtentSet = [ExtentRange { start: 1 << 20, end: (1 << 20) + 3 }].into_iter().collect();
    let mut empty = options(1, 2);
    run(&HugeSet(Huge { marked: marked.clone() }), &place.repo, &empty, &Unwatched).unwrap();
    let before = place.store.counts();
    empty.time_ns = 2;
    let begin = computed();
    let report =
        run(&HugeSet(Huge { marked: ExtentSet::default() }), &place.repo, &empty, &Unwatched).unwrap();
    let (took, after) = (computed() - begin, place.store.counts());
    assert_eq!((report.read_bytes(), report.stored_bytes), (0, 0));
    assert!(after.bytes_up - before.bytes_up < 4096, "{} bytes written", after.bytes_up - before.bytes_up);
    assert!(after.ops - before.ops < 30, "{} operations", after.ops - before.ops);
    assert!(took < Duration::from_millis(500), "{took:?}; 100 ms are promised of a release build");
    empty.time_ns = 3;
    let report = run(&HugeSet(Huge { marked }), &place.repo, &empty, &Unwatched).unwrap();
    assert_eq!((report.read_bytes(), report.volumes[0].unchanged), (3 << 16, 3));
}

/// Stops after so many words, and remembers the last one.
struct Stop {
    after: AtomicU32,
    last: Mutex<Done>,
}
impl Progress for Stop {
    fn update(&self, done: Done) {
        *self.last.lock().unwrap() = done;
    }
    fn cancelled(&self) -> bool {
        self.after.fetch_sub(1, Ordering::Relaxed) == 0
    }
}

#[test]
fn a_stop_leaves_nothing_visible_and_progress_ends_full() {
    let (place, mut v) = (place(), written(&[1, 2, 3]));
    let stop = |after| Stop { after: AtomicU32::new(after), last: Mutex::default() };
    for (after, readers) in [(0, 0), (0, 2), (1, 0)] {
        let e = run(&Moment::of(&mut v), &place.repo, &options(1, readers), &stop(after)).unwrap_err().error;
        assert_eq!(e.kind, Kind::Cancelled, "{e}");
        assert!(place.repo.snapshots(None).unwrap().snapshots.is_empty());
    }
    let watch = stop(1000);
    let report = run(&Moment::of(&mut v), &place.repo, &options(1, 2), &watch).unwrap();
    let last = *watch.last.lock().unwrap();
    let all = 64 * EXTENT as u64;
    assert_eq!((last.done_bytes, last.total_bytes, last.moved_bytes), (all, all, report.stored_bytes));
}

#[test]
fn a_lost_instant_or_disk_ends_the_backup_whatever_the_readers_do() {
    let (place, mut v) = (place(), written(&(0..64).collect::<Vec<_>>()));
    for readers in [0, 1, 2] {
        for after in [0, 1, 30, 63] {
            let moment = Moment::of(&mut v).fail_read(0, after);
            let e = run(&moment, &place.repo, &options(1, readers), &Unwatched).unwrap_err().error;
            assert!(e.kind == Kind::Failed && e.what.contains("planned"), "{e}");
        }
        let moment = Moment::of(&mut v);
        moment.lasts.store(1, Ordering::Relaxed);
        let e = run(&moment, &place.repo, &options(1, readers), &Unwatched).unwrap_err().error;
        assert!(e.kind == Kind::Full && e.what.contains("fleece"), "{e}");
    }
    assert!(place.repo.snapshots(None).unwrap().snapshots.is_empty());
}

/// Gives its extents in the order asked for: what the reading order and the read-ahead make of it.
#[test]
fn pieces_come_in_order_whatever_the_readers_do() {
    use super::super::run::AtInstant;
    use crate::read_ahead::{Found, ReadOrder, Source, collect};
    /// Some pieces take much longer than others.
    struct Uneven<'a>(AtInstant<'a>);
    impl Source for Uneven<'_> {
        fn geometry(&self) -> Geometry {
            self.0.geometry()
        }
        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            self.0.next_data(from)
        }
        fn read(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()> {
            if extents.start % 3 == 1 {
                std::thread::sleep(Duration::from_millis(5));
            }
            self.0.read(extents, out)
        }
    }
    let mut v = written(&(0..64).filter(|e| e % 7 != 0).collect::<Vec<_>>());
    let hot: Vec<u64> = (20..40).rev().collect();
    let mut orders = Vec::new();
    for readers in [0, 1, 2, 5] {
        let moment = Moment::of(&mut v);
        let order = ReadOrder::new(Arc::new([ExtentRange { start: 0, end: 64 }].into_iter().collect()), &hot);
        let (mut seen, image) = (Vec::new(), &moment.volumes[0].at.image);
        collect(&Uneven(AtInstant(&moment.volumes[0])), order, readers, &mut |found| {
            match found {
                Found::Zero(r) => seen.extend(r.iter()),
                Found::Data(e, bytes) => {
                    assert_eq!(bytes, &image[e as usize * EXTENT..][..EXTENT]);
                    seen.push(e);
                }
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(moment.volumes[0].reads.load(Ordering::Relaxed), 54, "holes are not read");
        orders.push(seen);
    }
    assert!(orders.iter().all(|o| *o == orders[0]));
    assert!((20..40).all(|e| orders[0][..20].contains(&e)));
}

#[test]
fn usage_travels_with_snapshots_and_only_its_changes_are_written() {
    let (place, mut v) = (place(), written(&[1, 2, 3, 40]));
    let map = UsageMap::open(&*MemDir::new(), "usage", DATA, v[0].geometry).unwrap();
    let touch = |e: u64| map.read(ByteRange::new(e * EXTENT as u64, 4096));
    [40, 3].into_iter().for_each(touch);
    let with_map = |time| BackupOptions { usage: vec![(DATA, map.clone())], ..options(time, 2) };
    let mut back_up = |time| run(&Moment::of(&mut v), &place.repo, &with_map(time), &Unwatched).unwrap();
    let first = place.repo.snapshot_of(back_up(1).snapshot);
    let hot = first.hot_list("shop").unwrap();
    assert!(hot[..2].contains(&40) && hot[..2].contains(&3), "{hot:?}");
    // Nothing was used since: the new snapshot names the same pages.
    let second = back_up(2).snapshot;
    assert_eq!(second.commit.volumes[0].usage, first.volumes()[0].usage);
    assert_eq!(second.commit.volumes[0].hot_list, first.volumes()[0].hot_list);
    touch(7);
    let report = back_up(3);
    assert_eq!(report.warnings, [""; 0]);
    let third = place.repo.snapshot_of(report.snapshot);
    assert_ne!(third.volumes()[0].usage, first.volumes()[0].usage);
    let stored = StoredUsage::new(&third, DATA);
    assert!(stored.hot_list().unwrap().contains(&7));
    let restored = UsageMap::open(&*MemDir::new(), "usage", DATA, map.geometry()).unwrap();
    assert_eq!(stored.inherit(&restored, DATA).unwrap().damaged, 0);
    let facts = |map: &UsageMap| {
        let mut all = Vec::new();
        map.visit(&mut |e, f| all.push((e, f.reads))).unwrap();
        all
    };
    assert_eq!(facts(&restored), [(3, 1), (7, 1), (40, 1)]);
    assert_eq!(facts(&restored), facts(&map));
    let none = StoredUsage::new(&third, Uuid([77; 16]));
    assert!(none.summary().unwrap().is_none() && none.hot_list().unwrap().is_empty());
}

#[test]
fn the_newest_drill_enters_the_map_once_and_a_damaged_one_is_a_warning() {
    let (place, mut v) = (place(), written(&[1, 2, 3, 40]));
    let map = UsageMap::open(&*MemDir::new(), "usage", DATA, v[0].geometry).unwrap();
    let touch = |e: u64| map.read(ByteRange::new(e * EXTENT as u64, 4096));
    [40, 3].into_iter().for_each(touch);
    let with_map = |time| BackupOptions { usage: vec![(DATA, map.clone())], ..options(time, 2) };
    let mut back_up = |time| {
        let report = run(&Moment::of(&mut v), &place.repo, &with_map(time), &Unwatched).unwrap();
        (place.repo.snapshot_of(report.snapshot), report.warnings)
    };
    let drill = |extents: &[u64], extent| {
        let mut demanded = rekindle_core::usage::Demanded::default();
        demanded.ranks[0] = (9, extents.to_vec());
        let (snapshot, token) = (Uuid([2; 16]), rekindle_io::random::uuid());
        crate::repository::Drill { snapshot, host: String::new(), time_ns: 3, extent, demanded, token }
    };
    let (first, _) = back_up(1);
    place.repo.keep_drill(DATA, 0, &drill(&[2, 9], map.geometry().extent)).unwrap();
    let new = |s: &Snapshot| StoredUsage::new(s, DATA).newest_drill(&place.repo, DATA).unwrap().map(|d| d.0);
    assert_eq!(new(&first), Some(1), "the next restore has it, though the snapshot is older");
    let (second, warnings) = back_up(2);
    assert_eq!((new(&second), warnings), (None, vec![]), "the snapshot has it");
    let hot = StoredUsage::new(&second, DATA).hot_list().unwrap();
    assert_eq!((&hot[..2], hot.contains(&40)), (&[2, 9][..], true), "{hot:?}");
    touch(40);
    let starts = map.summary().cold_starts;
    back_up(3);
    assert_eq!(map.summary().cold_starts, starts, "once");
    // In other units, then not to be read at all.
    place.repo.keep_drill(DATA, 0, &drill(&[5], rekindle_core::volume::ExtentBytes::DEFAULT)).unwrap();
    let (third, warnings) = back_up(4);
    assert_eq!((new(&third), warnings), (None, vec![]));
    let name = rekindle_core::repo::names::drills(DATA) + &rekindle_core::repo::names::number(3);
    place.store.put_new(&name, &[b"junk"]).unwrap();
    let (_, warnings) = back_up(5);
    assert!(warnings.len() == 1 && warnings[0].contains("drill"), "{warnings:?}");
    assert_eq!(map.summary().cold_starts, starts);
}

#[test]
fn what_was_uploaded_by_a_failed_backup_does_no_harm() {
    let (place, mut v) = (place(), written(&[1, 2, 3]));
    let count = AtomicUsize::new(0);
    for n in 0.. {
        v[0].write(n % 60, (n * 4 + 2) as u8);
        let base = place.store.counts().ops;
        place.store.fail_at(base + n as u64, Fault::DiesAfter);
        let done = run(&Moment::of(&mut v), &place.repo, &options(n as u64, 0), &Unwatched);
        place.store.set_available(true);
        let reached = place.store.counts().ops > base + n as u64;
        place.store.clear_faults();
        if done.is_err() {
            count.fetch_add(1, Ordering::Relaxed);
        } else if !reached {
            break;
        }
        // The next one goes on from whatever committed.
        let report = back_up(&mut v, &place, 1000 + n as u64);
        let got = read_all(&place.repo.snapshot_of(report.snapshot), "shop");
        assert_eq!(got, v[0].image, "after a death at operation {n}");
    }
    assert!(count.into_inner() > 5);
}
