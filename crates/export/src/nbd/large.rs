//! Requests too long for a batch: carried out piece by piece, one after another, so that no client can make us hold
//! more than a piece. Other requests of the connection wait meanwhile; clients that care split their requests.

use super::batch::{Batch, why};
use super::input::{Input, PIECE};
use super::late::{Link, errno};
use rekindle_core::nbd::reply::{self, ReadPiece};
use rekindle_core::nbd::{Command, Errno, Mode, RawRequest, Terms};
use rekindle_io::block::{Answer, Block, CompletionSink, Op, Request};
use std::io::IoSlice;
use std::sync::Arc;

/// What carrying out a large request needs.
pub(super) struct Large<'a> {
    pub(super) input: &'a mut Input,
    pub(super) batch: &'a mut Batch,
    pub(super) terms: &'a Terms,
    pub(super) device: &'a dyn Block,
    pub(super) link: &'a Arc<Link>,
    pub(super) sink: &'a Arc<dyn CompletionSink>,
}

/// Why a piece failed: the client gets this, or is gone.
enum Failed {
    Answer(Errno, String),
    Gone,
}

impl Large<'_> {
    /// Carries out `raw`, whose head was consumed; false when the connection must end.
    pub(super) fn serve(&mut self, raw: RawRequest, what: Result<Command, Errno>) -> bool {
        match what {
            Ok(Command::Read) => self.read(&raw),
            Ok(Command::Write { fua }) => self.write(&raw, fua),
            Ok(_) => self.skip(&raw, Errno::Invalid),
            Err(e) => self.skip(&raw, e),
        }
    }
    /// Swallows the payload of a refused request.
    fn skip(&mut self, raw: &RawRequest, e: Errno) -> bool {
        let len = raw.payload_len(self.terms.mode);
        if len > self.terms.limits.payload_skip_max {
            tracing::debug!("a refused payload of {len} bytes: connection closed");
            return false;
        }
        self.each_piece(len, |_, _, _| Ok(())).is_some() && self.error(raw, e, why(e))
    }
    fn write(&mut self, raw: &RawRequest, fua: bool) -> bool {
        // A failed piece ends the request, but the rest of its payload must still be taken off the stream.
        let outcome = self.each_piece(raw.len, |this, at, len| {
            let token = this.batch.token();
            let data = &this.input.bytes()[..len];
            let request = Request { token, offset: raw.offset + at, op: Op::Write { data, fua } };
            run(request, this.device, this.link, this.sink).map(drop)
        });
        match outcome {
            Some(Ok(())) => {
                let mut out = Vec::with_capacity(32);
                reply::put_done(self.terms.mode, &mut out, raw.cookie, raw.offset);
                self.link.send(&mut [IoSlice::new(&out)])
            }
            Some(Err((e, message))) => self.error(raw, e, &message),
            None => false,
        }
    }
    /// Receives a payload piece by piece and calls `take` on each until it fails. `None` when the client is gone.
    fn each_piece(
        &mut self,
        len: u64,
        mut take: impl FnMut(&mut Self, u64, usize) -> Result<(), Failed>,
    ) -> Option<Result<(), (Errno, String)>> {
        let mut outcome = Ok(());
        let mut at = 0;
        while at < len {
            let piece = (len - at).min(PIECE as u64) as usize;
            if !self.input.fill(piece, &self.link.socket, 0).unwrap_or(false) {
                return None;
            }
            if outcome.is_ok() {
                match take(self, at, piece) {
                    Ok(()) => {}
                    Err(Failed::Answer(e, message)) => outcome = Err((e, message)),
                    Err(Failed::Gone) => return None,
                }
            }
            self.input.consume(piece);
            at += piece as u64;
        }
        Some(outcome)
    }
    fn read(&mut self, raw: &RawRequest) -> bool {
        let mode = self.terms.mode;
        let mut data = vec![0; PIECE];
        let mut at = 0;
        while at < raw.len {
            let len = (raw.len - at).min(PIECE as u64) as usize;
            let offset = raw.offset + at;
            let token = self.batch.token();
            let request = Request { token, offset, op: Op::Read(&mut data[..len]) };
            match run(request, self.device, self.link, self.sink) {
                Ok(None) => {}
                Ok(Some(bytes)) if bytes.len() == len => data[..len].copy_from_slice(&bytes),
                Ok(Some(_)) => return self.read_failed(raw, at, Errno::Io, "short read"),
                Err(Failed::Answer(e, message)) => return self.read_failed(raw, at, e, &message),
                Err(Failed::Gone) => return false,
            }
            let last = at + len as u64 == raw.len;
            let mut head = [0; 64];
            // Simple replies have one head for all the data.
            let head_len =
                if mode == Mode::Simple && at > 0 { 0 } else { reply::read_head_len(mode, len as u64) };
            if head_len > 0 {
                let (cookie, request_offset) = (raw.cookie, raw.offset);
                let piece = ReadPiece { cookie, request_offset, offset, len: len as u32, last };
                reply::put_read_head(mode, &mut head[..head_len], piece);
            }
            if !self.link.send(&mut [IoSlice::new(&head[..head_len]), IoSlice::new(&data[..len])]) {
                return false;
            }
            at += len as u64;
        }
        true
    }
    fn read_failed(&mut self, raw: &RawRequest, at: u64, e: Errno, message: &str) -> bool {
        if self.terms.mode == Mode::Simple && at > 0 {
            // Success was announced and data is on its way: only a cut connection keeps wrong bytes from the client.
            tracing::warn!("a read failed behind its announced success, connection cut: {message}");
            return false;
        }
        self.error(raw, e, message)
    }
    fn error(&mut self, raw: &RawRequest, e: Errno, message: &str) -> bool {
        let mut out = Vec::new();
        reply::put_error(self.terms.mode, &mut out, raw.cookie, raw.offset, e, message);
        self.link.send(&mut [IoSlice::new(&out)])
    }
}

/// One request to its end; the bytes of a read that came late.
fn run(
    request: Request<'_>,
    device: &dyn Block,
    link: &Arc<Link>,
    sink: &Arc<dyn CompletionSink>,
) -> Result<Option<Vec<u8>>, Failed> {
    let token = request.token;
    let read = matches!(request.op, Op::Read(_));
    let mut answers = Vec::with_capacity(1);
    device.submit(&mut [request], &mut answers, sink);
    let result = match answers.pop().expect("a device answers every request of a batch") {
        Answer::Done(result) => result.map(|()| None),
        Answer::Later => link.wait_for(token).ok_or(Failed::Gone)?.map(|bytes| read.then_some(bytes)),
    };
    result.map_err(|e| Failed::Answer(errno(e.kind, false), e.what))
}
