//! What the guest touched since the last fold: the only part of the usage map on the hot path.
//!
//! Per extent one byte (four bits of reads, four of writes) and two bits (read since the last cold start or since we
//! opened; read by a scan in this tick), in pages of 1,024 extents that are made when first touched. So counts are exact, memory is
//! 1.25 bytes per extent *in touched regions*, and a touch is one compare-and-swap on a line it shares with its
//! neighbours. A nibble that overflows carries 16 into a small table; a table that is full makes the nibble stay at 15
//! until the next fold (counts then fall short, nothing else).
//!
//! Rejected: mapping the facts file and counting in place. A full disk or a bad sector under a shared mapping is SIGBUS,
//! which would take the guest's disk away because of a hint (invariant 11 says: speed only); and 16 bytes per extent
//! spread touches over thirteen times the cache lines. A kill -9 costs up to a tick of counts here.
//!
//! Orderings are relaxed throughout: a touch publishes nothing. The fold clears a page's mark before it takes the bytes;
//! where a machine reorders a touch around that, the touch is counted at the page's next fold.

use crate::sparse::Sparse;
use rekindle_core::usage::{PAGE_EXTENTS, Touch};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Extents with carried counts, at most, between two folds.
const CARRIED_MAX: usize = 65_536;
/// First reads kept in order between two drains (about a second).
const ENTERED_MAX: usize = 65_536;

pub(super) struct Page {
    counts: [AtomicU8; PAGE_EXTENTS],
    was_read: [AtomicU64; PAGE_EXTENTS / 64],
    scanned: [AtomicU64; PAGE_EXTENTS / 64],
    touched: AtomicBool,
}
impl Page {
    fn new() -> Box<Page> {
        Box::new(Page {
            counts: std::array::from_fn(|_| AtomicU8::new(0)),
            was_read: std::array::from_fn(|_| AtomicU64::new(0)),
            scanned: std::array::from_fn(|_| AtomicU64::new(0)),
            touched: AtomicBool::new(false),
        })
    }
    /// Takes the counts of one extent and leaves zero.
    pub(super) fn take(&self, slot: usize) -> Touch {
        let scanned = self.scanned[slot / 64].load(Relaxed) >> (slot % 64) & 1 == 1;
        if scanned {
            self.scanned[slot / 64].fetch_and(!(1 << (slot % 64)), Relaxed);
        }
        match self.counts[slot].load(Relaxed) {
            0 => Touch::default(),
            _ => {
                let v = u32::from(self.counts[slot].swap(0, Relaxed));
                Touch { reads: v & 15, writes: v >> 4, scanned }
            }
        }
    }
    /// Read since the last cold start, as far as this process knows.
    pub(super) fn was_read(&self, slot: usize) -> bool {
        self.was_read[slot / 64].load(Relaxed) >> (slot % 64) & 1 == 1
    }
}

/// The touches of one volume.
pub(super) struct Touches {
    pages: Sparse<Box<Page>>,
    carried: Mutex<HashMap<u64, (u32, u32)>>,
    carry_full: AtomicBool,
    entered: Mutex<Vec<u64>>,
    /// First reads are to be kept in order.
    tracing: AtomicBool,
    /// Something came since the last look.
    busy: AtomicBool,
}

/// A panicking thread leaves counts as they are: they are hints.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Touches {
    pub(super) fn new(extents: u64) -> Self {
        let pages = extents.div_ceil(PAGE_EXTENTS as u64) as usize;
        Touches {
            pages: Sparse::new(pages),
            carried: Mutex::default(),
            carry_full: AtomicBool::new(false),
            entered: Mutex::default(),
            tracing: AtomicBool::new(false),
            busy: AtomicBool::new(false),
        }
    }
    /// One operation on one extent.
    // Always: a call and what it saves were a tenth of what counting a read costs (examples/usage_cost).
    #[inline(always)]
    pub(super) fn touch(&self, extent: u64, is_read: bool) {
        let Some(page) = self.pages.get_or_make(extent as usize / PAGE_EXTENTS, Page::new) else { return };
        let slot = extent as usize % PAGE_EXTENTS;
        self.count(page, slot, extent, is_read);
        if !page.touched.load(Relaxed) {
            page.touched.store(true, Relaxed);
        }
        if !self.busy.load(Relaxed) {
            self.busy.store(true, Relaxed);
        }
        if is_read {
            self.note_read(page, slot, extent);
        }
    }
    /// The order of first *reads* is what a start demands; what was only written is in the set, but late.
    fn note_read(&self, page: &Page, slot: usize, extent: u64) {
        let bit = 1 << (slot % 64);
        let word = &page.was_read[slot / 64];
        if word.load(Relaxed) & bit == 0
            && word.fetch_or(bit, Relaxed) & bit == 0
            && self.tracing.load(Relaxed)
        {
            let mut entered = lock(&self.entered);
            if entered.len() < ENTERED_MAX {
                entered.push(extent);
            }
        }
    }
    fn count(&self, page: &Page, slot: usize, extent: u64, is_read: bool) {
        let shift = if is_read { 0 } else { 4 };
        let cell = &page.counts[slot];
        let mut old = cell.load(Relaxed);
        loop {
            let full = old >> shift & 15 == 15;
            if full && self.carry_full.load(Relaxed) {
                return;
            }
            let new = if full { old & !(15 << shift) } else { old + (1 << shift) };
            match cell.compare_exchange_weak(old, new, Relaxed, Relaxed) {
                Ok(_) if full => return self.carry(extent, is_read),
                Ok(_) => return,
                Err(now) => old = now,
            }
        }
    }
    #[cold]
    fn carry(&self, extent: u64, is_read: bool) {
        let mut carried = lock(&self.carried);
        let (reads, writes) = carried.entry(extent).or_default();
        let sum = if is_read { reads } else { writes };
        *sum = sum.saturating_add(16);
        if carried.len() >= CARRIED_MAX {
            self.carry_full.store(true, Relaxed);
        }
    }
    /// Marks an extent as read by a scan in this tick.
    pub(super) fn scanned(&self, extent: u64) {
        if let Some(page) = self.pages.get(extent as usize / PAGE_EXTENTS) {
            let slot = extent as usize % PAGE_EXTENTS;
            page.scanned[slot / 64].fetch_or(1 << (slot % 64), Relaxed);
        }
    }
    /// Whether anything came since the last call.
    pub(super) fn take_busy(&self) -> bool {
        self.busy.swap(false, Relaxed)
    }
    /// The carry table is full: fold soon.
    pub(super) fn is_full(&self) -> bool {
        self.carry_full.load(Relaxed)
    }
    /// First reads since the last call, in order.
    pub(super) fn take_entered(&self) -> Vec<u64> {
        std::mem::take(&mut *lock(&self.entered))
    }
    pub(super) fn take_carried(&self) -> HashMap<u64, (u32, u32)> {
        let taken = std::mem::take(&mut *lock(&self.carried));
        self.carry_full.store(false, Relaxed);
        taken
    }
    /// Whether first reads are kept in order.
    pub(super) fn set_tracing(&self, on: bool) {
        self.tracing.store(on, Relaxed);
    }
    pub(super) fn page(&self, index: u64) -> Option<&Page> {
        self.pages.get(index as usize).map(|p| &**p)
    }
    /// Pages touched since this was asked last, from `from` on, at most `max`; their marks are cleared.
    pub(super) fn take_touched(&self, from: u64, max: usize) -> Vec<u64> {
        let touched = self.pages.iter().filter(|(_, p)| p.touched.load(Relaxed)).map(|(i, _)| i as u64);
        let found: Vec<u64> = touched.filter(|i| *i >= from).take(max).collect();
        for i in &found {
            if let Some(p) = self.page(*i) {
                p.touched.store(false, Relaxed);
            }
        }
        found
    }
    /// Forgets what was read: a new set begins.
    pub(super) fn clear_read(&self) {
        for (_, page) in self.pages.iter() {
            page.was_read.iter().for_each(|w| w.store(0, Relaxed));
        }
        lock(&self.entered).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn taken(t: &Touches, extent: u64) -> (u32, u32) {
        let carried = t.take_carried().get(&extent).copied().unwrap_or_default();
        let touch = t.page(extent / 1024).map_or(Touch::default(), |p| p.take(extent as usize % 1024));
        (touch.reads + carried.0, touch.writes + carried.1)
    }

    #[test]
    fn counts_are_exact_beyond_a_nibble_and_from_many_threads() {
        let t = Arc::new(Touches::new(2000));
        let threads: Vec<_> = (0..4)
            .map(|i| {
                let t = t.clone();
                std::thread::spawn(move || (0..10_000).for_each(|_| t.touch(1500, i % 2 == 0)))
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(taken(&t, 1500), (20_000, 20_000));
        assert_eq!(taken(&t, 1500), (0, 0));
        assert_eq!(t.take_touched(0, 9), [1]);
        assert!(t.take_touched(0, 9).is_empty() && t.take_busy() && !t.take_busy());
        t.touch(2_000_000, true);
    }

    #[test]
    fn first_reads_come_in_order_once() {
        let t = Touches::new(5000);
        t.touch(9, true);
        t.set_tracing(true);
        [4000, 9, 3, 4000, 3, 7].iter().for_each(|e| t.touch(*e, *e != 7));
        assert_eq!(t.take_entered(), [4000, 3], "9 was read before, 7 is only written");
        t.clear_read();
        t.touch(3, true);
        assert_eq!(t.take_entered(), [3]);
    }

    #[test]
    fn a_full_carry_table_loses_counts_and_nothing_else() {
        let t = Touches::new(200_000);
        for e in 0..CARRIED_MAX as u64 + 10 {
            (0..16).for_each(|_| t.touch(e, true));
        }
        assert!(t.is_full());
        let last = CARRIED_MAX as u64 + 9;
        assert_eq!(t.page(last / 1024).map(|p| p.take(last as usize % 1024).reads), Some(15));
        assert_eq!(t.take_carried().len(), CARRIED_MAX);
        assert!(!t.is_full());
    }
}
