//! Copies against the true image: every kind of destination and holder, interrupted, away, damaged, over old data.

use super::*;
use crate::progress::Unwatched;
use proptest::prelude::*;
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry};
use rekindle_io::block::{Block, BlockExt, MemBlock};
use rekindle_io::destination::{BlockDestination, FileDestination, open_destination};
use rekindle_io::fault::Crash;
use rekindle_io::holder::MemHolder;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::atomic::AtomicU32;

const EXTENT: u64 = 16 << 10;

fn geometry(size: u64) -> Geometry {
    Geometry::new(size, ExtentBytes::new(EXTENT).unwrap(), 512, 4096).unwrap()
}

/// Compares with an image by plain hashes.
struct ById<'a>(&'a [u8]);
impl Compare for ById<'_> {
    fn ids(&self, extents: ExtentRange) -> Result<Vec<Id>> {
        let g = geometry(self.0.len() as u64);
        let of = |e| g.extent_bytes(e);
        Ok(extents.iter().map(|e| self.id_of(&self.0[of(e).start as usize..of(e).end() as usize])).collect())
    }
    fn id_of(&self, bytes: &[u8]) -> Id {
        Id(*blake3::hash(bytes).as_bytes())
    }
}

/// Extents of 0 are holes, others a content of their own.
fn image(tags: &[u8], short: u64) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for (i, tag) in tags.iter().enumerate() {
        let mut extent = vec![0; EXTENT as usize];
        if *tag > 0 {
            extent.fill(*tag);
            extent[..8].copy_from_slice(&(i as u64).to_le_bytes());
        }
        out.extend(extent);
    }
    out.truncate(out.len() - short as usize);
    out
}

fn holder(image: &[u8]) -> (Arc<MemHolder>, Arc<dyn Holder>) {
    let holder = MemHolder::from_bytes(geometry(image.len() as u64), image.to_vec());
    (holder.clone(), holder)
}

fn quick() -> CopyOptions {
    CopyOptions { threads: 2, patience: Duration::ZERO, limit: None, read_back: false }
}

/// 200 extents: more than both edges, zeros in between.
fn usual() -> Vec<u8> {
    let tags: Vec<u8> =
        (0..200u32).map(|i| if i % 5 == 3 || (60..90).contains(&i) { 0 } else { i as u8 | 1 }).collect();
    image(&tags, 512)
}

#[test]
fn to_a_fresh_file_with_its_holes() {
    let dir = tempfile::tempdir().unwrap();
    let image = usual();
    for late in [false, true] {
        let (mem, holder) = holder(&image);
        if late {
            mem.answer_late(Duration::from_millis(1));
        }
        let path = dir.path().join(format!("fresh{late}"));
        let to = open_destination(&path, &holder.geometry()).unwrap();
        let report = copy(&holder, None, &*to, &quick(), &Unwatched).unwrap();
        assert!(std::fs::read(&path).unwrap() == image);
        let stored: u64 =
            image.chunks(EXTENT as usize).filter(|e| e.iter().any(|b| *b > 0)).map(|e| e.len() as u64).sum();
        let len = image.len() as u64;
        let want = CopyReport {
            size_bytes: len,
            written_bytes: stored,
            zero_bytes: len - stored,
            fetched_bytes: stored,
            ..report.clone()
        };
        assert_eq!(report, want);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= stored + 65536, "holes stay holes");
        assert_eq!(mem.fetches().0, stored.div_ceil(EXTENT));
    }
}

#[test]
fn over_a_used_device_and_over_an_old_version() {
    let image = usual();
    let g = geometry(image.len() as u64);
    let (mem, holder) = holder(&image);
    let device = MemBlock::new(g.size + 8192);
    device.write_at(0, &vec![0xee; image.len() + 8192 - image.len() % 512]).unwrap();
    let read = |device: &MemBlock| {
        let mut got = vec![0; image.len()];
        device.read_at(0, &mut got).unwrap();
        got
    };
    let to = BlockDestination::new(device.clone(), "disk".into(), &g).unwrap();
    copy(&holder, None, &to, &quick(), &Unwatched).unwrap();
    assert!(read(&device) == image);
    // Three extents differ: only they are fetched, beside the edges.
    for at in [70, 100, 101] {
        device.write_at(at * EXTENT + 512, &[7; 512]).unwrap();
    }
    let before = mem.fetches().0;
    let report = copy(&holder, Some(&ById(&image)), &to, &quick(), &Unwatched).unwrap();
    assert!(read(&device) == image);
    let edges = report.size_bytes - report.equal_bytes - 3 * EXTENT;
    assert!(edges <= 2 * (1 << 20) + 2 * EXTENT, "{edges}");
    assert!(mem.fetches().0 - before <= 2 + 130 && mem.fetches_of(100) == 2 && mem.fetches_of(99) == 1);
}

/// Stops after so many words.
struct StopAfter(AtomicU32);
impl Progress for StopAfter {
    fn update(&self, done: Done) {
        assert!(done.done_bytes <= done.total_bytes);
    }
    fn cancelled(&self) -> bool {
        self.0.fetch_sub(1, Ordering::Relaxed) == 1
    }
}

fn edges_are_zero(path: &Path) -> bool {
    let bytes = std::fs::read(path).unwrap();
    bytes[..1 << 20].iter().chain(&bytes[bytes.len() - (1 << 20)..]).all(|b| *b == 0)
}

/// A device that loses power at any moment of a copy over what it held: its first MiB says nothing before all else is
/// durable.
#[test]
fn the_head_comes_when_all_else_is_durable() {
    struct Watched(Arc<MemBlock>, Vec<u8>);
    impl Destination for Watched {
        fn place(&self) -> String {
            "watched".into()
        }
        fn is_fresh(&self) -> bool {
            false
        }
        fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            self.0.read_at(at, buf)
        }
        fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
            if at < 1 << 20 {
                let durable = self.0.crash(Crash::Power { seed: at }).bytes();
                assert!(durable[1 << 20..] == self.1[1 << 20..], "the head was written at {at}");
            }
            self.0.write_at(at, bytes)
        }
        fn zero(&self, range: ByteRange) -> Result<()> {
            self.0.zero_at(range.start, range.len)
        }
        fn flush(&self) -> Result<()> {
            self.0.flush()
        }
    }
    let image = usual();
    let (_, holder) = holder(&image);
    let device = MemBlock::new(image.len() as u64);
    device.write_at(0, &vec![0xee; image.len()]).and_then(|()| device.flush()).unwrap();
    let to = Watched(device, image.clone());
    copy(&holder, None, &to, &quick(), &Unwatched).unwrap();
    assert!(to.0.bytes() == image);
}

#[test]
fn half_a_copy_is_no_volume_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let image = usual();
    let (mem, holder) = holder(&image);
    mem.hold();
    let to = FileDestination::create(&path, image.len() as u64).unwrap();
    // Some extents come, then the user has enough.
    let got = std::thread::scope(|s| {
        let run = s.spawn(|| copy(&holder, None, &to, &quick(), &StopAfter(AtomicU32::new(6))));
        while !run.is_finished() {
            mem.release(3);
            std::thread::sleep(Duration::from_millis(40));
        }
        run.join().unwrap()
    });
    assert_eq!(got.unwrap_err().kind, Kind::Cancelled);
    drop(to);
    assert!(edges_are_zero(&path));
    mem.answer_inline();
    let (before, had) = (mem.fetches().0, std::fs::metadata(&path).unwrap().blocks() * 512);
    let to = open_destination(&path, &geometry(image.len() as u64)).unwrap();
    assert!(!to.is_fresh());
    let report = copy(&holder, Some(&ById(&image)), &*to, &quick(), &Unwatched).unwrap();
    assert!(std::fs::read(&path).unwrap() == image);
    assert!(report.equal_bytes >= had && mem.fetches().0 > before);
}

/// Goal: what is damaged is named and reads as zeros, everything else is there; the same copy again brings what is mended
/// and moves nothing else; a copy in which something differs on the medium is found. Method: fresh and used destinations.
#[test]
fn damage_is_named_and_everything_else_arrives() {
    let dir = tempfile::tempdir().unwrap();
    let image = usual();
    let g = geometry(image.len() as u64);
    for (threads, used) in [(1, false), (2, true), (5, false)] {
        let (mem, holder) = holder(&image);
        [0, 101, 102, 199].iter().for_each(|e| mem.set_damaged(*e, true));
        let path = dir.path().join(threads.to_string());
        if used {
            std::fs::write(&path, vec![0xee; image.len()]).unwrap();
        }
        let options = CopyOptions { threads, ..quick() };
        let to = open_destination(&path, &g).unwrap();
        let report = copy(&holder, Some(&ById(&image)), &*to, &options, &Unwatched).unwrap();
        let ranges: Vec<_> =
            report.damage.ranges.iter().map(|r| (r.range.start / EXTENT, r.range.len)).collect();
        assert_eq!(ranges, [(0, EXTENT), (101, 2 * EXTENT), (199, EXTENT - 512)]);
        assert!(report.damage.ranges[1].why.contains("101"), "{report:?}");
        assert_eq!(report.damage.bytes + report.written_bytes + report.zero_bytes, g.size);
        let mut want = image.clone();
        report
            .damage
            .ranges
            .iter()
            .for_each(|r| want[r.range.start as usize..r.range.end() as usize].fill(0));
        assert!(std::fs::read(&path).unwrap() == want);
        let right =
            |report: &CopyReport| verify(&g, &ById(&image), &*to, report, &options, &Unwatched).unwrap();
        assert_eq!((right(&report), right(&CopyReport::default())), (0, 4), "known damage is left out");
        to.write(100 * EXTENT + 7, &[1]).unwrap();
        to.write(65 * EXTENT + 7, &[1]).unwrap();
        assert_eq!(right(&report), 2, "data and a hole");
        drop(to);
        // The same again: 101 is mended, the others are not. What is right stays.
        mem.set_damaged(101, false);
        let before = mem.fetches_of(50);
        let to = open_destination(&path, &g).unwrap();
        let report = copy(&holder, Some(&ById(&image)), &*to, &options, &Unwatched).unwrap();
        assert_eq!((report.damage.extents, mem.fetches_of(50)), (3, before + 1), "50 lies in the first MiB");
        assert!(report.equal_bytes > 0 && mem.fetches_of(110) == 1);
        assert!(
            std::fs::read(&path).unwrap()[65 * EXTENT as usize..102 * EXTENT as usize]
                == image[65 * EXTENT as usize..102 * EXTENT as usize]
        );
        let e = copy_to_stream(&holder, &mut Vec::new(), &quick(), &Unwatched).unwrap_err();
        assert!(e.is_loss() && e.what.contains("extent 0"), "{e}");
    }
}

/// A file that knows what was flushed and what was read, and loses the writes to some extents.
struct Watched {
    file: FileDestination,
    loses: &'static [u64],
    unflushed: Mutex<Vec<ByteRange>>,
    reads: Mutex<Vec<ByteRange>>,
}
impl Watched {
    fn new(path: &Path, size: usize, loses: &'static [u64]) -> Self {
        let file = FileDestination::create(path, size as u64).unwrap();
        Watched { file, loses, unflushed: Mutex::default(), reads: Mutex::default() }
    }
}
impl Destination for Watched {
    fn place(&self) -> String {
        self.file.place()
    }
    fn is_fresh(&self) -> bool {
        self.file.is_fresh()
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let range = ByteRange::new(at, buf.len() as u64);
        let overlaps = |r: &ByteRange| r.start < range.end() && range.start < r.end();
        assert!(
            !self.unflushed.lock().unwrap().iter().any(overlaps),
            "{range:?} was read before it was flushed"
        );
        self.reads.lock().unwrap().push(range);
        self.file.read(at, buf)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.unflushed.lock().unwrap().push(ByteRange::new(at, bytes.len() as u64));
        let extents = (at / EXTENT..).zip(bytes.chunks(EXTENT as usize));
        extents
            .filter(|(extent, _)| !self.loses.contains(extent))
            .try_for_each(|(extent, bytes)| self.file.write(extent * EXTENT, bytes))
    }
    fn zero(&self, range: ByteRange) -> Result<()> {
        self.file.zero(range)
    }
    fn flush(&self) -> Result<()> {
        let mut unflushed = self.unflushed.lock().unwrap();
        self.file.flush()?;
        unflushed.clear();
        Ok(())
    }
    fn reads_medium(&self) -> bool {
        true
    }
    fn is_hole(&self, range: ByteRange) -> bool {
        self.file.is_hole(range)
    }
}

/// Goal: what is copied is read back meanwhile, only once it is flushed, and not again; verifying reads the rest and finds
/// what is wrong, whoever read it, once. Method: a destination that watches, and one that also loses writes.
#[test]
fn what_was_copied_is_read_back_meanwhile_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let image = usual();
    let g = geometry(image.len() as u64);
    let options = CopyOptions { read_back: true, ..quick() };
    // 2 lies in the first MiB, 100 between the edges.
    for (name, loses) in [("a", &[][..]), ("b", &[2, 100])] {
        let (_, holder) = holder(&image);
        let to = Watched::new(&dir.path().join(name), image.len(), loses);
        let report = copy(&holder, Some(&ById(&image)), &to, &options, &Unwatched).unwrap();
        let middle: Vec<u64> = (64..135).filter(|e| e % 5 != 3 && !(60..90).contains(e)).collect();
        assert_eq!(report.checked.from(0).collect::<Vec<_>>(), middle);
        let read = || std::mem::take(&mut *to.reads.lock().unwrap());
        assert_eq!(read().iter().map(|r| r.len).sum::<u64>(), middle.len() as u64 * EXTENT);
        let wrong = verify(&g, &ById(&image), &to, &report, &options, &Unwatched).unwrap();
        assert_eq!((wrong, report.wrong), (loses.len() as u64, loses.len() as u64 / 2));
        let reads = read();
        let again = |e: &u64| reads.iter().any(|r| r.start < (e + 1) * EXTENT && e * EXTENT < r.end());
        assert!(!middle.iter().any(again), "read twice");
    }
}

/// A round is read back when it is full: what waits for the end is the whole volume in a list, and its time.
#[test]
fn what_was_copied_is_read_back_before_the_rest_comes() {
    let dir = tempfile::tempdir().unwrap();
    let image = image(&[1; 300], 0);
    let (mem, holder) = holder(&image);
    let to = Watched::new(&dir.path().join("a"), image.len(), &[]);
    let options = CopyOptions { read_back: true, threads: 1, ..quick() };
    mem.hold();
    let (compare, began) = (ById(&image), Instant::now());
    std::thread::scope(|s| {
        let run = s.spawn(|| copy(&holder, Some(&compare), &to, &options, &Unwatched));
        // Two rounds of the middle.
        let mut released = 0;
        while released < 130 && began.elapsed() < Duration::from_secs(10) {
            released += mem.release(130 - released).len();
            std::thread::yield_now();
        }
        while to.reads.lock().unwrap().is_empty() && began.elapsed() < Duration::from_secs(10) {
            std::thread::yield_now();
        }
        let early = !to.reads.lock().unwrap().is_empty();
        mem.answer_inline();
        while !run.is_finished() {
            mem.release(100);
        }
        run.join().unwrap().unwrap();
        assert!(early, "nothing was read back while the rest was awaited");
    });
}

/// A leaf of zeros is a hole: looked at as such, and read where it is none.
#[test]
fn a_hole_is_verified_without_reading_and_a_byte_in_it_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let mut image = image(&[vec![5; 300], vec![0; 1900]].concat(), 512);
    image[2100 * EXTENT as usize] = 1;
    let (_, holder) = holder(&image);
    let to = FileDestination::create(&dir.path().join("a"), image.len() as u64).unwrap();
    let report = copy(&holder, None, &to, &quick(), &Unwatched).unwrap();
    let leaf = ByteRange::new(1024 * EXTENT, 1024 * EXTENT);
    assert!(
        to.is_hole(leaf)
            && !to.is_hole(ByteRange::new(0, EXTENT))
            && !to.is_hole(ByteRange::new(leaf.start, 1100 * EXTENT))
    );
    let wrong = || {
        let g = geometry(image.len() as u64);
        verify(&g, &ById(&image), &to, &report, &quick(), &Unwatched).unwrap()
    };
    assert_eq!(wrong(), 0);
    to.write(1500 * EXTENT, &[1]).unwrap();
    assert_eq!((wrong(), to.is_hole(leaf)), (1, false));
}

#[test]
fn a_limit_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let image = usual();
    let (_, holder) = holder(&image);
    let moved = image
        .chunks(EXTENT as usize)
        .filter(|e| e.iter().any(|b| *b > 0))
        .map(|e| e.len() as u64)
        .sum::<u64>();
    let limit = Some(moved * 5);
    let to = FileDestination::create(&dir.path().join("a"), image.len() as u64).unwrap();
    let report = copy(&holder, None, &to, &CopyOptions { limit, ..quick() }, &Unwatched).unwrap();
    assert_eq!((report.fetched_bytes, report.written_bytes), (moved, moved));
    assert!(report.took >= Duration::from_millis(190), "{:?}", report.took);
    let mut out = Vec::new();
    let report = copy_to_stream(&holder, &mut out, &CopyOptions { limit, ..quick() }, &Unwatched).unwrap();
    assert!(report.took >= Duration::from_millis(190) && out == image, "{:?}", report.took);
}

#[test]
fn an_absent_store_is_waited_for_with_patience() {
    let dir = tempfile::tempdir().unwrap();
    let image = usual();
    let (mem, holder) = holder(&image);
    mem.set_available(false);
    let to = FileDestination::create(&dir.path().join("a"), image.len() as u64).unwrap();
    let e = copy(&holder, None, &to, &quick(), &Unwatched).unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable);
    let patient = CopyOptions { patience: Duration::from_secs(20), ..quick() };
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            mem.set_available(true);
        });
        copy(&holder, None, &to, &patient, &Unwatched).unwrap();
    });
    assert!(std::fs::read(dir.path().join("a")).unwrap() == image);
    mem.set_available(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            mem.set_available(true);
        });
        let mut out = Vec::new();
        copy_to_stream(&holder, &mut out, &patient, &Unwatched).unwrap();
        assert!(out == image);
    });
}

#[test]
fn a_full_or_failing_destination_is_the_error() {
    struct Full<'a>(&'a FileDestination);
    impl Destination for Full<'_> {
        fn place(&self) -> String {
            self.0.place()
        }
        fn is_fresh(&self) -> bool {
            true
        }
        fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
            self.0.read(at, buf)
        }
        fn write(&self, at: u64, _: &[u8]) -> Result<()> {
            if at > 100 * EXTENT { Err(Error::new(Kind::Full, "planned")) } else { Ok(()) }
        }
        fn zero(&self, _: ByteRange) -> Result<()> {
            Ok(())
        }
        fn flush(&self) -> Result<()> {
            Ok(())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (_, holder) = holder(&usual());
    let to = FileDestination::create(&dir.path().join("a"), 4096).unwrap();
    for threads in [1, 2, 8] {
        let e = copy(&holder, None, &Full(&to), &CopyOptions { threads, ..quick() }, &Unwatched).unwrap_err();
        assert_eq!((e.kind, &*e.what), (Kind::Full, "planned"));
    }
}

#[test]
fn destinations_are_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    let g = geometry(1 << 20);
    let first = open_destination(&path, &g).unwrap();
    assert!(open_destination(&path, &g).is_err_and(|e| e.kind == Kind::Busy));
    drop(first);
    assert!(
        open_destination(&path, &geometry(2 << 20))
            .is_err_and(|e| e.kind == Kind::Invalid && e.what.contains("1048576"))
    );
    assert!(open_destination(dir.path(), &g).is_err_and(|e| e.kind == Kind::Invalid));
    assert!(open_destination(&dir.path().join("none/x"), &g).is_err_and(|e| e.kind == Kind::Gone));
    let small = MemBlock::new(1 << 19);
    assert!(BlockDestination::new(small, "d".into(), &g).is_err_and(|e| e.kind == Kind::Invalid));
    let fine = MemBlock::new(1 << 20).info();
    let coarse = MemBlock::with_info(rekindle_io::block::Info { logical_block: 4096, ..fine });
    assert!(
        BlockDestination::new(coarse, "d".into(), &g).is_err_and(|e| e.what.contains("4096-byte blocks"))
    );
    // Zeros over old data, whatever the file system can do.
    let to = FileDestination::open(&path, 1 << 20).unwrap();
    to.write(5000, &[1; 200_000]).unwrap();
    to.zero(ByteRange::new(6000, 100_001)).unwrap();
    let mut got = vec![9; 200_000];
    std::fs::File::open(&path).unwrap().read_exact_at(&mut got, 5000).unwrap();
    assert!(got.iter().enumerate().all(|(i, b)| *b == u8::from(!(1000..101_001).contains(&i))));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn every_image_arrives(
        tags in prop::collection::vec(prop_oneof![3 => Just(0u8), 2 => 1u8..], 1..400),
        old in prop::collection::vec(prop_oneof![Just(0u8), Just(7u8), any::<u8>()], 0..400),
        short in 0u64..30,
        threads in 1usize..4,
        inline: bool,
        read_back: bool,
    ) {
        let new = image(&tags, short * 512);
        let (mem, holder) = holder(&new);
        if !inline {
            mem.answer_late(Duration::ZERO);
        }
        let g = holder.geometry();
        let options = CopyOptions { threads, read_back, ..quick() };
        let mut out = Vec::new();
        let report = copy_to_stream(&holder, &mut out, &options, &Unwatched).unwrap();
        prop_assert!(out == new && report.written_bytes + report.zero_bytes == g.size);
        // Over whatever was there, comparing.
        let device = MemBlock::new(g.size);
        let mut before = image(&old, 0);
        before.resize(new.len(), 3);
        // Some of it is right already.
        for (e, extent) in new.chunks(EXTENT as usize).enumerate().filter(|(e, _)| e % 3 == 0) {
            before[e * EXTENT as usize..][..extent.len()].copy_from_slice(extent);
        }
        device.write_at(0, &before).unwrap();
        let to = BlockDestination::new(device.clone(), "disk".into(), &g).unwrap();
        let report = copy(&holder, Some(&ById(&new)), &to, &options, &Unwatched).unwrap();
        device.read_at(0, &mut before).unwrap();
        prop_assert!(before == new);
        prop_assert_eq!(verify(&g, &ById(&new), &to, &report, &options, &Unwatched).unwrap(), 0);
        prop_assert_eq!(report.written_bytes + report.zero_bytes + report.equal_bytes, g.size);
    }
}
