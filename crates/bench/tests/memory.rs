//! Goal: what a backup of a live volume holds in memory stays below 64 MiB and 2 bytes for each extent.
//! Method: an allocator that counts; the worst that can meet: a dense volume whose extents were written here and there all
//! over since the parent, a usage map that knows them all, a full index of content, and a guest that goes on writing, faster
//! than the backup reads.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ByteRange, ExtentBytes};
use rekindle_engine::backup::{BackupOptions, How, run};
use rekindle_engine::live::{FleeceOptions, Image, LiveOptions, LiveSet, LiveVolume, NoHooks};
use rekindle_engine::progress::Unwatched;
use rekindle_engine::repository::{Credential, InitOptions, Repository, Secret, WriterOptions, synthetic};
use rekindle_engine::usage::UsageMap;
use rekindle_io::Result;
use rekindle_io::block::{
    Allocation, Answer, Block, BlockExt, CompletionSink, ImageFacts, Info, Op, Request,
};
use rekindle_io::logfile::RealDir;
use rekindle_io::store::DirStore;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// The system's allocator, with what is held now and was held at most.
struct Counting;
static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn count(more: usize) {
    PEAK.fetch_max(NOW.fetch_add(more, Relaxed) + more, Relaxed);
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as asked.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as asked.
        unsafe { System.dealloc(at, layout) }
    }
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        NOW.fetch_sub(layout.size(), Relaxed);
        count(size);
        // SAFETY: as asked.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const EXTENT: u64 = 16 << 10;
const SIZE: u64 = 16 << 30;
const EXTENTS: u64 = SIZE / EXTENT;
/// Of so many extents one is written.
const APART: u64 = 21;

/// What a process holds besides its heap: its code, the stacks of its threads.
const PROGRAM: usize = 6 << 20;

fn mib(bytes: usize) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// A disk that takes no memory: every extent holds noise of its own, whatever is written to it.
struct Noise;

impl Block for Noise {
    fn info(&self) -> Info {
        Info {
            size: SIZE,
            logical_block: 512,
            physical_block: 4096,
            read_only: false,
            rotational: false,
            trim: true,
            fast_zero: false,
        }
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, _: &Arc<dyn CompletionSink>) {
        for request in batch {
            if let Op::Read(out) = &mut request.op {
                let mut word = request.offset + 1;
                for bytes in out.chunks_exact_mut(8) {
                    word = word.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    bytes.copy_from_slice(&(word ^ word >> 29).to_le_bytes());
                }
            }
            answers.push(Answer::Done(Ok(())));
        }
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        out.push(Allocation { range, hole: false, zero: false });
        Ok(())
    }
}

struct Still;

impl Image for Still {
    fn facts(&self) -> Result<ImageFacts> {
        Ok(ImageFacts { inode: 1, size: SIZE, ..ImageFacts::default() })
    }
    fn settle(&self) -> Result<()> {
        Ok(())
    }
    fn is_failed(&self) -> bool {
        false
    }
}

/// Writes here and there all over, and reads everything, with time passing: all the maps there are fill up.
fn live(volume: &LiveVolume, map: &UsageMap) {
    (0..EXTENTS).step_by(APART as usize).for_each(|e| volume.write_at(e * EXTENT, &[1; 512]).unwrap());
    for e in 0..EXTENTS {
        map.read(ByteRange::new(e * EXTENT, 512));
        if e % (1 << 16) == 0 {
            map.served(Duration::from_secs(e >> 16));
        }
    }
}

/// A guest that writes to what was written before, from the end on, until the backup is done.
fn meanwhile(volume: &LiveVolume, done: &AtomicBool) {
    for e in (0..EXTENTS).step_by(APART as usize).collect::<Vec<_>>().into_iter().rev() {
        if done.load(Relaxed) {
            return;
        }
        volume.write_at(e * EXTENT, &[1; 512]).unwrap();
    }
}

fn repository(dir: &Path) -> Repository {
    let credential = Credential::KeyFile(Secret::new(vec![7; 32]));
    match DirStore::open(dir) {
        Ok(store) => Repository::open(store, Some(&credential)).unwrap(),
        Err(_) => {
            Repository::init(DirStore::create(dir).unwrap(), &InitOptions::new(Some(credential), 1)).unwrap()
        }
    }
}

#[test]
fn a_backup_of_a_written_dense_volume_keeps_its_bound() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().join("repo");
    let state = RealDir::open(&dir.path().join("state")).unwrap();
    let extent = Some(ExtentBytes::new(EXTENT).unwrap());
    let options = LiveOptions { extent, ..LiveOptions::new("shop", state.clone()) };
    let volume = LiveVolume::over(Arc::new(Noise), Arc::new(Still), &options).unwrap();
    let set = LiveSet::new("shop", vec![volume.clone()]);
    let fleece = FleeceOptions::new(state.clone());
    {
        // The moment that this instant closes is the parent's.
        let instant = set.instant(&NoHooks, &fleece).unwrap();
        let identity = instant.volumes()[0].identity();
        let options = WriterOptions::default();
        synthetic::dense(&repository(&repo), "shop", identity, volume.geometry(), options).unwrap();
    }
    let uuid = volume.identity().uuid;
    let map = UsageMap::open(&*state, "usage", uuid, volume.geometry()).unwrap();
    live(&volume, &map);
    PEAK.store(NOW.load(Relaxed), Relaxed);
    let begun = NOW.load(Relaxed);
    let repo = repository(&repo);
    let instant = set.instant(&NoHooks, &fleece).unwrap();
    let options = BackupOptions { usage: vec![(uuid, map)], ..BackupOptions::new("shop", 2) };
    let done = AtomicBool::new(false);
    let report = std::thread::scope(|s| {
        s.spawn(|| meanwhile(&volume, &done));
        let report = run(&*instant, &repo, &options, &Unwatched);
        done.store(true, Relaxed);
        report.unwrap()
    });
    assert_eq!(
        (&report.volumes[0].how, report.volumes[0].stored),
        (&How::Incremental, EXTENTS.div_ceil(APART))
    );
    let (peak, bound) = (PEAK.load(Relaxed), (64 << 20) + 2 * EXTENTS as usize);
    eprintln!("{:.1} MiB before, {:.1} at most, of {:.1}", mib(begun), mib(peak), mib(bound));
    assert!(peak < bound - PROGRAM);
}
