//! Writes that found the log full: they keep their place and wait for the mover.
//!
//! A write that overlaps a waiting one waits behind it, whatever its connection; others may pass. FLUSH never waits for
//! them: they are not answered. A write whose connection is gone is dropped, nothing is tried later on its own. What of a
//! large write has already entered the log stays there: it was issued, it was not answered.

use super::lock;
use super::parts::Parts;
use super::write_log::Item;
use rekindle_core::log::Kind as RecordKind;
use rekindle_core::volume::ByteRange;
use rekindle_io::block::{Completion, CompletionSink};
use rekindle_io::{Error, Kind, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The part of a write that has not entered the log.
pub(super) struct Waiting {
    pub volume: u16,
    pub token: u64,
    pub sink: Arc<dyn CompletionSink>,
    pub fua: bool,
    pub kind: RecordKind,
    pub range: ByteRange,
    /// Empty unless a write.
    pub data: Vec<u8>,
    pub since: Duration,
}

/// The queue.
#[derive(Default)]
pub(super) struct WaitingWrites {
    queue: Mutex<VecDeque<Waiting>>,
    len: AtomicUsize,
}

impl WaitingWrites {
    /// Nobody waits: the usual case, without a lock.
    pub fn is_empty(&self) -> bool {
        self.len.load(Acquire) == 0
    }
    /// How many wait.
    pub fn len(&self) -> usize {
        self.len.load(Acquire)
    }
}

impl Parts {
    /// Whether `range` touches an absent extent in part: such a write cannot leave the log without a fetch.
    pub fn needs_fetch(&self, volume: u16, range: ByteRange) -> bool {
        let v = &self.volumes[volume as usize];
        let (touched, covered) = (v.geometry.touched(range), v.geometry.covered(range));
        let ends = [touched.start, touched.end.saturating_sub(1)];
        ends.iter().any(|e| !(covered.start..covered.end).contains(e) && v.claims.state(*e).needs_holder())
    }
    /// Appends one write in records of at most 1 MiB; returns how many of its bytes entered the log.
    pub fn append_one(&self, volume: u16, kind: RecordKind, range: ByteRange, data: &[u8]) -> Result<u64> {
        let needs_fetch = self.needs_fetch(volume, range);
        let mut items = Vec::with_capacity(1);
        push_items(&mut items, self.log.record_max(), volume, kind, range, data, needs_fetch);
        let n = self.log.append(&items, |i| self.entered(i))?;
        Ok(items[..n].iter().map(|i| i.range.len).sum())
    }
    /// A record is whole, under the lock that orders writes: its extents are marked before it can be answered.
    pub fn entered(&self, item: &Item<'_>) {
        let v = &self.volumes[item.volume as usize];
        v.claims.mark(v.geometry.touched(item.range), self.generation.load(Acquire));
    }
    /// Tries `w` unless it overlaps a waiting write; it waits if it finds no room. `None`: it waits.
    pub fn append_or_wait(&self, mut w: Waiting) -> Option<Result<()>> {
        let mut queue = lock(&self.waiting.queue);
        let blocked = queue.iter().any(|q| q.volume == w.volume && q.range.overlaps(&w.range));
        if !blocked {
            match self.advance(&mut w) {
                Ok(true) => return Some(Ok(())),
                Ok(false) => {}
                Err(e) => return Some(Err(e)),
            }
        }
        queue.push_back(w);
        self.waiting.len.store(queue.len(), Release);
        self.mover_signal.ring();
        None
    }
    /// Brings as much of `w` into the log as fits; true if all of it is there.
    fn advance(&self, w: &mut Waiting) -> Result<bool> {
        let n = self.append_one(w.volume, w.kind, w.range, &w.data)?;
        w.data.drain(..(n as usize).min(w.data.len()));
        w.range = ByteRange::new(w.range.start + n, w.range.len - n);
        Ok(w.range.len == 0)
    }
    /// Tries all waiting writes in order, after space came free; ends those that waited too long. True if any ended.
    pub fn pump(&self) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let now = self.clock.now();
        let mut queue = lock(&self.waiting.queue);
        let before = queue.len();
        let mut kept: VecDeque<Waiting> = VecDeque::new();
        let mut answered = Vec::new();
        for mut w in queue.drain(..) {
            if w.sink.abandoned() {
                continue;
            }
            let blocked = kept.iter().any(|q| q.volume == w.volume && q.range.overlaps(&w.range));
            match if blocked { Ok(false) } else { self.advance(&mut w) } {
                Ok(true) => answered.push((w, Ok(()))),
                Ok(false) if now >= w.since + self.stall_limit() => {
                    let what = "the write log is full and did not empty in time";
                    answered.push((w, Err(Error::new(Kind::Unavailable, what))));
                }
                Ok(false) => kept.push_back(w),
                Err(e) => answered.push((w, Err(e))),
            }
        }
        *queue = kept;
        self.waiting.len.store(queue.len(), Release);
        let ended = queue.len() < before;
        drop(queue);
        let fua = answered.iter().any(|(w, r)| w.fua && r.is_ok());
        let durable = if fua { self.log.flush() } else { Ok(()) };
        for (w, r) in answered {
            let result = r.and_then(|()| if w.fua { durable.clone() } else { Ok(()) });
            w.sink.complete(Completion { token: w.token, result: result.map(|()| Vec::new()) });
        }
        ended
    }
}

/// The records of one write.
pub(super) fn push_items<'a>(
    items: &mut Vec<Item<'a>>,
    record_max: u64,
    volume: u16,
    kind: RecordKind,
    range: ByteRange,
    data: &'a [u8],
    needs_fetch: bool,
) {
    if kind != RecordKind::Write {
        items.push(Item { volume, kind, range, data: &[], needs_fetch });
        return;
    }
    let mut start = range.start;
    for part in data.chunks(record_max as usize) {
        let range = ByteRange::new(start, part.len() as u64);
        items.push(Item { volume, kind, range, data: part, needs_fetch });
        start = range.end();
    }
}
