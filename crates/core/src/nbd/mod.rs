//! The NBD protocol, sans I/O: bytes in, effects out, both sides of the wire.
//!
//! Server, client, fuzz tests and simulator use the same codec. What is here: fixed newstyle negotiation with LIST,
//! INFO, GO, EXPORT_NAME, structured replies, extended headers and the context base:allocation (`negotiate` for the
//! server, `dial` for the client), requests (`request`), replies (`reply`), and the bounds of all of it (`limits`).
//! What is not: sockets, threads, devices, clocks, TLS.
//!
//! Promises, each held by a property test:
//! - No input panics, and none makes this module hold more memory than `limits` says.
//! - The result does not depend on how the stream was cut into pieces.
//! - What one side encodes the other decodes to the same value.
//!
//! Everything on the wire is big-endian; the numbers stand in `wire`, once.

pub mod dial;
pub mod limits;
pub mod negotiate;
pub mod reply;
pub mod request;
pub mod wire;

#[cfg(test)]
mod tests;

pub use dial::{Dial, Dialled, Wish};
pub use limits::Limits;
pub use negotiate::{Agreed, Catalogue, ExportInfo, Negotiation, Step};
pub use reply::{Chunk, ChunkBody, Descriptors, Status};
pub use request::{Command, Errno, RawRequest, Terms};

/// How requests and replies look after negotiation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Mode {
    /// Compact requests, simple replies: the cheapest for both sides.
    #[default]
    Simple,
    /// Compact requests; reads and block status are answered in chunks.
    Structured,
    /// 32-byte requests with 64-bit lengths, every answer in chunks.
    Extended,
}

impl Mode {
    /// Bytes of a request without its payload.
    pub const fn request_len(self) -> usize {
        match self {
            Mode::Simple | Mode::Structured => wire::REQUEST_LEN,
            Mode::Extended => wire::EXTENDED_REQUEST_LEN,
        }
    }
    /// Bytes of the head of one chunk, or of a simple reply.
    pub const fn reply_len(self) -> usize {
        match self {
            Mode::Simple => wire::SIMPLE_REPLY_LEN,
            Mode::Structured => wire::STRUCTURED_REPLY_LEN,
            Mode::Extended => wire::EXTENDED_REPLY_LEN,
        }
    }
}

/// A peer that broke the protocol in a way that leaves no place to resume: the connection must end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Broken(pub &'static str);

/// Reads big-endian fields off the front of a slice; `None` when it is too short.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
    /// A string: 32 bits of length, then UTF-8, at most `max` bytes.
    pub(crate) fn text(&mut self, max: usize) -> Option<&'a str> {
        let len = self.u32()? as usize;
        if len > max {
            return None;
        }
        std::str::from_utf8(self.bytes(len)?).ok()
    }
}
