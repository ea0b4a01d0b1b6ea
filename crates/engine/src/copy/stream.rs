//! A copy to a stream (`-`): in the volume's own order, read ahead by a few threads, zeros written out. It cannot be
//! resumed and nothing of it is withheld; whoever reads it knows by its length and our exit code whether it is whole. So
//! it ends at the first damaged extent: zeros there would be taken for data.

use super::worker::patiently;
use super::{CopyOptions, CopyReport, Shared, TELL_EVERY};
use crate::progress::Progress;
use crate::read_ahead::{Found, ReadOrder, Source, collect};
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::holder::{FetchSink, Fetched, Holder, Presence, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::io::Write;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, mpsc};
use std::time::Instant;

/// Readers of a store that answers later: each has one piece (a MiB) under way.
const READERS_FAR: usize = 8;
/// Extents of one presence request: one leaf.
const LEAF: u64 = 1024;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Writes the volume that `holder` holds to `to` and flushes it.
pub fn copy_to_stream(
    holder: &Arc<dyn Holder>,
    to: &mut dyn Write,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport> {
    let geometry = holder.geometry();
    let shared = Shared::new(geometry, options, progress);
    let source = Held { holder, shared: &shared };
    let readers = if holder.answers_inline() { options.threads } else { options.threads.max(READERS_FAR) };
    let order = ReadOrder::new(
        Arc::new([ExtentRange { start: 0, end: geometry.extents() }].into_iter().collect()),
        &[],
    );
    let mut told = Instant::now();
    let mut take = |found: Found<'_>| {
        match found {
            Found::Data(_, bytes) => {
                to.write_all(bytes).map_err(|e| error(&e))?;
                shared.written.fetch_add(bytes.len() as u64, Relaxed);
            }
            Found::Zero(extents) => {
                for extent in extents.iter() {
                    let mut left = geometry.extent_bytes(extent).len as usize;
                    while left > 0 {
                        let n = left.min(ZEROS.len());
                        to.write_all(&ZEROS[..n]).map_err(|e| error(&e))?;
                        (left, _) = (left - n, shared.zero.fetch_add(n as u64, Relaxed));
                    }
                }
            }
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            progress.update(shared.done());
        }
        if progress.cancelled() {
            shared.stop.store(true, Relaxed);
            return Err(Error::new(Kind::Cancelled, "the copy was stopped; the stream is not whole"));
        }
        Ok(())
    };
    collect(&source, order, readers, &mut take)?;
    to.flush().map_err(|e| error(&e))?;
    progress.update(shared.done());
    Ok(shared.report())
}

fn error(e: &std::io::Error) -> Error {
    let error = Error::os("the output", e);
    // Whoever read the other end went away.
    let gone = e.kind() == std::io::ErrorKind::BrokenPipe;
    if gone { Error { kind: Kind::Cancelled, ..error } } else { error }
}

/// A holder, read as a volume.
struct Held<'a> {
    holder: &'a Arc<dyn Holder>,
    shared: &'a Shared<'a>,
}

struct Sink(mpsc::Sender<(u64, Result<Fetched>)>);
impl FetchSink for Sink {
    fn fetched(&self, extent: u64, what: Result<Fetched>) {
        // A reader that failed listens no more.
        let _ = self.0.send((extent, what));
    }
}

impl Held<'_> {
    fn read_once(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()> {
        let geometry = self.holder.geometry();
        let (tx, came) = mpsc::channel();
        let sink: Arc<dyn FetchSink> = Arc::new(Sink(tx));
        let all: Vec<u64> = extents.iter().collect();
        self.holder.clone().fetch(&all, Urgency::Background, &sink);
        drop(sink);
        let start = geometry.extent_bytes(extents.start).start;
        let mut answers = 0;
        for (extent, what) in came {
            let r = geometry.extent_bytes(extent);
            let bytes = &mut out[(r.start - start) as usize..][..r.len as usize];
            match what? {
                Fetched::Zero => bytes.fill(0),
                Fetched::Sealed(sealed) => {
                    sealed.open(bytes)?;
                    self.shared.fetched.fetch_add(sealed.stored().into(), Relaxed);
                }
            }
            answers += 1;
        }
        // `out` was used before: an extent without an answer would show what was there.
        if answers < all.len() {
            return Err(Error::new(Kind::Unavailable, "the holder gave up a fetch without an answer"));
        }
        Ok(())
    }
}

impl Source for Held<'_> {
    fn geometry(&self) -> Geometry {
        self.holder.geometry()
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let geometry = self.holder.geometry();
        let mut first = from >> geometry.extent.shift();
        let mut presence = Vec::new();
        while first < geometry.extents() {
            let n = (LEAF - first % LEAF).min(geometry.extents() - first);
            patiently(self.shared, || {
                presence.clear();
                self.holder.presence(first, n, &mut presence)
            })?;
            if let Some(at) = presence.iter().position(|p| *p != Presence::Zero) {
                let len = presence[at..].iter().take_while(|p| **p != Presence::Zero).count() as u64;
                let start = geometry.extent_bytes(first + at as u64).start;
                let end = geometry.extent_bytes(first + at as u64 + len - 1).end();
                return Ok(Some(ByteRange::new(start, end - start)));
            }
            first += n;
        }
        Ok(None)
    }
    fn read(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()> {
        patiently(self.shared, || self.read_once(extents, out))?;
        self.shared.keep_pace()
    }
}
