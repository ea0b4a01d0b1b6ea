//! The order of overlapping writes: a table of the ranges in flight.
//!
//! A write that overlaps one in flight waits behind it, whatever connection either came from. That is more than two
//! concurrent pwrites give: a write that is stuck in a queue, or in a throttled disk, while its client reconnects and
//! sends it again, would otherwise land after the replay and after what was written on top, and revert a block.
//! Uncontended it costs two short locks of a vector; the table holds as many entries as writes are in flight.

use rekindle_core::volume::ByteRange;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The place of one write in the order. Give it back with `leave`.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a place that is never left blocks every overlapping write for good"]
pub struct Ticket(u64);

struct Entry<J> {
    id: u64,
    range: ByteRange,
    /// `None` while it runs.
    parked: Option<J>,
}

struct Table<J> {
    /// In order of arrival.
    entries: Vec<Entry<J>>,
    next: u64,
    parked: usize,
}

/// The table; `J` is what a waiting write needs in order to run later (its bytes, its connection).
pub struct WriteOrder<J> {
    table: Mutex<Table<J>>,
}

impl<J> Default for WriteOrder<J> {
    fn default() -> Self {
        let table = Table { entries: Vec::with_capacity(64), next: 0, parked: 0 };
        WriteOrder { table: Mutex::new(table) }
    }
}

impl<J> WriteOrder<J> {
    fn lock(&self) -> MutexGuard<'_, Table<J>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Takes a place for a write to `range`. `Some`: nothing overlaps, run it now. `None`: it waits as what `park` made,
    /// and comes out of the `leave` of the last write it waits for.
    pub fn enter(&self, range: ByteRange, park: impl FnOnce() -> J) -> Option<Ticket> {
        let mut t = self.lock();
        let id = t.next;
        t.next += 1;
        if t.entries.iter().any(|e| e.range.overlaps(&range)) {
            let parked = Some(park());
            t.entries.push(Entry { id, range, parked });
            t.parked += 1;
            return None;
        }
        t.entries.push(Entry { id, range, parked: None });
        Some(Ticket(id))
    }
    /// The write is done (or was dropped). Returns the writes that may run now, in order of arrival.
    #[must_use = "these writes run now or never"]
    pub fn leave(&self, ticket: Ticket) -> Vec<(Ticket, J)> {
        // Allocates only when somebody waited.
        let mut ready = Vec::new();
        let mut t = self.lock();
        let Some(at) = t.entries.iter().position(|e| e.id == ticket.0) else {
            unreachable!("a ticket is left once, by value");
        };
        let left = t.entries.remove(at).range;
        if t.parked == 0 {
            return ready;
        }
        for i in at..t.entries.len() {
            let (before, rest) = t.entries.split_at_mut(i);
            let e = &mut rest[0];
            let freed = e.parked.is_some()
                && e.range.overlaps(&left)
                && !before.iter().any(|b| b.range.overlaps(&e.range));
            if freed && let Some(job) = e.parked.take() {
                let id = e.id;
                t.parked -= 1;
                ready.push((Ticket(id), job));
            }
        }
        ready
    }
    /// Writes in flight, waiting ones included.
    pub fn in_flight(&self) -> usize {
        self.lock().entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn r(start: u64, len: u64) -> ByteRange {
        ByteRange::new(start, len)
    }

    #[test]
    fn waits_for_every_earlier_overlap_and_for_nothing_else() {
        let o = WriteOrder::default();
        let a = o.enter(r(0, 10), || 'a').unwrap();
        let b = o.enter(r(20, 10), || 'b').unwrap();
        assert!(o.enter(r(5, 20), || 'c').is_none());
        // Overlaps only a waiting one: it still may not overtake it.
        assert!(o.enter(r(12, 4), || 'd').is_none());
        let e = o.enter(r(40, 1), || 'e').unwrap();
        assert!(o.leave(a).is_empty() && o.leave(e).is_empty());
        let mut out = o.leave(b);
        let (c, name) = out.pop().unwrap();
        assert!(name == 'c' && out.is_empty());
        assert_eq!(o.leave(c)[0].1, 'd');
        assert_eq!(o.in_flight(), 1);
    }

    proptest! {
        /// Whatever the order in which writes finish: a byte's writers run in the order they arrived.
        #[test]
        fn order_of_each_byte(ranges in prop::collection::vec((0u64..40, 1u64..12), 1..40), picks in prop::collection::vec(0usize..64, 200)) {
            let o = WriteOrder::default();
            let mut running = Vec::new();
            let mut done: Vec<usize> = Vec::new();
            for (n, (start, len)) in ranges.iter().enumerate() {
                if let Some(t) = o.enter(r(*start, *len), || n) {
                    running.push((t, n));
                }
            }
            let mut picks = picks.into_iter().cycle();
            while !running.is_empty() {
                let i = picks.next().unwrap() % running.len();
                let (t, n) = running.swap_remove(i);
                for (_, m) in &running {
                    let (a, b) = (ranges[n], ranges[*m]);
                    prop_assert!(!r(a.0, a.1).overlaps(&r(b.0, b.1)), "two overlapping writes run at once");
                }
                done.push(n);
                running.extend(o.leave(t));
            }
            prop_assert_eq!(done.len(), ranges.len());
            for (i, a) in done.iter().enumerate() {
                for b in &done[i + 1..] {
                    let (x, y) = (ranges[*a], ranges[*b]);
                    prop_assert!(a < b || !r(x.0, x.1).overlaps(&r(y.0, y.1)));
                }
            }
        }
    }
}
