//! The protocols between threads, explored by shuttle: `cargo test -p rekindle-engine --features shuttle live::explore`.
//! Shuttle runs the threads one at a time and chooses at every lock and atomic who goes on; the devices underneath are
//! in memory and never wait.

use super::cut::Cut;
use super::fleece::Fleece;
use super::gate::Gate;
use super::marks::Marks;
use super::sync::{AtomicU64, SeqCst};
use super::tracking::Tracking;
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::Result;
use rekindle_io::block::{Allocation, Answer, Block, BlockExt, CompletionSink, Info, MemBlock, Request};
use rekindle_io::fault::Crash;
use rekindle_io::logfile::{LogDir, MemDir};
use shuttle::rand::Rng;
use shuttle::sync::Arc;
use shuttle::thread;
use std::time::Duration;

const E: u64 = 16 << 10;
const T: Uuid = Uuid([1; 16]);

fn geometry(extents: u64) -> Geometry {
    Geometry::new(extents * E, ExtentBytes::new(E).unwrap(), 512, 4096).unwrap()
}
fn explore(iterations: usize, f: impl Fn() + Send + Sync + 'static) {
    let f = std::sync::Arc::new(f);
    let again = f.clone();
    shuttle::check_random(move || f(), iterations);
    shuttle::check_pct(move || again(), iterations, 3);
}

/// A disk at which others may get ahead before each request.
struct Slow(std::sync::Arc<MemBlock>);
impl Block for Slow {
    fn info(&self) -> Info {
        self.0.info()
    }
    fn submit(
        &self,
        batch: &mut [Request<'_>],
        answers: &mut Vec<Answer>,
        sink: &std::sync::Arc<dyn CompletionSink>,
    ) {
        thread::yield_now();
        self.0.submit(batch, answers, sink);
        thread::yield_now();
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.0.allocation(range, out)
    }
}
fn slow(disk: &std::sync::Arc<MemBlock>) -> std::sync::Arc<Slow> {
    std::sync::Arc::new(Slow(disk.clone()))
}

/// The backup sees the instant, whatever the guest writes meanwhile, from however many connections, while what it keeps
/// is in memory, on its way to the file, and in the file; and nobody waits for ever.
#[test]
fn a_backup_never_reads_what_came_after_its_instant() {
    explore(2000, || {
        let mut rng = shuttle::rand::thread_rng();
        let disk = MemBlock::new(4 * E);
        // One extent is zeros at the instant.
        (1..4u8).for_each(|e| disk.write_at(u64::from(e) * E, &[e; E as usize]).unwrap());
        // Small enough to be full in some schedules: then the backup is given up, and reads say so.
        let (memory, files) = (rng.gen_range(1..4) * E, rng.gen_range(0..5) * E);
        let dir: std::sync::Arc<dyn LogDir> = MemDir::new();
        let volumes = [("other".into(), geometry(4)), ("f".into(), geometry(4))];
        let fleece = std::sync::Arc::new(
            Fleece::create(&dir, &volumes, memory, files, std::time::Duration::MAX).unwrap(),
        );
        let cut = Arc::new(Cut::new(geometry(4), slow(&disk), fleece.clone(), 1));
        let write_out = thread::spawn({
            let fleece = fleece.clone();
            move || fleece.write_out()
        });
        let guests: Vec<_> = (0..2u64)
            .map(|g| {
                let (cut, disk) = (cut.clone(), slow(&disk));
                thread::spawn(move || {
                    for e in [g, 2, 3] {
                        cut.before_change(ByteRange::new(e * E, 512));
                        disk.write_at(e * E, &[99; 512]).unwrap();
                    }
                })
            })
            .collect();
        // Urgent ones first, as they come; a backup that is slow, or not there at all, in some schedules.
        let mut left: Vec<u64> = (0..4).filter(|_| rng.gen_bool(0.8)).collect();
        let (mut taken, mut out) = (Vec::new(), vec![0; E as usize]);
        while let Some(next) = left.first().copied() {
            let e = cut.urgent().filter(|e| left.contains(e)).unwrap_or(next);
            if cut.read(e, &mut out).is_err() {
                fleece.check().expect_err("only a backup that was given up fails");
                break;
            }
            assert!(out.iter().all(|b| *b == e as u8), "extent {e} is of later");
            cut.taken(ExtentRange { start: e, end: e + 1 });
            left.retain(|l| *l != e);
            taken.push(e);
        }
        guests.into_iter().for_each(|g| g.join().unwrap());
        for e in left.drain(..) {
            if cut.read(e, &mut out).is_ok() {
                assert!(out.iter().all(|b| *b == e as u8), "extent {e} is of later");
            }
        }
        // None twice: a second time would free what the first one left behind.
        for e in (0..4).filter(|e| !taken.contains(e)) {
            cut.taken(ExtentRange { start: e, end: e + 1 });
        }
        assert!(fleece.is_empty() || fleece.is_given_up(), "what nobody needs takes room");
        fleece.end();
        write_out.join().unwrap();
        assert!(fleece.held() == 0 || fleece.is_given_up(), "what nobody needs stays in the file");
        assert_eq!(
            disk.bytes()[3 * E as usize],
            99,
            "the guest's write is done whatever became of the backup"
        );
    });
}

/// Two volumes, one instant: a write to the second that follows one to the first is not in it unless the first is.
#[test]
fn an_instant_is_one_point_of_one_order() {
    explore(1000, || {
        let gates: Vec<Arc<Gate>> = (0..2).map(|_| Arc::default()).collect();
        let disks: Vec<_> = (0..2).map(|_| MemBlock::new(512)).collect();
        let guest = {
            let (gates, disks) = (gates.clone(), disks.clone());
            thread::spawn(move || {
                for n in 1..4u8 {
                    for (gate, disk) in gates.iter().zip(&disks) {
                        let entered = gate.enter(1);
                        disk.write_at(0, &[n; 512]).unwrap();
                        gate.leave(entered, 1);
                    }
                }
            })
        };
        gates.iter().for_each(|g| g.close());
        assert!(gates.iter().all(|g| g.drained(Duration::from_secs(1000))));
        let (a, b) = (disks[0].bytes()[0], disks[1].bytes()[0]);
        thread::yield_now();
        assert!(a == b || a == b + 1, "{a} {b}");
        assert_eq!((a, b), (disks[0].bytes()[0], disks[1].bytes()[0]), "held");
        gates.iter().for_each(|g| g.open());
        guest.join().unwrap();
    });
}

/// Writers, a checkpoint and an instant at once, then a power cut at any point: what differs from the instant is named.
fn power_cuts() {
    // Two regions (256 KiB in tests) of 16 extents; only these extents are written.
    const USED: [u64; 3] = [0, 1, 16];
    let (g, disk, dir) = (geometry(32), MemBlock::new(32 * E), MemDir::new());
    let tracking = Arc::new(Tracking::create(&*dir, g, T, Generation(1), &[]).unwrap());
    let gate = Arc::new(Gate::default());
    let writer = |extents: Vec<u64>, stamp: u8| {
        let (tracking, gate, disk) = (tracking.clone(), gate.clone(), slow(&disk));
        move || {
            for e in extents {
                let range = ByteRange::new(e * E, 512);
                let entered = gate.enter(1);
                tracking.before_write([range].into_iter()).unwrap();
                disk.write_at(e * E, &[stamp; 512]).unwrap();
                gate.leave(entered, 1);
            }
        }
    };
    // Few writes, in a shape of its own each time: what one write leaves open the next must not close by accident.
    let mut rng = shuttle::rand::thread_rng();
    let mut threads = Vec::new();
    for stamp in 1..=rng.gen_range(1..3u8) {
        let extents = (0..rng.gen_range(1..3)).map(|_| USED[rng.gen_range(0..3)]).collect();
        threads.push(thread::spawn(writer(extents, stamp)));
    }
    let checkpoints = rng.gen_range(1..4);
    threads.push(thread::spawn({
        let (tracking, gate, disk) = (tracking.clone(), gate.clone(), slow(&disk));
        move || {
            for _ in 0..checkpoints {
                tracking.checkpoint(true, &gate, || disk.flush()).unwrap();
            }
        }
    }));
    let blocks = |disk: &MemBlock| {
        USED.map(|e| {
            let mut b = [0; 512];
            disk.read_at(e * E, &mut b).unwrap();
            b[0]
        })
    };
    let seed = rng.r#gen::<u64>();
    (0..rng.gen_range(0..30)).for_each(|_| thread::yield_now());
    gate.close();
    assert!(gate.drained(Duration::from_secs(1000)));
    let snapshot = blocks(&disk);
    tracking.advance(Generation(2));
    gate.open();
    for cut in 0..6 {
        // The power cut: the disk and the state folder at the same moment.
        for seed in [seed + cut, seed.rotate_left(7) + cut] {
            let (disk, dir) = (disk.crash(Crash::Power { seed }), dir.crash(Crash::Power { seed }));
            let found = Tracking::load(&*dir, g, T, Generation(2)).unwrap();
            let (marked, compare) = found.since(Generation(1));
            for (e, (now, then)) in USED.iter().zip(blocks(&disk).iter().zip(&snapshot)) {
                let named = marked.contains(*e) || compare.contains(*e);
                assert!(named || now == then, "extent {e}: {now}, was {then}, is not named");
            }
        }
        (0..rng.gen_range(0..8)).for_each(|_| thread::yield_now());
    }
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn a_power_cut_during_checkpoints_is_always_named() {
    explore(1500, power_cuts);
}

/// A checkpoint waits for every write that began before it, whatever epoch the writer thought it was in.
#[test]
fn passing_leaves_nobody_behind() {
    explore(1000, || {
        let gate = Arc::new(Gate::default());
        // Odd while the writer is inside.
        let inside = Arc::new(AtomicU64::new(0));
        let writer = thread::spawn({
            let (gate, inside) = (gate.clone(), inside.clone());
            move || {
                for _ in 0..2 {
                    let entered = gate.enter(1);
                    inside.fetch_add(1, SeqCst);
                    thread::yield_now();
                    inside.fetch_add(1, SeqCst);
                    gate.leave(entered, 1);
                }
            }
        });
        for _ in 0..3 {
            let before = inside.load(SeqCst);
            gate.pass();
            assert!(before % 2 == 0 || inside.load(SeqCst) > before, "still inside");
        }
        writer.join().unwrap();
    });
}

/// A mark that was set when a checkpoint began is in the file when it ends, whatever another one did meanwhile.
#[test]
fn a_mark_is_never_left_out() {
    explore(1000, || {
        let dir = MemDir::new();
        let file = dir.create("marks").unwrap();
        let marks = Arc::new(Marks::blank(10));
        // The page is there, and clean.
        marks.mark(0, Generation(1));
        marks.store(&*file).unwrap();
        let writer = thread::spawn({
            let marks = marks.clone();
            move || marks.mark(3, Generation(2))
        });
        thread::yield_now();
        marks.store(&*file).unwrap();
        writer.join().unwrap();
        marks.store(&*file).unwrap();
        let (found, _) = Marks::load(&*file, 10).unwrap();
        assert!(found.since(Generation(1)).ranges().eq([ExtentRange { start: 3, end: 4 }]));
    });
}
