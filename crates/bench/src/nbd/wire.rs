//! Negotiation (fixed newstyle, GO) and the layouts of requests and replies, from the NBD protocol document. Written
//! apart from the product's codec on purpose: a mistake there must not be answered by the same mistake here.

use crate::{Result, fail};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IHAVEOPT: u64 = 0x4948_4156_454F_5054;
const OPTION_REPLY: u64 = 0x0003_E889_0455_65A9;
const REQUEST: u32 = 0x2560_9513;
/// First four bytes of a simple reply.
pub const SIMPLE_REPLY: u32 = 0x6744_6698;
/// First four bytes of a structured reply chunk.
pub const STRUCTURED_REPLY: u32 = 0x668E_33EF;
/// Bytes of a request header.
pub const REQUEST_BYTES: usize = 28;

const OPT_GO: u32 = 7;
const OPT_STRUCTURED_REPLY: u32 = 8;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Read.
    Read,
    /// Write.
    Write,
    /// Flush: covers what was answered before.
    Flush,
    /// The client leaves; no answer.
    Disconnect,
}

impl Command {
    const fn code(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
        }
    }
}

/// Where an export is: a Unix socket and a name. Every server of the harness listens on one.
#[derive(Clone, Debug)]
pub struct Target {
    /// The socket.
    pub socket: PathBuf,
    /// Export name, empty for the default one.
    pub export: String,
    /// Ask for structured replies (as fio and libnbd do).
    pub structured: bool,
}

impl Target {
    /// The default export behind `socket`, simple replies.
    pub fn new(socket: impl AsRef<Path>) -> Self {
        Target { socket: socket.as_ref().to_owned(), export: String::new(), structured: false }
    }

    /// The same, as other programs take it.
    pub fn uri(&self) -> String {
        format!("nbd+unix:///{}?socket={}", self.export, self.socket.display())
    }
}

/// A connection after GO.
pub struct Connection {
    /// The socket, blocking.
    pub stream: UnixStream,
    /// Bytes of the export.
    pub size: u64,
    handle: u64,
}

/// Appends a request header.
pub fn put_request(out: &mut Vec<u8>, command: Command, fua: bool, handle: u64, offset: u64, length: u32) {
    out.extend_from_slice(&REQUEST.to_be_bytes());
    out.extend_from_slice(&u16::from(fua).to_be_bytes());
    out.extend_from_slice(&command.code().to_be_bytes());
    out.extend_from_slice(&handle.to_be_bytes());
    out.extend_from_slice(&offset.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

fn read_array<const N: usize>(stream: &mut UnixStream) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn put_option(stream: &mut UnixStream, option: u32, data: &[u8]) -> Result<()> {
    let mut out = IHAVEOPT.to_be_bytes().to_vec();
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&u32::try_from(data.len())?.to_be_bytes());
    out.extend_from_slice(data);
    Ok(stream.write_all(&out)?)
}

fn option_reply(stream: &mut UnixStream) -> Result<(u32, Vec<u8>)> {
    let head: [u8; 20] = read_array(stream)?;
    if u64::from_be_bytes(head[..8].try_into()?) != OPTION_REPLY {
        return fail("the server's option reply has no magic");
    }
    let kind = u32::from_be_bytes(head[12..16].try_into()?);
    let length = u32::from_be_bytes(head[16..20].try_into()?);
    let mut data = vec![0; usize::try_from(length.min(1 << 16))?];
    stream.read_exact(&mut data)?;
    Ok((kind, data))
}

impl Connection {
    /// Connects and negotiates.
    pub fn open(target: &Target) -> Result<Self> {
        let mut stream = UnixStream::connect(&target.socket)?;
        let greeting: [u8; 18] = read_array(&mut stream)?;
        if &greeting[..8] != b"NBDMAGIC" || u64::from_be_bytes(greeting[8..16].try_into()?) != IHAVEOPT {
            return fail("not a newstyle NBD server");
        }
        // Fixed newstyle and no zeroes: bits 0 and 1, echoed back.
        let server = u16::from_be_bytes(greeting[16..18].try_into()?);
        stream.write_all(&u32::from(server & 3).to_be_bytes())?;
        if target.structured {
            put_option(&mut stream, OPT_STRUCTURED_REPLY, &[])?;
            option_reply(&mut stream)?;
        }
        let mut go = u32::try_from(target.export.len())?.to_be_bytes().to_vec();
        go.extend_from_slice(target.export.as_bytes());
        go.extend_from_slice(&[0, 0]);
        put_option(&mut stream, OPT_GO, &go)?;
        let size = Self::accepted(&mut stream, &target.export)?;
        Ok(Connection { stream, size, handle: 0 })
    }

    /// Reads GO's replies up to the acknowledgement.
    fn accepted(stream: &mut UnixStream, export: &str) -> Result<u64> {
        let mut found = None;
        loop {
            match option_reply(stream)? {
                (REP_ACK, _) => return found.ok_or_else(|| "GO was acknowledged without a size".into()),
                (REP_INFO, data) if data.len() == 12 && data[..2] == [0, 0] => {
                    found = Some(u64::from_be_bytes(data[2..10].try_into()?));
                }
                (REP_INFO, _) => {}
                (error, text) => {
                    let text = String::from_utf8_lossy(&text).into_owned();
                    return fail(format!("export {export:?}: error {error:#x} {text}"));
                }
            }
        }
    }

    /// Connects, trying again until `limit` is over: a restore's export is absent until it is online.
    pub fn open_within(target: &Target, limit: Duration) -> Result<Self> {
        let began = Instant::now();
        loop {
            match Self::open(target) {
                Ok(connection) => return Ok(connection),
                Err(error) if began.elapsed() > limit => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_micros(500)),
            }
        }
    }

    /// One request, waiting for its answer; simple replies only. `read` is filled for `Command::Read`.
    pub fn call(
        &mut self,
        command: Command,
        offset: u64,
        length: u32,
        data: &[u8],
        read: &mut [u8],
    ) -> Result<()> {
        self.handle += 1;
        let mut out = Vec::with_capacity(REQUEST_BYTES + data.len());
        put_request(&mut out, command, false, self.handle, offset, length);
        out.extend_from_slice(data);
        self.stream.write_all(&out)?;
        let reply: [u8; 16] = read_array(&mut self.stream)?;
        let error = u32::from_be_bytes(reply[4..8].try_into()?);
        if u32::from_be_bytes(reply[..4].try_into()?) != SIMPLE_REPLY
            || reply[8..] != self.handle.to_be_bytes()
        {
            return fail("an answer that belongs to no request");
        }
        if error != 0 {
            let cause = std::io::Error::from_raw_os_error(i32::try_from(error)?);
            return fail(format!("{command:?} at {offset}: {cause}"));
        }
        Ok(self.stream.read_exact(read)?)
    }

    /// Leaves in order: nothing may be in flight.
    pub fn disconnect(mut self) -> Result<()> {
        let mut out = Vec::new();
        put_request(&mut out, Command::Disconnect, false, 0, 0, 0);
        Ok(self.stream.write_all(&out)?)
    }

    /// Reads at `offset`.
    pub fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.call(Command::Read, offset, u32::try_from(buf.len())?, &[], buf)
    }

    /// Writes at `offset`.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.call(Command::Write, offset, u32::try_from(data.len())?, data, &mut [])
    }

    /// Flushes.
    pub fn flush(&mut self) -> Result<()> {
        self.call(Command::Flush, 0, 0, &[], &mut [])
    }
}
