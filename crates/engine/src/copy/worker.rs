//! One thread of a copy: fetches batches, opens what comes, writes it. With a store that answers later, it keeps several
//! batches under way.

use super::Shared;
use super::plan::Batch;
use rekindle_core::volume::{ByteRange, Geometry};
use rekindle_io::destination::Destination;
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
    buf: Vec<u8>,
    settled: ByteRange,
}

impl<'a> Worker<'a> {
    pub fn new(holder: &'a Arc<dyn Holder>, to: &'a dyn Destination, shared: &'a Shared<'a>) -> Self {
        let geometry = holder.geometry();
        Worker { holder, to, shared, geometry, buf: Vec::new(), settled: ByteRange::default() }
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
            }
        }
    }

    /// Writes one extent; gives the bytes that came for it.
    fn take(&mut self, extent: u64, what: Result<Fetched>) -> Result<u64> {
        let what = match what {
            Err(e) if is_passing(&e) => patiently(self.shared, || fetch_one(self.holder, extent)),
            other => other,
        };
        let range = self.geometry.extent_bytes(extent);
        self.buf.resize(range.len as usize, 0);
        let opened = what.and_then(|what| match what {
            Fetched::Zero => Ok(None),
            Fetched::Sealed(sealed) => sealed.open(&mut self.buf).map(|()| Some(u64::from(sealed.stored()))),
        });
        match opened {
            Ok(Some(stored)) => {
                self.to.write(range.start, &self.buf)?;
                self.shared.written.fetch_add(range.len, Relaxed);
                self.shared.fetched.fetch_add(stored, Relaxed);
                self.settle(range);
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
