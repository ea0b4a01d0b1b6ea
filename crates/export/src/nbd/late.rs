//! Answers that come late: one connection's link to the threads of a device.
//!
//! The fast path takes no lock here: a request gets a token, and only if the device says `Later` is it registered,
//! after `submit` returned. A completion may be quicker than that; it waits in `early` for its registration. The
//! reply thread starts with the first late answer and shares the send lock with the connection's own thread, so that
//! a slow client blocks these two and never a device.
//!
//! What is late is bounded per connection (count and bytes) and per server (bytes): at the bound the connection stops
//! reading, which is all the back-pressure a client needs. A connection that waits for little is never stopped because
//! of others: when the backup is away, requests that need nothing from it go on.

use super::socket::Socket;
use rekindle_core::nbd::reply::{self, ReadPiece};
use rekindle_core::nbd::{Errno, Mode};
use rekindle_io::block::{Completion, CompletionSink};
use rekindle_io::{Kind, Result};
use std::collections::{HashMap, VecDeque};
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often a waiting thread looks whether its client is still there.
const LOOK: Duration = Duration::from_millis(100);
/// Late replies sent in one go.
const GROUP: usize = 8;
const GROUP_BYTES: u64 = 64 << 10;

/// A request whose answer is awaited.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    pub(super) cookie: u64,
    pub(super) offset: u64,
    /// Bytes of a read or write, for the bounds.
    pub(super) bytes: u64,
    pub(super) read: bool,
    pub(super) fast_zero: bool,
}

#[derive(Default, Debug)]
struct Late {
    pending: HashMap<u64, Pending>,
    early: Vec<Completion>,
    ready: VecDeque<(Pending, Result<Vec<u8>>)>,
    unanswered: usize,
    bytes: u64,
    finished: bool,
    replying: bool,
}

/// Bounds on what is late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    pub(super) requests: usize,
    pub(super) bytes: u64,
    pub(super) server_bytes: u64,
}

/// So much each connection may have late whatever the others do.
const OWN: u64 = 1 << 20;

/// One connection, as its own threads, the device and the server see it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) socket: Socket,
    send: Mutex<()>,
    dead: AtomicBool,
    closing: AtomicBool,
    farewell: AtomicBool,
    late: Mutex<Late>,
    changed: Condvar,
    server_bytes: Arc<AtomicU64>,
}

impl Link {
    pub(super) fn new(socket: Socket, server_bytes: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Link {
            socket,
            send: Mutex::new(()),
            dead: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            farewell: AtomicBool::new(false),
            late: Mutex::default(),
            changed: Condvar::new(),
            server_bytes,
        })
    }
    fn lock(&self) -> MutexGuard<'_, Late> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// The client is gone: nobody reads answers.
    pub(super) fn kill(&self) {
        self.dead.store(true, Ordering::Release);
        self.socket.close();
        // Taken so that a thread between its look and its wait is not missed.
        drop(self.lock());
        self.changed.notify_all();
    }
    pub(super) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
    /// Asks the connection to end: what runs is answered, what is new gets ESHUTDOWN.
    pub(super) fn close_softly(&self) {
        self.closing.store(true, Ordering::Release);
        self.socket.close_reading();
    }
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }
    /// Sends whole replies; a client that cannot be reached is dead from then on.
    pub(super) fn send(&self, parts: &mut [IoSlice<'_>]) -> bool {
        if parts.is_empty() {
            return true;
        }
        let guard = self.send.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = !self.is_dead() && self.socket.send(parts).is_ok();
        drop(guard);
        if !sent && !self.farewell.load(Ordering::Acquire) {
            self.kill();
        }
        sent
    }
    /// Enters requests the device answered with `Later`, and starts the reply thread when there is none.
    pub(super) fn register(self: &Arc<Self>, mode: Mode, tokens: &[(u64, Pending)]) {
        let mut late = self.lock();
        for (token, pending) in tokens {
            late.unanswered += 1;
            late.bytes += pending.bytes;
            self.server_bytes.fetch_add(pending.bytes, Ordering::Relaxed);
            match late.early.iter().position(|c| c.token == *token) {
                Some(i) => {
                    let done = late.early.swap_remove(i);
                    late.ready.push_back((*pending, done.result));
                }
                None => drop(late.pending.insert(*token, *pending)),
            }
        }
        let start = !late.replying;
        late.replying = true;
        drop(late);
        self.changed.notify_all();
        if start {
            let link = Arc::clone(self);
            let thread = std::thread::Builder::new().name("nbd-reply".into());
            if let Err(e) = thread.spawn(move || link.reply_loop(mode)) {
                tracing::error!("no thread for late answers, connection closed: {e}");
                self.kill();
            }
        }
    }
    /// Waits for the late answer to a request that was not registered; `None` when the client is gone first.
    pub(super) fn wait_for(&self, token: u64) -> Option<Result<Vec<u8>>> {
        let mut late = self.lock();
        loop {
            if let Some(i) = late.early.iter().position(|c| c.token == token) {
                return Some(late.early.swap_remove(i).result);
            }
            late = self.look(late, LOOK)?;
        }
    }
    /// Waits until there is room for more late requests; false when the client is gone.
    pub(super) fn wait_room(&self, room: Room) -> bool {
        let crowded = || self.server_bytes.load(Ordering::Relaxed) >= room.server_bytes;
        let mut late = self.lock();
        loop {
            let full = late.unanswered >= room.requests || late.bytes >= room.bytes;
            if !(full || late.bytes >= OWN && crowded()) {
                return !self.is_dead();
            }
            // Nobody tells this connection when another one made room, so it looks more often.
            match self.look(late, if full { LOOK } else { LOOK / 20 }) {
                Some(l) => late = l,
                None => return false,
            }
        }
    }
    /// The client said goodbye properly: what it asked before is carried out even if it does not wait for the answers.
    pub(super) fn farewell(&self) {
        self.farewell.store(true, Ordering::Release);
    }
    /// Waits until every late request is answered or the client is gone.
    pub(super) fn drain(&self) {
        let mut late = self.lock();
        while late.unanswered > 0 {
            match self.look(late, LOOK) {
                Some(l) => late = l,
                None => return,
            }
        }
    }
    /// Ends the reply thread once it has sent everything.
    pub(super) fn finish(&self) {
        self.lock().finished = true;
        self.changed.notify_all();
    }
    /// One wait; `None` when the client is gone.
    fn look<'a>(&'a self, late: MutexGuard<'a, Late>, limit: Duration) -> Option<MutexGuard<'a, Late>> {
        let began = Instant::now();
        let (late, _) = self.changed.wait_timeout(late, limit).unwrap_or_else(PoisonError::into_inner);
        if self.is_dead() {
            return None;
        }
        if began.elapsed() < limit {
            return Some(late);
        }
        drop(late);
        // We closed the reading half ourselves when closing, and the kernel reports that as a hang-up of sorts.
        let expected = self.is_closing() || self.farewell.load(Ordering::Acquire);
        if !expected && self.socket.hung_up() {
            self.kill();
            return None;
        }
        Some(self.lock())
    }
    fn reply_loop(&self, mode: Mode) {
        let mut heads = Vec::new();
        let mut group = Vec::with_capacity(GROUP);
        while self.next_group(&mut group) {
            self.send_group(mode, &group, &mut heads);
            let bytes: u64 = group.iter().map(|(p, _)| p.bytes).sum();
            self.server_bytes.fetch_sub(bytes, Ordering::Relaxed);
            let mut late = self.lock();
            late.unanswered -= group.len();
            late.bytes -= bytes;
            drop(late);
            group.clear();
            self.changed.notify_all();
        }
    }
    fn next_group(&self, group: &mut Vec<(Pending, Result<Vec<u8>>)>) -> bool {
        let mut late = self.lock();
        loop {
            let mut bytes = 0;
            while group.len() < GROUP && bytes < GROUP_BYTES {
                let Some(next) = late.ready.pop_front() else { break };
                bytes += next.0.bytes;
                group.push(next);
            }
            if !group.is_empty() {
                return true;
            }
            if late.finished {
                return false;
            }
            late = self.changed.wait(late).unwrap_or_else(PoisonError::into_inner);
        }
    }
    fn send_group(&self, mode: Mode, group: &[(Pending, Result<Vec<u8>>)], heads: &mut Vec<u8>) {
        heads.clear();
        let mut ends = [(0, &[][..]); GROUP];
        for ((pending, result), end) in group.iter().zip(&mut ends) {
            let data = encode(mode, pending, result, heads);
            *end = (heads.len(), data);
        }
        let mut parts: Vec<IoSlice<'_>> = Vec::with_capacity(2 * GROUP);
        let mut at = 0;
        for (end, data) in &ends[..group.len()] {
            parts.push(IoSlice::new(&heads[at..*end]));
            if !data.is_empty() {
                parts.push(IoSlice::new(data));
            }
            at = *end;
        }
        self.send(&mut parts);
    }
}

/// Appends the head of a late reply and returns the data that follows it.
fn encode<'a>(mode: Mode, p: &Pending, result: &'a Result<Vec<u8>>, heads: &mut Vec<u8>) -> &'a [u8] {
    match result {
        Ok(data) if p.read && data.len() as u64 == p.bytes => {
            let at = heads.len();
            heads.resize(at + reply::read_head_len(mode, p.bytes), 0);
            let len = data.len() as u32;
            let piece =
                ReadPiece { cookie: p.cookie, request_offset: p.offset, offset: p.offset, len, last: true };
            reply::put_read_head(mode, &mut heads[at..], piece);
            return data;
        }
        Ok(_) if p.read => {
            reply::put_error(mode, heads, p.cookie, p.offset, Errno::Io, "the device returned a short read");
        }
        Ok(_) => reply::put_done(mode, heads, p.cookie, p.offset),
        Err(e) => reply::put_error(mode, heads, p.cookie, p.offset, errno(e.kind, p.fast_zero), &e.what),
    }
    &[]
}

/// What a client is told when the device failed.
pub(super) fn errno(kind: Kind, fast_zero: bool) -> Errno {
    match kind {
        Kind::Full => Errno::NoSpace,
        Kind::ReadOnly => Errno::Perm,
        Kind::Cancelled => Errno::Shutdown,
        // The protocol knows "not supported" as the answer to a fast zero only.
        Kind::Unsupported if fast_zero => Errno::NotSupported,
        Kind::Invalid | Kind::Unsupported => Errno::Invalid,
        _ => Errno::Io,
    }
}

impl CompletionSink for Link {
    fn complete(&self, completion: Completion) {
        let mut late = self.lock();
        match late.pending.remove(&completion.token) {
            Some(pending) => late.ready.push_back((pending, completion.result)),
            None if self.is_dead() => return,
            None => late.early.push(completion),
        }
        drop(late);
        self.changed.notify_all();
    }
    fn abandoned(&self) -> bool {
        self.is_dead()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let late = self.late.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.server_bytes.fetch_sub(late.bytes, Ordering::Relaxed);
    }
}
