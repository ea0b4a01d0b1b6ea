//! What meets while a guest writes and a backup reads, in the order that hurts most.

use super::world::{EXTENT, Machine, stuck};
use crate::live::cut::Cut;
use crate::live::fleece::Fleece;
use crate::live::{FleeceOptions, NoHooks};
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Geometry};
use rekindle_io::block::{Allocation, Answer, Block, BlockExt, CompletionSink, Info, MemBlock, Request};
use rekindle_io::logfile::{LogDir, MemDir, WatchedDir};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

const E: u64 = 16 << 10;

fn geometry() -> Geometry {
    Geometry::new(8 * E, ExtentBytes::new(E).unwrap(), 512, 4096).unwrap()
}
fn fleece(dir: Arc<dyn LogDir>, memory: u64) -> Arc<Fleece> {
    patient(dir, memory, Duration::from_secs(60))
}
fn patient(dir: Arc<dyn LogDir>, memory: u64, room_limit: Duration) -> Arc<Fleece> {
    Arc::new(Fleece::create(&dir, &[("f".into(), geometry())], memory * E, 100 * E, room_limit).unwrap())
}
fn keep(fleece: &Fleece, extent: u64) -> Result<()> {
    fleece.keep((0, extent), |old| {
        old.fill(extent as u8 + 1);
        Ok(())
    })
}
fn read(fleece: &Fleece, extent: u64) -> u8 {
    let mut out = vec![0; E as usize];
    fleece.read((0, extent), &mut out).unwrap();
    out[0]
}
fn soon(what: &str, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < Duration::from_secs(20), "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// A disk at which something happens just before the next request.
struct Meanwhile(Arc<MemBlock>, Mutex<Option<Box<dyn FnOnce() + Send>>>);
impl Block for Meanwhile {
    fn info(&self) -> Info {
        self.0.info()
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        let then = self.1.lock().unwrap().take();
        then.into_iter().for_each(|f| f());
        self.0.submit(batch, answers, sink);
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.0.allocation(range, out)
    }
}

/// A disk of ones under a cut.
fn cut() -> (Arc<Meanwhile>, Arc<Fleece>, Arc<Cut>) {
    let disk = MemBlock::new(8 * E);
    disk.write_at(0, &vec![1; 8 * E as usize]).unwrap();
    let disk = Arc::new(Meanwhile(disk, Mutex::default()));
    let fleece = fleece(MemDir::new(), 8);
    let cut = Arc::new(Cut::new(geometry(), disk.clone(), fleece.clone(), 0));
    (disk, fleece, cut)
}

#[test]
fn a_guest_that_writes_between_look_and_read_is_seen_by_the_second_look() {
    let (disk, _fleece, cut) = cut();
    let (guest, below) = (cut.clone(), disk.0.clone());
    *disk.1.lock().unwrap() = Some(Box::new(move || {
        guest.before_change(ByteRange::new(3 * E, 512));
        below.write_at(3 * E, &[9; 512]).unwrap();
    }));
    let mut out = vec![0; E as usize];
    cut.read(3, &mut out).unwrap();
    assert!(out.iter().all(|b| *b == 1), "of later");
}

#[test]
fn a_backup_that_reads_while_the_guest_keeps_finds_the_old_bytes() {
    let (disk, _fleece, cut) = cut();
    let (backup, found) = (cut.clone(), Arc::new(Mutex::new(vec![0; E as usize])));
    *disk.1.lock().unwrap() = Some(Box::new({
        let found = found.clone();
        move || backup.read(3, &mut found.lock().unwrap()).unwrap()
    }));
    cut.before_change(ByteRange::new(3 * E, 512));
    assert!(found.lock().unwrap().iter().all(|b| *b == 1), "said to be kept before it was");
}

#[test]
fn what_is_taken_while_the_guest_keeps_it_takes_no_room() {
    let (disk, fleece, cut) = cut();
    let backup = cut.clone();
    *disk.1.lock().unwrap() = Some(Box::new(move || backup.taken(ExtentRange { start: 3, end: 4 })));
    cut.before_change(ByteRange::new(3 * E, 512));
    assert!(fleece.is_empty());
}

/// While the file's disk does not answer: what is being written out is read from memory, and if it is taken meanwhile it
/// leaves nothing behind.
#[test]
fn what_is_being_written_out_is_read_from_memory() {
    let (dir, is_stuck) = stuck(MemDir::new());
    let fleece = fleece(dir.clone(), 4);
    (0..3).for_each(|e| keep(&fleece, e).unwrap());
    let write_out = std::thread::spawn({
        let fleece = fleece.clone();
        move || fleece.write_out()
    });
    soon("the newest to be written", || fleece.written() > 0);
    assert_eq!((0..3).map(|e| read(&fleece, e)).collect::<Vec<_>>(), [1, 2, 3]);
    fleece.forget((0, 2));
    is_stuck.store(false, SeqCst);
    soon("what was taken to be punched", || fleece.written() == 0);
    // And what lies in the file is read from there, once room is needed.
    (3..8).for_each(|e| keep(&fleece, e).unwrap());
    soon("the file to be used", || fleece.written() >= 2 * E);
    assert_eq!([0, 1, 3, 4, 5, 6, 7].map(|e| read(&fleece, e)), [1, 2, 4, 5, 6, 7, 8]);
    (0..8).for_each(|e| fleece.forget((0, e)));
    soon("all to be punched", || fleece.written() == 0);
    fleece.end();
    write_out.join().unwrap();
    assert!(fleece.is_empty() && fleece.written() == 0);
}

/// Nobody but one of these makes room, and the guest goes on.
#[test]
fn a_guest_that_waits_for_room_is_woken() {
    type Wakes = fn(&Arc<Fleece>);
    let ways: [(&str, Wakes); 4] = [
        ("taken", |f| f.forget((0, 0))),
        ("given up", |f| f.give_up(Error::new(Kind::Cancelled, "test"))),
        ("ended", |f| f.end()),
        // Although all was named to the backup, which is slow to come.
        ("written out", |f| {
            let f = f.clone();
            drop(std::thread::spawn(move || f.write_out()));
        }),
    ];
    for (way, wake) in ways {
        let fleece = fleece(MemDir::new(), 1);
        keep(&fleece, 0).unwrap();
        assert_eq!(fleece.urgent(0), Some(0));
        let guest = std::thread::spawn({
            let fleece = fleece.clone();
            move || keep(&fleece, 1)
        });
        std::thread::sleep(Duration::from_millis(20));
        assert!(!guest.is_finished(), "there was no room");
        wake(&fleece);
        soon(way, || guest.is_finished());
        guest.join().unwrap().unwrap();
        fleece.end();
    }
}

/// A slow disk is waited for as long as it takes anything at all; one that takes nothing ends the backup, and nobody waits
/// any more.
#[test]
fn a_slow_disk_is_waited_for_a_hanging_one_is_not() {
    let (dir, is_stuck) = stuck(MemDir::new());
    let fleece = patient(dir.clone(), 1, Duration::from_millis(1500));
    let write_out = std::thread::spawn({
        let fleece = fleece.clone();
        move || fleece.write_out()
    });
    keep(&fleece, 0).unwrap();
    for e in 1..4 {
        let guest = std::thread::spawn({
            let fleece = fleece.clone();
            move || keep(&fleece, e)
        });
        std::thread::sleep(Duration::from_millis(600));
        assert!(!guest.is_finished() && fleece.check().is_ok(), "{e}");
        fleece.forget((0, e - 1));
        guest.join().unwrap().unwrap();
    }
    let begun = Instant::now();
    keep(&fleece, 4).unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(1500));
    assert!(fleece.check().unwrap_err().what.contains("took nothing"));
    keep(&fleece, 5).unwrap();
    is_stuck.store(false, SeqCst);
    fleece.end();
    write_out.join().unwrap();
}

/// A write that hangs in the kernel holds up neither the end of the backup, whether that was given up or not, nor a stop of
/// the set. Until it returns there is no other instant; then its file goes.
#[test]
fn a_hanging_fleece_disk_holds_up_no_end() {
    // Memory is for two extents: the second begins to be written out, the fourth waits in vain.
    for (overwritten, is_given_up) in [(2, false), (4, true)] {
        let m = Machine::new();
        let (v, set) = m.open().unwrap();
        let (dir, is_stuck) = stuck(MemDir::new());
        let begun = Arc::new(AtomicBool::new(false));
        let said = begun.clone();
        let dir: Arc<dyn LogDir> = WatchedDir::new(dir, move |_, _| said.store(true, SeqCst));
        let room_limit = Duration::from_millis(300);
        let options = FleeceOptions { room_limit, dir: dir.clone(), ..m.fleece(1 << 30) };
        v.write_at(0, &vec![1; 8 * EXTENT as usize]).unwrap();
        let instant = set.instant(&NoHooks, &options).unwrap();
        for e in 0..overwritten {
            v.write_at(e * EXTENT, &[2; 512]).unwrap();
        }
        assert_eq!(instant.intact().is_err(), is_given_up);
        soon("it to be written out", || begun.load(SeqCst));
        let ending = std::thread::spawn(move || drop(instant));
        soon("the backup to end", || ending.is_finished());
        let again = set.instant(&NoHooks, &options).err().map(|e| e.kind);
        assert_eq!(again, Some(Kind::Busy), "its file has the same name");
        v.write_at(5 * EXTENT, &[2; 512]).unwrap();
        set.close().unwrap();
        assert_eq!(dir.names().unwrap().len(), 1);
        is_stuck.store(false, SeqCst);
        soon("its file to go", || dir.names().unwrap().is_empty());
        soon("the next instant", || !set.is_backing_up());
    }
}
