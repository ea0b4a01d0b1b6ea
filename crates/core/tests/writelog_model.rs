//! The rules of a restoring volume's write path, checked over all interleavings.
//!
//! An explicit-state model: one extent of two blocks, a few log slots, a few guest writes (a write's value is its
//! issue order), two writes in flight, one reader, mover, fill, hand-over; kill -9 (what was written survives) and
//! power cut (each unflushed log slot old, new or torn; each unflushed target block old or new; a presence page that
//! was being written torn). Every step is atomic and breadth-first search takes all orders of them.
//!
//! Checked in every state: a read returns the newest answered value or one in flight; what recovery shows is at least
//! what FLUSH (power cut) or an answer (kill -9) promised, was once issued, and is marked or in the log if it differs
//! from the moment; after the hand-over the target alone is the volume; a write that waits for log space can still
//! proceed. With all rules on there is no violation; each rule dropped alone gives one.

use std::collections::{HashMap, VecDeque};

/// What the write path promises to itself. Dropping one alone loses data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Rule {
    /// The mover moves only records that are durable in the log.
    Wal,
    /// Target flushed before the presence bit is durable.
    DataBit,
    /// Target flushed before a log record is freed.
    FlushFree,
    /// Presence bit durable before the records merged into that extent are freed.
    BitFree,
    /// Generation mark durable before the record that says so is freed.
    MarkFree,
    /// An absent extent is never moved in part: fetched and merged, or covered whole by the log.
    LocalOnly,
    /// Look at the state and write of one extent are one claim (the flush is outside it).
    Claim,
    /// A record is freed together with, or after, every older record of the same bytes.
    FreeOlder,
    /// A slot is reused only when the segment table without it is durable ...
    FreeDurable,
    /// ... and when every read that resolved to it has ended.
    Epoch,
    /// Freeing takes only index entries that still name the moved record.
    CasFree,
    /// Overlapping records enter the index in the order of their sequence.
    IndexOrder,
    /// A write is answered only when every record before it is whole.
    NoHole,
    /// Records behind the cut of a recovery are void for good.
    Incarnation,
    /// A read asks the log first, then the state.
    LogFirst,
    /// Hand-over only with nothing in flight, log empty, target flushed.
    Drain,
    /// Hand-over (log void) durable before the first direct write.
    HandoverFirst,
    /// A record copied forward keeps its sequence; replay goes by sequence, not by place.
    KeepSeq,
    /// Only a record below the flushed mark is copied forward.
    CopyFlushed,
    /// A presence page is never written over its only durable copy (two slots a page).
    TwoSlot,
    /// An extent that the log made zero as a whole is zeros wherever only part of it is written later.
    ZeroWhole,
    /// The presence bits made durable are those of before the target flush, not those of when the page is written.
    BitsBefore,
    /// Snapshot of the bits, target flush and page write are one critical section: fill's and mover's never interleave.
    OneCommitter,
    /// A record hidden by a newer one is freed only when that newer one is durable in the log, or moved.
    HiddenDurable,
}
use Rule::*;
const RULES: [Rule; 24] = [
    Wal,
    DataBit,
    FlushFree,
    BitFree,
    MarkFree,
    LocalOnly,
    Claim,
    FreeOlder,
    FreeDurable,
    Epoch,
    CasFree,
    IndexOrder,
    NoHole,
    Incarnation,
    LogFirst,
    Drain,
    HandoverFirst,
    KeepSeq,
    CopyFlushed,
    TwoSlot,
    ZeroWhole,
    BitsBefore,
    OneCommitter,
    HiddenDurable,
];

const SLOTS: usize = 3;
const NONE: i8 = -1;

/// A record: sequence, blocks it covers (bit mask; a trim covers both), value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Rec {
    seq: u8,
    blocks: u8,
    value: i8,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Entry {
    slot: u8,
    seq: u8,
    value: i8,
}
/// Presence of the extent. `Zero(v)`: zeros since write v, the target not yet written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum St {
    Absent,
    Zero(i8),
    Local,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Flight {
    rec: Rec,
    slot: u8,
    written: bool,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Src {
    Target,
    Holder,
    Zeros(i8),
    Slot(u8),
    /// Resolved past the log; the state is asked next.
    AskState,
    /// (LogFirst off) the state was asked first; the log is asked next, else this.
    AskLog(bool, i8),
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Read {
    block: u8,
    floor: i8,
    src: Src,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fill {
    Idle,
    Fetching,
    /// (Claim off) looked at the state, about to write.
    Looked,
    Written,
    Flushed,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum MoverPc {
    Idle,
    Wrote,
    Flushed,
    Marked,
}
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Mode {
    Restoring,
    HandingOver,
    Direct,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    /// Log slots in the page cache and on the medium.
    log: [Option<Rec>; SLOTS],
    log_durable: [Option<Rec>; SLOTS],
    /// Freed sequences, in memory and in the durable segment table.
    freed: u32,
    freed_durable: u32,
    target: [i8; 2],
    target_durable: [i8; 2],
    state: St,
    state_durable: St,
    /// What mover and fill read of it before their flush.
    bits: [St; 2],
    /// The presence page is being rewritten (for any extent of it).
    page_write: bool,
    mark: bool,
    mark_durable: bool,
    index: [Option<Entry>; 2],
    fill: Fill,
    mover: MoverPc,
    moving: [Option<(u8, i8)>; 2],
    read: Option<Read>,
    flight: [Option<Flight>; 2],
    writes: u8,
    next_seq: u8,
    /// Newest answered, newest flushed, everything issued (bit mask), per block.
    answered: [i8; 2],
    flushed: [i8; 2],
    issued: [u16; 2],
    crashes: u8,
    mode: Mode,
    handed_over: bool,
}

#[derive(Clone, Copy)]
struct Bounds {
    slots: usize,
    writes: u8,
    crashes: u8,
    copy: bool,
    trim: bool,
}
const SMALL: Bounds = Bounds { slots: 2, writes: 2, crashes: 1, copy: false, trim: false };

struct Search {
    off: Option<Rule>,
    b: Bounds,
    out: Vec<(&'static str, World)>,
    bad: Option<String>,
}

impl World {
    fn start(b: Bounds) -> World {
        World {
            log: [None; SLOTS],
            log_durable: [None; SLOTS],
            freed: 0,
            freed_durable: 0,
            target: [NONE; 2],
            target_durable: [NONE; 2],
            state: St::Absent,
            state_durable: St::Absent,
            bits: [St::Absent; 2],
            page_write: false,
            mark: false,
            mark_durable: false,
            index: [None; 2],
            fill: Fill::Idle,
            mover: MoverPc::Idle,
            moving: [None; 2],
            read: None,
            flight: [None; 2],
            writes: 0,
            next_seq: 1,
            answered: [0; 2],
            flushed: [0; 2],
            issued: [1; 2],
            crashes: b.crashes,
            mode: Mode::Restoring,
            handed_over: false,
        }
    }
    fn in_flight(&self) -> impl Iterator<Item = Flight> + '_ {
        self.flight.iter().flatten().copied()
    }
}

fn has(mask: u32, seq: u8) -> bool {
    mask >> seq & 1 == 1
}
fn covers(rec: Rec, block: usize) -> bool {
    rec.blocks >> block & 1 == 1
}

impl Search {
    fn on(&self, r: Rule) -> bool {
        self.off != Some(r)
    }
    fn go(&mut self, name: &'static str, w: World) {
        self.out.push((name, w));
    }

    fn successors(&mut self, w: &World) {
        self.out.clear();
        self.bad = None;
        self.guest(w);
        self.reader(w);
        if w.mode != Mode::Direct {
            self.fill(w);
            self.mover(w);
            self.background(w);
        }
        self.handover(w);
        if w.crashes > 0 {
            self.crash(w);
        }
    }

    fn reusable(&self, w: &World, slot: usize) -> bool {
        if w.in_flight().any(|f| f.slot as usize == slot) {
            return false;
        }
        if let Some(r) = w.log[slot] {
            let free = if self.on(FreeDurable) { w.freed_durable } else { w.freed };
            if r.seq < w.next_seq && !has(free, r.seq) {
                return false;
            }
        }
        !(self.on(Epoch) && w.read.is_some_and(|r| r.src == Src::Slot(slot as u8)))
    }

    fn guest(&mut self, w: &World) {
        let free_flight = w.flight.iter().position(Option::is_none);
        if let (true, Some(k)) = (w.writes < self.b.writes, free_flight) {
            let kinds: &[u8] = if self.b.trim { &[1, 2, 3] } else { &[1, 2] };
            for &blocks in kinds {
                let value = w.writes as i8 + 1;
                let mut n = w.clone();
                n.writes += 1;
                for b in 0..2 {
                    if blocks >> b & 1 == 1 {
                        n.issued[b] |= 1 << value;
                    }
                }
                match w.mode {
                    Mode::Restoring => {
                        let Some(slot) = (0..self.b.slots).find(|&s| self.reusable(w, s)) else { continue };
                        let rec = Rec { seq: w.next_seq, blocks, value };
                        n.flight[k] = Some(Flight { rec, slot: slot as u8, written: false });
                        n.next_seq += 1;
                        self.go("reserve", n);
                    }
                    Mode::Direct => {
                        for b in 0..2 {
                            if blocks >> b & 1 == 1 {
                                n.target[b] = value;
                                n.answered[b] = value;
                            }
                        }
                        n.mark_durable = true;
                        self.go("direct write", n);
                    }
                    Mode::HandingOver => {}
                }
            }
        }
        for k in 0..2 {
            let Some(f) = w.flight[k] else { continue };
            let mut n = w.clone();
            if !f.written {
                n.log[f.slot as usize] = Some(f.rec);
                n.flight[k] = Some(Flight { written: true, ..f });
                self.go("record written", n);
                continue;
            }
            let waits = w.in_flight().any(|o| {
                o.rec.seq < f.rec.seq
                    && ((self.on(NoHole) && !o.written)
                        || (self.on(IndexOrder) && o.rec.blocks & f.rec.blocks != 0))
            });
            if waits {
                continue;
            }
            for b in 0..2 {
                if covers(f.rec, b) {
                    if n.index[b].is_none_or(|e| e.seq < f.rec.seq) {
                        n.index[b] = Some(Entry { slot: f.slot, seq: f.rec.seq, value: f.rec.value });
                    }
                    n.answered[b] = n.answered[b].max(f.rec.value);
                }
            }
            n.flight[k] = None;
            self.go("answered", n);
        }
        if w.flushed != w.answered {
            let mut n = w.clone();
            n.flushed = w.answered;
            if w.mode == Mode::Direct {
                n.target_durable = w.target;
            } else {
                n.log_durable = w.log;
            }
            self.go("FLUSH answered", n);
        }
    }

    fn reader(&mut self, w: &World) {
        let after_state = |w: &World| match w.state {
            St::Local => Src::Target,
            St::Zero(v) => Src::Zeros(v),
            St::Absent => Src::Holder,
        };
        let Some(r) = w.read else {
            for block in 0..2u8 {
                let src = match (w.mode, self.on(LogFirst), w.index[block as usize]) {
                    (Mode::Direct, ..) => Src::Target,
                    (_, true, Some(e)) => Src::Slot(e.slot),
                    (_, true, None) => Src::AskState,
                    (_, false, _) => match w.state {
                        St::Zero(v) => Src::AskLog(true, v),
                        s => Src::AskLog(s == St::Local, NONE),
                    },
                };
                let mut n = w.clone();
                n.read = Some(Read { block, floor: w.answered[block as usize], src });
                self.go("read begins", n);
            }
            return;
        };
        let b = r.block as usize;
        let mut n = w.clone();
        let value = match r.src {
            Src::AskState => {
                n.read = Some(Read { src: after_state(w), ..r });
                return self.go("read asks state", n);
            }
            Src::AskLog(local, zeros) => {
                let past = if zeros != NONE {
                    Src::Zeros(zeros)
                } else if local {
                    Src::Target
                } else {
                    Src::Holder
                };
                n.read = Some(Read { src: w.index[b].map_or(past, |e| Src::Slot(e.slot)), ..r });
                return self.go("read asks log", n);
            }
            Src::Holder => 0,
            Src::Zeros(v) => v,
            Src::Target => w.target[b],
            Src::Slot(s) => w.log[s as usize].filter(|x| covers(*x, b)).map_or(-9, |x| x.value),
        };
        if value < r.floor || value < 0 || w.issued[b] >> value & 1 == 0 {
            self.bad =
                Some(format!("a read of block {b} from {:?} gave {value}, promised {}", r.src, r.floor));
        }
        n.read = None;
        self.go("read ends", n);
    }

    fn fill(&mut self, w: &World) {
        let mut n = w.clone();
        let write = |n: &mut World| {
            n.target = match (n.state, self.off) {
                (St::Zero(v), r) if r != Some(Claim) => [v; 2],
                _ => [0; 2],
            };
            n.state = St::Local;
            n.fill = Fill::Written;
        };
        match w.fill {
            Fill::Idle => match w.state {
                St::Absent => {
                    n.fill = Fill::Fetching;
                    self.go("fetch begins", n);
                }
                // The zero mark becomes zeros on the medium under the same claim.
                St::Zero(_) => {
                    write(&mut n);
                    self.go("fill makes zeros", n);
                }
                St::Local => {}
            },
            Fill::Fetching if self.on(Claim) => {
                if w.state == St::Absent {
                    write(&mut n);
                    self.go("fill claims and writes", n);
                } else {
                    n.fill = Fill::Idle;
                    self.go("fetch dropped", n);
                }
            }
            Fill::Fetching => {
                n.fill = Fill::Looked;
                self.go("fill looks", n);
            }
            Fill::Looked => {
                write(&mut n);
                self.go("fill writes", n);
            }
            Fill::Written if self.on(OneCommitter) && w.mover == MoverPc::Flushed => {}
            Fill::Written if self.on(DataBit) => {
                n.fill = Fill::Flushed;
                n.bits[0] = w.state;
                n.target_durable = w.target;
                self.go("fill flushes target", n);
            }
            Fill::Written | Fill::Flushed => {
                let before = self.on(BitsBefore) && w.fill == Fill::Flushed;
                n.state_durable = if before { w.bits[0] } else { w.state };
                n.fill = Fill::Idle;
                n.bits[0] = St::Absent;
                self.go("bit durable", n);
            }
        }
    }

    fn mover(&mut self, w: &World) {
        let mut n = w.clone();
        match w.mover {
            MoverPc::Idle => self.mover_moves(w),
            MoverPc::Wrote if self.on(OneCommitter) && w.fill == Fill::Flushed => {}
            MoverPc::Wrote => {
                n.bits[1] = w.state;
                if self.on(FlushFree) {
                    n.target_durable = w.target;
                }
                n.mover = MoverPc::Flushed;
                self.go("mover flushes target", n);
            }
            MoverPc::Flushed => {
                let bits = if self.on(BitsBefore) { w.bits[1] } else { w.state };
                if self.on(BitFree) && bits != St::Absent {
                    n.state_durable = bits;
                }
                n.bits[1] = St::Absent;
                n.mark_durable |= self.on(MarkFree);
                n.mover = MoverPc::Marked;
                self.go("mover: bit and mark durable", n);
            }
            MoverPc::Marked => {
                for b in 0..2 {
                    let Some((seq, _)) = w.moving[b] else { continue };
                    if n.index[b].is_some_and(|e| e.seq == seq || !self.on(CasFree)) {
                        n.index[b] = None;
                    }
                }
                // A record of two blocks is freed only when none of them needs it: each moved with this pass, or
                // hidden by a newer record that is durable.
                let moved = |b: usize, seq: u8| w.moving[b].is_some_and(|m| m.0 == seq);
                let unneeded = |r: &Rec, b: usize| {
                    !covers(*r, b)
                        || moved(b, r.seq)
                        || w.moving[b].is_some_and(|m| m.0 > r.seq)
                        || n.index[b].is_none_or(|e| {
                            let slot = e.slot as usize;
                            let durable = w.log_durable[slot] == w.log[slot];
                            e.seq > r.seq && (durable || !self.on(HiddenDurable))
                        })
                };
                let passed = |r: &Rec| {
                    (0..2).any(|b| {
                        covers(*r, b)
                            && (moved(b, r.seq)
                                || self.on(FreeOlder) && w.moving[b].is_some_and(|m| m.0 > r.seq))
                    })
                };
                for r in w.log.iter().flatten() {
                    if passed(r) && (0..2).all(|b| unneeded(r, b)) {
                        n.freed |= 1 << r.seq;
                    }
                }
                n.moving = [None; 2];
                n.mover = MoverPc::Idle;
                n.mark = true;
                self.go("mover frees", n);
            }
        }
    }

    fn mover_moves(&mut self, w: &World) {
        let movable = |e: &Entry| !self.on(Wal) || w.log_durable[e.slot as usize] == w.log[e.slot as usize];
        let can: [Option<Entry>; 2] = [0, 1].map(|b| w.index[b].filter(&movable));
        if can == [None, None] {
            return;
        }
        let mut n = w.clone();
        n.moving = can.map(|e| e.map(|e| (e.seq, e.value)));
        n.mover = MoverPc::Wrote;
        // A trim of the whole extent moves as a mark: nothing is written to the target.
        if let [Some(a), Some(b)] = can
            && a.seq == b.seq
        {
            n.state = St::Zero(a.value);
            return self.go("mover marks zero", n);
        }
        let cover = can.iter().all(Option::is_some);
        match w.state {
            St::Absent if !cover && self.on(LocalOnly) => return,
            St::Zero(v) if self.on(ZeroWhole) => n.target = [v; 2],
            _ => {}
        }
        for (target, entry) in n.target.iter_mut().zip(can) {
            *target = entry.map_or(*target, |e| e.value);
        }
        if w.state != St::Absent || cover {
            n.state = St::Local;
        }
        self.go("mover writes", n);
    }

    fn background(&mut self, w: &World) {
        if w.freed != w.freed_durable {
            let mut n = w.clone();
            n.freed_durable = w.freed;
            self.go("segment table durable", n);
        }
        if w.freed == w.freed_durable && w.mark && !w.mark_durable {
            let mut n = w.clone();
            n.mark_durable = true;
            self.go("late mark durable", n);
        }
        if !self.on(BitFree) && w.state_durable != w.state && w.mover == MoverPc::Idle && w.fill == Fill::Idle
        {
            let mut n = w.clone();
            n.state_durable = w.state;
            self.go("late bit durable", n);
        }
        // Other extents of the page change: the page is rewritten with this extent's durable bits as they are.
        if self.off == Some(TwoSlot) && !w.page_write && w.state_durable != St::Absent {
            let mut n = w.clone();
            n.page_write = true;
            self.go("page rewrite begins", n);
        }
        if w.page_write {
            let mut n = w.clone();
            n.page_write = false;
            self.go("page rewrite durable", n);
        }
        if self.b.copy && w.mover == MoverPc::Idle {
            self.copy_forward(w);
        }
    }

    fn copy_forward(&mut self, w: &World) {
        for b in 0..2 {
            let Some(e) = w.index[b] else { continue };
            let from = e.slot as usize;
            // Reads that resolved to the old place have ended (Epoch): the model swaps the two slots in one step.
            if w.read.is_some_and(|r| r.src == Src::Slot(e.slot)) {
                continue;
            }
            if self.on(CopyFlushed) && w.log_durable[from] != w.log[from] {
                continue;
            }
            let Some(rec) = w.log[from].filter(|r| r.blocks != 3) else { continue };
            let Some(to) = (0..self.b.slots).find(|&s| s != from && self.reusable(w, s)) else { continue };
            let mut n = w.clone();
            if self.on(KeepSeq) {
                n.log[from] = w.log[to];
                n.log[to] = Some(rec);
                n.log_durable[to] = Some(rec);
                n.index[b] = Some(Entry { slot: to as u8, ..e });
            } else {
                let again = Rec { seq: w.next_seq, ..rec };
                n.log[to] = Some(again);
                n.log_durable[to] = Some(again);
                n.index[b] = Some(Entry { slot: to as u8, seq: again.seq, value: e.value });
                n.next_seq += 1;
                n.freed |= 1 << e.seq;
            }
            self.go("copy forward", n);
        }
    }

    fn handover(&mut self, w: &World) {
        if w.mode == Mode::HandingOver {
            let mut n = w.clone();
            n.mode = Mode::Direct;
            n.handed_over = self.on(HandoverFirst);
            return self.go("hand-over durable, direct", n);
        }
        if w.mode != Mode::Restoring || w.state != St::Local || w.state_durable != St::Local {
            return;
        }
        let live = w.log.iter().flatten().any(|r| r.seq < w.next_seq && !has(w.freed, r.seq));
        let idle = w.mover == MoverPc::Idle && w.fill == Fill::Idle && w.in_flight().next().is_none();
        if !self.on(Drain) || (idle && !live && w.target_durable == w.target) {
            let mut n = w.clone();
            n.mode = Mode::HandingOver;
            self.go("hand-over, memory", n);
        }
    }

    fn crash(&mut self, w: &World) {
        self.recover("KILL", w, w.log, w.target, w.state_durable, w.mark_durable, w.answered, false);
        for log in torn_logs(w, self.b.slots) {
            for k in 0..4 {
                let pick = |b: usize| if k >> b & 1 == 0 { w.target_durable[b] } else { w.target[b] };
                let target = [pick(0), pick(1)];
                self.recover("POWER", w, log, target, w.state_durable, w.mark_durable, w.flushed, true);
                if w.page_write {
                    self.recover("POWER, page torn", w, log, target, St::Absent, false, w.flushed, true);
                }
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of the medium as the crash left them")]
    fn recover(
        &mut self,
        name: &'static str,
        w: &World,
        log: [Option<Rec>; SLOTS],
        target: [i8; 2],
        state: St,
        mark: bool,
        floor: [i8; 2],
        power: bool,
    ) {
        let mut n = w.clone();
        n.index = [None; 2];
        let mut next = 1;
        let mut kept = log;
        if !w.handed_over {
            while let Some(found) = replayable(w, &log, next) {
                if let Some((slot, r)) = found {
                    for b in (0..2).filter(|&b| covers(r, b)) {
                        n.index[b] = Some(Entry { slot, seq: r.seq, value: r.value });
                    }
                }
                next += 1;
            }
            if self.on(Incarnation) {
                kept = log.map(|r| r.filter(|r| r.seq < next));
            }
        }
        let mut seen = [0; 2];
        for b in 0..2 {
            let v = match (n.index[b], state) {
                (Some(e), _) => e.value,
                (None, St::Local) => target[b],
                (None, St::Zero(v)) => v,
                (None, St::Absent) => 0,
            };
            seen[b] = v;
            if v < floor[b] || v < 0 || w.issued[b] >> v & 1 == 0 {
                self.bad = Some(format!("{name}: block {b} shows {v}, promised {}", floor[b]));
            } else if v != 0 && n.index[b].is_none() && !mark {
                self.bad = Some(format!("{name}: block {b} differs from the moment, unmarked"));
            }
        }
        if self.bad.is_some() {
            return self.go(name, n);
        }
        n.log = kept;
        n.log_durable = kept;
        n.freed = w.freed_durable;
        n.target = target;
        n.target_durable = if power { target } else { w.target_durable };
        n.state = state;
        n.state_durable = state;
        n.page_write = false;
        n.mark = false;
        n.mark_durable = mark;
        n.fill = Fill::Idle;
        n.mover = MoverPc::Idle;
        n.bits = [St::Absent; 2];
        n.moving = [None; 2];
        n.read = None;
        n.flight = [None; 2];
        n.next_seq = next;
        n.answered = seen;
        n.flushed = if power { seen } else { w.flushed };
        n.issued = [0, 1].map(|b| if power { 1 << seen[b] } else { w.issued[b] & ((2 << seen[b]) - 1) });
        n.crashes -= 1;
        n.mode = if w.handed_over { Mode::Direct } else { Mode::Restoring };
        self.go(name, n);
    }
}

/// The record of sequence `seq` for replay: `Some(None)` when it was freed, `None` at the first gap.
#[allow(clippy::option_option, reason = "freed and missing are different facts")]
fn replayable(w: &World, log: &[Option<Rec>; SLOTS], seq: u8) -> Option<Option<(u8, Rec)>> {
    if has(w.freed_durable, seq) {
        return Some(None);
    }
    log.iter().enumerate().find_map(|(i, r)| r.filter(|r| r.seq == seq).map(|r| Some((i as u8, r))))
}

/// Every log a power cut can leave: an unflushed slot holds the old record, the new one, or garbage.
fn torn_logs(w: &World, slots: usize) -> Vec<[Option<Rec>; SLOTS]> {
    let mut all = vec![w.log];
    for s in (0..slots).filter(|&s| w.log[s] != w.log_durable[s]) {
        for mut l in std::mem::take(&mut all) {
            for r in [w.log[s], w.log_durable[s], None] {
                l[s] = r;
                if !all.contains(&l) {
                    all.push(l);
                }
            }
        }
    }
    all
}

#[derive(Debug)]
enum Outcome {
    Holds { states: usize },
    Violated { why: String, steps: Vec<&'static str> },
}

/// Searches all interleavings. With `off`, one rule is not kept.
fn explore(off: Option<Rule>, b: Bounds) -> Outcome {
    let start = World::start(b);
    let mut ids: HashMap<World, u32> = HashMap::from([(start.clone(), 0)]);
    let mut parent: Vec<(u32, &'static str)> = vec![(0, "")];
    let mut queue = VecDeque::from([(start, 0u32)]);
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut can_write: Vec<bool> = vec![true];
    let mut s = Search { off, b, out: Vec::new(), bad: None };
    while let Some((w, id)) = queue.pop_front() {
        s.successors(&w);
        if let Some(why) = s.bad.take() {
            let mut steps = Vec::new();
            let mut at = id;
            while at != 0 {
                steps.push(parent[at as usize].1);
                at = parent[at as usize].0;
            }
            steps.reverse();
            return Outcome::Violated { why, steps };
        }
        for (name, n) in s.out.drain(..) {
            let next = ids.len() as u32;
            let to = *ids.entry(n.clone()).or_insert(next);
            if to == next {
                parent.push((id, name));
                can_write.push(n.writes == b.writes || n.mode != Mode::Restoring);
                queue.push_back((n, to));
            }
            if off.is_none() && !name.starts_with("KILL") && !name.starts_with("POWER") {
                edges.push((to, id));
                can_write[id as usize] |= name == "reserve";
            }
        }
    }
    if off.is_none()
        && let Some(stuck) = stuck_state(edges, can_write)
    {
        return Outcome::Violated {
            why: format!("state {stuck}: a waiting write can never proceed"),
            steps: vec![],
        };
    }
    Outcome::Holds { states: ids.len() }
}

/// Log full: from every state, without any crash, some path must let the waiting write in.
fn stuck_state(mut edges: Vec<(u32, u32)>, mut reaches: Vec<bool>) -> Option<usize> {
    edges.sort_unstable();
    let mut queue: Vec<u32> = (0..reaches.len() as u32).filter(|&i| reaches[i as usize]).collect();
    while let Some(to) = queue.pop() {
        let first = edges.partition_point(|e| e.0 < to);
        for &(_, from) in edges[first..].iter().take_while(|e| e.0 == to) {
            if !std::mem::replace(&mut reaches[from as usize], true) {
                queue.push(from);
            }
        }
    }
    reaches.iter().position(|r| !r)
}

#[test]
fn all_rules_on_nothing_is_lost() {
    for b in [
        Bounds { writes: 3, ..SMALL },
        Bounds { crashes: 2, ..SMALL },
        Bounds { trim: true, ..SMALL },
        Bounds { slots: 3, copy: true, ..SMALL },
    ] {
        match explore(None, b) {
            Outcome::Holds { states } => assert!(states > 10_000, "the model explored only {states} states"),
            Outcome::Violated { why, steps } => panic!("{why}: {}", steps.join("; ")),
        }
    }
}

#[test]
fn each_rule_dropped_alone_loses_data() {
    for rule in RULES {
        let tried = [
            SMALL,
            Bounds { trim: true, ..SMALL },
            Bounds { slots: 3, copy: true, ..SMALL },
            Bounds { writes: 3, ..SMALL },
            Bounds { writes: 3, crashes: 2, ..SMALL },
        ];
        let found = tried.into_iter().find_map(|b| match explore(Some(rule), b) {
            Outcome::Violated { why, steps } => Some((why, steps)),
            Outcome::Holds { .. } => None,
        });
        let (why, steps) = found
            .unwrap_or_else(|| panic!("without {rule:?} nothing goes wrong: the rule or the model is idle"));
        println!("without {rule:?}: {why}\n    {}", steps.join("; "));
    }
}
