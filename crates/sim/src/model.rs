//! The plain model of a volume: for every block of 512 bytes what it may hold, and what it must.
//!
//! Every write has a number; a block written by it holds bytes that name both, so a block that returns tells where it
//! came from. A read must give what was answered last, or a write that was issued later and not answered. After a crash a
//! block may hold what was promised (kill: answered; power: flushed) or anything issued later; then that and nothing else.

use rekindle_core::volume::ByteRange;

/// Bytes of a block of the model.
pub const BLOCK: u64 = 512;

/// What a block holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// As the moment has it.
    Moment,
    /// Written by this guest write.
    Written(u64),
    /// Zeroed or trimmed.
    Zero,
}

/// One issue of a value.
#[derive(Clone, Copy, Debug)]
struct Issue {
    id: u64,
    value: Value,
    answered: bool,
    flushed: bool,
}

/// One volume.
pub struct Model {
    moment: Vec<u8>,
    /// Oldest first; the first is what is promised most firmly.
    blocks: Vec<Vec<Issue>>,
    /// Blocks the guest ever issued a write for: only these may be marked as changed, all that hold one must be.
    touched: Vec<bool>,
}

/// Fills `out` with what write `id` puts into block `block`.
pub fn content(id: u64, block: u64, out: &mut [u8]) {
    for (i, word) in out.chunks_mut(8).enumerate() {
        let n = match i {
            0 => id | 1 << 63,
            1 => block,
            _ => id.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ block.rotate_left(17) ^ i as u64,
        };
        word.copy_from_slice(&n.to_le_bytes());
    }
}

impl Model {
    /// A volume that holds `moment`.
    pub fn new(moment: Vec<u8>) -> Self {
        let n = moment.len() / BLOCK as usize;
        let first = Issue { id: 0, value: Value::Moment, answered: true, flushed: true };
        Model { moment, blocks: vec![vec![first]; n], touched: vec![false; n] }
    }
    fn span(range: ByteRange) -> std::ops::Range<usize> {
        (range.start / BLOCK) as usize..(range.end() / BLOCK) as usize
    }
    /// The bytes of write `id` for `range`.
    pub fn data(id: u64, range: ByteRange) -> Vec<u8> {
        let mut out = vec![0; range.len as usize];
        for (b, part) in (range.start / BLOCK..).zip(out.chunks_mut(BLOCK as usize)) {
            content(id, b, part);
        }
        out
    }
    /// Write `id` was issued.
    pub fn issue(&mut self, id: u64, range: ByteRange, zero: bool) {
        let value = if zero { Value::Zero } else { Value::Written(id) };
        for b in Self::span(range) {
            self.blocks[b].push(Issue { id, value, answered: false, flushed: false });
            self.touched[b] = true;
        }
    }
    /// Write `id` was answered: everything older is gone from what may be read.
    pub fn answer(&mut self, id: u64, range: ByteRange, durable: bool) {
        for b in Self::span(range) {
            let issues = &mut self.blocks[b];
            for i in issues.iter_mut().filter(|i| i.id == id) {
                (i.answered, i.flushed) = (true, i.flushed || durable);
            }
        }
    }
    /// A FLUSH that was issued when `answered` writes had been answered is answered.
    pub fn flush(&mut self) {
        for issues in &mut self.blocks {
            issues.iter_mut().filter(|i| i.answered).for_each(|i| i.flushed = true);
        }
    }
    fn matches(&self, b: usize, value: Value, bytes: &[u8]) -> bool {
        match value {
            Value::Moment => bytes == &self.moment[b * BLOCK as usize..(b + 1) * BLOCK as usize],
            Value::Zero => bytes.iter().all(|b| *b == 0),
            Value::Written(id) => {
                let mut want = [0; BLOCK as usize];
                content(id, b as u64, &mut want);
                bytes == want
            }
        }
    }
    fn describe(&self, b: usize, bytes: &[u8]) -> String {
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
        let what = if self.matches(b, Value::Moment, bytes) {
            "the moment".into()
        } else if bytes.iter().all(|b| *b == 0) {
            "zeros".into()
        } else if word(0) >> 63 == 1 && word(0) << 1 >> 1 < 1 << 32 {
            format!("write {} of block {}", word(0) << 1 >> 1, word(1))
        } else {
            format!("foreign bytes {:x} {:x}", word(0), word(1))
        };
        format!("block {b} holds {what}; may hold {:?}", self.blocks[b])
    }
    /// What a read that begins now is promised, block by block.
    pub fn floors(&self, range: ByteRange) -> Vec<u64> {
        let newest = |issues: &Vec<Issue>| issues.iter().rev().find(|i| i.answered).map_or(0, |i| i.id);
        self.blocks[Self::span(range)].iter().map(newest).collect()
    }
    /// Checks a read that ends now against what it was promised when it began.
    pub fn check_read(&self, range: ByteRange, floors: &[u64], bytes: &[u8]) -> Result<(), String> {
        let blocks = Self::span(range).zip(floors);
        for ((b, floor), got) in blocks.zip(bytes.chunks(BLOCK as usize)) {
            let issues = &self.blocks[b];
            let newest = issues.iter().rposition(|i| i.id == *floor).unwrap_or(0);
            if !issues[newest..].iter().any(|i| self.matches(b, i.value, got)) {
                return Err(format!("read: {}; promised {floor}", self.describe(b, got)));
            }
        }
        Ok(())
    }
    /// The volume as found after a crash (`power`) or kill: checks it, and from now on it is exactly this.
    pub fn recovered(&mut self, bytes: &[u8], power: bool) -> Result<(), String> {
        for (b, got) in bytes.chunks(BLOCK as usize).enumerate() {
            let issues = &self.blocks[b];
            let floor = issues.iter().rposition(|i| if power { i.flushed } else { i.answered }).unwrap_or(0);
            let Some(seen) = issues[floor..].iter().rev().find(|i| self.matches(b, i.value, got)) else {
                let how = if power { "after a power cut" } else { "after a kill" };
                return Err(format!("{how}: {}", self.describe(b, got)));
            };
            // Recovery made durable what it shows.
            let seen = Issue { answered: true, flushed: true, ..*seen };
            self.blocks[b] = vec![seen];
        }
        Ok(())
    }
    /// What the volume holds now; only when nothing is in flight.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.moment.clone();
        for (b, part) in out.chunks_mut(BLOCK as usize).enumerate() {
            match self.blocks[b].iter().rev().find(|i| i.answered).map(|i| i.value) {
                Some(Value::Written(id)) => content(id, b as u64, part),
                Some(Value::Zero) => part.fill(0),
                _ => {}
            }
        }
        out
    }
    /// Blocks that hold something else than the moment.
    pub fn changed(&self) -> impl Iterator<Item = u64> {
        let now = self.bytes();
        let blocks = 0..self.blocks.len();
        let span = |b: usize| b * BLOCK as usize..(b + 1) * BLOCK as usize;
        blocks.filter(move |b| now[span(*b)] != self.moment[span(*b)]).map(|b| b as u64)
    }
    /// Blocks for which a write was ever issued.
    pub fn touched(&self, block: u64) -> bool {
        self.touched[block as usize]
    }
    /// Forgets history that nothing can return to, so that long runs stay small.
    pub fn trim_history(&mut self) {
        for issues in &mut self.blocks {
            let floor = issues.iter().rposition(|i| i.flushed && i.answered).unwrap_or(0);
            issues.drain(..floor);
        }
    }
}
