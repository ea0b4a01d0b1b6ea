//! One thread of a copy: fetches batches, opens what comes, writes it, neighbours together. With a store that answers later,
//! it keeps several batches under way.

use super::Shared;
use super::plan::Batch;
use super::read_back::Written;
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::destination::{Aligned, Destination};
use rekindle_io::holder::{FetchSink, Fetched, Holder, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes under way from a store that answers later, for each worker.
const AHEAD_BYTES: u64 = 8 << 20;
/// Extents under way for each worker, however small their frames are.
const AHEAD_EXTENTS: usize = 1024;
/// Bytes written at once: less costs a disk more, more brings nothing.
const PIECE_BYTES: u64 = 1 << 20;
/// Stretch of neighbours after which the destination may begin to write back.
const SETTLE_BYTES: u64 = 8 << 20;
/// First and longest pause before an absent store is asked again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// A worker that waits for an answer looks up so often whether the copy was stopped.
const LOOK_UP: Duration = Duration::from_millis(200);

struct Sink(Sender<(u64, Result<Fetched>)>);

impl FetchSink for Sink {
    fn fetched(&self, extent: u64, what: Result<Fetched>) {
        // A worker that failed listens no more.
        let _ = self.0.send((extent, what));
    }
}

pub(super) struct Worker<'a> {
    holder: &'a Arc<dyn Holder>,
    to: &'a dyn Destination,
    shared: &'a Shared<'a>,
    geometry: Geometry,
    /// Neighbours that were opened and not written yet: the first bytes of `buf` belong to `piece`.
    buf: Aligned,
    piece: ByteRange,
    settled: ByteRange,
    written: Option<Written>,
}

impl<'a> Worker<'a> {
    /// Tells `written`, if there is one, what it wrote.
    pub fn new(
        holder: &'a Arc<dyn Holder>,
        to: &'a dyn Destination,
        shared: &'a Shared<'a>,
        written: Option<Written>,
    ) -> Self {
        let geometry = holder.geometry();
        let buf = Aligned::new(PIECE_BYTES.max(geometry.extent.get()) as usize);
        let (piece, settled) = (ByteRange::default(), ByteRange::default());
        Worker { holder, to, shared, geometry, buf, piece, settled, written }
    }

    /// Works until no batch comes any more.
    pub fn run(&mut self, batches: &Mutex<Receiver<Batch>>) -> Result<()> {
        let (tx, came) = mpsc::channel();
        let sink: Arc<dyn FetchSink> = Arc::new(Sink(tx));
        let ahead = if self.holder.answers_inline() { 1 } else { AHEAD_BYTES };
        let (mut extents, mut bytes, mut more) = (0usize, 0u64, true);
        loop {
            while more && bytes < ahead && extents < AHEAD_EXTENTS {
                let batches = batches.lock().unwrap_or_else(PoisonError::into_inner);
                // With something under way there is better to do than to wait for the planner.
                let next = if extents == 0 { batches.recv().ok() } else { batches.try_recv().ok() };
                drop(batches);
                let Some(batch) = next else {
                    more = extents > 0;
                    break;
                };
                self.shared.check()?;
                (extents, bytes) = (extents + batch.extents.len(), bytes + batch.stored);
                self.holder.clone().fetch(&batch.extents, Urgency::Background, &sink);
            }
            if extents == 0 {
                if more {
                    continue;
                }
                self.to.settle(self.settled);
                return Ok(());
            }
            let (extent, what) = match came.recv_timeout(LOOK_UP) {
                Ok(answer) => answer,
                Err(_) => {
                    self.shared.check()?;
                    continue;
                }
            };
            extents -= 1;
            bytes -= self.take(extent, what)?.min(bytes);
            if extents == 0 {
                bytes = 0;
                self.put()?;
            }
        }
    }

    /// Opens one extent and sees that it is written; gives the bytes that came for it.
    fn take(&mut self, extent: u64, what: Result<Fetched>) -> Result<u64> {
        let what = match what {
            Err(e) if is_passing(&e) => patiently(self.shared, || fetch_one(self.holder, extent)),
            other => other,
        };
        let range = self.geometry.extent_bytes(extent);
        if range.start != self.piece.end() || self.piece.len + range.len > self.buf.len() as u64 {
            self.put()?;
            self.piece = ByteRange::new(range.start, 0);
        }
        let out = &mut self.buf[self.piece.len as usize..][..range.len as usize];
        let opened = what.and_then(|what| match what {
            Fetched::Zero => Ok(None),
            Fetched::Sealed(sealed) => sealed.open(out).map(|()| Some(u64::from(sealed.stored()))),
        });
        match opened {
            Ok(Some(stored)) => {
                self.piece.len += range.len;
                self.shared.fetched.fetch_add(stored, Relaxed);
                self.shared.keep_pace()?;
                Ok(stored)
            }
            Ok(None) => {
                if !self.to.is_fresh() {
                    self.to.zero(range)?;
                }
                self.shared.zero.fetch_add(range.len, Relaxed);
                Ok(0)
            }
            Err(e) if e.is_loss() => self.shared.lost(extent, &e, self.to).map(|()| 0),
            Err(e) => Err(e),
        }
    }

    /// Writes what was opened.
    fn put(&mut self) -> Result<()> {
        let piece = std::mem::take(&mut self.piece);
        if piece.len == 0 {
            return Ok(());
        }
        self.to.write(piece.start, &self.buf[..piece.len as usize])?;
        self.shared.written.fetch_add(piece.len, Relaxed);
        self.settle(piece);
        if let Some(written) = &self.written {
            let extent = self.geometry.extent.get();
            // No room, or the readers failed: then it is read back at the end, or not at all.
            let stretch = ExtentRange { start: piece.start / extent, end: piece.end().div_ceil(extent) };
            let _ = written.try_send(stretch);
        }
        Ok(())
    }

    fn settle(&mut self, range: ByteRange) {
        if self.settled.end() == range.start && self.settled.len < SETTLE_BYTES {
            self.settled.len += range.len;
            return;
        }
        if self.settled.len > 0 {
            self.to.settle(self.settled);
        }
        self.settled = range;
    }
}

fn no_answer() -> Error {
    Error::new(Kind::Unavailable, "the holder gave up a fetch without an answer")
}

fn is_passing(e: &Error) -> bool {
    matches!(e.kind, Kind::Retry | Kind::Unavailable)
}

fn fetch_one(holder: &Arc<dyn Holder>, extent: u64) -> Result<Fetched> {
    let (tx, came) = mpsc::channel();
    let sink: Arc<dyn FetchSink> = Arc::new(Sink(tx));
    holder.clone().fetch(&[extent], Urgency::Background, &sink);
    drop(sink);
    came.recv().map_err(|_| no_answer())?.1
}

/// Asks again while the store is away, as long as the caller's patience lasts and nothing else came meanwhile.
pub(super) fn patiently<T>(shared: &Shared<'_>, mut ask: impl FnMut() -> Result<T>) -> Result<T> {
    let (mut since, mut came) = (Instant::now(), shared.fetched.load(Relaxed));
    let mut pause = PAUSE.0;
    loop {
        let e = match ask() {
            Err(e) if is_passing(&e) => e,
            other => return other,
        };
        let now_came = shared.fetched.load(Relaxed);
        if now_came != came {
            (since, came) = (Instant::now(), now_came);
        }
        if since.elapsed() >= shared.options.patience {
            return Err(e);
        }
        shared.check()?;
        std::thread::sleep(pause.min(shared.options.patience));
        pause = (pause * 2).min(PAUSE.1);
    }
}
