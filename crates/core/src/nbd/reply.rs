//! Replies: what a server appends, and what a client reads back.
//!
//! In structured mode only reads and block status must be chunks; everything else is answered by the 16-byte simple
//! reply, which the spec allows and which costs clients least. Errors carry a sentence where the mode has room for it.

use super::wire::*;
use super::{Broken, Errno, Fields, Limits, Mode, RawRequest};
use crate::volume::ByteRange;

/// One run of base:allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Bytes.
    pub len: u64,
    /// `STATE_HOLE`, `STATE_ZERO`.
    pub flags: u32,
}

/// Bytes before the data of a read that is answered whole.
pub const fn read_head_len(mode: Mode, len: u64) -> usize {
    match mode {
        Mode::Simple => SIMPLE_REPLY_LEN,
        // A chunk of data may not be empty: NONE instead.
        _ if len == 0 => mode.reply_len(),
        _ => mode.reply_len() + 8,
    }
}

/// The place of one piece in the answer to a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadPiece {
    /// Of the request.
    pub cookie: u64,
    /// Where the request began.
    pub request_offset: u64,
    /// Where this piece begins.
    pub offset: u64,
    /// Bytes of this piece.
    pub len: u32,
    /// Nothing follows.
    pub last: bool,
}

impl ReadPiece {
    /// The whole answer in one piece.
    pub fn whole(r: &RawRequest) -> Self {
        let len = r.len as u32;
        ReadPiece { cookie: r.cookie, request_offset: r.offset, offset: r.offset, len, last: true }
    }
}

/// Fills `head` (`read_head_len` bytes) in front of the data of a read.
pub fn put_read_head(mode: Mode, head: &mut [u8], p: ReadPiece) {
    debug_assert_eq!(head.len(), read_head_len(mode, u64::from(p.len)));
    if mode == Mode::Simple {
        head.copy_from_slice(&simple(p.cookie, 0));
        return;
    }
    let (kind, payload) =
        if p.len == 0 { (REPLY_NONE, 0) } else { (REPLY_OFFSET_DATA, u64::from(p.len) + 8) };
    let flags = if p.last || p.len == 0 { REPLY_FLAG_DONE } else { 0 };
    let (front, rest) = head.split_at_mut(mode.reply_len());
    put_chunk_head(mode, front, flags, kind, p.cookie, p.request_offset, payload);
    if p.len > 0 {
        rest.copy_from_slice(&p.offset.to_be_bytes());
    }
}

/// A simple reply; `error` is 0 or a number of the protocol.
pub fn simple(cookie: u64, error: u32) -> [u8; SIMPLE_REPLY_LEN] {
    let mut r = [0; SIMPLE_REPLY_LEN];
    r[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    r[4..8].copy_from_slice(&error.to_be_bytes());
    r[8..].copy_from_slice(&cookie.to_be_bytes());
    r
}

/// Appends success of anything but a read.
pub fn put_done(mode: Mode, out: &mut Vec<u8>, cookie: u64, offset: u64) {
    if mode == Mode::Extended {
        put_chunk(mode, out, REPLY_FLAG_DONE, REPLY_NONE, cookie, offset, &[]);
    } else {
        out.extend_from_slice(&simple(cookie, 0));
    }
}

/// Appends an error that ends the request. `message` is cut at 512 bytes.
pub fn put_error(mode: Mode, out: &mut Vec<u8>, cookie: u64, offset: u64, errno: Errno, message: &str) {
    if mode == Mode::Simple {
        out.extend_from_slice(&simple(cookie, errno as u32));
        return;
    }
    let message = shortened(message);
    let mut payload = Vec::with_capacity(6 + message.len());
    payload.extend_from_slice(&(errno as u32).to_be_bytes());
    payload.extend_from_slice(&(message.len() as u16).to_be_bytes());
    payload.extend_from_slice(message.as_bytes());
    put_chunk(mode, out, REPLY_FLAG_DONE, REPLY_ERROR, cookie, offset, &payload);
}

/// At most 512 bytes of a text, not cutting a character.
pub(super) fn shortened(text: &str) -> &str {
    let end = (0..=text.len().min(512)).rev().find(|i| text.is_char_boundary(*i));
    &text[..end.unwrap_or(0)]
}

/// Appends the answer to a block status request.
pub fn put_status(mode: Mode, out: &mut Vec<u8>, cookie: u64, offset: u64, runs: &[Status]) {
    let mut payload = Vec::with_capacity(8 + 16 * runs.len());
    payload.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
    if mode == Mode::Extended {
        payload.extend_from_slice(&(runs.len() as u32).to_be_bytes());
        for r in runs {
            payload.extend_from_slice(&r.len.to_be_bytes());
            payload.extend_from_slice(&u64::from(r.flags).to_be_bytes());
        }
        put_chunk(mode, out, REPLY_FLAG_DONE, REPLY_BLOCK_STATUS_EXT, cookie, offset, &payload);
    } else {
        for r in runs {
            // A compact request asks about less than 4 GiB and is never told about more than it asked.
            payload.extend_from_slice(&(r.len as u32).to_be_bytes());
            payload.extend_from_slice(&r.flags.to_be_bytes());
        }
        put_chunk(mode, out, REPLY_FLAG_DONE, REPLY_BLOCK_STATUS, cookie, offset, &payload);
    }
}

fn put_chunk(mode: Mode, out: &mut Vec<u8>, flags: u16, kind: u16, cookie: u64, offset: u64, payload: &[u8]) {
    let at = out.len();
    out.resize(at + mode.reply_len(), 0);
    put_chunk_head(mode, &mut out[at..], flags, kind, cookie, offset, payload.len() as u64);
    out.extend_from_slice(payload);
}

fn put_chunk_head(
    mode: Mode,
    head: &mut [u8],
    flags: u16,
    kind: u16,
    cookie: u64,
    offset: u64,
    payload: u64,
) {
    let extended = mode == Mode::Extended;
    let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
    head[..4].copy_from_slice(&magic.to_be_bytes());
    head[4..6].copy_from_slice(&flags.to_be_bytes());
    head[6..8].copy_from_slice(&kind.to_be_bytes());
    head[8..16].copy_from_slice(&cookie.to_be_bytes());
    if extended {
        head[16..24].copy_from_slice(&offset.to_be_bytes());
        head[24..32].copy_from_slice(&payload.to_be_bytes());
    } else {
        // Our largest chunk is a read of 32 MiB and its offset.
        head[16..20].copy_from_slice(&(payload as u32).to_be_bytes());
    }
}

/// Collects what a device says of a range into an answer a client may get: aligned to blocks, neighbours joined, not
/// beyond the range, never empty. A block that holds a boundary is called data, which is always allowed.
#[derive(Debug)]
pub struct Descriptors {
    range: ByteRange,
    block: u64,
    at: u64,
    max: usize,
    runs: Vec<Status>,
}

impl Descriptors {
    /// For a request about `range`, which is aligned to `block` (a power of two), at most `max` runs.
    pub fn new(range: ByteRange, block: u32, max: usize) -> Self {
        Descriptors { range, block: u64::from(block), at: range.start, max, runs: Vec::new() }
    }
    /// Adds what is known of the bytes up to `end`; false when no more can be used.
    pub fn push(&mut self, end: u64, hole: bool, zero: bool) -> bool {
        let end = end.min(self.range.end());
        let down = end & !(self.block - 1);
        let flags = if hole { STATE_HOLE } else { 0 } | if zero { STATE_ZERO } else { 0 };
        self.run(down, flags) && (down >= end || self.run(down + self.block, 0)) && self.at < self.range.end()
    }
    fn run(&mut self, end: u64, flags: u32) -> bool {
        let Some(len) = end.checked_sub(self.at).filter(|l| *l > 0) else { return true };
        let full = self.runs.len() == self.max;
        match self.runs.last_mut() {
            Some(last) if last.flags == flags => last.len += len,
            _ if full => return false,
            _ => self.runs.push(Status { len, flags }),
        }
        self.at = end;
        true
    }
    /// The answer.
    pub fn finish(mut self) -> Vec<Status> {
        if self.runs.is_empty() {
            self.runs.push(Status { len: self.range.len, flags: 0 });
        }
        self.runs
    }
}

/// What a chunk says. A simple reply counts as a chunk that ends its request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ChunkBody<'a> {
    /// Success, or nothing more to say.
    None,
    /// Bytes of a read; without an offset (simple reply) all of them.
    Data {
        /// Where they belong.
        offset: Option<u64>,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// These bytes of a read are zero.
    Hole {
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
    },
    /// Block status.
    Status {
        /// Of which context.
        context: u32,
        /// In order, from the offset of the request.
        runs: Vec<Status>,
    },
    /// It failed.
    Error {
        /// Number of the protocol (or one a newer server invented).
        errno: u32,
        /// For people.
        message: &'a str,
    },
}

/// One chunk of a reply, as a client sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk<'a> {
    /// Of the request.
    pub cookie: u64,
    /// The request is answered.
    pub last: bool,
    /// What it says.
    pub body: ChunkBody<'a>,
}

/// A chunk, or how many bytes of input are needed to know more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Parsed<'a> {
    /// At least so many bytes in all.
    Need(usize),
    /// A chunk and the bytes it took.
    Whole(Chunk<'a>, usize),
}

impl<'a> Chunk<'a> {
    /// Reads one chunk. `read_len` says how many bytes a running read asked for: `None` for any other request.
    pub fn parse(
        input: &'a [u8],
        mode: Mode,
        limits: &Limits,
        read_len: impl Fn(u64) -> Option<usize>,
    ) -> Result<Parsed<'a>, Broken> {
        let mut f = Fields(input);
        let Some(magic) = f.u32() else { return Ok(Parsed::Need(4)) };
        match (magic, mode) {
            (SIMPLE_REPLY_MAGIC, Mode::Simple | Mode::Structured) => parse_simple(input, mode, read_len),
            (STRUCTURED_REPLY_MAGIC, Mode::Structured) | (EXTENDED_REPLY_MAGIC, Mode::Extended) => {
                parse_chunk(input, mode, limits)
            }
            _ => Err(Broken("bad reply magic")),
        }
    }
}

fn parse_simple<'a>(
    input: &'a [u8],
    mode: Mode,
    read_len: impl Fn(u64) -> Option<usize>,
) -> Result<Parsed<'a>, Broken> {
    let mut f = Fields(input.get(4..).unwrap_or_default());
    let (Some(errno), Some(cookie)) = (f.u32(), f.u64()) else { return Ok(Parsed::Need(SIMPLE_REPLY_LEN)) };
    let (body, len) = match (errno, read_len(cookie)) {
        (0, None) => (ChunkBody::None, 0),
        (0, Some(_)) if mode == Mode::Structured => {
            return Err(Broken("a simple reply to a structured read"));
        }
        (0, Some(len)) => match f.bytes(len) {
            Some(bytes) => (ChunkBody::Data { offset: None, bytes }, len),
            None => return Ok(Parsed::Need(SIMPLE_REPLY_LEN + len)),
        },
        (errno, _) => (ChunkBody::Error { errno, message: "" }, 0),
    };
    Ok(Parsed::Whole(Chunk { cookie, last: true, body }, SIMPLE_REPLY_LEN + len))
}

fn parse_chunk<'a>(input: &'a [u8], mode: Mode, limits: &Limits) -> Result<Parsed<'a>, Broken> {
    let head_len = mode.reply_len();
    let Some(head) = input.get(4..head_len) else { return Ok(Parsed::Need(head_len)) };
    let mut f = Fields(head);
    let fields = (|| {
        let (flags, kind, cookie) = (f.u16()?, f.u16()?, f.u64()?);
        let len = if mode == Mode::Extended {
            f.u64()?; // the offset of the request, once more
            f.u64()?
        } else {
            u64::from(f.u32()?)
        };
        Some((flags, kind, cookie, len))
    })();
    let Some((flags, kind, cookie, len)) = fields else { return Ok(Parsed::Need(head_len)) };
    let longest = u64::from(limits.payload_bytes_max) + 8;
    if len > longest {
        return Err(Broken("a chunk beyond any reason"));
    }
    let end = head_len + len as usize;
    let Some(payload) = input.get(head_len..end) else { return Ok(Parsed::Need(end)) };
    let body = chunk_body(kind, payload, mode).ok_or(Broken("malformed chunk"))?;
    Ok(Parsed::Whole(Chunk { cookie, last: flags & REPLY_FLAG_DONE != 0, body }, end))
}

fn chunk_body(kind: u16, payload: &[u8], mode: Mode) -> Option<ChunkBody<'_>> {
    let mut f = Fields(payload);
    match kind {
        REPLY_NONE => payload.is_empty().then_some(ChunkBody::None),
        REPLY_OFFSET_DATA => {
            let offset = f.u64()?;
            (!f.0.is_empty()).then_some(ChunkBody::Data { offset: Some(offset), bytes: f.0 })
        }
        REPLY_OFFSET_HOLE => {
            let (offset, len) = (f.u64()?, f.u32()?);
            f.0.is_empty().then_some(ChunkBody::Hole { offset, len: u64::from(len) })
        }
        REPLY_BLOCK_STATUS if mode == Mode::Structured => {
            let context = f.u32()?;
            let runs = f.0.chunks_exact(8).map(|c| {
                let mut f = Fields(c);
                Some(Status { len: u64::from(f.u32()?), flags: f.u32()? })
            });
            let runs: Vec<_> = runs.collect::<Option<_>>()?;
            (f.0.len() == runs.len() * 8 && !runs.is_empty()).then_some(ChunkBody::Status { context, runs })
        }
        REPLY_BLOCK_STATUS_EXT if mode == Mode::Extended => {
            let (context, count) = (f.u32()?, f.u32()?);
            let runs = f.0.chunks_exact(16).map(|c| {
                let mut f = Fields(c);
                Some(Status { len: f.u64()?, flags: f.u64()? as u32 })
            });
            let runs: Vec<_> = runs.collect::<Option<_>>()?;
            let whole = f.0.len() == runs.len() * 16 && runs.len() == count as usize && count > 0;
            whole.then_some(ChunkBody::Status { context, runs })
        }
        k if k & REPLY_ERROR_BIT != 0 => {
            let (errno, len) = (f.u32()?, f.u16()?);
            let message = std::str::from_utf8(f.bytes(usize::from(len))?).unwrap_or("");
            (errno != 0).then_some(ChunkBody::Error { errno, message })
        }
        _ => None,
    }
}
