//! Reads that wait for the holder: what is known of them, and who hears their end.

use super::lock;
use super::parts::Volume;
use rekindle_core::hydrate::Place;
use rekindle_core::volume::ByteRange;
use rekindle_io::block::{Completion, CompletionSink};
use rekindle_io::{Error, Result};
use std::sync::{Arc, Mutex};

/// A read that waits for the holder.
pub(super) struct PendingRead {
    token: u64,
    sink: Arc<dyn CompletionSink>,
    state: Mutex<ReadState>,
}

struct ReadState {
    buf: Vec<u8>,
    left: usize,
    error: Option<Error>,
    /// The asker has gone on; the sink hears the end.
    detached: bool,
}

impl PendingRead {
    /// `buf` holds what is known already; `left` parts are missing.
    pub fn new(token: u64, sink: Arc<dyn CompletionSink>, buf: Vec<u8>, left: usize) -> Arc<Self> {
        let state = Mutex::new(ReadState { buf, left, error: None, detached: false });
        Arc::new(PendingRead { token, sink, state })
    }
    /// One part came (or will not): fills it in, and answers when it was the last.
    fn part(&self, fill: impl FnOnce(&mut [u8]) -> Result<()>) {
        let mut s = lock(&self.state);
        if let Err(e) = fill(&mut s.buf) {
            s.error.get_or_insert(e);
        }
        s.left -= 1;
        if s.left == 0 && s.detached {
            let result = s.take();
            drop(s);
            self.sink.complete(Completion { token: self.token, result });
        }
    }
    /// The asker leaves. If everything came meanwhile it gets the result, else the sink will.
    pub fn detach(&self) -> Option<Result<Vec<u8>>> {
        let mut s = lock(&self.state);
        s.detached = true;
        (s.left == 0).then(|| s.take())
    }
}

impl ReadState {
    fn take(&mut self) -> Result<Vec<u8>> {
        match self.error.take() {
            Some(e) => Err(e),
            None => Ok(std::mem::take(&mut self.buf)),
        }
    }
}

/// One missing stretch of a read: `within` of the extent goes to `at` of the read's buffer.
pub(super) struct Missing {
    pub read: Arc<PendingRead>,
    pub within: ByteRange,
    pub at: usize,
}

impl Missing {
    /// Takes it from elsewhere.
    pub fn fill(&self, from: impl FnOnce(&mut [u8]) -> Result<()>) {
        self.read.part(|buf| from(&mut buf[self.at..self.at + self.within.len as usize]));
    }
    /// Takes it from the extent that came.
    pub fn serve(&self, extent: &[u8]) {
        self.fill(|out| {
            out.copy_from_slice(&extent[self.within.start as usize..self.within.end() as usize]);
            Ok(())
        });
    }
    /// Takes it from where `extent` is: not with the holder any more.
    pub fn take_here(&self, volume: &Volume, extent: u64, place: Place) {
        assert!(place != Place::Absent, "extent {extent} was taken from where it is not");
        let start = volume.geometry.extent_bytes(extent).start + self.within.start;
        self.fill(|out| {
            if place == Place::Local {
                return volume.target.read(start, out);
            }
            out.fill(0);
            Ok(())
        });
    }
    /// It will not come.
    pub fn fail(&self, e: &Error) {
        self.read.part(|_| Err(e.clone()));
    }
    /// Nobody reads the answer any more.
    pub fn is_abandoned(&self) -> bool {
        self.read.sink.abandoned()
    }
}
