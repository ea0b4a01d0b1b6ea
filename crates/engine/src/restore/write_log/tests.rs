//! Goal: what the log asks of its files beyond the bytes. Method: a folder in memory that remembers it.

use super::{Item, LogLimits, WriteLog};
use crate::restore::lock;
use rekindle_core::log::{HEADER_BYTES, Kind, SEGMENT_START};
use rekindle_core::volume::{ByteRange, Uuid};
use rekindle_io::logfile::{Asked, LogDir, MemDir, WatchedDir};
use std::cell::Cell;
use std::sync::{Arc, Mutex};

/// What the files of the log were asked for.
type Heard = Arc<Mutex<Vec<Asked>>>;

const BLOCK: u64 = 4096;
const RECORD: u64 = HEADER_BYTES + BLOCK;
const OWNER: Uuid = Uuid([7; 16]);
const LIMITS: LogLimits =
    LogLimits { segment_bytes: 4 << 20, bytes_max: 32 << 20, pieces_max: 4096, block_bytes: BLOCK };

struct World {
    log: Arc<WriteLog>,
    mem: Arc<MemDir>,
    heard: Heard,
}

impl World {
    fn new() -> World {
        let (mem, heard) = (MemDir::new(), Heard::default());
        let ear = heard.clone();
        let dir = WatchedDir::new(mem.clone(), move |name, asked| {
            if name.starts_with("log-0") {
                lock(&ear).push(asked);
            }
        });
        let log = WriteLog::create(dir, OWNER, LIMITS, 1).unwrap();
        mem.sync_names().unwrap();
        lock(&heard).clear();
        World { log, mem, heard }
    }
    fn heard(&self) -> Vec<Asked> {
        std::mem::take(&mut *lock(&self.heard))
    }
    /// One guest write of 4 KiB, as a volume brings it.
    fn write(&self, block: u64) {
        let item = Item {
            volume: 0,
            kind: Kind::Write,
            range: ByteRange::new(block * BLOCK, BLOCK),
            data: &[block as u8; BLOCK as usize],
            needs_fetch: false,
        };
        assert_eq!(self.log.append(&[item], |_| ()).unwrap(), 1);
        self.log.expect_flush();
    }
}

#[test]
fn what_a_flush_will_ask_for_is_begun_when_it_is_due() {
    let w = World::new();
    let at = |n: u64| SEGMENT_START + n * 2 * BLOCK;
    w.write(0);
    w.log.flush().unwrap();
    assert_eq!(w.heard(), [Asked::Write(at(0), RECORD), Asked::Sync], "nothing is known yet");
    for n in 1..4 {
        w.write(n);
        w.log.flush().unwrap();
        assert_eq!(w.heard(), [Asked::Write(at(n), RECORD), Asked::Out(at(n), RECORD), Asked::Sync]);
    }
    // The guest changes its ways: one wrong guess, and what is being written out is not written again.
    (4..7).for_each(|n| w.write(n));
    w.log.flush().unwrap();
    let guessed = [Asked::Write(at(4), RECORD), Asked::Out(at(4), RECORD)];
    let rest = [Asked::Write(at(5), RECORD), Asked::Write(at(5) + RECORD, RECORD), Asked::Sync];
    assert_eq!(w.heard(), [&guessed[..], &rest[..]].concat());
    (7..10).for_each(|n| w.write(n));
    assert_eq!(
        w.heard()[2..],
        [Asked::Write(at(5) + 3 * BLOCK + 2 * RECORD, RECORD), Asked::Out(at(5) + 3 * BLOCK, 3 * RECORD)]
    );
}

#[test]
fn what_was_begun_early_is_found_after_a_crash() {
    let w = World::new();
    let mut writes = 0;
    for flush_after in [1, 1, 2, 3, 3, 1, 1] {
        for _ in 0..flush_after {
            w.write(writes);
            writes += 1;
        }
        w.log.flush().unwrap();
    }
    (0..3).for_each(|n| w.write(writes + n));
    let crash = |seed| rekindle_io::fault::Crash::Power { seed };
    for seed in 0..20 {
        let mut kept = 0;
        let after = w.mem.crash(crash(seed));
        let opened = WriteLog::open(after, OWNER, LIMITS, &[1 << 30], |r| {
            assert_eq!(r.range.start, kept * BLOCK, "in order, without a gap");
            kept += 1;
        });
        assert!(opened.is_ok() && (writes..=writes + 3).contains(&kept), "{kept} of {writes} kept");
    }
}

#[test]
fn a_segment_is_prepared_in_small_pieces_and_no_sooner_than_the_guest_needs_it() {
    let w = World::new();
    let pauses = Cell::new(0);
    let count = || pauses.set(pauses.get() + 1);
    assert!(w.log.prepare(&count).unwrap());
    let heard = w.heard();
    let most = heard.iter().map(|a| if let Asked::Write(_, n) = a { *n } else { 0 }).max();
    let out: u64 = heard.iter().map(|a| if let Asked::Out(_, n) = a { *n } else { 0 }).sum();
    assert_eq!((most, out), (Some(32 << 10), LIMITS.segment_bytes));
    assert_eq!(heard.last(), Some(&Asked::Sync), "durable before the table names it");
    let steps = LIMITS.segment_bytes / (32 << 10);
    assert_eq!(pauses.take(), steps, "nobody waits");
    // So much of the next one as the guest has used of the current one is prepared without a pause.
    for n in 0..32 {
        w.write(n);
        w.log.flush().unwrap();
    }
    let used = w.log.used().div_ceil(32 << 10);
    lock(&w.log.append).ready.truncate(1);
    assert!(w.log.prepare(&count).unwrap());
    assert_eq!(pauses.take(), steps - (used - 1));
    // None is left: the guest waits for it.
    lock(&w.log.append).ready.clear();
    assert!(w.log.prepare(&count).unwrap());
    assert_eq!(pauses.take(), 0);
}
