//! The write log of a set: every guest write goes here first.
//!
//! - **Order.** One lock makes reserving, writing and entering the index one step, so a write is answered only when its
//!   record and every one before it is whole, and overlapping records enter the index in the order of their sequence.
//!   Many writers would gain little: the step is one copy into prewritten pages of the page cache.
//! - **FLUSH** is one fdatasync of the segments written since the last (usually one), outside that lock, shared by all
//!   who arrived before it began. The next record starts on a fresh physical block, so a flushed block is never written
//!   again. A guest that flushes after every write finds that its disk has begun already (`rhythm`). A flush that fails
//!   is never tried again: the log is failed, its good end is noted for the next recovery.
//! - **Segments** are files written with zeros before use, one always ahead (`prepare`, a background step); a used file
//!   needs no zeros. They are freed whole and oldest first, so a record never outlives a newer one of the same bytes.
//! - **Space** is used again only when the durable table does not name the segment any more and every read that resolved
//!   to it has ended: readers hold the segment itself (`Arc`), the log waits until it is the only one.
//! - **Bounds** in bytes and in pieces of the index, an eighth of both kept for writes that need no fetch.
//!
//! Crash: `open` recovers (core's `recover`), makes the new table durable, and flushes what it kept before it serves.

mod append;
mod rhythm;
mod space;
#[cfg(test)]
mod tests;

use super::lock;
use super::parts::Signal;
use rekindle_core::log::{
    Frozen, HEADER_BYTES, Index, Kind as RecordKind, Piece, Record, SEGMENT_START, SegmentEntry,
    SegmentHeader, SegmentTable, Source, recover,
};
use rekindle_core::volume::{ByteRange, Uuid};
use rekindle_io::logfile::{LogDir, LogFile, TwoSlot};
use rekindle_io::{Error, Kind, Result};
use rhythm::Rhythm;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

/// Bounds of a log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LogLimits {
    /// Bytes of a segment; a multiple of the block, at most 1 GiB.
    pub segment_bytes: u64,
    /// Bytes of all segments in use.
    pub bytes_max: u64,
    /// Pieces of the index.
    pub pieces_max: usize,
    /// Physical block of the disk the log lies on: a flushed one is not written again.
    pub block_bytes: u64,
}

impl Default for LogLimits {
    /// 8 MiB segments, 1 GiB, 2^19 pieces, 4 KiB blocks.
    fn default() -> Self {
        LogLimits { segment_bytes: 8 << 20, bytes_max: 1 << 30, pieces_max: 1 << 19, block_bytes: 4096 }
    }
}

/// One use of one file of the log.
pub struct Segment {
    number: u32,
    file_number: u32,
    file: Arc<dyn LogFile>,
    /// The sequence of its first record, once it has one.
    first: AtomicU64,
}

/// One write for the log.
#[derive(Clone, Copy)]
pub struct Item<'a> {
    /// Place of the volume in the set.
    pub volume: u16,
    /// What.
    pub kind: RecordKind,
    /// Where.
    pub range: ByteRange,
    /// The bytes of a write, else empty.
    pub data: &'a [u8],
    /// It touches an absent extent in part: such a write may not use the last eighth.
    pub needs_fetch: bool,
}

fn need(item: &Item<'_>) -> u64 {
    HEADER_BYTES + item.data.len() as u64
}

struct Appender {
    incarnation: u32,
    current: Option<Arc<Segment>>,
    at: u64,
    /// A flush began: the next record goes to a fresh block.
    fresh: bool,
    /// Where what was not flushed, nor begun to be written out, begins in the current segment.
    unflushed_from: u64,
    rhythm: Rhythm,
    next: u64,
    dirty: Vec<Arc<Segment>>,
    ready: VecDeque<Arc<Segment>>,
    /// Segments in use before the current one.
    full: u64,
}

struct Shared {
    index: Index,
    segments: BTreeMap<u32, Arc<Segment>>,
}

#[derive(Default)]
struct Flushes {
    begun: u64,
    done: u64,
    running: bool,
}

/// The durable side: who changes the table holds this.
struct Keeper {
    slot: TwoSlot,
    table: SegmentTable,
    retiring: Vec<Arc<Segment>>,
    spare: Vec<(u32, Arc<dyn LogFile>)>,
}

/// The log.
pub struct WriteLog {
    dir: Arc<dyn LogDir>,
    owner: Uuid,
    limits: LogLimits,
    append: Mutex<Appender>,
    shared: RwLock<Shared>,
    flushes: Mutex<Flushes>,
    flushed: Condvar,
    keeper: Mutex<Keeper>,
    durable: AtomicU64,
    written: AtomicU64,
    used: AtomicU64,
    failed: AtomicBool,
    /// Rung when a prepared segment was taken: the next one is due.
    wanted: Signal,
}

/// A piece of the log, held so that its space is not used again before the read has ended.
pub struct Held {
    /// What and where.
    pub piece: Piece,
    segment: Arc<Segment>,
}

impl Held {
    /// Fills `out` with the part of the piece that begins `skip` bytes into it.
    pub fn read(&self, skip: u64, out: &mut [u8]) -> Result<()> {
        match self.piece.source {
            Source::Data { offset } => self.segment.file.read_at(u64::from(offset) + skip, out),
            Source::Zero | Source::Trim => {
                out.fill(0);
                Ok(())
            }
        }
    }
}

/// The log at one sequence. Holding it keeps the files of its segments from being used again.
pub struct FrozenLog {
    /// The last record of it.
    pub last: u64,
    index: Frozen,
    segments: BTreeMap<u32, Arc<Segment>>,
}

impl FrozenLog {
    /// Which parts of `range` it holds.
    pub fn resolve(&self, volume: u16, range: ByteRange, out: &mut Vec<Held>) {
        self.index.overlapping(volume, range, |piece| {
            let segment = self.segments.get(&piece.segment).expect("frozen with its pieces").clone();
            out.push(Held { piece, segment });
        });
    }
}

const TABLE: &str = "log-table";
const TABLE_MAX: usize = 256 << 10;
/// How many segments are kept prepared beyond the current one.
const READY: usize = 2;

fn file_name(n: u32) -> String {
    format!("log-{n:06}")
}

/// What recovery found, for the marks and for people.
#[derive(Default)]
pub struct LogReport {
    /// Records that count.
    pub records: u64,
    /// An earlier run saw a flush of the log fail: what lay behind its last good flush is lost.
    pub lost_after_failed_flush: bool,
}

impl WriteLog {
    /// Begins a log in `dir`, which holds none. The caller makes names durable, and then whatever says that there is a log.
    pub fn create(
        dir: Arc<dyn LogDir>,
        owner: Uuid,
        limits: LogLimits,
        volumes: usize,
    ) -> Result<Arc<WriteLog>> {
        let slot = TwoSlot::create(&*dir, TABLE, TABLE_MAX)?;
        let keeper = Keeper { slot, table: SegmentTable::new(), retiring: Vec::new(), spare: Vec::new() };
        let shared = Shared { index: Index::new(volumes), segments: BTreeMap::new() };
        let log = Self::assemble(dir, owner, limits, keeper, shared, 1);
        log.prepare_one(false, &|| ())?;
        Ok(Arc::new(log))
    }
    /// Opens the log in `dir` after any crash. `sizes` are those of the volumes in the set's order; `each` hears of every record
    /// that counts, in order. When this returns a segment is ready and the log may be written; names are durable.
    pub fn open(
        dir: Arc<dyn LogDir>,
        owner: Uuid,
        limits: LogLimits,
        sizes: &[u64],
        each: impl FnMut(&Record),
    ) -> Result<(Arc<WriteLog>, LogReport)> {
        let slot = TwoSlot::open(&*dir, TABLE, TABLE_MAX)?;
        // `create` stores the first table before the restore exists: without one the records that were flushed are not
        // gone, they are merely not named, and an empty log would answer for them.
        let bad = |e: String| Error::new(Kind::Corrupt, format!("{e} in {}/{TABLE}", dir.place()));
        let old = slot.load().ok_or_else(|| bad("no segment table".into()))?;
        let old = SegmentTable::decode(&old).map_err(|e| bad(e.to_string()))?;
        if let Some(name) = unnamed_records(&*dir, owner, &old, limits.segment_bytes)? {
            return Err(bad(format!("{name} holds records and the segment table does not name it: damaged")));
        }
        let mut files: BTreeMap<u32, Arc<dyn LogFile>> = BTreeMap::new();
        let read = |entry: &SegmentEntry| -> Result<Vec<u8>> {
            let file = dir.open(&file_name(entry.file))?.ok_or_else(|| {
                Error::new(Kind::Corrupt, format!("{}/{} is missing", dir.place(), file_name(entry.file)))
            })?;
            let mut raw = vec![0; entry.bytes as usize];
            file.read_at(0, &mut raw)?;
            files.insert(entry.file, file);
            Ok(raw)
        };
        let found = recover(&old, sizes, limits.block_bytes, read, each)?;
        if let Some(segment) = found.damaged {
            let what = format!("{}: log segment {segment} lost records that were flushed", dir.place());
            return Err(Error::new(Kind::Corrupt, what));
        }
        let report = LogReport { records: found.records, lost_after_failed_flush: old.cut.is_some() };
        let mut segments = BTreeMap::new();
        let mut first = found.table.first_sequence;
        for e in &found.table.segments {
            let file = files.remove(&e.file).expect("every kept segment was read");
            // What a killed process left in the page cache is durable before it is promised to anybody.
            file.sync()?;
            let (number, file_number) = (e.segment, e.file);
            let segment = Segment { number, file_number, file, first: AtomicU64::new(first) };
            segments.insert(number, Arc::new(segment));
            first = e.end.expect("recovery says where every kept segment ends");
        }
        slot.store(&found.table.encode())?;
        let spare = remove_strays(&*dir, &found.table, &found.unused, &limits)?;
        let keeper = Keeper { slot, table: found.table, retiring: Vec::new(), spare };
        let shared = Shared { index: found.index, segments };
        let log = Self::assemble(dir, owner, limits, keeper, shared, found.next_sequence);
        log.prepare_one(true, &|| ())?;
        Ok((Arc::new(log), report))
    }
    fn assemble(
        dir: Arc<dyn LogDir>,
        owner: Uuid,
        limits: LogLimits,
        keeper: Keeper,
        shared: Shared,
        next: u64,
    ) -> WriteLog {
        assert!(limits.segment_bytes <= 1 << 30 && limits.segment_bytes.is_multiple_of(limits.block_bytes));
        assert!(limits.segment_bytes >= 64 << 10 && limits.bytes_max >= 2 * limits.segment_bytes);
        let full = shared.segments.len() as u64;
        WriteLog {
            append: Mutex::new(Appender {
                incarnation: keeper.table.incarnation,
                current: None,
                at: 0,
                fresh: false,
                unflushed_from: 0,
                rhythm: Rhythm::default(),
                next,
                dirty: Vec::new(),
                ready: VecDeque::new(),
                full,
            }),
            shared: RwLock::new(shared),
            flushes: Mutex::default(),
            flushed: Condvar::new(),
            keeper: Mutex::new(keeper),
            durable: AtomicU64::new(next - 1),
            written: AtomicU64::new(next - 1),
            used: AtomicU64::new(full * limits.segment_bytes),
            failed: AtomicBool::new(false),
            wanted: Signal::default(),
            dir,
            owner,
            limits,
        }
    }

    fn shared(&self) -> std::sync::RwLockReadGuard<'_, Shared> {
        self.shared.read().unwrap_or_else(PoisonError::into_inner)
    }
    /// Which parts of `range` the log holds; they stay readable as long as they are held.
    pub fn resolve(&self, volume: u16, range: ByteRange, out: &mut Vec<Held>) {
        let shared = self.shared();
        shared.index.overlapping(volume, range, |piece| {
            let segment =
                shared.segments.get(&piece.segment).expect("a piece names a segment in use").clone();
            out.push(Held { piece, segment });
        });
    }
    /// The log as it is now, kept readable whatever happens to it, and its last sequence. `between` runs after the last
    /// record of it and before the first behind it.
    pub fn freeze(&self, between: impl FnOnce()) -> FrozenLog {
        let a = lock(&self.append);
        let shared = self.shared();
        between();
        FrozenLog { last: a.next - 1, index: shared.index.freeze(), segments: shared.segments.clone() }
    }
    /// Whether records up to `sequence` hold every byte of `range`.
    pub fn covers(&self, volume: u16, range: ByteRange, sequence: u64) -> bool {
        self.shared().index.covers(volume, range, sequence)
    }
    /// The next piece for the mover, see `Index::next_unmoved`.
    pub fn next_unmoved(&self, from: (u16, u64), sequence: u64) -> Result<(u16, Piece), Option<(u16, u64)>> {
        self.shared().index.next_unmoved(from, sequence, 4096)
    }
    /// These pieces are in the target.
    pub fn mark_moved(&self, volume: u16, pieces: &[Held]) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        for h in pieces {
            shared.index.mark_moved(volume, h.piece.range, h.piece.sequence);
        }
    }
    /// Every record up to here is durable.
    pub fn durable(&self) -> u64 {
        self.durable.load(Acquire)
    }
    /// Every record up to here is whole and in the index.
    pub fn written(&self) -> u64 {
        self.written.load(Acquire)
    }
    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Acquire)
    }
    /// Pieces of the index.
    pub fn pieces(&self) -> usize {
        self.shared().index.pieces()
    }
    /// The bounds.
    pub fn limits(&self) -> LogLimits {
        self.limits
    }
    /// The fullest bound, in thousandths.
    pub fn fullness(&self) -> u64 {
        let pieces = self.pieces() as u64 * 1000 / self.limits.pieces_max as u64;
        pieces.max(self.used() * 1000 / self.limits.bytes_max)
    }
}

/// A file with records of a segment that is newer than all that `table` knows. A segment is named before its first record, so
/// the copy of the table that named it is damaged, and this one is older: it would silently end the log too early.
fn unnamed_records(
    dir: &dyn LogDir,
    owner: Uuid,
    table: &SegmentTable,
    bytes: u64,
) -> Result<Option<String>> {
    let named: BTreeSet<String> = table.segments.iter().map(|s| file_name(s.file)).collect();
    for name in dir.names()?.into_iter().filter(|n| is_segment(n) && !named.contains(n)) {
        let Some(file) = dir.open(&name)? else { continue };
        let mut raw = vec![0; bytes as usize];
        file.read_at(0, &mut raw)?;
        let header = SegmentHeader::decode(&raw).ok();
        let newer = header.filter(|h| h.owner == owner && h.segment >= table.next_segment);
        let first = Record::decode(&raw[SEGMENT_START as usize..]).ok();
        if newer.zip(first).is_some_and(|(h, r)| (h.segment, h.incarnation) == (r.segment, r.incarnation)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn is_segment(name: &str) -> bool {
    name.strip_prefix("log-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()))
}

/// Removes files the table does not name; those of the right size stay as spares.
fn remove_strays(
    dir: &dyn LogDir,
    table: &SegmentTable,
    unused: &[SegmentEntry],
    limits: &LogLimits,
) -> Result<Vec<(u32, Arc<dyn LogFile>)>> {
    let kept: BTreeSet<String> = table.segments.iter().map(|s| file_name(s.file)).collect();
    let mut spare = Vec::new();
    for e in unused.iter().filter(|e| e.bytes == limits.segment_bytes).take(READY) {
        if let Some(file) = dir.open(&file_name(e.file))? {
            spare.push((e.file, file));
        }
    }
    let spared: BTreeSet<String> = spare.iter().map(|s| file_name(s.0)).collect();
    for name in dir.names()? {
        if is_segment(&name) && !kept.contains(&name) && !spared.contains(&name) {
            dir.remove(&name)?;
        }
    }
    Ok(spare)
}
