//! The block port: what serves bytes (a file, a device, a live volume, a restoring volume, memory).
//!
//! Requests come in batches. Each is answered at once (`Answer::Done`) or later through the sink of the connection
//! (`Answer::Later`), so that cached reads cost no task hop and misses block nobody. Buffers are borrowed for what is
//! answered at once; what must wait copies (a write) or brings its own buffer (a read).
//!
//! Contract, checked by the conformance kit:
//! - Overlapping writes (write, zero, trim) execute in the order of submission, whatever their connections.
//! - A write that waits is dropped when its sink is abandoned before it began; one that runs keeps its place. Nothing
//!   retries a write later on its own: a stalled write that lands after its replay reverts a block.
//! - `Flush` covers every write answered before it was submitted, on all connections; it joins only a flush of the
//!   medium that begins after it was submitted, and waits for nothing else.
//! - After one failed flush every later write and flush fails (`Kind::Failed`) until the device is reopened.
//! - A `Later` is completed exactly once; a dropped write with `Kind::Cancelled`.

mod blocking;
mod faulty;
mod file;
pub mod kit;
mod mem;
mod order;
pub use blocking::BlockExt;
pub use faulty::FaultyBlock;
pub use file::{Discard, FileBlock, FileOptions, ImageFacts};
pub use mem::{Late, MemBlock};
pub use order::{Ticket, WriteOrder};

use crate::Result;
use rekindle_core::volume::ByteRange;
use std::sync::Arc;

/// What to do. Offsets and lengths are in bytes, inside the device, multiples of its logical block.
#[derive(Debug)]
pub enum Op<'a> {
    /// Fill the buffer from the device.
    Read(&'a mut [u8]),
    /// Write the data; with `fua` it is durable when answered.
    Write {
        /// The bytes.
        data: &'a [u8],
        /// Durable when answered.
        fua: bool,
    },
    /// Make the range read as zeros.
    Zero {
        /// Bytes.
        len: u64,
        /// Durable when answered.
        fua: bool,
        /// Space must stay allocated (NBD NO_HOLE).
        no_hole: bool,
        /// Fail with `Kind::Unsupported` at once rather than write zeros (NBD FAST_ZERO).
        fast: bool,
    },
    /// The guest no longer needs the range; it reads as anything until written (ours: zeros).
    Trim {
        /// Bytes.
        len: u64,
        /// Durable when answered.
        fua: bool,
    },
    /// Everything answered before is durable when this is answered.
    Flush,
    /// Bring the range near (NBD CACHE): a hint that may be declined silently.
    Cache {
        /// Bytes.
        len: u64,
    },
}

/// One request of a batch.
#[derive(Debug)]
pub struct Request<'a> {
    /// Chosen by the caller, comes back with a late completion.
    pub token: u64,
    /// First byte.
    pub offset: u64,
    /// What to do there.
    pub op: Op<'a>,
}

impl Request<'_> {
    /// The bytes it is about (empty for a flush).
    pub fn range(&self) -> ByteRange {
        let len = match &self.op {
            Op::Read(b) => b.len() as u64,
            Op::Write { data, .. } => data.len() as u64,
            Op::Zero { len, .. } | Op::Trim { len, .. } | Op::Cache { len } => *len,
            Op::Flush => 0,
        };
        ByteRange::new(self.offset, len)
    }
}

/// How a request fared in `submit`.
#[derive(Debug)]
pub enum Answer {
    /// Finished. For a read the borrowed buffer is filled iff this is `Ok`.
    Done(Result<()>),
    /// The sink will hear of it. The borrowed buffers are not used any more.
    Later,
}

/// A late answer.
#[derive(Debug)]
pub struct Completion {
    /// The token of the request.
    pub token: u64,
    /// For a read the bytes; empty for everything else.
    pub result: Result<Vec<u8>>,
}

/// Where late answers go: a connection. Called from any thread; must not block and must not call back into the device.
pub trait CompletionSink: Send + Sync {
    /// Hands over one late answer.
    fn complete(&self, completion: Completion);
    /// The client is gone: waiting writes are dropped, nobody reads answers.
    fn abandoned(&self) -> bool;
}

/// What a device is and can do. Fixed while it is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Info {
    /// Bytes.
    pub size: u64,
    /// Smallest unit of access.
    pub logical_block: u32,
    /// What the medium prefers.
    pub physical_block: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// A spinning disk: readers may want to sort.
    pub rotational: bool,
    /// `Op::Trim` gives space back.
    pub trim: bool,
    /// `Op::Zero { fast: true }` can succeed.
    pub fast_zero: bool,
}

/// What is known of a range without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// The range.
    pub range: ByteRange,
    /// Nothing allocated here.
    pub hole: bool,
    /// Reads as zeros.
    pub zero: bool,
}

/// A device. See the module for the contract.
pub trait Block: Send + Sync {
    /// Size and abilities.
    fn info(&self) -> Info;
    /// Starts every request of `batch`, pushing one answer each, in order, onto `answers`.
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>);
    /// Cold writes will come from now on, or no more: only then [`Block::write_cold`] does what it says. Meanwhile reads of a
    /// buffered file bring nothing but what they ask for.
    fn expect_cold(&self, _expected: bool) {}
    /// Writes `data`, which nobody is expected to read soon, waiting for it: past the page cache where there is one. Order and
    /// failures are those of [`Op::Write`]. Fastest from [`Aligned`](crate::destination::Aligned) memory.
    fn write_cold(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.write_at(offset, data)
    }
    /// Fills `buf` from the medium, waiting for it: past the page cache where there is one, which it leaves alone, or else from
    /// what is left of that when all that can be dropped was. What was answered before is seen, flushed or not. Fastest with
    /// long pieces in [`Aligned`](crate::destination::Aligned) memory.
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(offset, buf)
    }
    /// Appends what is known of `range`, in order, without gaps; neighbours with equal flags may be joined.
    /// May stop early but covers at least one byte.
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()>;
}
