//! Space: segments prepared ahead, freed oldest first, used again behind the last reader.

use super::{READY, Segment, TABLE, WriteLog, file_name};
use crate::restore::lock;
use rekindle_core::log::{SegmentEntry, SegmentHeader};
use rekindle_core::volume::ByteRange;
use rekindle_io::Result;
use rekindle_io::logfile::{LogDir, LogFile};
use std::sync::atomic::{AtomicU64, Ordering::*};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

impl WriteLog {
    /// Waits until a segment is to be prepared.
    pub fn wait_until_wanted(&self, at_most: Duration) {
        self.wanted.wait(at_most);
    }
    /// Prepares one segment if fewer than needed are ready; true if it did. Calls `pause` between small pieces of the work as
    /// long as the guest does not need it sooner.
    pub fn prepare(&self, pause: &dyn Fn()) -> Result<bool> {
        let short = {
            let a = lock(&self.append);
            let ahead = (a.full + 1 + a.ready.len() as u64) * self.limits.segment_bytes;
            a.ready.is_empty() || a.ready.len() < READY && ahead < self.limits.bytes_max
        };
        if short {
            self.prepare_one(true, pause)?;
        }
        Ok(short)
    }
    pub(super) fn prepare_one(&self, sync_names: bool, pause: &dyn Fn()) -> Result<()> {
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
                let file = self.new_file(n, &header, pause)?;
                if sync_names {
                    self.dir.sync_names()?;
                }
                (n, file)
            }
        };
        let mut table = k.table.clone();
        table.next_segment += 1;
        table.durable = self.durable();
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
    /// A file written with zeros: a merely allocated one would cost three times as much per FLUSH. In small steps: where the
    /// kernel is not preemptible each keeps a processor from the guest as long as it takes, and 8 MiB of dirty pages at the
    /// sync keep the disk from a FLUSH for milliseconds.
    fn new_file(&self, n: u32, header: &[u8], pause: &dyn Fn()) -> Result<Arc<dyn LogFile>> {
        const STEP: u64 = 32 << 10;
        // A FLUSH that comes meanwhile waits for what is on its way to the disk: a little of each rather than much of a few. With
        // 2 MiB at a time one in a thousand took 1.6 ms here, with this 0.3.
        const WRITE_OUT: u64 = 2 * STEP;
        // The table never named this number: whatever has the name is the remainder of an attempt that failed.
        self.dir.remove(&file_name(n))?;
        let file = self.dir.create(&file_name(n))?;
        let zeros = [0; STEP as usize];
        for at in (0..self.limits.segment_bytes).step_by(STEP as usize) {
            let end = self.limits.segment_bytes.min(at + STEP);
            file.write_at(at, &[&zeros[..(end - at) as usize]])?;
            if end.is_multiple_of(WRITE_OUT) {
                file.write_out(end - WRITE_OUT, WRITE_OUT);
            }
            if self.is_ahead(end) {
                pause();
            }
        }
        file.write_at(0, &[header])?;
        file.sync()?;
        Ok(file)
    }
    /// A segment is ready, and of the next one more is prepared than the guest has used of the current one: there is time.
    fn is_ahead(&self, prepared: u64) -> bool {
        let a = lock(&self.append);
        !a.ready.is_empty() && a.at <= prepared
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
        table.durable = self.durable();
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
    /// The oldest segment that holds bytes of `range`.
    pub fn oldest_of(&self, volume: u16, range: ByteRange) -> Option<u32> {
        let mut oldest = None;
        self.shared().index.overlapping(volume, range, |piece| {
            oldest = Some(oldest.map_or(piece.segment, |o: u32| o.min(piece.segment)));
        });
        oldest
    }
    /// Bytes in use from the beginning of `segment` to the head.
    pub fn used_from(&self, segment: u32) -> u64 {
        let before = self.shared().segments.range(..segment).count() as u64;
        self.used().saturating_sub(before * self.limits.segment_bytes)
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
