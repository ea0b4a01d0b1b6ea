//! Who needs chunked replies: what a client process did before says it.
//!
//! See the module head of `nbd` for why. A process is named by its id and start time; a fork that has not become
//! another program (same name) inherits what is known of its parent. Unknown, too old to tell, or not on this host:
//! the client gets what it asks for.

use super::connection::Asked;
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Processes remembered.
const KNOWN_MAX: usize = 128;
/// For so long after its last connection.
const MEMORY: Duration = Duration::from_secs(60);

/// A client process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Peer {
    pid: u32,
    started: u64,
    parent: u32,
    name: String,
}

#[derive(Debug)]
struct Known {
    peer: Peer,
    /// It asked about contexts on some connection: it gets chunks for good.
    contexts: bool,
    seen: Instant,
}

/// What is remembered of recent clients.
#[derive(Default, Debug)]
pub(super) struct Habits(Mutex<VecDeque<Known>>);

impl Peer {
    /// The process behind a Unix socket, when the kernel names one we can see.
    pub(super) fn of(fd: &OwnedFd) -> Option<Peer> {
        let pid = peer_pid(fd)?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Peer::parse(pid, &stat)
    }
    /// From a line of /proc/PID/stat: `pid (name) state ppid ... starttime(22) ...`; the name may hold anything.
    fn parse(pid: u32, stat: &str) -> Option<Peer> {
        let (open, close) = (stat.find('(')?, stat.rfind(')')?);
        let name = stat.get(open + 1..close)?.to_owned();
        let fields: Vec<&str> = stat.get(close + 1..)?.split_ascii_whitespace().collect();
        let parent = fields.get(1)?.parse().ok()?;
        let started = fields.get(19)?.parse().ok()?;
        Some(Peer { pid, started, parent, name })
    }
    /// `other` is this process, or its parent running the same program.
    fn descends_from(&self, other: &Peer) -> bool {
        (self.pid == other.pid && self.started == other.started)
            || (self.parent == other.pid && self.name == other.name && other.started <= self.started)
    }
}

/// The process that connected, if it is one this process can see. Not by rustix: its type has no room for the 0 that
/// the kernel gives for a process of another pid namespace.
fn peer_pid(fd: &OwnedFd) -> Option<u32> {
    let mut cred = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut len = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: `cred` and `len` are live for the call, and `len` is the size of `cred`, all of whose bit patterns are
    // valid; the descriptor is borrowed for the call.
    let r = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut cred).cast(),
            &raw mut len,
        )
    };
    u32::try_from(cred.pid).ok().filter(|pid| r == 0 && *pid > 0)
}

impl Habits {
    /// Whether to grant chunked replies to this client.
    pub(super) fn grants(&self, peer: &Peer, now: Instant) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|k| now.saturating_duration_since(k.seen) < MEMORY);
        let hit = known.iter_mut().find(|k| peer.descends_from(&k.peer));
        hit.is_none_or(|k| {
            k.seen = now;
            k.contexts
        })
    }
    /// Remembers what a client asked for on a connection that was granted chunks.
    pub(super) fn learn(&self, peer: Peer, asked: Asked, now: Instant) {
        if !asked.structured {
            return;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.iter_mut().find(|k| peer.descends_from(&k.peer)) {
            Some(k) => k.contexts |= asked.context,
            None => {
                if known.len() == KNOWN_MAX {
                    known.pop_front();
                }
                known.push_back(Known { peer, contexts: asked.context, seen: now });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(pid: u32, started: u64, parent: u32, name: &str) -> Peer {
        let stat =
            format!("{pid} ({name}) S {parent} 1 1 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 {started} 0 0");
        Peer::parse(pid, &stat).unwrap()
    }

    #[test]
    fn names_with_brackets_and_spaces_parse() {
        let p = peer(7, 99, 3, "a) S 1 (b");
        assert_eq!((p.pid, p.started, p.parent, p.name.as_str()), (7, 99, 3, "a) S 1 (b"));
        assert!(Peer::parse(1, "nonsense").is_none());
    }

    #[test]
    fn a_client_without_contexts_gets_simple_replies_the_next_time() {
        let (h, t) = (Habits::default(), Instant::now());
        let asked = |context| Asked { structured: true, context };
        let fio = peer(10, 5, 1, "fio");
        assert!(h.grants(&fio, t), "unknown");
        h.learn(fio.clone(), asked(false), t);
        assert!(!h.grants(&fio, t));
        assert!(!h.grants(&peer(11, 6, 10, "fio"), t), "its fork");
        assert!(h.grants(&peer(12, 6, 10, "nbdcopy"), t), "another program it started");
        assert!(h.grants(&peer(10, 9, 1, "fio"), t), "another process with the same id");
        assert!(h.grants(&fio, t + MEMORY), "forgotten");
        h.learn(fio.clone(), asked(true), t);
        h.learn(fio.clone(), asked(false), t);
        assert!(h.grants(&fio, t), "who once asked for contexts gets chunks");
    }

    #[test]
    fn memory_is_bounded() {
        let (h, t) = (Habits::default(), Instant::now());
        for pid in 1..1000 {
            h.learn(peer(pid, 5, 0, "x"), Asked { structured: true, context: false }, t);
        }
        assert_eq!(h.0.lock().unwrap().len(), KNOWN_MAX);
    }
}
