//! What the tests share: a memory device whose answers can be late, stalled or failing, and a server around it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(dead_code, reason = "not every test file uses every helper")]

use rekindle_core::nbd::Mode;
use rekindle_core::volume::ByteRange;
use rekindle_export::nbd::client::{Client, ClientOptions};
use rekindle_export::nbd::{ExportSpec, Listen, Server, ServerOptions};
use rekindle_io::block::{Allocation, Answer, Block, Completion, CompletionSink, Info, Op, Request};
use rekindle_io::{Error, Kind, Result};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// How the device answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// At once.
    Now,
    /// Every request from another thread, in an order of its own.
    Late,
    /// Every second request late.
    Mixed,
    /// Late, and not before `release`.
    Stalled,
    /// At once, with this error.
    Failing(Kind),
    /// At once, with an error for everything that reaches this offset.
    FailingFrom(u64),
    /// A bug in a device.
    Panicking,
}

/// A device in memory.
pub struct Disk {
    pub info: Info,
    pub bytes: Mutex<Vec<u8>>,
    manner: Mutex<Manner>,
    released: Mutex<bool>,
    release: Condvar,
    turn: AtomicUsize,
    /// Requests the device was given.
    pub seen: AtomicU64,
    /// Late writes dropped because their client was gone.
    pub dropped: AtomicU64,
    pub fua: AtomicU64,
    pub flushes: AtomicU64,
    pub trims: AtomicU64,
    pub caches: AtomicU64,
    pub zeroes: Mutex<Vec<(u64, u64, bool, bool)>>,
    pub slow_zero: AtomicBool,
    /// Requests outside the contract of the port, which the server must never let through.
    pub violations: AtomicU64,
    me: std::sync::Weak<Disk>,
}

pub const BLOCK: u32 = 512;

impl Disk {
    pub fn new(size: u64) -> Arc<Disk> {
        Self::with(size, |_| {})
    }
    pub fn with(size: u64, change: impl FnOnce(&mut Info)) -> Arc<Disk> {
        let mut info = Info {
            size,
            logical_block: BLOCK,
            physical_block: 4096,
            read_only: false,
            rotational: false,
            trim: true,
            fast_zero: true,
        };
        change(&mut info);
        Arc::new_cyclic(|me| Disk {
            info,
            bytes: Mutex::new(vec![0; size as usize]),
            manner: Mutex::new(Manner::Now),
            released: Mutex::new(false),
            release: Condvar::new(),
            turn: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            fua: AtomicU64::new(0),
            flushes: AtomicU64::new(0),
            trims: AtomicU64::new(0),
            caches: AtomicU64::new(0),
            zeroes: Mutex::default(),
            slow_zero: AtomicBool::new(false),
            violations: AtomicU64::new(0),
            me: me.clone(),
        })
    }
    pub fn manner(&self, m: Manner) {
        *self.manner.lock().unwrap() = m;
    }
    /// Lets stalled requests go.
    pub fn release(&self) {
        *self.released.lock().unwrap() = true;
        self.release.notify_all();
    }
    /// Bytes that tell their own place.
    pub fn fill_pattern(&self) {
        for (i, b) in self.bytes.lock().unwrap().iter_mut().enumerate() {
            *b = pattern(i as u64);
        }
    }
    fn apply(&self, offset: u64, op: &mut Op<'_>) -> Result<()> {
        let at = offset as usize;
        let mut bytes = self.bytes.lock().unwrap();
        let fua = matches!(
            op,
            Op::Write { fua: true, .. } | Op::Zero { fua: true, .. } | Op::Trim { fua: true, .. }
        );
        self.fua.fetch_add(u64::from(fua), Ordering::Relaxed);
        match op {
            Op::Read(buf) => buf.copy_from_slice(&bytes[at..at + buf.len()]),
            Op::Write { data, .. } => bytes[at..at + data.len()].copy_from_slice(data),
            Op::Zero { len, no_hole, fast, .. } => {
                self.zeroes.lock().unwrap().push((offset, *len, *no_hole, *fast));
                if *fast && self.slow_zero.load(Ordering::Relaxed) {
                    return Err(Error::new(Kind::Unsupported, "would be slow"));
                }
                bytes[at..at + *len as usize].fill(0);
            }
            Op::Trim { len, .. } => {
                self.trims.fetch_add(1, Ordering::Relaxed);
                bytes[at..at + *len as usize].fill(0);
            }
            Op::Flush => drop(self.flushes.fetch_add(1, Ordering::Relaxed)),
            Op::Cache { .. } => drop(self.caches.fetch_add(1, Ordering::Relaxed)),
        }
        Ok(())
    }
    fn later(&self, r: &Request<'_>, sink: &Arc<dyn CompletionSink>) {
        let me = self.me.upgrade().unwrap();
        let (token, offset, sink) = (r.token, r.offset, Arc::clone(sink));
        let stalled = *self.manner.lock().unwrap() == Manner::Stalled;
        let mut own = OwnedOp::of(&r.op);
        std::thread::spawn(move || {
            if stalled {
                let mut released = me.released.lock().unwrap();
                while !*released {
                    released = me.release.wait(released).unwrap();
                }
            } else {
                std::thread::sleep(Duration::from_micros(token * 7919 % 500));
            }
            if sink.abandoned() {
                me.dropped.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let result = me.apply(offset, &mut own.op()).map(|()| own.bytes_of_read());
            sink.complete(Completion { token, result });
        });
    }
}

enum OwnedOp {
    Read(Vec<u8>),
    Write(Vec<u8>, bool),
    Zero(u64, bool, bool, bool),
    Trim(u64, bool),
    Flush,
    Cache(u64),
}

impl OwnedOp {
    fn of(op: &Op<'_>) -> OwnedOp {
        match op {
            Op::Read(b) => OwnedOp::Read(vec![0; b.len()]),
            Op::Write { data, fua } => OwnedOp::Write(data.to_vec(), *fua),
            Op::Zero { len, fua, no_hole, fast } => OwnedOp::Zero(*len, *fua, *no_hole, *fast),
            Op::Trim { len, fua } => OwnedOp::Trim(*len, *fua),
            Op::Flush => OwnedOp::Flush,
            Op::Cache { len } => OwnedOp::Cache(*len),
        }
    }
    fn op(&mut self) -> Op<'_> {
        match self {
            OwnedOp::Read(b) => Op::Read(b),
            OwnedOp::Write(data, fua) => Op::Write { data, fua: *fua },
            OwnedOp::Zero(len, fua, no_hole, fast) => {
                Op::Zero { len: *len, fua: *fua, no_hole: *no_hole, fast: *fast }
            }
            OwnedOp::Trim(len, fua) => Op::Trim { len: *len, fua: *fua },
            OwnedOp::Flush => Op::Flush,
            OwnedOp::Cache(len) => Op::Cache { len: *len },
        }
    }
    fn bytes_of_read(&mut self) -> Vec<u8> {
        if let OwnedOp::Read(b) = self { std::mem::take(b) } else { Vec::new() }
    }
}

pub fn pattern(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

impl Block for Disk {
    fn info(&self) -> Info {
        self.info
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        let manner = *self.manner.lock().unwrap();
        for r in batch {
            self.seen.fetch_add(1, Ordering::Relaxed);
            let range = r.range();
            let block = u64::from(self.info.logical_block);
            let inside = range.start.checked_add(range.len).is_some_and(|end| end <= self.info.size);
            let writes = matches!(r.op, Op::Write { .. } | Op::Zero { .. } | Op::Trim { .. });
            if !inside || (range.start | range.len) % block != 0 || (writes && self.info.read_only) {
                self.violations.fetch_add(1, Ordering::Relaxed);
                answers.push(Answer::Done(Err(Error::new(Kind::Invalid, "outside the contract"))));
                continue;
            }
            let late = match manner {
                Manner::FailingFrom(at) if range.end() > at => {
                    answers.push(Answer::Done(Err(Error::new(Kind::Failed, "failing on purpose"))));
                    continue;
                }
                Manner::Now | Manner::FailingFrom(_) => false,
                Manner::Late | Manner::Stalled => true,
                Manner::Mixed => self.turn.fetch_add(1, Ordering::Relaxed) % 2 == 1,
                Manner::Panicking => panic!("on purpose"),
                Manner::Failing(kind) => {
                    answers.push(Answer::Done(Err(Error::new(kind, "failing on purpose"))));
                    continue;
                }
            };
            if late {
                self.later(r, sink);
                answers.push(Answer::Later);
            } else {
                let done = self.apply(r.offset, &mut r.op);
                answers.push(Answer::Done(done));
            }
        }
    }
    /// Runs of zeros in 4 KiB blocks are holes.
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        let bytes = self.bytes.lock().unwrap();
        let mut at = range.start;
        while at < range.end() {
            let end = ((at / 4096 + 1) * 4096).min(range.end());
            let zero = bytes[at as usize..end as usize].iter().all(|b| *b == 0);
            out.push(Allocation { range: ByteRange::new(at, end - at), hole: zero, zero });
            at = end;
        }
        Ok(())
    }
}

/// A server with one export, `disk`, on a Unix socket in a directory of its own.
pub struct World {
    pub dir: tempfile::TempDir,
    pub server: Server,
    pub at: Listen,
}

pub fn world(disk: &Arc<Disk>) -> World {
    world_with(disk, |_| {})
}

pub fn world_with(disk: &Arc<Disk>, change: impl FnOnce(&mut ServerOptions)) -> World {
    let dir = tempfile::tempdir().unwrap();
    let at = Listen::Unix(dir.path().join("nbd.sock"));
    let mut options = ServerOptions { listen: vec![at.clone()], ..Default::default() };
    change(&mut options);
    let server = Server::start(options).unwrap();
    server.add(export("disk", disk)).unwrap();
    let at = server.addresses()[0].clone();
    World { dir, server, at }
}

pub fn export(name: &str, disk: &Arc<Disk>) -> ExportSpec {
    ExportSpec {
        name: name.into(),
        description: format!("the {name} of a test"),
        device: disk.clone(),
        is_default: true,
    }
}

impl World {
    pub fn client(&self, mode: Mode) -> Client {
        self.client_of("disk", mode)
    }
    pub fn client_of(&self, name: &str, mode: Mode) -> Client {
        let options = ClientOptions { export: name.into(), mode, ..Default::default() };
        let c = Client::connect(&self.at, &options).unwrap();
        assert_eq!(c.granted().mode, mode);
        c
    }
    pub fn uri(&self) -> String {
        self.at.uri("disk")
    }
    pub fn socket(&self) -> std::path::PathBuf {
        match &self.at {
            Listen::Unix(p) => p.clone(),
            Listen::Tcp(_) => panic!("a TCP world has no socket file"),
        }
    }
}

/// Waits until `what` holds; panics after ten seconds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("did not happen: {what}");
}

/// Whether a tool is there. A missing one fails the test, unless the environment says that it is skipped, aloud.
pub fn have(tool: &str, package: &str) -> bool {
    let found =
        std::env::var_os("PATH").is_some_and(|p| std::env::split_paths(&p).any(|d| d.join(tool).is_file()));
    if found {
        return true;
    }
    let skip = std::env::var("REKINDLE_TESTS_SKIP_MISSING").is_ok_and(|v| v == "1");
    assert!(skip, "{tool} is missing: install the package {package}, or set REKINDLE_TESTS_SKIP_MISSING=1");
    eprintln!("SKIPPED: {tool} (package {package}) is not installed");
    false
}

/// Runs a program to its end within a minute; returns its output, panics when it fails.
pub fn run(command: &mut Command) -> String {
    let text = format!("{command:?}");
    let out = Command::new("timeout").arg("60").arg(command.get_program()).args(command.get_args()).output();
    let out = out.unwrap_or_else(|e| panic!("{text}: {e}"));
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{text}: {}\n{said}\n{}", out.status, String::from_utf8_lossy(&out.stderr));
    said
}
