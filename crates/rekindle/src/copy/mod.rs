//! A plain copy of one volume of a moment: to a file or device on several threads, or to a stream in order.
//!
//! Zeros are never fetched: on fresh space they stay holes, elsewhere they are written. Memory is bounded: each thread
//! holds at most 4 MiB of frames and one open extent.

pub mod dest;

use crate::errors::{Failure, Outcome};
use rekindle_io::block::{Block, BlockExt};
use rekindle_io::holder::{FetchSink, Fetched, Holder, Presence, Urgency};
use rekindle_io::{Error, Kind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Bytes of frames a thread asks for at once.
const CHUNK_BYTES: u64 = 4 << 20;
/// Threads that open frames: they share cores with nobody, but a disk is soon the limit.
const THREADS_MAX: usize = 4;
/// Cached writes in pieces over 64 KiB meet huge folios, which cost up to ten times the CPU.
const WRITE_BYTES: usize = 64 << 10;
/// A holder that does not answer for this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// The failure of a read from the repository.
fn unreadable(e: &Error) -> Failure {
    let failure = Failure::io("cannot read the snapshot", e);
    match e.kind {
        Kind::Gone | Kind::Corrupt => failure.cure(
            "the repository is not whole: keep the damaged object for examination and bring it back from a copy of it, or use another snapshot (`rekindle timeline`)",
        ),
        _ => failure,
    }
}

/// How far a copy is; shared with whoever shows it.
#[derive(Default)]
pub struct Counters {
    /// Bytes of the volume dealt with, zeros included.
    pub done: AtomicU64,
    /// Bytes fetched.
    pub fetched: AtomicU64,
    /// Bytes written; the rest are holes.
    pub written: AtomicU64,
    /// Set from outside: stop.
    pub stop: AtomicBool,
}

/// What is copied, and how fast at most.
pub struct Copy {
    /// Gives the bytes.
    pub holder: Arc<dyn Holder>,
    /// Bytes per second at most.
    pub limit: Option<u64>,
    /// How far it is.
    pub counters: Arc<Counters>,
}

impl Copy {
    /// Copies everything into `target`; with `fresh` it reads as zeros already.
    pub fn to_block(&self, target: &dyn Block, fresh: bool) -> Outcome {
        let run = |chunk: &[u64], buf: &mut Vec<u8>| self.chunk(chunk, buf, target, fresh);
        self.each_chunk(THREADS_MAX, &run)?;
        target.flush().map_err(|e| Failure::io("cannot make the copy durable", &e))
    }
    /// Copies everything, in order, zeros as zeros.
    pub fn to_stream(&self, out: &mut (dyn std::io::Write + Send)) -> Outcome {
        let geometry = self.holder.geometry();
        let cannot = |e: std::io::Error| Failure::system("cannot write to stdout", &e);
        let out = Mutex::new(out);
        let run = |chunk: &[u64], buf: &mut Vec<u8>| {
            let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
            for (extent, opened) in self.open(chunk)? {
                buf.resize(geometry.extent_bytes(extent).len as usize, 0);
                opened.into_buf(buf)?;
                out.write_all(buf).map_err(cannot)?;
                self.count(buf.len() as u64, buf.len() as u64);
            }
            Ok(())
        };
        self.each_chunk(1, &run)?;
        out.into_inner().unwrap_or_else(PoisonError::into_inner).flush().map_err(cannot)
    }
    /// Reads everything back from `target` and compares it; how many extents differ.
    pub fn verify(&self, target: &dyn Block) -> Outcome<u64> {
        let wrong = AtomicU64::new(0);
        let run = |chunk: &[u64], buf: &mut Vec<u8>| {
            for &extent in chunk {
                if !self.is_right(extent, target, buf)? {
                    tracing::error!(extent, "the destination does not hold what was written");
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(())
        };
        self.each_chunk(THREADS_MAX, &run)?;
        Ok(wrong.into_inner())
    }

    /// Lets threads take chunks of consecutive extents until all are done or one fails; the first failure is told.
    fn each_chunk(&self, threads: usize, run: &(dyn Fn(&[u64], &mut Vec<u8>) -> Outcome + Sync)) -> Outcome {
        let geometry = self.holder.geometry();
        let step = (CHUNK_BYTES / geometry.extent.get()).clamp(1, 64);
        let next = AtomicU64::new(0);
        let failed = AtomicBool::new(false);
        let pace = Pace { begun: Instant::now(), limit: self.limit };
        let work = || -> Outcome {
            let mut buf = Vec::new();
            loop {
                let first = next.fetch_add(step, Ordering::Relaxed);
                if first >= geometry.extents() || failed.load(Ordering::Relaxed) {
                    return Ok(());
                }
                if self.counters.stop.load(Ordering::Relaxed) {
                    return Err(Failure::interrupted("the copy"));
                }
                let chunk: Vec<u64> = (first..(first + step).min(geometry.extents())).collect();
                run(&chunk, &mut buf).inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
                pace.keep(self.counters.fetched.load(Ordering::Relaxed), &self.counters.stop);
            }
        };
        let threads = threads.min(std::thread::available_parallelism().map_or(1, usize::from));
        std::thread::scope(|s| {
            let all: Vec<_> = (0..threads).map(|_| s.spawn(work)).collect();
            let ends = all.into_iter().map(|t| t.join().expect("a copying thread does not panic"));
            // Failures before interruptions: they say more.
            let mut ends: Vec<Failure> = ends.filter_map(Result::err).collect();
            ends.sort_by_key(|f| f.exit == crate::errors::Exit::Interrupted);
            ends.into_iter().next().map_or(Ok(()), Err)
        })
    }
    fn chunk(&self, chunk: &[u64], buf: &mut Vec<u8>, target: &dyn Block, fresh: bool) -> Outcome {
        let geometry = self.holder.geometry();
        let cannot = |e: Error| Failure::io("cannot write the copy", &e);
        for (extent, opened) in self.open(chunk)? {
            let range = geometry.extent_bytes(extent);
            match opened {
                Opened::Zero if fresh => self.count(range.len, 0),
                Opened::Zero => {
                    target.zero_at(range.start, range.len).map_err(cannot)?;
                    self.count(range.len, range.len);
                }
                opened => {
                    buf.resize(range.len as usize, 0);
                    opened.into_buf(buf)?;
                    for (i, piece) in buf.chunks(WRITE_BYTES).enumerate() {
                        let at = range.start + (i * WRITE_BYTES) as u64;
                        target.write_at(at, piece).map_err(cannot)?;
                    }
                    self.count(range.len, range.len);
                }
            }
        }
        Ok(())
    }
    /// Fetches a chunk; frames come back sealed, in order of extents.
    fn open(&self, chunk: &[u64]) -> Outcome<Vec<(u64, Opened)>> {
        let cannot = |e: Error| unreadable(&e);
        let mut known = Vec::with_capacity(chunk.len());
        self.holder.presence(chunk[0], chunk.len() as u64, &mut known).map_err(cannot)?;
        let stored: Vec<u64> = chunk
            .iter()
            .zip(&known)
            .filter(|(_, p)| matches!(p, Presence::Stored { .. }))
            .map(|(e, _)| *e)
            .collect();
        let mut came = if stored.is_empty() { Vec::new() } else { self.fetch(&stored).map_err(cannot)? };
        came.sort_by_key(|(e, _)| std::cmp::Reverse(*e));
        Ok(chunk
            .iter()
            .map(|&extent| match came.last() {
                Some((e, _)) if *e == extent => {
                    (extent, Opened::from(came.pop().expect("looked at just now").1))
                }
                _ => (extent, Opened::Zero),
            })
            .collect())
    }
    fn fetch(&self, extents: &[u64]) -> rekindle_io::Result<Vec<(u64, Fetched)>> {
        let basket = Arc::new(Basket::default());
        let sink: Arc<dyn FetchSink> = basket.clone();
        self.holder.clone().fetch(extents, Urgency::Background, &sink);
        let came = basket.all(extents.len())?;
        let moved = came.iter().map(|(_, f)| match f {
            Fetched::Sealed(s) => u64::from(s.stored()),
            Fetched::Zero => 0,
        });
        self.counters.fetched.fetch_add(moved.sum(), Ordering::Relaxed);
        Ok(came)
    }
    fn is_right(&self, extent: u64, target: &dyn Block, buf: &mut Vec<u8>) -> Outcome<bool> {
        let range = self.holder.geometry().extent_bytes(extent);
        buf.resize(range.len as usize, 0);
        target.read_at(range.start, buf).map_err(|e| Failure::io("cannot read the copy back", &e))?;
        let known = self.holder.check(extent, buf).map_err(|e| unreadable(&e))?;
        let right = match known {
            Some(right) => right,
            None => {
                let mut want = vec![0; buf.len()];
                let opened = self.open(&[extent])?.pop().map(|(_, o)| o);
                opened.unwrap_or(Opened::Zero).into_buf(&mut want)?;
                want == *buf
            }
        };
        self.counters.done.fetch_add(range.len, Ordering::Relaxed);
        Ok(right)
    }
    fn count(&self, done: u64, written: u64) {
        self.counters.done.fetch_add(done, Ordering::Relaxed);
        self.counters.written.fetch_add(written, Ordering::Relaxed);
    }
}

/// One extent that came.
enum Opened {
    Zero,
    Sealed(Box<dyn rekindle_io::holder::Sealed>),
}

impl From<Fetched> for Opened {
    fn from(f: Fetched) -> Opened {
        match f {
            Fetched::Zero => Opened::Zero,
            Fetched::Sealed(s) => Opened::Sealed(s),
        }
    }
}

impl Opened {
    /// Authenticated and decompressed into a buffer of the extent's length.
    fn into_buf(self, buf: &mut [u8]) -> Outcome {
        match self {
            Opened::Zero => {
                buf.fill(0);
                Ok(())
            }
            Opened::Sealed(s) => s.open(buf).map_err(|e| unreadable(&e)),
        }
    }
}

/// Where a chunk's frames are gathered.
#[derive(Default)]
struct Basket {
    came: Mutex<Vec<(u64, rekindle_io::Result<Fetched>)>>,
    more: Condvar,
}

impl FetchSink for Basket {
    fn fetched(&self, extent: u64, what: rekindle_io::Result<Fetched>) {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).push((extent, what));
        self.more.notify_one();
    }
}

impl Basket {
    fn all(&self, n: usize) -> rekindle_io::Result<Vec<(u64, Fetched)>> {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut came, late) = self
            .more
            .wait_timeout_while(came, PATIENCE, |c| c.len() < n)
            .unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            return Err(Error::new(Kind::Unavailable, "the repository did not answer within a minute"));
        }
        came.drain(..).map(|(e, r)| r.map(|f| (e, f))).collect()
    }
}

/// Keeps the mean under a limit.
struct Pace {
    begun: Instant,
    limit: Option<u64>,
}

impl Pace {
    fn keep(&self, moved: u64, stop: &AtomicBool) {
        let Some(limit) = self.limit else { return };
        let due = Duration::from_secs_f64(moved as f64 / limit.max(1) as f64);
        while self.begun.elapsed() < due && !stop.load(Ordering::Relaxed) {
            std::thread::sleep((due - self.begun.elapsed()).min(Duration::from_millis(50)));
        }
    }
}

#[cfg(test)]
mod tests;
