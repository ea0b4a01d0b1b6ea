//! The receive buffer of a connection.

use super::socket::Socket;
use std::io;

/// The largest piece of a payload that is handed on at once: a write up to this length is one request of a batch.
pub(super) const PIECE: usize = 1 << 20;
/// Room for such a write with its head, or for the longest option.
const CAPACITY: usize = PIECE + 4096;
/// At most so much is received in one call: more would leave the caches before it is used.
const RECEIVE: usize = 256 << 10;

/// Bytes received and not yet used. Pages that were never needed are never touched.
#[derive(Debug)]
pub(super) struct Input {
    buf: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Input {
    pub(super) fn new() -> Self {
        Input { buf: vec![0; CAPACITY].into_boxed_slice(), start: 0, end: 0 }
    }
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }
    pub(super) fn consume(&mut self, n: usize) {
        self.start += n;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }
    /// Receives until there are `need` bytes (at most `CAPACITY`); false at the end of the stream.
    pub(super) fn fill(&mut self, need: usize, socket: &Socket, spin: u32) -> io::Result<bool> {
        assert!(need <= CAPACITY, "callers split what is longer");
        if self.start + need > self.buf.len() || self.buf.len() - self.end < 4096 {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < need {
            let until = self.buf.len().min((self.end + RECEIVE).max(self.start + need));
            match socket.recv(&mut self.buf[self.end..until], spin)? {
                0 => return Ok(false),
                n => self.end += n,
            }
        }
        Ok(true)
    }
}
