//! The write log of a set: every guest write goes here first (DESIGN 6).
//!
//! - **Order.** One lock makes reserving, writing and entering the index one step, so a write is answered only when its
//!   record and every one before it is whole, and overlapping records enter the index in the order of their sequence.
//!   Many writers would gain little: the step is one copy into prewritten pages of the page cache.
//! - **FLUSH** is one fdatasync of the segments written since the last (usually one), outside that lock, shared by all
//!   who arrived before it began. The next record starts on a fresh physical block, so a flushed block is never written
//!   again. A flush that fails is never tried again: the log is failed, its good end is noted for the next recovery.
//! - **Segments** are files written with zeros before use, one always ahead (`prepare`, a background step); a used file
//!   needs no zeros. They are freed whole and oldest first, so a record never outlives a newer one of the same bytes.
//! - **Space** is used again only when the durable table does not name the segment any more and every read that resolved
//!   to it has ended: readers hold the segment itself (`Arc`), the log waits until it is the only one.
//! - **Bounds** in bytes and in pieces of the index, an eighth of both kept for writes that need no fetch.
//!
//! Crash: `open` recovers (core's `recover`), makes the new table durable, and flushes what it kept before it serves.

use super::lock;
use super::parts::Signal;
use rekindle_core::log::{
    Frozen, HEADER_BYTES, Index, Kind as RecordKind, Piece, RECORD_DATA_MAX, Record, SEGMENT_START,
    SegmentEntry, SegmentHeader, SegmentTable, Source, fresh_block, recover,
};
use rekindle_core::volume::{ByteRange, Uuid};
use rekindle_io::logfile::{LogDir, LogFile, TwoSlot};
use rekindle_io::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};
use std::time::Duration;

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
        log.prepare_one(false)?;
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
        let old = match slot.load() {
            Some(b) => SegmentTable::decode(&b)
                .map_err(|e| Error::new(Kind::Corrupt, format!("{e} in {}/{TABLE}", dir.place())))?,
            None => SegmentTable::new(),
        };
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
        log.prepare_one(true)?;
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

    // ---- writing

    /// The most data of one item: a larger write comes as several.
    pub fn record_max(&self) -> u64 {
        RECORD_DATA_MAX.min(((self.limits.segment_bytes - SEGMENT_START) / 4) & !511)
    }
    /// Appends `items` in order and calls `enter` for each when its record is whole, before it can be answered and under
    /// the lock that orders writes. Stops at the first that finds no room; returns how many were appended.
    pub fn append(&self, items: &[Item<'_>], mut enter: impl FnMut(&Item<'_>)) -> Result<usize> {
        let mut a = lock(&self.append);
        self.check()?;
        let mut done = 0;
        while done < items.len() {
            let fits =
                a.current.is_some() && self.start(&a) + need(&items[done]) <= self.limits.segment_bytes;
            if !fits && !self.take_ready(&mut a, &items[done]) {
                break;
            }
            match self.append_run(&mut a, &items[done..], &mut enter)? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }
    /// Where the next record begins.
    fn start(&self, a: &Appender) -> u64 {
        if a.fresh { fresh_block(a.at, self.limits.block_bytes) } else { a.at }
    }
    /// Appends as many items as fit the current segment, with one write.
    fn append_run(
        &self,
        a: &mut Appender,
        items: &[Item<'_>],
        enter: &mut impl FnMut(&Item<'_>),
    ) -> Result<usize> {
        let Some(segment) = a.current.clone() else { return Ok(0) };
        let start = self.start(a);
        let (mut end, mut pieces) = (start, self.shared().index.pieces());
        let mut heads = Vec::with_capacity(items.len().min(64));
        for (i, item) in items.iter().enumerate() {
            assert!(item.data.len() as u64 <= self.record_max(), "a write comes in parts of one record");
            end += need(item);
            pieces += 2;
            let bytes = a.full * self.limits.segment_bytes + end;
            if end > self.limits.segment_bytes || !self.admits(bytes, pieces, item.needs_fetch) {
                break;
            }
            let record = Record {
                incarnation: a.incarnation,
                segment: segment.number,
                sequence: a.next + i as u64,
                volume: item.volume,
                kind: item.kind,
                range: item.range,
            };
            heads.push(record.encode(item.data));
        }
        if heads.is_empty() {
            return Ok(0);
        }
        let items = &items[..heads.len()];
        let parts: Vec<&[u8]> = heads.iter().zip(items).flat_map(|(h, i)| [&h[..], i.data]).collect();
        if let Err(e) = segment.file.write_at(start, &parts) {
            // Half a record may lie there, and whatever is written next would lie behind a gap.
            self.fail();
            return Err(e.at("write log"));
        }
        self.enter_index(a, &segment, start, items);
        items.iter().for_each(enter);
        if a.dirty.last().is_none_or(|s| s.number != segment.number) {
            a.dirty.push(segment);
        }
        self.written.store(a.next - 1, Release);
        Ok(items.len())
    }
    fn enter_index(&self, a: &mut Appender, segment: &Segment, start: u64, items: &[Item<'_>]) {
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        let mut at = start;
        for item in items {
            at += HEADER_BYTES;
            shared.index.insert(item.volume, item.range, item.kind, a.next, segment.number, at as u32);
            at += item.data.len() as u64;
            a.next += 1;
        }
        (a.at, a.fresh) = (at, false);
        self.used.store(a.full * self.limits.segment_bytes + at, Release);
    }
    /// Whether the log may hold so much; the last eighth is for writes that need no fetch.
    fn admits(&self, bytes: u64, pieces: usize, needs_fetch: bool) -> bool {
        let (b, p) = (self.limits.bytes_max, self.limits.pieces_max);
        if needs_fetch { bytes <= b - b / 8 && pieces <= p - p / 8 } else { bytes <= b && pieces <= p }
    }
    /// Goes to the next segment, if one is ready and the bounds allow `item` there.
    fn take_ready(&self, a: &mut Appender, item: &Item<'_>) -> bool {
        let full = a.full + u64::from(a.current.is_some());
        let bytes = full * self.limits.segment_bytes + SEGMENT_START + need(item);
        if !self.admits(bytes, self.shared().index.pieces() + 2, item.needs_fetch) {
            return false;
        }
        let Some(next) = a.ready.pop_front() else { return false };
        next.first.store(a.next, Release);
        self.shared
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .segments
            .insert(next.number, next.clone());
        self.wanted.ring();
        (a.full, a.at, a.fresh, a.current) = (full, SEGMENT_START, false, Some(next));
        true
    }

    // ---- flush

    /// Everything answered before this call is durable when it returns.
    pub fn flush(&self) -> Result<()> {
        let mut f = lock(&self.flushes);
        // A sync that already runs may have begun before the write this flush is for: only a later one counts.
        let mine = f.begun + 1;
        loop {
            self.check()?;
            if f.done >= mine {
                return Ok(());
            }
            if f.running {
                f = self.flushed.wait(f).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            f.running = true;
            f.begun += 1;
            let turn = f.begun;
            drop(f);
            let done = self.sync_once();
            f = lock(&self.flushes);
            f.running = false;
            if done.is_ok() {
                f.done = turn;
            }
            self.flushed.notify_all();
            done?;
        }
    }
    fn sync_once(&self) -> Result<()> {
        let (dirty, upto) = {
            let mut a = lock(&self.append);
            a.fresh = true;
            (std::mem::take(&mut a.dirty), a.next - 1)
        };
        for segment in &dirty {
            if let Err(e) = segment.file.sync() {
                self.fail();
                self.note_cut();
                return Err(e.at("flush of the write log"));
            }
        }
        self.durable.fetch_max(upto, AcqRel);
        Ok(())
    }
    /// The next recovery must not believe what lies behind the last good flush: the page cache may show it though the
    /// disk has it not. If this cannot be noted either, the disk is gone and there is nothing left to do.
    fn note_cut(&self) {
        let mut k = lock(&self.keeper);
        k.table.cut = Some(self.durable.load(Acquire) + 1);
        let table = k.table.encode();
        if let Err(e) = k.slot.store(&table) {
            tracing::error!(
                "{}: the end of the good part of the log could not be noted: {e}",
                self.dir.place()
            );
        }
    }
    fn fail(&self) {
        self.failed.store(true, Release);
    }
    /// `Kind::Failed` once a write or flush of the log failed.
    pub fn check(&self) -> Result<()> {
        if self.failed.load(Acquire) {
            return Err(Error::new(
                Kind::Failed,
                "the write log failed; it stays failed until it is opened again",
            ));
        }
        Ok(())
    }

    // ---- reading

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

    // ---- background

    /// Waits until a segment is to be prepared.
    pub fn wait_until_wanted(&self, at_most: Duration) {
        self.wanted.wait(at_most);
    }
    /// Prepares one segment if fewer than needed are ready; true if it did.
    pub fn prepare(&self) -> Result<bool> {
        let short = {
            let a = lock(&self.append);
            let ahead = (a.full + 1 + a.ready.len() as u64) * self.limits.segment_bytes;
            a.ready.is_empty() || a.ready.len() < READY && ahead < self.limits.bytes_max
        };
        if short {
            self.prepare_one(true)?;
        }
        Ok(short)
    }
    fn prepare_one(&self, sync_names: bool) -> Result<()> {
        let mut k = lock(&self.keeper);
        let (number, incarnation) = (k.table.next_segment, k.table.incarnation);
        let bytes = self.limits.segment_bytes;
        let header = SegmentHeader { owner: self.owner, segment: number, incarnation, bytes }.encode();
        let (file_number, file) = match k.spare.pop() {
            Some((n, file)) => {
                file.write_at(0, &[&header])?;
                file.sync()?;
                (n, file)
            }
            None => {
                let n = k.table.next_file;
                let file = self.new_file(n, &header)?;
                if sync_names {
                    self.dir.sync_names()?;
                }
                (n, file)
            }
        };
        let mut table = k.table.clone();
        table.next_segment += 1;
        table.next_file = table.next_file.max(file_number + 1);
        table.segments.push(SegmentEntry {
            segment: number,
            file: file_number,
            incarnation,
            bytes,
            end: None,
        });
        // The table names a segment before its first record: a record nobody names would be lost.
        k.slot.store(&table.encode())?;
        k.table = table;
        let segment = Arc::new(Segment { number, file_number, file, first: AtomicU64::new(0) });
        lock(&self.append).ready.push_back(segment);
        Ok(())
    }
    /// A file written with zeros: a merely allocated one would cost three times as much per FLUSH.
    fn new_file(&self, n: u32, header: &[u8]) -> Result<Arc<dyn LogFile>> {
        const STEP: u64 = 1 << 20;
        // The table never named this number: whatever has the name is the remainder of an attempt that failed.
        self.dir.remove(&file_name(n))?;
        let file = self.dir.create(&file_name(n))?;
        let zeros = vec![0; STEP.min(self.limits.segment_bytes) as usize];
        for at in (0..self.limits.segment_bytes).step_by(STEP as usize) {
            file.write_at(at, &[&zeros[..STEP.min(self.limits.segment_bytes - at) as usize]])?;
        }
        file.write_at(0, &[header])?;
        file.sync()?;
        Ok(file)
    }

    /// What was moved leaves the index. The caller has made target, state and marks durable since it was moved.
    pub fn free_moved(&self) {
        let mut from = Some((0, 0));
        while let Some(at) = from {
            from = self.shared.write().unwrap_or_else(PoisonError::into_inner).index.free_moved(at, 4096);
        }
    }
    /// Segments that nothing names any more leave the durable table, oldest first; true if there were any. Flushes the
    /// log first: what superseded their records must not be lost with them gone.
    pub fn free_segments(&self) -> Result<bool> {
        let free = self.freeable();
        let Some(last) = free.last() else { return Ok(false) };
        self.flush()?;
        let mut k = lock(&self.keeper);
        let mut table = k.table.clone();
        table.segments.retain(|s| s.segment > *last);
        table.first_sequence = self.first_sequence_behind(*last);
        k.slot.store(&table.encode())?;
        k.table = table;
        let mut a = lock(&self.append);
        let mut shared = self.shared.write().unwrap_or_else(PoisonError::into_inner);
        for number in free {
            k.retiring.extend(shared.segments.remove(&number));
            a.full -= 1;
        }
        self.used.store(a.full * self.limits.segment_bytes + a.at, Release);
        Ok(true)
    }
    /// The oldest segments in use, the current one excepted, that no piece names.
    fn freeable(&self) -> Vec<u32> {
        let current = lock(&self.append).current.as_ref().map_or(u32::MAX, |s| s.number);
        let shared = self.shared();
        let old = shared.segments.keys().take_while(|n| **n != current && shared.index.live(**n) == 0);
        old.copied().collect()
    }
    /// The sequence the log begins with when everything up to segment `last` is gone.
    fn first_sequence_behind(&self, last: u32) -> u64 {
        let a = lock(&self.append);
        let shared = self.shared();
        shared.segments.range(last + 1..).next().map_or(a.next, |(_, s)| s.first.load(Acquire))
    }
    /// Files of freed segments whose last read has ended become spare; true if there were any.
    pub fn recycle(&self) -> Result<bool> {
        let mut k = lock(&self.keeper);
        let before = k.retiring.len();
        let mut waiting = Vec::new();
        for segment in std::mem::take(&mut k.retiring) {
            match Arc::try_unwrap(segment) {
                Ok(s) if k.spare.len() < READY => k.spare.push((s.file_number, s.file)),
                Ok(s) => self.dir.remove(&file_name(s.file_number))?,
                Err(held) => waiting.push(held),
            }
        }
        k.retiring = waiting;
        Ok(k.retiring.len() < before)
    }
    /// Removes all files: after a hand-over voided the log.
    pub fn remove(dir: &dyn LogDir) -> Result<()> {
        for name in dir.names()? {
            if name == TABLE || name.starts_with("log-") {
                dir.remove(&name)?;
            }
        }
        dir.sync_names()
    }
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
        let ours = name.strip_prefix("log-").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
        if ours && !kept.contains(&name) && !spared.contains(&name) {
            dir.remove(&name)?;
        }
    }
    Ok(spare)
}
