//! One connection at a time, requests sent by one thread and replies taken by another.

use super::wire::{Ask, Frame, GREETING, reply, write_frame};
use crate::{Error, Kind, Result};
use rustix::net::sockopt;
use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests that may wait for the sending thread; the next one waits to get in.
const QUEUE: usize = 4096;
/// Longest time to connect to one address.
const CONNECT: Duration = Duration::from_secs(3);
/// A peer that acknowledges nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(15);

/// Called once with the body of the reply.
pub(super) type Done = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// See the module.
pub(super) struct Lane {
    queue: SyncSender<(Ask, Done)>,
}

impl Lane {
    pub fn start(name: &str, address: String) -> std::io::Result<Lane> {
        let (queue, asked) = mpsc::sync_channel(QUEUE);
        std::thread::Builder::new()
            .name(name.into())
            .spawn(move || Sender { address, link: None }.run(&asked))?;
        Ok(Lane { queue })
    }
    /// Returns at once (unless thousands wait); `done` hears from another thread.
    pub fn send(&self, ask: Ask, done: Done) {
        if let Err(mpsc::SendError((_, done))) = self.queue.send((ask, done)) {
            done(Err(Error::new(Kind::Unavailable, "the store's thread ended")));
        }
    }
}

/// The sending thread. It ends when the lane is dropped, and its connection with it.
struct Sender {
    address: String,
    link: Option<Arc<Link>>,
}

impl Sender {
    fn run(mut self, asked: &Receiver<(Ask, Done)>) {
        while let Ok((ask, done)) = asked.recv() {
            match self.link() {
                Ok(link) => link.ask(&ask, done),
                Err(e) => {
                    // Whoever asked before the attempt ended shares its outcome instead of waiting for one more; all
                    // are taken before the first is told, because the told may mend things and ask again.
                    let shared: Vec<_> =
                        std::iter::once(done).chain(asked.try_iter().map(|(_, d)| d)).collect();
                    shared.into_iter().for_each(|done| done(Err(e.clone())));
                }
            }
        }
        if let Some(link) = self.link {
            link.end("the store was closed");
        }
    }

    fn link(&mut self) -> Result<Arc<Link>> {
        match &self.link {
            Some(link) if link.lock().ended.is_none() => Ok(link.clone()),
            _ => {
                let link = Link::connect(&self.address).map_err(|e| Error {
                    kind: Kind::Unavailable,
                    ..Error::os(format!("tcp://{}", self.address), &e)
                })?;
                self.link = Some(link.clone());
                Ok(link)
            }
        }
    }
}

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Done>,
    next: u64,
    /// Why nothing is waited for any more.
    ended: Option<String>,
}

/// One connection.
struct Link {
    address: String,
    socket: TcpStream,
    pending: Mutex<Pending>,
}

impl Link {
    fn connect(address: &str) -> std::io::Result<Arc<Link>> {
        let mut last = std::io::Error::from(std::io::ErrorKind::NotFound);
        for addr in address.to_socket_addrs()? {
            match TcpStream::connect_timeout(&addr, CONNECT).and_then(|s| Self::greet(s, address)) {
                Ok(link) => return Ok(link),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn greet(mut socket: TcpStream, address: &str) -> std::io::Result<Arc<Link>> {
        socket.set_nodelay(true)?;
        sockopt::set_tcp_user_timeout(&socket, SILENCE.as_millis() as u32)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, SILENCE / 3)?;
        sockopt::set_tcp_keepintvl(&socket, SILENCE / 3)?;
        socket.set_read_timeout(Some(CONNECT))?;
        socket.write_all(GREETING)?;
        let mut theirs = [0; GREETING.len()];
        socket.read_exact(&mut theirs)?;
        if theirs != *GREETING {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "not a store of this version"));
        }
        socket.set_read_timeout(None)?;
        let link = Arc::new(Link { address: address.into(), socket, pending: Mutex::default() });
        let receiver = link.clone();
        std::thread::Builder::new().name("store-replies".into()).spawn(move || receiver.receive())?;
        Ok(link)
    }

    fn ask(&self, ask: &Ask, done: Done) {
        let id = {
            let mut p = self.lock();
            if let Some(why) = &p.ended {
                let e = self.error(why);
                drop(p);
                return done(Err(e));
            }
            p.next += 1;
            let id = p.next;
            p.waiting.insert(id, done);
            id
        };
        let (code, head, data) = ask.encode();
        match write_frame(&mut &self.socket, id, code, [&head, data]) {
            Ok(()) => {}
            // Nothing of a frame that is too large was sent; the connection is good.
            Err(e) if e.kind() == std::io::ErrorKind::InvalidInput => {
                let done = self.lock().waiting.remove(&id);
                let e = Error::new(Kind::Invalid, format!("{}: an object is too large", self.address));
                done.into_iter().for_each(|done| done(Err(e.clone())));
            }
            Err(e) => self.end(&e.to_string()),
        }
    }

    /// The receiving thread.
    fn receive(&self) {
        let mut from = BufReader::with_capacity(64 << 10, &self.socket);
        loop {
            let frame = match Frame::read(&mut from) {
                Ok(frame) => frame,
                Err(e) => return self.end(&e.to_string()),
            };
            let done = self.lock().waiting.remove(&frame.id);
            match done {
                Some(done) => done(reply(frame)),
                None => return self.end("a reply came that nobody asked for"),
            }
        }
    }

    /// Ends the connection; everything under way is answered.
    fn end(&self, why: &str) {
        let waiting = {
            let mut p = self.lock();
            p.ended.get_or_insert_with(|| why.into());
            std::mem::take(&mut p.waiting)
        };
        // Wakes the other thread; already closed is fine.
        let _ = self.socket.shutdown(Shutdown::Both);
        waiting.into_values().for_each(|done| done(Err(self.error(why))));
    }

    fn error(&self, why: &str) -> Error {
        Error::new(Kind::Unavailable, format!("tcp://{}: {why}", self.address))
    }
    // Every step leaves the table whole, so a panic elsewhere under the lock harms nothing.
    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
