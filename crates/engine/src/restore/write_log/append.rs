//! Appending: the order of writes, and FLUSH.

use super::{Appender, Item, Segment, WriteLog, need};
use crate::restore::lock;
use rekindle_core::log::{HEADER_BYTES, RECORD_DATA_MAX, Record, SEGMENT_START, fresh_block};
use rekindle_io::{Error, Kind, Result};
use std::sync::PoisonError;
use std::sync::atomic::Ordering::*;

/// More than this is left to the FLUSH: submitting it would take the write's answer longer than it saves.
const AHEAD_MAX: u64 = 128 << 10;

impl WriteLog {
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
        a.rhythm.appended();
        Ok(done)
    }
    /// Begins to write out what a FLUSH will ask for, if the guest's rhythm says that it comes now: half of what that FLUSH
    /// would wait for happens while the guest hears of its write. A wrong guess costs a write to the disk, and the rest of a
    /// block: what is being written out is not written again.
    pub fn expect_flush(&self) {
        let (segment, from, to) = {
            let mut a = lock(&self.append);
            let Some(segment) = a.current.clone().filter(|_| a.rhythm.is_due()) else { return };
            let (from, to) = (a.unflushed_from, a.at);
            if to <= from || to - from > AHEAD_MAX {
                return;
            }
            a.fresh = true;
            (segment, from, to)
        };
        segment.file.write_out(from, to - from);
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
        if a.fresh || start == SEGMENT_START {
            a.unflushed_from = start;
        }
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
            a.rhythm.flushed();
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
    /// No write and no flush is answered any more, until the log is opened again.
    pub fn fail(&self) {
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
}
