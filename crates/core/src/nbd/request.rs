//! Requests: the bytes, what they ask, and whether this export may be asked that.

use super::wire::*;
use super::{Broken, Fields, Limits, Mode};

/// Error numbers of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum Errno {
    /// Read-only.
    Perm = 1,
    /// The device failed.
    Io = 5,
    /// No memory.
    NoMem = 12,
    /// Wrong range, alignment, flag, command.
    Invalid = 22,
    /// Past the end, or no space.
    NoSpace = 28,
    /// Too long to be answered like that.
    Overflow = 75,
    /// A fast zero that would not be fast.
    NotSupported = 95,
    /// The server stops.
    Shutdown = 108,
}

/// A request as it stands on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawRequest {
    /// `CMD_FLAG_*`.
    pub flags: u16,
    /// `CMD_*`.
    pub kind: u16,
    /// Chosen by the client, comes back in the reply.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes of effect or of payload.
    pub len: u64,
}

impl RawRequest {
    /// Reads the head of a request; `None` when it is not whole yet. A wrong magic shows with the first four bytes.
    pub fn decode(input: &[u8], mode: Mode) -> Result<Option<RawRequest>, Broken> {
        let mut f = Fields(input);
        let Some(magic) = f.u32() else { return Ok(None) };
        let want = if mode == Mode::Extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        if magic != want {
            return Err(Broken("bad request magic"));
        }
        let Some(head) = f.bytes(mode.request_len() - 4) else { return Ok(None) };
        let mut f = Fields(head);
        let head = (|| {
            let (flags, kind, cookie, offset) = (f.u16()?, f.u16()?, f.u64()?, f.u64()?);
            let len = if mode == Mode::Extended { f.u64()? } else { u64::from(f.u32()?) };
            Some(RawRequest { flags, kind, cookie, offset, len })
        })();
        Ok(head)
    }
    /// Appends the head. A compact one holds 32 bits of length: the caller has split what is longer.
    pub fn encode(&self, mode: Mode, out: &mut Vec<u8>) {
        let extended = mode == Mode::Extended;
        let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&self.flags.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.len.to_be_bytes());
        } else {
            let len = u32::try_from(self.len).expect("compact requests are split below 4 GiB by the caller");
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    /// How many bytes follow the head. A write always has its payload, whether or not an extended client set the
    /// flag: reading them as requests would be the worse guess.
    pub fn payload_len(&self, mode: Mode) -> u64 {
        let flagged = mode == Mode::Extended && self.flags & CMD_FLAG_PAYLOAD_LEN != 0;
        if self.kind == CMD_WRITE || flagged { self.len } else { 0 }
    }
}

/// A request that may be carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// READ.
    Read,
    /// WRITE.
    Write {
        /// Durable when answered.
        fua: bool,
    },
    /// DISC: the client leaves.
    Disconnect,
    /// FLUSH.
    Flush,
    /// TRIM.
    Trim {
        /// Durable when answered.
        fua: bool,
    },
    /// CACHE.
    Cache,
    /// WRITE_ZEROES.
    Zero {
        /// Durable when answered.
        fua: bool,
        /// Keep the space.
        no_hole: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// BLOCK_STATUS.
    BlockStatus {
        /// One descriptor only.
        one: bool,
    },
}

/// What holds on one connection: the export and what was negotiated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Terms {
    /// How messages look.
    pub mode: Mode,
    /// Bytes of the export.
    pub size: u64,
    /// Smallest unit of access.
    pub block: u32,
    /// Writes are refused.
    pub read_only: bool,
    /// TRIM was offered.
    pub trim: bool,
    /// FAST_ZERO was offered.
    pub fast_zero: bool,
    /// base:allocation was selected.
    pub block_status: bool,
    /// Bounds.
    pub limits: Limits,
}

impl Terms {
    /// Says what a request asks, or why it is refused. The payload of a refused request must still be skipped.
    pub fn check(&self, r: &RawRequest) -> Result<Command, Errno> {
        let fua = r.flags & CMD_FLAG_FUA != 0;
        let (command, flags) = match r.kind {
            CMD_READ => (Command::Read, if self.mode == Mode::Simple { 0 } else { CMD_FLAG_DF }),
            CMD_WRITE => {
                let payload = if self.mode == Mode::Extended { CMD_FLAG_PAYLOAD_LEN } else { 0 };
                (Command::Write { fua }, payload)
            }
            CMD_DISC => return Ok(Command::Disconnect),
            CMD_FLUSH => (Command::Flush, 0),
            CMD_TRIM if self.trim => (Command::Trim { fua }, 0),
            CMD_CACHE => (Command::Cache, 0),
            CMD_WRITE_ZEROES => {
                let fast = if self.fast_zero { CMD_FLAG_FAST_ZERO } else { 0 };
                let zero = Command::Zero {
                    fua,
                    no_hole: r.flags & CMD_FLAG_NO_HOLE != 0,
                    fast: r.flags & CMD_FLAG_FAST_ZERO != 0,
                };
                (zero, CMD_FLAG_NO_HOLE | fast)
            }
            CMD_BLOCK_STATUS if self.block_status => {
                (Command::BlockStatus { one: r.flags & CMD_FLAG_REQ_ONE != 0 }, CMD_FLAG_REQ_ONE)
            }
            _ => return Err(self.unknown(r.kind)),
        };
        // FUA is valid on every command, and ignored where nothing is written.
        if r.flags & !(flags | CMD_FLAG_FUA) != 0 {
            return Err(Errno::Invalid);
        }
        let writes = matches!(command, Command::Write { .. } | Command::Zero { .. } | Command::Trim { .. });
        if writes && self.read_only {
            return Err(Errno::Perm);
        }
        if command != Command::Flush {
            self.range(r, command)?;
        }
        Ok(command)
    }
    fn unknown(&self, kind: u16) -> Errno {
        if kind == CMD_TRIM && self.read_only { Errno::Perm } else { Errno::Invalid }
    }
    fn range(&self, r: &RawRequest, command: Command) -> Result<(), Errno> {
        let past = if matches!(command, Command::Write { .. } | Command::Zero { .. }) {
            Errno::NoSpace
        } else {
            Errno::Invalid
        };
        let end = r.offset.checked_add(r.len).ok_or(past)?;
        if end > self.size {
            return Err(past);
        }
        if (r.offset | r.len) & u64::from(self.block - 1) != 0 {
            return Err(Errno::Invalid);
        }
        let too_long = |max: u32| r.len > u64::from(max);
        match command {
            Command::Write { .. } if too_long(self.limits.payload_bytes_max) => Err(Errno::Invalid),
            Command::Read if too_long(self.limits.payload_bytes_max) => {
                Err(if self.mode == Mode::Simple { Errno::Invalid } else { Errno::Overflow })
            }
            Command::Read if r.flags & CMD_FLAG_DF != 0 && too_long(self.limits.unfragmented_bytes_max) => {
                Err(Errno::Overflow)
            }
            Command::BlockStatus { .. } if r.len == 0 => Err(Errno::Invalid),
            _ => Ok(()),
        }
    }
}
