//! Long sequential reads: a scan says little about what is hot. Trackers are per volume, not per connection, because
//! clients spread one stream over several connections, and requests of one stream arrive a little out of order.
//!
//! Works on extents, not bytes: only a request that touches the beginning of an extent is shown to it, so that a random
//! 4 KiB read costs nothing in 15 of 16 cases. What is found shapes the score only, never counts, set or trace.

use crate::volume::ExtentRange;

/// A stream is a scan from this many extents in sequence on (1 MiB at 64 KiB).
pub const SCAN_EXTENTS: u32 = 16;
/// Streams followed at a time; the one that moved least recently makes room.
const TRACKERS: usize = 8;
/// How far ahead of the expected extent a request may be and still belong (requests in flight on other connections).
const SLACK: u64 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Tracker {
    next: u64,
    run: u32,
    moved: u32,
}

/// The sequential streams of one volume.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    trackers: [Tracker; TRACKERS],
    clock: u32,
}

impl Streams {
    /// Extents whose beginning a read touched, in one request; true: they are part of a scan.
    pub fn read(&mut self, begun: ExtentRange) -> bool {
        if begun.count() == 0 {
            return false;
        }
        self.clock = self.clock.wrapping_add(1);
        let clock = self.clock;
        let follows = |t: &Tracker| t.run > 0 && begun.start <= t.next + SLACK && begun.end + SLACK > t.next;
        if let Some(t) = self.trackers.iter_mut().find(|t| follows(t)) {
            let gained = begun.end.saturating_sub(t.next).min(u64::from(SCAN_EXTENTS)) as u32;
            t.run = t.run.saturating_add(gained);
            t.next = t.next.max(begun.end);
            t.moved = clock;
            return t.run >= SCAN_EXTENTS;
        }
        let run = begun.count().min(u64::from(SCAN_EXTENTS)) as u32;
        let oldest = self.trackers.iter_mut().max_by_key(|t| clock.wrapping_sub(t.moved));
        if let Some(t) = oldest {
            *t = Tracker { next: begun.end, run, moved: clock };
        }
        run >= SCAN_EXTENTS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: u64, count: u64) -> ExtentRange {
        ExtentRange { start, end: start + count }
    }

    #[test]
    fn a_long_sequence_is_a_scan_even_beside_others_and_out_of_order() {
        let mut s = Streams::default();
        let mut scans = 0;
        for i in 0..100 {
            let order = [1000 + 2 * i + 1, 1000 + 2 * i];
            for e in order {
                scans += u32::from(s.read(at(e, 1)));
            }
            s.read(at(50_000 + i, 1));
            s.read(at((i * 7_919) % 9_999 + 100_000, 1));
        }
        assert!(scans > 170, "{scans} of 200 seen as a scan");
    }

    #[test]
    fn random_reads_and_a_hot_extent_are_no_scan() {
        let mut s = Streams::default();
        for i in 0..1000u64 {
            assert!(!s.read(at(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40, 1)), "random");
            assert!(!s.read(at(1 << 40, 1)), "the same extent again and again");
        }
    }

    #[test]
    fn one_huge_request_is_a_scan() {
        assert!(Streams::default().read(at(0, 16)));
        assert!(!Streams::default().read(at(0, 15)));
        assert!(!Streams::default().read(at(5, 0)));
    }
}
