//! The NBD server: threads, sockets and batches around the codec of `rekindle_core::nbd`.
//!
//! Shape (every choice was measured; ARCHITECTURE.md): one thread per connection receives up to 256 KiB, parses what
//! is whole, submits up to eight requests as one batch to the block port and sends their answers together. Late answers
//! go through the connection's completion sink to a reply thread. Devices never wait for a client, clients never make
//! us hold more than `Bounds` says.
//!
//! **Simple or structured replies.** Chunked reads cost a libnbd client 1.2 to 1.4 times the CPU, and fio and nbdfuse
//! ask for them without using anything they bring; but only a client that got them can ask for block status, and which
//! clients will do so is not known when they must be granted. `Structured::Auto` therefore remembers, for a minute, what
//! a client *process* on a Unix socket did: one that took chunks and asked for no metadata context gets simple replies on
//! its further connections. Programs that use several connections without contexts (fio, nbdfuse) profit from the second
//! one on; those that want contexts (nbdcopy, qemu, nbdinfo) ask on the first, and keep chunks for good. What it costs:
//! a process that connects first without and then with contexts within a minute (a script of several handles) meets a
//! server without block status on the second: correct, not sparse. `Structured::Always` is for those. TCP clients cannot
//! be told apart and get what they ask for.
//!
//! **Ends.** A client that closes without a goodbye is gone at once: its sink says so, the device drops its waiting
//! writes. A goodbye, `remove` and `stop` let what runs be answered, refuse what is new with ESHUTDOWN, then close;
//! whoever is not done within the grace is cut.

mod batch;
pub mod client;
mod connection;
mod input;
mod large;
mod late;
mod listen;
mod peer;
mod registry;
mod socket;

use connection::{End, Session, negotiate, terms};
use late::{Link, Room};
use listen::{Listener, Wake};
use peer::{Habits, Peer};
use registry::{Presence, Registry};
use rekindle_io::block::{Block, CompletionSink};
use socket::Socket;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Where to listen, or where a server listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Listen {
    /// A socket file.
    Unix(PathBuf),
    /// Address and port; port 0 takes a free one.
    Tcp(SocketAddr),
}

/// Whether chunked replies are granted. See the module head.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Structured {
    /// To every client but those whose process showed that it does not need them.
    #[default]
    Auto,
    /// To every client that asks.
    Always,
    /// To none: no client gets block status.
    Never,
}

/// Bounds on what clients can make the server hold.
///
/// Per connection at most 1 MiB of input, 4 MiB of replies, `late_bytes` and one request more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Connections at a time, negotiating ones included; further ones are closed at once.
    pub connections: usize,
    /// How long a negotiation may take.
    pub negotiation: Duration,
    /// Requests of one connection that are answered late.
    pub late_requests: usize,
    /// Bytes of reads and writes of one connection that are answered late.
    pub late_bytes: u64,
    /// The same of all connections together; each may have 1 MiB whatever the others do.
    pub late_bytes_total: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds {
            connections: 128,
            negotiation: Duration::from_secs(10),
            late_requests: 256,
            late_bytes: 16 << 20,
            late_bytes_total: 32 << 20,
        }
    }
}

/// How a server is started.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Where to listen; at least one place.
    pub listen: Vec<Listen>,
    /// Bounds.
    pub bounds: Bounds,
    /// Mode of Unix sockets (0600 by default: whoever can write to it can write to the disk).
    pub unix_mode: u32,
    /// Chunked replies.
    pub structured: Structured,
    /// How often a connection looks for input before it sleeps, while there are fewer connections than processors.
    /// Twice the speed at queue depth 1, for up to some ten microseconds of a processor per request.
    pub spin: u32,
    /// How long `remove` and `drop` let running requests finish.
    pub grace: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            listen: Vec::new(),
            bounds: Bounds::default(),
            unix_mode: 0o600,
            structured: Structured::Auto,
            spin: 50,
            grace: Duration::from_secs(5),
        }
    }
}

/// One export.
#[derive(Clone)]
pub struct ExportSpec {
    /// Its name, at most 4096 bytes.
    pub name: String,
    /// For people, at most 4096 bytes; may be empty.
    pub description: String,
    /// What is served. Its info is taken when the export is added.
    pub device: Arc<dyn Block>,
    /// Also served under the empty name, as long as it is the only export that says so.
    pub is_default: bool,
}

struct Inner {
    registry: Arc<Registry>,
    habits: Habits,
    bounds: Bounds,
    structured: Structured,
    spin: u32,
    cores: usize,
    late_bytes: Arc<AtomicU64>,
}

/// A running server. Dropping it stops it with the grace of its options.
pub struct Server {
    inner: Arc<Inner>,
    wake: Arc<Wake>,
    /// Until clients are let in.
    listeners: Vec<Listener>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<Listen>,
    grace: Duration,
    ended: bool,
}

impl Server {
    /// Listens everywhere it was told to and lets clients in.
    pub fn start(options: ServerOptions) -> io::Result<Server> {
        let mut server = Self::bind(options)?;
        server.accept()?;
        Ok(server)
    }
    /// Listens everywhere it was told to, or fails without leaving anything behind. Clients that come wait until
    /// [`Server::accept`]: whoever sees the socket may take it that the exports are there.
    pub fn bind(options: ServerOptions) -> io::Result<Server> {
        if options.listen.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "nowhere to listen"));
        }
        let open = |l| {
            Listener::open(l, options.unix_mode).map_err(|e| io::Error::new(e.kind(), format!("{l}: {e}")))
        };
        let listeners = options.listen.iter().map(open).collect::<io::Result<Vec<_>>>()?;
        let addresses = listeners.iter().map(|l| l.address().clone()).collect();
        let inner = Arc::new(Inner {
            registry: Arc::default(),
            habits: Habits::default(),
            bounds: options.bounds,
            structured: options.structured,
            spin: options.spin,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            late_bytes: Arc::default(),
        });
        let (wake, grace) = (Arc::new(Wake::new()?), options.grace);
        Ok(Server { inner, wake, listeners, threads: Vec::new(), addresses, grace, ended: false })
    }
    /// Lets clients in, those first that wait.
    pub fn accept(&mut self) -> io::Result<()> {
        for listener in std::mem::take(&mut self.listeners) {
            let (inner, wake) = (Arc::clone(&self.inner), Arc::clone(&self.wake));
            let thread = std::thread::Builder::new().name("nbd-accept".into());
            self.threads.push(thread.spawn(move || accept_loop(&inner, &listener, &wake))?);
        }
        Ok(())
    }
    /// Adds an export; an error when the name is taken or too long.
    pub fn add(&self, export: ExportSpec) -> io::Result<()> {
        let max = rekindle_core::nbd::Limits::DEFAULT.string_bytes_max;
        if export.name.len() > max || export.description.len() > max {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "name or description too long"));
        }
        let taken = io::Error::new(io::ErrorKind::AlreadyExists, format!("export {:?} exists", export.name));
        if self.inner.registry.add(export) { Ok(()) } else { Err(taken) }
    }
    /// Takes an export away: new clients do not find it, connected ones are ended softly, then cut after the grace.
    /// False when a thread was still inside the device afterwards.
    pub fn remove(&self, name: &str) -> bool {
        self.inner.registry.remove(name, self.grace)
    }
    /// How many clients use an export.
    pub fn connections(&self, name: &str) -> usize {
        self.inner.registry.connections(name)
    }
    /// Where the server listens; ports are the real ones.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }
    /// Stops: no new connections, running requests finish within `grace`. False when a thread was still inside a
    /// device afterwards.
    pub fn stop(mut self, grace: Duration) -> bool {
        self.end(grace)
    }
    fn end(&mut self, grace: Duration) -> bool {
        if std::mem::replace(&mut self.ended, true) {
            return true;
        }
        self.wake.fire();
        for t in self.threads.drain(..) {
            let _ = t.join();
        }
        self.inner.registry.close(grace)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(self.grace);
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listen::Unix(path) => write!(f, "{}", path.display()),
            Listen::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl Listen {
    /// The NBD URI of an export served here.
    pub fn uri(&self, export: &str) -> String {
        let export = escape(export.as_bytes());
        match self {
            Listen::Unix(path) => {
                let socket = escape(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
                format!("nbd+unix:///{export}?socket={socket}")
            }
            Listen::Tcp(address) => format!("nbd://{address}/{export}"),
        }
    }
}

fn escape(bytes: &[u8]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._~".contains(&b);
    bytes.iter().map(|&b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn accept_loop(inner: &Arc<Inner>, listener: &Listener, wake: &Wake) {
    loop {
        match listener.accept(wake) {
            Ok(Some(fd)) => admit(inner, fd, listener.is_unix()),
            Ok(None) => return,
            Err(e) => return tracing::error!("{}: accepts no more connections: {e}", listener.address()),
        }
    }
}

fn admit(inner: &Arc<Inner>, fd: OwnedFd, unix: bool) {
    let link = Link::new(Socket::new(fd, unix), Arc::clone(&inner.late_bytes));
    let Some(presence) = inner.registry.enter(&link, inner.bounds.connections) else {
        return tracing::warn!("connection refused: {} are open", inner.bounds.connections);
    };
    let inner = Arc::clone(inner);
    let thread = std::thread::Builder::new().name("nbd".into());
    let spawned = thread.spawn(move || {
        let end = serve(&inner, &link, &presence);
        tracing::debug!("connection ended: {end}");
    });
    if let Err(e) = spawned {
        tracing::warn!("connection refused: no thread: {e}");
    }
}

fn serve(inner: &Inner, link: &Arc<Link>, presence: &Presence) -> End {
    // A device may need memory to write out memory: tell the kernel not to wait for itself through us. Needs a
    // capability; without it everything works until memory is short.
    let _ = rustix::process::configure_io_flusher_behavior(true);
    let peer = if link.socket.is_unix() { Peer::of(link.socket.fd()) } else { None };
    let grant = match inner.structured {
        Structured::Always => true,
        Structured::Never => false,
        Structured::Auto => peer.as_ref().is_none_or(|p| inner.habits.grants(p, Instant::now())),
    };
    let mut input = input::Input::new();
    let learn = |asked| {
        if let (true, Some(peer)) = (grant, peer) {
            inner.habits.learn(peer, asked, Instant::now());
        }
    };
    let talked = negotiate(link, &mut input, &*inner.registry, grant, inner.bounds.negotiation, learn);
    let agreed = match talked {
        Ok(agreed) => agreed,
        Err(end) => return end,
    };
    let Some(device) = inner.registry.attach(presence, &agreed.export) else { return End::Closed };
    link.socket.widen();
    let sink: Arc<dyn CompletionSink> = link.clone();
    let bounds = &inner.bounds;
    let room = Room {
        requests: bounds.late_requests,
        bytes: bounds.late_bytes,
        server_bytes: bounds.late_bytes_total,
    };
    let terms = terms(&agreed, &device.info());
    let spin = || if inner.registry.len() < inner.cores { inner.spin } else { 0 };
    Session { link, sink, input, terms, device, room, spin: &spin }.run()
}
