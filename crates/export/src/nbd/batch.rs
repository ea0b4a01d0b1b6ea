//! Up to eight requests at a time: parsed, submitted as one batch, answered in one send.
//!
//! Reads are filled straight into the buffer they are sent from, writes are borrowed from the receive buffer. Nothing
//! is allocated per request once the buffers have grown. Eight replies or 64 KiB a send was measured: every reply
//! alone 221 k a second, every four 253 k, every eight 370 k, all of a 256 KiB receive at once 284 k.

use super::late::{Link, Pending, errno};
use rekindle_core::nbd::reply::{self, ReadPiece};
use rekindle_core::nbd::{Broken, Command, Descriptors, Errno, RawRequest, Terms};
use rekindle_core::volume::ByteRange;
use rekindle_io::block::{Allocation, Answer, Block, CompletionSink, Op, Request};
use std::io::IoSlice;
use std::ops::Range;
use std::sync::Arc;

/// Replies a send.
const REPLIES: usize = 8;
/// Bytes of read data a send, unless one read alone is longer.
const REPLY_BYTES: usize = 64 << 10;
/// The longest read that is answered whole: a simple reply cannot take back a success it announced, and guests' block
/// layers ask for up to 4 MiB at once.
const WHOLE_READ: u64 = 4 << 20;
/// A buffer longer than this is given back after use.
const KEEP: usize = 1 << 20;

/// Why collecting stopped.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// So many bytes are needed, counted from where collecting stopped.
    Need(usize),
    /// The batch is full.
    Full,
    /// A request too long for a batch: its head was consumed, its payload was not.
    Large(RawRequest, Result<Command, Errno>),
    /// The client says goodbye.
    Disconnect,
}

#[derive(Debug)]
struct Slot {
    raw: RawRequest,
    what: Result<Command, Errno>,
    /// Where in the input the payload lies.
    payload: Range<usize>,
    submitted: bool,
}

#[derive(Debug, Clone)]
enum Place {
    /// Reads: head and data.
    Gather(Range<usize>),
    /// Everything else.
    Small(Range<usize>),
}

/// The buffers of one connection's batches.
pub(super) struct Batch {
    slots: Vec<Slot>,
    requests: Vec<Request<'static>>,
    answers: Vec<Answer>,
    gather: Vec<u8>,
    small: Vec<u8>,
    places: Vec<Place>,
    late: Vec<(u64, Pending)>,
    allocations: Vec<Allocation>,
    token: u64,
}

impl Batch {
    pub(super) fn new() -> Self {
        Batch {
            slots: Vec::with_capacity(REPLIES),
            requests: Vec::with_capacity(REPLIES),
            answers: Vec::with_capacity(REPLIES),
            gather: vec![0; REPLY_BYTES + REPLIES * 64],
            small: Vec::with_capacity(4096),
            places: Vec::with_capacity(REPLIES),
            late: Vec::with_capacity(REPLIES),
            allocations: Vec::new(),
            token: 0,
        }
    }
    /// A token no other request of this connection has.
    pub(super) fn token(&mut self) -> u64 {
        self.token += 1;
        self.token
    }
    pub(super) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// Takes whole requests off the front of `input`; returns how many bytes they are. `closing` refuses them all.
    pub(super) fn collect(
        &mut self,
        input: &[u8],
        terms: &Terms,
        closing: bool,
    ) -> Result<(usize, Next), Broken> {
        self.slots.clear();
        let (mut at, mut data) = (0, 0);
        let head_len = terms.mode.request_len();
        while self.slots.len() < REPLIES {
            let Some(raw) = RawRequest::decode(&input[at..], terms.mode)? else {
                return Ok((at, Next::Need(head_len)));
            };
            let what = if closing { Err(Errno::Shutdown) } else { terms.check(&raw) };
            if raw.kind == rekindle_core::nbd::wire::CMD_DISC {
                return Ok(if self.is_empty() {
                    (at + head_len, Next::Disconnect)
                } else {
                    (at, Next::Full)
                });
            }
            let payload = raw.payload_len(terms.mode);
            let reads = if what == Ok(Command::Read) { raw.len } else { 0 };
            if payload > super::input::PIECE as u64 || reads > WHOLE_READ {
                return Ok(if self.is_empty() {
                    (at + head_len, Next::Large(raw, what))
                } else {
                    (at, Next::Full)
                });
            }
            let body = at + head_len;
            let end = body + payload as usize;
            if end > input.len() {
                return Ok((at, Next::Need(end - at)));
            }
            data += reads as usize;
            if data > REPLY_BYTES && !self.is_empty() {
                return Ok((at, Next::Full));
            }
            self.slots.push(Slot { raw, what, payload: body..end, submitted: false });
            at = end;
        }
        Ok((at, Next::Full))
    }
    /// Carries out what was collected from `input` and sends the answers; false when the client is gone.
    pub(super) fn serve(
        &mut self,
        input: &[u8],
        terms: &Terms,
        device: &dyn Block,
        link: &Arc<Link>,
        sink: &Arc<dyn CompletionSink>,
    ) -> bool {
        let first = self.submit(input, terms, device, sink);
        self.small.clear();
        self.places.clear();
        self.late.clear();
        self.encode(first, terms, device);
        if !self.late.is_empty() {
            link.register(terms.mode, &self.late);
        }
        let sent = self.send(link);
        if self.gather.len() > KEEP {
            self.gather = vec![0; REPLY_BYTES + REPLIES * 64];
        }
        sent
    }
    /// Submits all slots that ask the device something; returns the token of the first.
    fn submit(
        &mut self,
        input: &[u8],
        terms: &Terms,
        device: &dyn Block,
        sink: &Arc<dyn CompletionSink>,
    ) -> u64 {
        let want: usize = self.slots.iter().map(|s| s.gather_len(terms)).sum();
        if self.gather.len() < want {
            self.gather.resize(want, 0);
        }
        let first = self.token + 1;
        let mut requests = recycle(std::mem::take(&mut self.requests));
        let mut rest = &mut self.gather[..];
        for slot in &mut self.slots {
            let (here, after) = rest.split_at_mut(slot.gather_len(terms));
            rest = after;
            if let Some(op) = slot.op(input, here, terms) {
                slot.submitted = true;
                self.token += 1;
                // A flush has no place, whatever its client wrote there.
                let offset = if matches!(op, Op::Flush) { 0 } else { slot.raw.offset };
                requests.push(Request { token: self.token, offset, op });
            }
        }
        self.answers.clear();
        if !requests.is_empty() {
            device.submit(&mut requests, &mut self.answers, sink);
            assert_eq!(requests.len(), self.answers.len(), "a device answers every request of a batch");
        }
        self.requests = recycle(requests);
        first
    }
    fn encode(&mut self, first: u64, terms: &Terms, device: &dyn Block) {
        let mut answers = std::mem::take(&mut self.answers);
        let mut token = first;
        let mut at = 0;
        {
            let mut next = answers.drain(..);
            for i in 0..self.slots.len() {
                let slot = &self.slots[i];
                let room = at..at + slot.gather_len(terms);
                at = room.end;
                let answer = if slot.submitted { next.next() } else { None };
                token += u64::from(slot.submitted);
                self.encode_one(i, room, answer, token - 1, terms, device);
            }
        }
        self.answers = answers;
    }
    fn encode_one(
        &mut self,
        slot: usize,
        room: Range<usize>,
        answer: Option<Answer>,
        token: u64,
        terms: &Terms,
        device: &dyn Block,
    ) {
        let Slot { raw, what, .. } = &self.slots[slot];
        let (raw, what, mode) = (*raw, *what, terms.mode);
        let began = self.small.len();
        match (what, answer) {
            (Err(e), _) => reply::put_error(mode, &mut self.small, raw.cookie, raw.offset, e, why(e)),
            (Ok(command), Some(Answer::Later)) => {
                self.late.push((token, Pending::of(&raw, command)));
                return;
            }
            (Ok(command), Some(Answer::Done(Err(e)))) => {
                let number = errno(e.kind, is_fast(command));
                tracing::debug!("{command:?} at {}+{}: {e}", raw.offset, raw.len);
                reply::put_error(mode, &mut self.small, raw.cookie, raw.offset, number, &e.what);
            }
            (Ok(Command::Read), _) => {
                let head = room.start..room.end - raw.len as usize;
                reply::put_read_head(mode, &mut self.gather[head], ReadPiece::whole(&raw));
                self.place(Place::Gather(room));
                return;
            }
            (Ok(Command::BlockStatus { one }), _) => self.status(&raw, one, terms, device),
            (Ok(_), _) => reply::put_done(mode, &mut self.small, raw.cookie, raw.offset),
        }
        self.place(Place::Small(began..self.small.len()));
    }
    fn status(&mut self, raw: &RawRequest, one: bool, terms: &Terms, device: &dyn Block) {
        let range = ByteRange::new(raw.offset, raw.len);
        let max = if one { 1 } else { terms.limits.descriptors_max };
        let mut runs = Descriptors::new(range, terms.block, max);
        self.allocations.clear();
        if let Err(e) = device.allocation(range, &mut self.allocations) {
            let number = errno(e.kind, false);
            return reply::put_error(terms.mode, &mut self.small, raw.cookie, raw.offset, number, &e.what);
        }
        for a in &self.allocations {
            if !runs.push(a.range.end(), a.hole, a.zero) {
                break;
            }
        }
        reply::put_status(terms.mode, &mut self.small, raw.cookie, raw.offset, &runs.finish());
    }
    /// Notes a reply, joined to the one before when they are neighbours in one buffer.
    fn place(&mut self, place: Place) {
        match (self.places.last_mut(), &place) {
            (Some(Place::Gather(a)), Place::Gather(b)) | (Some(Place::Small(a)), Place::Small(b))
                if a.end == b.start =>
            {
                a.end = b.end;
            }
            _ => self.places.push(place),
        }
    }
    fn send(&self, link: &Link) -> bool {
        let mut parts = [IoSlice::new(&[]); REPLIES];
        for (part, place) in parts.iter_mut().zip(&self.places) {
            *part = IoSlice::new(match place {
                Place::Gather(r) => &self.gather[r.clone()],
                Place::Small(r) => &self.small[r.clone()],
            });
        }
        link.send(&mut parts[..self.places.len()])
    }
}

impl Slot {
    /// Bytes of the gather buffer that are this slot's: head and data of a read.
    fn gather_len(&self, terms: &Terms) -> usize {
        if self.what == Ok(Command::Read) {
            reply::read_head_len(terms.mode, self.raw.len) + self.raw.len as usize
        } else {
            0
        }
    }
    /// What the device is asked, if anything.
    fn op<'a>(&self, input: &'a [u8], gather: &'a mut [u8], terms: &Terms) -> Option<Op<'a>> {
        let len = self.raw.len;
        match self.what {
            Ok(Command::Flush) => Some(Op::Flush),
            _ if len == 0 => None,
            Ok(Command::Read) => Some(Op::Read(&mut gather[reply::read_head_len(terms.mode, len)..])),
            Ok(Command::Write { fua }) => Some(Op::Write { data: &input[self.payload.clone()], fua }),
            Ok(Command::Trim { fua }) => Some(Op::Trim { len, fua }),
            Ok(Command::Cache) => Some(Op::Cache { len }),
            Ok(Command::Zero { fua, no_hole, fast }) => Some(Op::Zero { len, fua, no_hole, fast }),
            Ok(Command::BlockStatus { .. } | Command::Disconnect) | Err(_) => None,
        }
    }
}

impl Pending {
    pub(super) fn of(raw: &RawRequest, command: Command) -> Self {
        let bytes = if matches!(command, Command::Read | Command::Write { .. }) { raw.len } else { 0 };
        Pending {
            cookie: raw.cookie,
            offset: raw.offset,
            bytes,
            read: command == Command::Read,
            fast_zero: is_fast(command),
        }
    }
}

pub(super) fn is_fast(command: Command) -> bool {
    matches!(command, Command::Zero { fast: true, .. })
}

/// The sentence that goes with a refusal.
pub(super) fn why(e: Errno) -> &'static str {
    match e {
        Errno::Perm => "the export is read-only",
        Errno::NoSpace => "beyond the end of the export",
        Errno::Overflow => "too long to be answered like that",
        Errno::Shutdown => "the export is going away",
        _ => "wrong range, alignment, flag or command",
    }
}

/// An empty vector with the memory of another whose items borrowed something else. Collecting in place keeps the
/// allocation; the closure never runs.
fn recycle<'b>(mut v: Vec<Request<'_>>) -> Vec<Request<'b>> {
    v.clear();
    v.into_iter().map(|_| unreachable!("the vector is empty")).collect()
}
