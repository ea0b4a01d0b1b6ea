//! Our own client: blocking, pipelined, every mode of the protocol.
//!
//! `submit` sends a request and returns its cookie, `reap` returns an answer, in the order the server gave them. While
//! a send cannot go on, answers are taken in, so that a client with any number of requests running cannot lock up with
//! a server that waits for it to read. One thread at a time uses a client.

use super::Listen;
use super::socket::Socket;
use rekindle_core::nbd::reply::Parsed;
use rekindle_core::nbd::wire::*;
use rekindle_core::nbd::{Broken, Chunk, ChunkBody, Dial, Dialled, Limits, Mode, RawRequest, Status, Wish};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// How to connect.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Name of the export; empty for the default one.
    pub export: String,
    /// The richest mode to ask for; the server may grant less.
    pub mode: Mode,
    /// Ask for block status, too (needs more than simple replies).
    pub block_status: bool,
    /// How long connecting and negotiating may take.
    pub patience: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        let patience = Duration::from_secs(10);
        ClientOptions { export: String::new(), mode: Mode::Extended, block_status: true, patience }
    }
}

/// A failed request or connection.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered with this error number of the protocol, and perhaps a sentence.
    #[error("the server says: error {errno} {message}")]
    Refused {
        /// Number of the protocol.
        errno: u32,
        /// Its words; may be empty.
        message: String,
    },
    /// The handshake failed.
    #[error(transparent)]
    Dial(#[from] rekindle_core::nbd::dial::DialError),
    /// The server broke the protocol; the connection is of no use any more.
    #[error("protocol: {0}")]
    Broken(#[from] Broken),
    /// The connection failed.
    #[error("connection: {0}")]
    Io(#[from] io::Error),
}

/// What is asked. Lengths are in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask<'a> {
    /// Bytes of a range; `whole` asks for a single chunk.
    Read {
        /// How many.
        len: u32,
        /// Do not fragment.
        whole: bool,
    },
    /// Write these.
    Write {
        /// The bytes.
        data: &'a [u8],
        /// Durable when answered.
        fua: bool,
    },
    /// Give a range up.
    Trim {
        /// How many.
        len: u64,
        /// Durable when answered.
        fua: bool,
    },
    /// Make a range zero.
    Zero {
        /// How many.
        len: u64,
        /// Durable when answered.
        fua: bool,
        /// Keep the space.
        no_hole: bool,
        /// Fail rather than be slow.
        fast: bool,
    },
    /// Make everything answered durable.
    Flush,
    /// Bring a range near.
    Cache {
        /// How many.
        len: u64,
    },
    /// Allocation of a range.
    BlockStatus {
        /// How many.
        len: u64,
        /// One descriptor only.
        one: bool,
    },
    /// A request as it stands, for tests of servers: flags, command, length; no payload.
    Raw {
        /// `CMD_FLAG_*`
        flags: u16,
        /// `CMD_*`
        kind: u16,
        /// Length field.
        len: u64,
    },
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    /// Of the request.
    pub cookie: u64,
    /// What came of it.
    pub result: Result<Content, ClientError>,
}

/// What a successful answer brought.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Content {
    /// The bytes of a read.
    pub data: Vec<u8>,
    /// The runs of a block status request.
    pub status: Vec<Status>,
    /// How many chunks of content it came in.
    pub chunks: u32,
}

#[derive(Debug)]
struct Running {
    read: Option<usize>,
    status: bool,
    offset: u64,
    covered: usize,
    content: Content,
    failed: Option<(u32, String)>,
}

/// A connection to an NBD server.
#[derive(Debug)]
pub struct Client {
    socket: Socket,
    granted: Dialled,
    limits: Limits,
    running: HashMap<u64, Running>,
    done: VecDeque<Reply>,
    out: Vec<u8>,
    input: Vec<u8>,
    start: usize,
    cookie: u64,
}

impl Client {
    /// Connects and negotiates.
    pub fn connect(to: &Listen, options: &ClientOptions) -> Result<Client, ClientError> {
        let socket = match to {
            Listen::Unix(path) => Socket::new(UnixStream::connect(path)?.into(), true),
            Listen::Tcp(address) => {
                Socket::new(TcpStream::connect_timeout(address, options.patience)?.into(), false)
            }
        };
        socket.widen();
        socket.set_patience(Some(options.patience))?;
        let limits = Limits::DEFAULT;
        let wish =
            Wish { export: options.export.clone(), mode: options.mode, block_status: options.block_status };
        let mut dial = Dial::new(wish, limits);
        let (mut input, mut out) = (Vec::new(), Vec::new());
        let granted = loop {
            let (took, granted) = dial.step(&input, &mut out)?;
            input.drain(..took);
            socket.send(&mut [io::IoSlice::new(&out)])?;
            out.clear();
            if let Some(g) = granted {
                break g;
            }
            if took == 0 {
                receive(&socket, &mut input)?;
            }
        };
        socket.set_patience(None)?;
        let (running, done) = (HashMap::new(), VecDeque::new());
        Ok(Client { socket, granted, limits, running, done, out, input, start: 0, cookie: 0 })
    }
    /// What the server granted and told.
    pub fn granted(&self) -> &Dialled {
        &self.granted
    }
    /// How many requests are not reaped yet.
    pub fn in_flight(&self) -> usize {
        self.running.len() + self.done.len()
    }
    /// Queues a request and sends what the socket takes at once; the cookie comes back with the answer.
    pub fn submit(&mut self, offset: u64, ask: Ask<'_>) -> Result<u64, ClientError> {
        self.cookie += 1;
        let cookie = self.cookie;
        let (kind, flags, len) = self.wire(ask);
        RawRequest { flags, kind, cookie, offset, len }.encode(self.granted.mode, &mut self.out);
        if let Ask::Write { data, .. } = ask {
            self.out.extend_from_slice(data);
        }
        let read = if let Ask::Read { len, .. } = ask { Some(len as usize) } else { None };
        let content = Content { data: vec![0; read.unwrap_or(0)], ..Content::default() };
        let status = matches!(ask, Ask::BlockStatus { .. });
        self.running.insert(cookie, Running { read, status, offset, covered: 0, content, failed: None });
        // Small requests gather until somebody waits for an answer; large ones go out as they come.
        if self.out.len() >= 64 << 10 {
            self.flush_out(false)?;
        }
        Ok(cookie)
    }
    fn wire(&self, ask: Ask<'_>) -> (u16, u16, u64) {
        let when = |on: bool, flag: u16| if on { flag } else { 0 };
        match ask {
            Ask::Read { len, whole } => (CMD_READ, when(whole, CMD_FLAG_DF), u64::from(len)),
            Ask::Write { data, fua } => {
                let payload = when(self.granted.mode == Mode::Extended, CMD_FLAG_PAYLOAD_LEN);
                (CMD_WRITE, payload | when(fua, CMD_FLAG_FUA), data.len() as u64)
            }
            Ask::Trim { len, fua } => (CMD_TRIM, when(fua, CMD_FLAG_FUA), len),
            Ask::Zero { len, fua, no_hole, fast } => {
                let flags = when(fua, CMD_FLAG_FUA)
                    | when(no_hole, CMD_FLAG_NO_HOLE)
                    | when(fast, CMD_FLAG_FAST_ZERO);
                (CMD_WRITE_ZEROES, flags, len)
            }
            Ask::Flush => (CMD_FLUSH, 0, 0),
            Ask::Cache { len } => (CMD_CACHE, 0, len),
            Ask::BlockStatus { len, one } => (CMD_BLOCK_STATUS, when(one, CMD_FLAG_REQ_ONE), len),
            Ask::Raw { flags, kind, len } => (kind, flags, len),
        }
    }
    /// The next answer; waits for it. `None` when no request is running.
    pub fn reap(&mut self) -> Result<Option<Reply>, ClientError> {
        loop {
            if let Some(reply) = self.done.pop_front() {
                return Ok(Some(reply));
            }
            if self.running.is_empty() {
                return Ok(None);
            }
            self.flush_out(true)?;
            self.parse()?;
            if self.done.is_empty() {
                receive(&self.socket, &mut self.input)?;
                self.parse()?;
            }
        }
    }
    /// One request, waiting for its answer; answers of others stay to be reaped.
    pub fn call(&mut self, offset: u64, ask: Ask<'_>) -> Result<Content, ClientError> {
        let cookie = self.submit(offset, ask)?;
        let mut others = VecDeque::new();
        loop {
            let reply = self.reap()?.ok_or(Broken("an answer was lost"))?;
            if reply.cookie == cookie {
                others.append(&mut self.done);
                self.done = others;
                return reply.result;
            }
            others.push_back(reply);
        }
    }
    /// Reads a range.
    pub fn read(&mut self, offset: u64, len: u32) -> Result<Vec<u8>, ClientError> {
        Ok(self.call(offset, Ask::Read { len, whole: false })?.data)
    }
    /// Writes.
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), ClientError> {
        self.call(offset, Ask::Write { data, fua: false }).map(drop)
    }
    /// Makes everything answered durable.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        self.call(0, Ask::Flush).map(drop)
    }
    /// Says goodbye and waits until the server has closed; answers that still come are dropped.
    pub fn close(mut self) -> Result<(), ClientError> {
        let goodbye = RawRequest { flags: 0, kind: CMD_DISC, cookie: 0, offset: 0, len: 0 };
        goodbye.encode(self.granted.mode, &mut self.out);
        self.flush_out(true)?;
        let mut rest = vec![0; 64 << 10];
        while self.socket.recv(&mut rest, 0)? > 0 {}
        Ok(())
    }
    /// Sends what is queued: all of it, or what the socket takes at once.
    fn flush_out(&mut self, all: bool) -> Result<(), ClientError> {
        let mut sent = 0;
        while sent < self.out.len() {
            if let Some(n) = self.socket.send_now(&self.out[sent..])? {
                sent += n;
                continue;
            }
            // The server may be waiting for us to read.
            let got = self.receive_now()?;
            if !all && self.out.len() - sent < 1 << 20 {
                break;
            }
            if !got {
                self.socket.wait(true, None)?;
            }
        }
        self.out.drain(..sent);
        Ok(())
    }
    fn receive_now(&mut self) -> Result<bool, ClientError> {
        let at = self.input.len();
        self.input.resize(at + (64 << 10), 0);
        let got = self.socket.recv_now(&mut self.input[at..]);
        self.input.truncate(at + got.as_ref().ok().copied().flatten().unwrap_or(0));
        match got? {
            Some(0) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Some(_) => self.parse().map(|()| true),
            None => Ok(false),
        }
    }
    fn parse(&mut self) -> Result<(), ClientError> {
        loop {
            let read_len = |cookie: u64| self.running.get(&cookie).and_then(|r| r.read);
            let parsed = Chunk::parse(&self.input[self.start..], self.granted.mode, &self.limits, read_len)?;
            let Parsed::Whole(chunk, took) = parsed else { break };
            let running = self.running.get_mut(&chunk.cookie).ok_or(Broken("an answer nobody asked for"))?;
            running.take(&chunk)?;
            if chunk.last {
                let cookie = chunk.cookie;
                let running = self.running.remove(&cookie).ok_or(Broken("an answer nobody asked for"))?;
                self.done.push_back(Reply { cookie, result: running.finish() });
            }
            self.start += took;
        }
        self.input.drain(..self.start);
        self.start = 0;
        Ok(())
    }
}

impl Running {
    fn take(&mut self, chunk: &Chunk<'_>) -> Result<(), Broken> {
        match &chunk.body {
            ChunkBody::None => {}
            ChunkBody::Data { offset, bytes } => {
                let at = self.place(offset.unwrap_or(self.offset), bytes.len() as u64)?;
                self.content.data[at..at + bytes.len()].copy_from_slice(bytes);
            }
            // The buffer is zero already: chunks may not overlap.
            ChunkBody::Hole { offset, len } => drop(self.place(*offset, *len)?),
            ChunkBody::Status { runs, .. } if self.status => {
                self.content.chunks += 1;
                self.content.status.clone_from(runs);
            }
            ChunkBody::Status { .. } => return Err(Broken("block status nobody asked for")),
            ChunkBody::Error { errno, message } => self.failed = Some((*errno, (*message).to_owned())),
        }
        Ok(())
    }
    fn place(&mut self, offset: u64, len: u64) -> Result<usize, Broken> {
        let want = self.read.ok_or(Broken("data nobody asked for"))? as u64;
        let at = offset.checked_sub(self.offset).filter(|at| at.checked_add(len).is_some_and(|e| e <= want));
        let at = at.ok_or(Broken("data outside the request"))?;
        self.covered += len as usize;
        self.content.chunks += 1;
        Ok(at as usize)
    }
    fn finish(self) -> Result<Content, ClientError> {
        if let Some((errno, message)) = self.failed {
            return Err(ClientError::Refused { errno, message });
        }
        if self.read.is_some_and(|want| want != self.covered) {
            return Err(Broken("success without all the data").into());
        }
        Ok(self.content)
    }
}

/// Receives what comes next; an error at the end of the stream.
fn receive(socket: &Socket, input: &mut Vec<u8>) -> Result<(), ClientError> {
    let at = input.len();
    input.resize(at + (256 << 10), 0);
    let got = socket.recv(&mut input[at..], 0);
    input.truncate(at + got.as_ref().copied().unwrap_or(0));
    match got? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        _ => Ok(()),
    }
}
