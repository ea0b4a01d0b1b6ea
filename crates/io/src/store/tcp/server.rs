//! Serves any store. Per connection one thread takes requests and one answers them in order, each no sooner than
//! `delay` after it came: latency without a limit on how many are under way. What a connection may make us keep is
//! bounded in bytes and requests; beyond that its requests wait in the socket.

use super::super::{Store, StoreExt};
use super::wire::{self, Ask, Frame, GREETING, encode_error, write_frame};
use crate::{Error, Kind, Result};
use std::collections::VecDeque;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Most connections at once; a further one is closed.
const CONNECTIONS: usize = 64;
/// Requests of one connection that may wait.
const WAITING: usize = 8192;
/// Bytes of one connection that may wait: two packs and a little.
const WAITING_BYTES: usize = wire::FRAME_MAX as usize;

/// How to serve.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerOptions {
    /// No answer leaves sooner than this after its request came.
    pub delay: Duration,
}

/// A running server; dropping it ends it and its connections.
pub struct StoreServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    accept: Option<JoinHandle<()>>,
}

struct Shared {
    store: Arc<dyn Store>,
    options: ServerOptions,
    stop: AtomicBool,
    connections: Mutex<Vec<(TcpStream, JoinHandle<()>)>>,
}

impl StoreServer {
    /// Serves `store` on `address` (`host:port`; port 0 takes a free one, see [`StoreServer::url`]).
    pub fn start(store: Arc<dyn Store>, address: &str, options: ServerOptions) -> Result<StoreServer> {
        let error = |e: std::io::Error| Error::os(format!("cannot serve a store on {address}"), &e);
        let listener = TcpListener::bind(address).map_err(error)?;
        let bound = listener.local_addr().map_err(error)?;
        let shared =
            Arc::new(Shared { store, options, stop: AtomicBool::new(false), connections: Mutex::default() });
        let theirs = shared.clone();
        let accept =
            std::thread::Builder::new().name("store-accept".into()).spawn(move || theirs.accept(&listener));
        Ok(StoreServer { address: bound, shared, accept: Some(accept.map_err(error)?) })
    }
    /// What a client opens.
    pub fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }
    /// Ends all connections at once, as a network that breaks does; new ones are served.
    pub fn disconnect_all(&self) {
        let connections = std::mem::take(&mut *self.shared.lock());
        // All are cut before the first is waited for.
        for (socket, _) in &connections {
            let _ = socket.shutdown(Shutdown::Both);
        }
        for (_, thread) in connections {
            let _ = thread.join();
        }
    }
}

impl Drop for StoreServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        self.accept.take().map(JoinHandle::join);
        self.disconnect_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<(TcpStream, JoinHandle<()>)>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        while !self.stop.load(Ordering::SeqCst) {
            let Ok((socket, from)) = listener.accept() else {
                // Out of descriptors, or a connection that broke at once: not for ever, so not in a tight loop.
                std::thread::sleep(Duration::from_millis(10));
                continue;
            };
            let mut connections = self.lock();
            connections.retain(|(_, thread)| !thread.is_finished());
            if connections.len() >= CONNECTIONS {
                tracing::warn!(%from, "a connection too many was closed");
                continue;
            }
            let (Ok(ours), shared) = (socket.try_clone(), self.clone()) else { continue };
            let serve = move || {
                if let Err(e) = shared.serve(&ours) {
                    tracing::debug!(%from, "connection ended: {e}");
                }
                let _ = ours.shutdown(Shutdown::Both);
            };
            if let Ok(thread) = std::thread::Builder::new().name("store-serve".into()).spawn(serve) {
                connections.push((socket, thread));
            }
        }
    }

    /// Takes requests until the peer goes or talks nonsense.
    fn serve(&self, socket: &TcpStream) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        (&*socket).write_all(GREETING)?;
        let mut from = BufReader::with_capacity(64 << 10, socket);
        let mut theirs = [0; GREETING.len()];
        from.read_exact(&mut theirs)?;
        if theirs != *GREETING {
            return Err(std::io::Error::other("a peer of another kind"));
        }
        let queue = Queue::default();
        std::thread::scope(|s| {
            s.spawn(|| self.answer(socket, &queue));
            let taken = loop {
                match Frame::read(&mut from) {
                    Ok(frame) => {
                        if !queue.push(frame, Instant::now() + self.options.delay) {
                            break Ok(());
                        }
                    }
                    Err(e) => break Err(e),
                }
            };
            queue.close();
            taken
        })
    }

    /// Answers in order until the queue ends or the peer does not listen.
    fn answer(&self, mut socket: &TcpStream, queue: &Queue) {
        while let Some((frame, due)) = queue.pop() {
            let early = due.saturating_duration_since(Instant::now());
            if !early.is_zero() {
                std::thread::sleep(early);
            }
            let id = frame.id;
            let (code, body) = match self.perform(frame) {
                Ok(body) => (0, body),
                Err(e) => encode_error(&e),
            };
            let sent = match write_frame(&mut socket, id, code, [&body, &[]]) {
                Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
                    let (code, body) =
                        encode_error(&Error::new(Kind::Invalid, "an object is too large for one reply"));
                    write_frame(&mut socket, id, code, [&body, &[]])
                }
                sent => sent,
            };
            if sent.is_err() {
                break;
            }
        }
        queue.close();
        // The taking thread may wait for a peer that will not speak again.
        let _ = socket.shutdown(Shutdown::Both);
    }

    fn perform(&self, frame: Frame) -> Result<Vec<u8>> {
        let ask = Ask::decode(frame.code, &frame.body)
            .map_err(|m| Error::new(Kind::Invalid, format!("{m} in a request")))?;
        drop(frame);
        match ask {
            Ask::Put(name, data) => self.store.put_new(&name, &[&data]).map(wire::encode_put),
            Ask::Get(name, part) => self.store.get(&name, part),
            Ask::Head(name) => self.store.head(&name).map(wire::encode_head),
            Ask::List { prefix, after, limit } => {
                self.store.list(&prefix, &after, limit as usize).map(|l| wire::encode_list(&l))
            }
            Ask::Delete(name) => self.store.delete(&name).map(|()| Vec::new()),
        }
    }
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<(Frame, Instant)>,
    bytes: usize,
    closed: bool,
}

/// Requests between the thread that takes and the one that answers.
#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Waits for room; false once closed.
    fn push(&self, frame: Frame, due: Instant) -> bool {
        let full = |w: &mut Waiting| {
            !w.closed
                && !w.frames.is_empty()
                && (w.frames.len() >= WAITING || w.bytes + frame.body.len() > WAITING_BYTES)
        };
        let mut w = self.changed.wait_while(self.lock(), full).unwrap_or_else(PoisonError::into_inner);
        if w.closed {
            return false;
        }
        w.bytes += frame.body.len();
        w.frames.push_back((frame, due));
        self.changed.notify_all();
        true
    }
    /// The next one, or `None` once closed and empty.
    fn pop(&self) -> Option<(Frame, Instant)> {
        let empty = |w: &mut Waiting| !w.closed && w.frames.is_empty();
        let mut w = self.changed.wait_while(self.lock(), empty).unwrap_or_else(PoisonError::into_inner);
        let next = w.frames.pop_front();
        w.bytes -= next.as_ref().map_or(0, |(f, _)| f.body.len());
        self.changed.notify_all();
        next
    }
    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}
