//! Which 64 MiB regions may have changed without durable marks.
//!
//! Before the first write into a region since it last left the log, its bit here is durable: an unflushed write may
//! reach the disk, and the mark of its extent must not be the thing that did not. A region leaves only at a checkpoint,
//! when its writes are done and flushed and its marks are durable, and only when nobody wrote to it for a whole
//! checkpoint interval; so at steady state a write finds its region in the log, at the cost of one load.
//!
//! File `activity.<tracking>`: 512-byte sectors, each CRC-32C of what follows u32, index u32, tracking (first 8 bytes),
//! 3,968 region bits. A sector is written whole, in place; media write sectors whole. A damaged sector counts as
//! "every region active".

use super::sync::{AtomicU8, AtomicU64, Mutex, SeqCst, lock};
use rekindle_core::bytes::crc32c;
use rekindle_core::volume::Uuid;
use rekindle_io::Result;
use rekindle_io::logfile::LogFile;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Bytes of a region: 64 MiB. (256 KiB in this crate's own tests, so that histories over many regions stay small.)
pub(super) const REGION: u64 = if cfg!(test) { 256 << 10 } else { 64 << 20 };
/// More active regions than this ask for a checkpoint.
pub(super) const ACTIVE_MAX: u64 = 4096;
const SECTOR: usize = 512;
const HEAD: usize = 16;
/// Regions in one sector.
const BITS: u64 = ((SECTOR - HEAD) * 8) as u64;

/// Not in the log; in the log, idle since the last checkpoint; in the log, written since.
const OUT: u8 = 0;
const IDLE: u8 = 1;
const WRITTEN: u8 = 2;

struct Log {
    file: Arc<dyn LogFile>,
    tracking: Uuid,
    /// What the file says (or will, once the write under way is durable).
    bits: Vec<u8>,
}

/// The log of one volume.
pub(super) struct ActivityLog {
    states: Box<[AtomicU8]>,
    active: AtomicU64,
    log: Mutex<Log>,
}

fn sector(bits: &[u8], index: u64, tracking: Uuid) -> [u8; SECTOR] {
    let mut out = [0; SECTOR];
    out[4..8].copy_from_slice(&(index as u32).to_le_bytes());
    out[8..16].copy_from_slice(&tracking.0[..8]);
    let start = index as usize * (SECTOR - HEAD);
    out[HEAD..].copy_from_slice(&bits[start..start + SECTOR - HEAD]);
    let crc = crc32c(&out[4..]);
    out[..4].copy_from_slice(&crc.to_le_bytes());
    out
}

fn sectors(regions: u64) -> u64 {
    regions.div_ceil(BITS)
}

/// Regions of a volume of `size` bytes.
pub(super) fn regions(size: u64) -> u64 {
    size.div_ceil(REGION)
}

impl ActivityLog {
    /// Writes a fresh log into an empty file, durable.
    pub(super) fn create(file: Arc<dyn LogFile>, tracking: Uuid, regions: u64) -> Result<ActivityLog> {
        let bits = vec![0; sectors(regions) as usize * (SECTOR - HEAD)];
        for index in 0..sectors(regions) {
            file.write_at(index * SECTOR as u64, &[&sector(&bits, index, tracking)])?;
        }
        file.sync()?;
        let states = (0..regions).map(|_| AtomicU8::new(OUT)).collect();
        Ok(ActivityLog { states, active: AtomicU64::new(0), log: Mutex::new(Log { file, tracking, bits }) })
    }
    /// The regions a log names, damaged sectors as all of theirs.
    pub(super) fn read(file: &dyn LogFile, tracking: Uuid, regions: u64) -> Result<Vec<u64>> {
        let mut out = Vec::new();
        let mut raw = [0; SECTOR];
        for index in 0..sectors(regions) {
            file.read_at(index * SECTOR as u64, &mut raw)?;
            let whole = raw[..4] == crc32c(&raw[4..]).to_le_bytes()
                && raw[4..8] == (index as u32).to_le_bytes()
                && raw[8..16] == tracking.0[..8];
            let first = index * BITS;
            let is_set = |r: u64| !whole || raw[HEAD + (r / 8) as usize] & (1 << (r % 8)) != 0;
            out.extend((0..BITS.min(regions - first)).filter(|r| is_set(*r)).map(|r| first + r));
        }
        Ok(out)
    }
    /// Whether a write to this region may go on without `enter`.
    pub(super) fn is_in(&self, region: u64) -> bool {
        let state = &self.states[region as usize];
        match state.load(SeqCst) {
            WRITTEN => true,
            // It may leave at this very moment: then it is out, and has to enter.
            IDLE => state.compare_exchange(IDLE, WRITTEN, SeqCst, SeqCst) != Err(OUT),
            _ => false,
        }
    }
    /// Makes the regions durable in the log: one sync for all of them. They may be in already.
    pub(super) fn enter(&self, regions: &BTreeSet<u64>) -> Result<()> {
        let mut log = lock(&self.log);
        let (mut touched, mut added) = (BTreeSet::new(), Vec::new());
        for r in regions {
            // Out of the states does not mean out of the file: a checkpoint may be taking it out just now.
            let (byte, bit) = (place(*r), 1 << (r % 8));
            if log.bits[byte] & bit == 0 {
                log.bits[byte] |= bit;
                touched.insert(r / BITS);
                added.push(*r);
            }
        }
        if let Err(e) = log.write(&touched) {
            // Not durable: nothing may rely on it. What was in the file before stays: a checkpoint that is taking it out
            // has not made its marks durable yet, and the next write of the sector must not drop it meanwhile.
            for r in added {
                log.bits[place(r)] &= !(1 << (r % 8));
            }
            return Err(e);
        }
        for r in regions {
            if self.states[*r as usize].swap(WRITTEN, SeqCst) == OUT {
                self.active.fetch_add(1, SeqCst);
            }
        }
        Ok(())
    }
    /// First half of a checkpoint: takes idle regions (all, if `all`) out of the states, so that a write that comes
    /// from now on has to enter again. Every other region becomes idle.
    pub(super) fn retire(&self, all: bool) -> Vec<u64> {
        let mut leaving = Vec::new();
        for (region, state) in self.states.iter().enumerate() {
            let leaves = match state.load(SeqCst) {
                OUT => false,
                WRITTEN if !all => {
                    // Second chance: what is written all the time stays, and costs no sync.
                    // Losing this race means somebody else took it out already.
                    let _lost = state.compare_exchange(WRITTEN, IDLE, SeqCst, SeqCst);
                    false
                }
                IDLE if !all => state.compare_exchange(IDLE, OUT, SeqCst, SeqCst).is_ok(),
                _ => {
                    state.store(OUT, SeqCst);
                    true
                }
            };
            if leaves {
                self.active.fetch_sub(1, SeqCst);
                leaving.push(region as u64);
            }
        }
        leaving
    }
    /// Second half, when the writes of these regions are durable and so are their marks: they leave the file, unless
    /// they entered again meanwhile.
    pub(super) fn leave(&self, regions: &[u64]) -> Result<()> {
        let mut log = lock(&self.log);
        let mut touched = BTreeSet::new();
        for r in regions.iter().filter(|r| self.states[**r as usize].load(SeqCst) == OUT) {
            log.bits[place(*r)] &= !(1 << (r % 8));
            touched.insert(r / BITS);
        }
        // No matter whether this is found after a crash or not: an extra region costs a comparison. But it is synced,
        // lest a later sync of `enter` be the one that reports its failure.
        log.write(&touched)
    }
    /// Puts regions back that `retire` took out: their checkpoint failed.
    pub(super) fn restore(&self, regions: &[u64]) {
        for r in regions {
            if self.states[*r as usize].compare_exchange(OUT, WRITTEN, SeqCst, SeqCst).is_ok() {
                self.active.fetch_add(1, SeqCst);
            }
        }
    }
    /// Regions in the log.
    pub(super) fn active(&self) -> u64 {
        self.active.load(SeqCst)
    }
    /// Goes on in another, fresh file, for another tracking. Nothing may be in flight.
    pub(super) fn renew(&self, fresh: ActivityLog) {
        let mut log = lock(&self.log);
        *log = fresh.log.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.states.iter().for_each(|s| s.store(OUT, SeqCst));
        self.active.store(0, SeqCst);
    }
}

/// The byte of a region's bit in `bits`.
fn place(region: u64) -> usize {
    (region / 8) as usize
}

impl Log {
    fn write(&self, touched: &BTreeSet<u64>) -> Result<()> {
        for index in touched {
            self.file.write_at(index * SECTOR as u64, &[&sector(&self.bits, *index, self.tracking)])?;
        }
        if touched.is_empty() { Ok(()) } else { self.file.sync() }
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use rekindle_io::fault::{Crash, FaultOp, FaultPlan};
    use rekindle_io::logfile::{FaultyDir, LogDir, MemDir};

    const T: Uuid = Uuid([7; 16]);

    #[test]
    fn what_entered_is_found_after_a_power_cut_until_it_left() {
        let d = MemDir::new();
        let f = d.create("a").unwrap();
        d.sync_names().unwrap();
        let log = ActivityLog::create(f, T, 5000).unwrap();
        log.enter(&[3, 9, 4999].into()).unwrap();
        let found = |regions| {
            let after = d.crash(Crash::Power { seed: 1 });
            ActivityLog::read(&*after.open("a").unwrap().unwrap(), T, regions).unwrap()
        };
        assert_eq!(found(5000), [3, 9, 4999]);
        assert!(log.retire(false).is_empty(), "written since: a second chance");
        assert!(log.is_in(9) && !log.is_in(4));
        let leaving = log.retire(false);
        assert_eq!(leaving, [3, 4999]);
        assert_eq!(found(5000), [3, 9, 4999], "still in the file");
        log.enter(&[3].into()).unwrap();
        log.leave(&leaving).unwrap();
        assert_eq!((found(5000), log.active()), (vec![3, 9], 2));
        // A damaged sector, or one of another tracking, is all its regions.
        d.open("a").unwrap().unwrap().write_at(600, &[&[1]]).unwrap();
        assert_eq!(ActivityLog::read(&*d.open("a").unwrap().unwrap(), T, 4000).unwrap().len(), 2 + 32);
        assert_eq!(
            ActivityLog::read(&*d.open("a").unwrap().unwrap(), Uuid([8; 16]), 100).unwrap().len(),
            100
        );
    }

    #[test]
    fn a_region_whose_entry_failed_is_out() {
        let plan = Arc::new(FaultPlan::new());
        let d = FaultyDir::new(MemDir::new(), plan.clone());
        let log = ActivityLog::create(d.create("a").unwrap(), T, 10).unwrap();
        plan.fail_next(FaultOp::Write, rekindle_io::Kind::Full);
        assert!(log.enter(&[1].into()).is_err());
        assert!(!log.is_in(1));
        log.enter(&[1].into()).unwrap();
        assert!(log.is_in(1));
        assert_eq!(ActivityLog::read(&*d.open("a").unwrap().unwrap(), T, 10).unwrap(), [1]);
    }

    #[test]
    fn a_failed_entry_takes_out_nothing_that_a_checkpoint_has_not_finished() {
        let plan = Arc::new(FaultPlan::new());
        let d = FaultyDir::new(MemDir::new(), plan.clone());
        let log = ActivityLog::create(d.create("a").unwrap(), T, 10).unwrap();
        log.enter(&[1].into()).unwrap();
        assert_eq!(log.retire(true), [1]);
        // Its marks are not durable yet when writes come to it and to another.
        plan.fail_next(FaultOp::Write, rekindle_io::Kind::Full);
        assert!(log.enter(&[1, 2].into()).is_err());
        log.enter(&[3].into()).unwrap();
        assert_eq!(ActivityLog::read(&*d.open("a").unwrap().unwrap(), T, 10).unwrap(), [1, 3]);
    }
}
