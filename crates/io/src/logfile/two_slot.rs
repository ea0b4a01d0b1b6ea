//! A small record that is replaced whole: two slots of one file, written in turn.
//!
//! Slot layout (little-endian): magic `RKSLOT01`, sequence u64, length u32, body, CRC-32C of all before it. A slot
//! starts on a multiple of 4,096 bytes, so the two never share a physical block: a torn write leaves the older record.
//! `store` returns when the record is durable; load takes the valid slot with the higher sequence.

use super::{LogDir, LogFile};
use crate::{Error, Kind, Result};
use rekindle_core::bytes::{Malformed, Reader, Writer, crc32c, is_zero};
use std::sync::{Arc, Mutex, PoisonError};

const MAGIC: &[u8; 8] = b"RKSLOT01";
const HEAD: usize = 8 + 8 + 4;

struct State {
    sequence: u64,
    body: Option<Vec<u8>>,
}

/// The record. One owner at a time writes it.
pub struct TwoSlot {
    file: Arc<dyn LogFile>,
    name: String,
    slot_bytes: u64,
    state: Mutex<State>,
}

impl TwoSlot {
    /// Opens the record `name`, making its file if absent (its name is durable when this returns). Bodies hold at most
    /// `body_max` bytes: the same value every time. A file without any valid slot has no record yet; if it is not empty
    /// and neither slot is valid, that is `Kind::Corrupt`.
    pub fn open(dir: &dyn LogDir, name: &str, body_max: usize) -> Result<TwoSlot> {
        let slot_bytes = ((HEAD + body_max + 4) as u64).next_multiple_of(4096);
        let file = match dir.open(name)? {
            Some(f) => f,
            None => {
                let f = dir.create(name)?;
                dir.sync_names()?;
                f
            }
        };
        // A killed process may have left its last record in the page cache only: durable before it is believed.
        file.sync()?;
        let slots = [read_slot(&*file, 0, slot_bytes)?, read_slot(&*file, slot_bytes, slot_bytes)?];
        let blank = slots.iter().any(|s| matches!(s, Slot::Blank));
        let newest = slots.into_iter().filter_map(Slot::valid).max_by_key(|(sequence, _)| *sequence);
        let state = match newest {
            Some((sequence, body)) => State { sequence, body: Some(body) },
            // The first store of all was torn in slot 1 while slot 0 was never written: no record yet.
            None if blank => State { sequence: 0, body: None },
            None => {
                return Err(Error::new(
                    Kind::Corrupt,
                    format!("{name} in {}: both copies damaged", dir.place()),
                ));
            }
        };
        Ok(TwoSlot { file, name: name.into(), slot_bytes, state: Mutex::new(state) })
    }
    /// Makes a record in a folder that has none of this name. Its name is durable after the caller's `sync_names`: whoever
    /// makes several files at once pays for that once.
    pub fn create(dir: &dyn LogDir, name: &str, body_max: usize) -> Result<TwoSlot> {
        let slot_bytes = ((HEAD + body_max + 4) as u64).next_multiple_of(4096);
        let state = Mutex::new(State { sequence: 0, body: None });
        Ok(TwoSlot { file: dir.create(name)?, name: name.into(), slot_bytes, state })
    }
    /// The newest record.
    pub fn load(&self) -> Option<Vec<u8>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).body.clone()
    }
    /// Replaces the record; durable when this returns `Ok`. After an error either the old or the new one is found.
    pub fn store(&self, body: &[u8]) -> Result<()> {
        assert!(
            (HEAD + body.len() + 4) as u64 <= self.slot_bytes,
            "{}: record larger than its slot",
            self.name
        );
        let mut s = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let sequence = s.sequence + 1;
        let mut w = Writer::new();
        w.raw(MAGIC).u64(sequence).u32(body.len() as u32).raw(body);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        self.file.write_at((sequence % 2) * self.slot_bytes, &[w.bytes()])?;
        self.file.sync()?;
        // Only now: after a failed attempt the next one must not overwrite the other, still good, slot.
        *s = State { sequence, body: Some(body.to_vec()) };
        Ok(())
    }
}

enum Slot {
    Blank,
    Damaged,
    Valid(u64, Vec<u8>),
}
impl Slot {
    fn valid(self) -> Option<(u64, Vec<u8>)> {
        match self {
            Slot::Valid(sequence, body) => Some((sequence, body)),
            _ => None,
        }
    }
}

fn read_slot(file: &dyn LogFile, at: u64, slot_bytes: u64) -> Result<Slot> {
    let mut raw = vec![0; slot_bytes as usize];
    file.read_at(at, &mut raw)?;
    if is_zero(&raw) {
        return Ok(Slot::Blank);
    }
    Ok(decode(&raw).map_or(Slot::Damaged, |(s, b)| Slot::Valid(s, b)))
}

fn decode(raw: &[u8]) -> Result<(u64, Vec<u8>), Malformed> {
    let mut r = Reader::new(raw);
    if &r.array::<8>("magic")? != MAGIC {
        return Err(Malformed("magic"));
    }
    let sequence = r.u64("sequence")?;
    let len = r.u32("length")? as usize;
    let body = r.take(len, "body")?.to_vec();
    if r.u32("checksum")? != crc32c(&raw[..HEAD + len]) {
        return Err(Malformed("checksum"));
    }
    Ok((sequence, body))
}

#[cfg(test)]
mod tests {
    use super::super::{FaultyDir, MemDir};
    use super::*;
    use crate::fault::{Crash, FaultPlan};

    #[test]
    fn golden_bytes() {
        let d = MemDir::new();
        TwoSlot::open(&*d, "r", 100).unwrap().store(b"abc").unwrap();
        let mut raw = [0; 27];
        d.open("r").unwrap().unwrap().read_at(4096, &mut raw).unwrap();
        let hex: String = raw.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "524b534c4f543031010000000000000003000000616263ad555ce3");
    }

    /// A crash at every operation, every way: the newest stored record, or the one that was being stored.
    #[test]
    fn a_torn_write_leaves_the_older_record() {
        let body = |n: u8| vec![n; 900 + n as usize];
        for n in 0..12 {
            for (torn, seed) in (0..4).flat_map(|t| (0..8).map(move |s| (t * 333, s))) {
                let plan = Arc::new(FaultPlan::new());
                let mem = MemDir::new();
                let dir = FaultyDir::new(mem.clone(), plan.clone());
                plan.die_within(n, torn);
                let mut stored = 0;
                if let Ok(r) = TwoSlot::open(&*dir, "r", 1000) {
                    stored = (1..=5).take_while(|v| r.store(&body(*v)).is_ok()).count() as u8;
                }
                let after = mem.crash(Crash::Power { seed });
                let found = TwoSlot::open(&*after, "r", 1000).unwrap().load();
                let ok = [stored, stored + 1].iter().any(|v| found == (*v > 0).then(|| body(*v)));
                assert!(ok, "crash at {n}: {stored} stored, found {:?}", found.map(|b| b[0]));
            }
        }
    }

    /// What a killed process wrote and did not sync is believed by the next one, so it must not be lost after that.
    #[test]
    fn what_was_loaded_once_is_not_lost_later() {
        let plan = Arc::new(FaultPlan::new());
        let mem = MemDir::new();
        let r = TwoSlot::open(&*FaultyDir::new(mem.clone(), plan.clone()), "r", 100).unwrap();
        r.store(b"old").unwrap();
        plan.die_at(plan.count() + 1);
        assert!(r.store(b"new").is_err());
        let killed = mem.crash(Crash::Kill);
        assert_eq!(TwoSlot::open(&*killed, "r", 100).unwrap().load().as_deref(), Some(&b"new"[..]));
        for seed in 0..20 {
            let after = killed.crash(Crash::Power { seed });
            assert_eq!(TwoSlot::open(&*after, "r", 100).unwrap().load().as_deref(), Some(&b"new"[..]));
        }
    }

    #[test]
    fn two_damaged_copies_are_an_error_not_an_empty_record() {
        let d = MemDir::new();
        let r = TwoSlot::open(&*d, "r", 100).unwrap();
        r.store(b"one").unwrap();
        r.store(b"two").unwrap();
        let f = d.open("r").unwrap().unwrap();
        f.write_at(30 + 4096, &[b"xx"]).unwrap();
        f.write_at(21, &[b"x"]).unwrap();
        assert_eq!(TwoSlot::open(&*d, "r", 100).unwrap().load().as_deref(), Some(&b"one"[..]));
        f.write_at(21 + 4096, &[b"x"]).unwrap();
        assert_eq!(TwoSlot::open(&*d, "r", 100).map(drop).unwrap_err().kind, Kind::Corrupt);
    }
}
