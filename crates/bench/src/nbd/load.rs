//! The pipelined load generator: one thread, any number of connections, each kept at its depth. Replies are received up
//! to 1 MiB at a time; the requests that replace the finished ones leave in one write. What a reply carries is skipped,
//! not looked at: this measures the server.

use super::wire::{self, Command, Connection, Target};
use crate::stats::Percentiles;
use crate::{Result, fail};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

const RECEIVE_BYTES: usize = 1 << 20;

/// Where requests go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pattern {
    /// Uniform over the span, aligned to the block.
    Random,
    /// One after another, wrapping; each connection has its own part of the span.
    Sequential,
}

/// A load to apply.
#[derive(Clone, Debug)]
pub struct Load {
    /// Bytes of a request.
    pub block: u32,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Connections.
    pub connections: usize,
    /// Share of reads, 0 to 100; the rest are writes.
    pub read_percent: u32,
    /// After so many writes of a connection one FLUSH; 0: never.
    pub flush_every: u32,
    /// Where.
    pub pattern: Pattern,
    /// Use only the first so many bytes; 0: all.
    pub span: u64,
    /// For how long.
    pub time: Duration,
    /// First state of the random sequence.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Requests answered.
    pub operations: u64,
    /// Wall time from the first request to the last counted answer, seconds.
    pub seconds: f64,
    /// Latency of reads and writes, microseconds.
    pub latency: Percentiles,
    /// Latency of flushes, microseconds; empty without flushes.
    pub flush: Percentiles,
}

impl Outcome {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.operations as f64 / self.seconds
    }
}

/// xorshift64*: the same sequence on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next value.
    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Uniform below `n`.
    pub const fn below(&mut self, n: u64) -> u64 {
        ((self.next() as u128 * n as u128) >> 64) as u64
    }

    /// Uniform in [0, 1).
    pub const fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// What is known of a request in flight, by its slot.
#[derive(Clone, Copy)]
struct Slot {
    command: Command,
    sent: Instant,
}

/// One connection of the load.
struct Lane {
    connection: Connection,
    random: Random,
    slots: Vec<Slot>,
    out: Vec<u8>,
    out_sent: usize,
    received: Vec<u8>,
    filled: usize,
    /// Payload bytes of a reply still to be skipped.
    skip: usize,
    next: u64,
    first: u64,
    span: u64,
    writes: u32,
}

/// Payload of all writes: incompressible enough, and never looked at.
fn payload() -> Vec<u8> {
    let mut random = Random::new(7);
    (0..(2usize << 20) / 8).flat_map(|_| random.next().to_le_bytes()).collect()
}

impl Lane {
    fn open(target: &Target, load: &Load, index: usize) -> Result<Self> {
        let connection = Connection::open(target)?;
        connection.stream.set_nonblocking(true)?;
        let whole = if load.span == 0 { connection.size } else { load.span.min(connection.size) };
        let (first, span) = match load.pattern {
            Pattern::Random => (0, whole),
            Pattern::Sequential => {
                let part = whole / load.connections as u64;
                (part * index as u64, part)
            }
        };
        let block = u64::from(load.block);
        let (first, span) = (first / block * block, span / block * block);
        if span == 0 {
            return fail("the export is smaller than one request");
        }
        let idle = Slot { command: Command::Read, sent: Instant::now() };
        Ok(Lane {
            connection,
            random: Random::new(load.seed + index as u64),
            slots: vec![idle; load.depth],
            out: Vec::new(),
            out_sent: 0,
            received: vec![0; RECEIVE_BYTES],
            filled: 0,
            skip: 0,
            next: 0,
            first,
            span,
            writes: 0,
        })
    }

    /// Appends the request that takes `slot` next.
    fn refill(&mut self, slot: usize, load: &Load, payload: &[u8], now: Instant) {
        let block = u64::from(load.block);
        let command = if load.flush_every > 0 && self.writes >= load.flush_every {
            self.writes = 0;
            Command::Flush
        } else if load.read_percent >= 100 || self.random.below(100) < u64::from(load.read_percent) {
            Command::Read
        } else {
            self.writes += 1;
            Command::Write
        };
        self.slots[slot] = Slot { command, sent: now };
        if command == Command::Flush {
            return wire::put_request(&mut self.out, command, false, slot as u64, 0, 0);
        }
        let place = match load.pattern {
            Pattern::Random => self.random.below(self.span / block) * block,
            Pattern::Sequential => self.next,
        };
        self.next = (self.next + block) % self.span;
        wire::put_request(&mut self.out, command, false, slot as u64, self.first + place, load.block);
        if command == Command::Write {
            let at = self.random.below((payload.len() - load.block as usize) as u64) as usize;
            self.out.extend_from_slice(&payload[at..at + load.block as usize]);
        }
    }

    /// Takes what is still owed and says good-bye.
    fn leave(self) -> Result<()> {
        self.connection.stream.set_nonblocking(false)?;
        std::io::copy(&mut (&self.connection.stream).take(self.skip as u64), &mut std::io::sink())?;
        self.connection.disconnect()
    }

    fn send(&mut self) -> Result<()> {
        while self.out_sent < self.out.len() {
            match self.connection.stream.write(&self.out[self.out_sent..]) {
                Ok(n) => self.out_sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        self.out.clear();
        self.out_sent = 0;
        Ok(())
    }

    /// Receives once and pushes the slots that finished; false when nothing was there.
    fn receive(&mut self, load: &Load, finished: &mut Vec<usize>) -> Result<bool> {
        match self.connection.stream.read(&mut self.received[self.filled..]) {
            Ok(0) => return fail("the server closed the connection"),
            Ok(n) => self.filled += n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        }
        let mut at = 0;
        loop {
            let skipped = self.skip.min(self.filled - at);
            at += skipped;
            self.skip -= skipped;
            let rest = &self.received[at..self.filled];
            match reply(rest, load.block as usize, &self.slots)? {
                None => break,
                Some(Reply { header, payload, slot }) => {
                    at += header;
                    self.skip = payload;
                    finished.extend(slot);
                }
            }
        }
        self.received.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(true)
    }
}

struct Reply {
    header: usize,
    payload: usize,
    /// Set when this reply (or the last chunk of it) finishes the request. Its payload may still be on the way.
    slot: Option<usize>,
}

/// Looks at the front of `bytes`; `None`: not a whole header yet.
fn reply(bytes: &[u8], block: usize, slots: &[Slot]) -> Result<Option<Reply>> {
    let Some(magic) = bytes.get(..4) else { return Ok(None) };
    let structured = match u32::from_be_bytes(magic.try_into()?) {
        wire::SIMPLE_REPLY => false,
        wire::STRUCTURED_REPLY => true,
        other => return fail(format!("a reply with magic {other:#x}")),
    };
    let header = if structured { 20 } else { 16 };
    let Some(bytes) = bytes.get(..header) else { return Ok(None) };
    let slot = usize::try_from(u64::from_be_bytes(bytes[8..16].try_into()?))?;
    let Some(known) = slots.get(slot) else { return fail("an answer that belongs to no request") };
    if !structured {
        let error = u32::from_be_bytes(bytes[4..8].try_into()?);
        if error != 0 {
            return fail(format!("{:?} failed with error {error}", known.command));
        }
        let payload = if known.command == Command::Read { block } else { 0 };
        return Ok(Some(Reply { header, payload, slot: Some(slot) }));
    }
    let done = bytes[5] & 1 == 1;
    if bytes[6] & 0x80 != 0 {
        return fail(format!("{:?} failed", known.command));
    }
    let payload = u32::from_be_bytes(bytes[16..20].try_into()?) as usize;
    Ok(Some(Reply { header, payload, slot: done.then_some(slot) }))
}

/// Applies `load` to `target`.
pub fn run(target: &Target, load: &Load) -> Result<Outcome> {
    let payload = payload();
    let mut lanes: Vec<Lane> =
        (0..load.connections).map(|i| Lane::open(target, load, i)).collect::<Result<_>>()?;
    let (mut latency, mut flush) = (Percentiles::new(), Percentiles::new());
    let began = Instant::now();
    for lane in &mut lanes {
        for slot in 0..load.depth {
            lane.refill(slot, load, &payload, began);
        }
        lane.send()?;
    }
    let mut operations = 0;
    let mut finished = Vec::new();
    let mut now = began;
    let mut in_flight = load.connections * load.depth;
    let mut seconds = 0.0;
    // When the time is over nothing is refilled; the rest is answered, uncounted: some servers abort on a client that
    // leaves with requests in flight.
    while in_flight > 0 {
        let counted = now.duration_since(began) < load.time;
        wait(&lanes)?;
        for lane in &mut lanes {
            finished.clear();
            lane.receive(load, &mut finished)?;
            now = Instant::now();
            if !counted {
                in_flight -= finished.len();
                lane.send()?;
                continue;
            }
            operations += finished.len() as u64;
            seconds = now.duration_since(began).as_secs_f64();
            for &slot in &finished {
                let Slot { command, sent } = lane.slots[slot];
                let into = if command == Command::Flush { &mut flush } else { &mut latency };
                into.add(now.duration_since(sent));
                lane.refill(slot, load, &payload, now);
            }
            lane.send()?;
        }
    }
    // A read's slot finishes with its header; its payload may still be on the way.
    lanes.into_iter().try_for_each(Lane::leave)?;
    Ok(Outcome { operations, seconds, latency, flush })
}

/// Until a lane can receive, or send what it still owes.
fn wait(lanes: &[Lane]) -> Result<()> {
    let mut fds: Vec<PollFd<'_>> = lanes
        .iter()
        .map(|lane| {
            let more = if lane.out.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            PollFd::new(&lane.connection.stream, PollFlags::IN | more)
        })
        .collect();
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    match poll(&mut fds, Some(&limit))? {
        0 => fail("no answer for 10 seconds"),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(command: Command) -> Vec<Slot> {
        vec![Slot { command, sent: Instant::now() }; 4]
    }

    fn simple(error: u32, handle: u64) -> Vec<u8> {
        let mut b = wire::SIMPLE_REPLY.to_be_bytes().to_vec();
        b.extend_from_slice(&error.to_be_bytes());
        b.extend_from_slice(&handle.to_be_bytes());
        b
    }

    #[test]
    fn a_cut_header_waits_for_more() {
        let whole = simple(0, 2);
        for cut in 0..16 {
            assert!(reply(&whole[..cut], 4096, &slots(Command::Read)).unwrap().is_none());
        }
        let got = reply(&whole, 4096, &slots(Command::Read)).unwrap().unwrap();
        assert_eq!((got.header, got.payload, got.slot), (16, 4096, Some(2)));
        let got = reply(&whole, 4096, &slots(Command::Write)).unwrap().unwrap();
        assert_eq!(got.payload, 0);
    }

    #[test]
    fn errors_and_strangers_are_refused() {
        assert!(reply(&simple(5, 1), 4096, &slots(Command::Read)).is_err());
        assert!(reply(&simple(0, 9), 4096, &slots(Command::Read)).is_err());
        assert!(reply(&[0; 16], 4096, &slots(Command::Read)).is_err());
    }
}
