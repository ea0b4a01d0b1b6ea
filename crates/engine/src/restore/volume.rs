//! The restore volume as a device: what an export sees.
//!
//! A read asks the log first, then the state, then the place: log, target, holder. In that order, because a record leaves
//! the log only when the target has its bytes: who finds nothing in the log and then a state sees what the record left.
//! What is here is read at once; for what is absent one flight per extent is joined and the answer comes later.
//!
//! A write, zero or trim goes to the log and nowhere else; it takes no claim and waits for no fetch. A run of writes of a
//! batch is one write to the log. FLUSH is a flush of the log: alone in its batch it runs where it is (nobody else of
//! this connection waits), else on the flusher's thread so that the reads behind it go on.
//!
//! After the hand-over the same object passes everything to the live volume.

use super::parts::{Parts, Volume};
use super::pending::{Missing, PendingRead};
use super::waiting::{Waiting, push_items};
use super::write_log::{Held, Item};
use super::{lock, parts};
use rekindle_core::hydrate::Place;
use rekindle_core::log::Kind as RecordKind;
use rekindle_core::volume::{ByteRange, Geometry};
use rekindle_io::block::{Allocation, Answer, Block, CompletionSink, Info, Op, Request};
use rekindle_io::holder::Urgency;
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

/// A volume being restored; a live one after the hand-over. The same object all the time.
pub struct RestoreVolume {
    pub(super) parts: Arc<Parts>,
    pub(super) at: usize,
}

impl RestoreVolume {
    fn volume(&self) -> &Volume {
        &self.parts.volumes[self.at]
    }
    /// Label inside its set.
    pub fn name(&self) -> &str {
        &self.volume().name
    }
    /// Its shape.
    pub fn geometry(&self) -> Geometry {
        self.volume().geometry
    }

    /// Appends a run of writes with as few log writes as possible. Answers are pushed in order.
    fn write_run(&self, run: &[Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        let parts = &self.parts;
        if run.iter().any(|r| !self.volume().geometry.contains(r.range())) || !parts.waiting.is_empty() {
            run.iter().for_each(|r| answers.push(self.write_slowly(r, 0, sink)));
            return;
        }
        let mut items: Vec<Item<'_>> = Vec::with_capacity(run.len());
        for r in run {
            let (kind, data) = record_of(&r.op);
            let range = r.range();
            if range.len > 0 {
                let needs_fetch = parts.needs_fetch(self.at as u16, range);
                push_items(
                    &mut items,
                    parts.log.record_max(),
                    self.at as u16,
                    kind,
                    range,
                    data,
                    needs_fetch,
                );
            }
        }
        let appended = parts.log.append(&items, |i| parts.entered(i));
        let mut left = match &appended {
            Ok(n) => items[..*n].iter().map(|i| i.range.len).sum::<u64>(),
            Err(_) => 0,
        };
        let fua = run.iter().any(|r| is_fua(&r.op));
        let durable = if fua && appended.is_ok() { parts.log.flush() } else { Ok(()) };
        if !fua {
            parts.log.expect_flush();
        }
        for r in run {
            let done = left.min(r.range().len);
            left -= done;
            answers.push(match &appended {
                Err(e) => Answer::Done(Err(e.clone())),
                Ok(_) if done == r.range().len => {
                    Answer::Done(if is_fua(&r.op) { durable.clone() } else { Ok(()) })
                }
                Ok(_) => self.write_slowly(r, done, sink),
            });
        }
        if parts.log.fullness() >= parts::HURRY_AT {
            parts.mover_signal.ring();
        }
    }
    /// One write whose first `done` bytes are in the log: in order behind those that wait for room.
    fn write_slowly(&self, r: &Request<'_>, done: u64, sink: &Arc<dyn CompletionSink>) -> Answer {
        let range = r.range();
        if !self.volume().geometry.contains(range) {
            return Answer::Done(Err(out_of_range(range)));
        }
        let (kind, data) = record_of(&r.op);
        let fua = is_fua(&r.op);
        let w = Waiting {
            volume: self.at as u16,
            token: r.token,
            sink: sink.clone(),
            fua,
            kind,
            range: ByteRange::new(range.start + done, range.len - done),
            data: data.get(done as usize..).unwrap_or(&[]).to_vec(),
            since: self.parts.clock.now(),
        };
        match self.parts.append_or_wait(w) {
            Some(Ok(())) if fua => Answer::Done(self.parts.log.flush()),
            Some(done) => Answer::Done(done),
            None => Answer::Later,
        }
    }
    fn flush(&self, token: u64, alone: bool, sink: &Arc<dyn CompletionSink>) -> Answer {
        if alone || !self.parts.threaded.load(Acquire) {
            return Answer::Done(self.parts.log.flush());
        }
        lock(&self.parts.flush_queue).push((token, sink.clone()));
        self.parts.flush_signal.ring();
        Answer::Later
    }

    fn read(&self, request: &mut Request<'_>, sink: &Arc<dyn CompletionSink>) -> Answer {
        let range = request.range();
        let volume = self.volume();
        if !volume.geometry.contains(range) {
            return Answer::Done(Err(out_of_range(range)));
        }
        if let Some(u) = &volume.usage {
            u.read(range);
        }
        let mut held = Vec::new();
        self.parts.log.resolve(self.at as u16, range, &mut held);
        let touched = volume.geometry.touched(range);
        let local = touched.iter().all(|e| volume.claims.state(e).place() == Place::Local);
        if local && held.is_empty() && volume.target.is_plain(range) {
            // The whole way is the target's own: cached reads at once, others later through the same sink.
            let mut answers = Vec::with_capacity(1);
            volume.target.block().submit(std::slice::from_mut(request), &mut answers, sink);
            return answers.pop().expect("a device answers every request");
        }
        let token = request.token;
        let Op::Read(buf) = &mut request.op else { unreachable!("only reads come here") };
        match self.read_parts(range, &held, buf) {
            Err(e) => Answer::Done(Err(e)),
            Ok(absent) if absent.is_empty() => Answer::Done(Ok(())),
            Ok(absent) => self.read_absent(token, &absent, buf, sink),
        }
    }
    /// Fills `buf` with what is in the log, in the target, or zero; returns the stretches that only the holder has.
    fn read_parts(
        &self,
        range: ByteRange,
        held: &[Held],
        buf: &mut [u8],
    ) -> Result<Vec<(u64, ByteRange, usize)>> {
        let volume = self.volume();
        let mut absent = Vec::new();
        let mut gap = |from: u64, to: u64, buf: &mut [u8]| -> Result<()> {
            let mut at = from;
            while at < to {
                let extent = at >> volume.geometry.extent.shift();
                let whole = volume.geometry.extent_bytes(extent);
                let end = whole.end().min(to);
                let out = &mut buf[(at - range.start) as usize..(end - range.start) as usize];
                match volume.claims.state(extent).place() {
                    Place::Local => volume.target.read(at, out)?,
                    Place::Zero => out.fill(0),
                    Place::Absent => {
                        let within = ByteRange::new(at - whole.start, end - at);
                        absent.push((extent, within, (at - range.start) as usize));
                    }
                }
                at = end;
            }
            Ok(())
        };
        let mut at = range.start;
        for h in held {
            gap(at, h.piece.range.start, buf)?;
            let to = (h.piece.range.start - range.start) as usize;
            h.read(0, &mut buf[to..to + h.piece.range.len as usize])?;
            at = h.piece.range.end();
        }
        gap(at, range.end(), buf)?;
        Ok(absent)
    }
    fn read_absent(
        &self,
        token: u64,
        absent: &[(u64, ByteRange, usize)],
        buf: &mut [u8],
        sink: &Arc<dyn CompletionSink>,
    ) -> Answer {
        let volume = self.volume();
        let read = PendingRead::new(token, sink.clone(), buf.to_vec(), absent.len());
        let mut fetch = Vec::new();
        for &(extent, within, at) in absent {
            if self.parts.join(volume, extent, Missing { read: read.clone(), within, at }) {
                fetch.push(extent);
            }
        }
        if !fetch.is_empty() {
            self.parts.demand(volume, fetch);
        }
        match read.detach() {
            Some(Ok(bytes)) => {
                buf.copy_from_slice(&bytes);
                Answer::Done(Ok(()))
            }
            Some(Err(e)) => Answer::Done(Err(e)),
            None => Answer::Later,
        }
    }
    fn cache(&self, range: ByteRange) -> Answer {
        let volume = self.volume();
        if volume.geometry.contains(range) && range.len > 0 && !self.parts.is_busy(volume) {
            // A hint is bounded: the rest comes in its own order.
            let touched = volume.geometry.touched(range);
            let extents: Vec<u64> = touched.iter().take(64).collect();
            self.parts.fetch_aside(volume, &extents, Urgency::Background);
        }
        Answer::Done(Ok(()))
    }
}

fn out_of_range(r: ByteRange) -> Error {
    Error::new(Kind::Invalid, format!("{} bytes at {} lie outside the volume", r.len, r.start))
}
fn is_fua(op: &Op<'_>) -> bool {
    matches!(op, Op::Write { fua: true, .. } | Op::Zero { fua: true, .. } | Op::Trim { fua: true, .. })
}
/// What a request is in the log.
fn record_of<'a>(op: &'a Op<'_>) -> (RecordKind, &'a [u8]) {
    match op {
        Op::Write { data, .. } => (RecordKind::Write, data),
        Op::Zero { no_hole: true, .. } => (RecordKind::Zero, &[]),
        _ => (RecordKind::Trim, &[]),
    }
}
fn is_write(op: &Op<'_>) -> bool {
    matches!(op, Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. })
}

impl Block for RestoreVolume {
    fn info(&self) -> Info {
        if let Some(live) = self.volume().settled.get() {
            return live.info();
        }
        let (g, target) = (self.volume().geometry, self.volume().target.block().info());
        Info {
            size: g.size,
            logical_block: g.logical_block,
            physical_block: g.physical_block,
            read_only: false,
            rotational: target.rotational,
            trim: true,
            fast_zero: true,
        }
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        let volume = self.volume();
        let gate = match volume.settled.get() {
            Some(_) => None,
            None => Some(self.parts.gate.read().unwrap_or_else(std::sync::PoisonError::into_inner)),
        };
        if let Some(live) = volume.settled.get() {
            drop(gate);
            return live.submit(batch, answers, sink);
        }
        let (n, mut i) = (batch.len(), 0);
        while i < n {
            let end = i + batch[i..].iter().take_while(|r| is_write(&r.op)).count();
            if end > i {
                let run = &batch[i..end];
                if let Some(u) = &volume.usage {
                    run.iter().for_each(|r| u.write(r.range()));
                }
                self.write_run(run, answers, sink);
                i = end;
                continue;
            }
            let r = &mut batch[i];
            let answer = match &r.op {
                Op::Flush => self.flush(r.token, n == 1, sink),
                Op::Cache { .. } => self.cache(r.range()),
                _ => self.read(r, sink),
            };
            answers.push(answer);
            i += 1;
        }
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        let volume = self.volume();
        if let Some(live) = volume.settled.get() {
            return live.allocation(range, out);
        }
        // Conservative: zero is said only of what the log trimmed or the state knows; the rest may hold anything.
        let mut held = Vec::new();
        self.parts.log.resolve(self.at as u16, range, &mut held);
        let end = range.end().min(range.start + (64 << 20));
        let mut at = range.start;
        let mut pieces = held.iter().map(|h| h.piece).peekable();
        while at < end {
            let piece = pieces.next_if(|p| p.range.start == at);
            let upto = pieces.peek().map_or(end, |p| p.range.start.min(end));
            let (stop, zero) = match piece {
                Some(p) => {
                    (p.range.end().min(end), !matches!(p.source, rekindle_core::log::Source::Data { .. }))
                }
                None => {
                    let extent = at >> volume.geometry.extent.shift();
                    let stop = volume.geometry.extent_bytes(extent).end().min(upto);
                    (stop, volume.claims.state(extent).place() == Place::Zero)
                }
            };
            let len = stop - at;
            match out.last_mut() {
                Some(l) if l.zero == zero && l.range.end() == at => l.range.len += len,
                _ => out.push(Allocation { range: ByteRange::new(at, len), hole: zero, zero }),
            }
            at = stop;
        }
        Ok(())
    }
}
