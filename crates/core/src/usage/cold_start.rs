//! When does the guest start cold, and in which order does it then touch what?
//!
//! The volume sees requests, not connections: a cold start is a read of the boot structures (first 4 KiB: MBR, GPT header,
//! ext4 and xfs superblocks; GPT with 4 KiB blocks) among the first requests after a minute of served time without any.
//! A server restart is none: its clients reconnect and go on. Whoever knows better says so (the agent; a restore and a
//! drill, which are cold starts by nature).

use super::facts::{LATE, RANKS, TRACE_MS};
use crate::volume::ByteRange;

/// Served time without a request that makes a start possible.
pub const QUIET_MS: u64 = 60_000;
/// How many requests after the quiet may come before the boot structures are read (udev looks at the end of a disk first).
const FIRST_REQUESTS: u32 = 16;
/// MBR, GPT header of 512-byte and 4 KiB disks, ext4 and xfs superblocks of an unpartitioned disk.
const BOOT: ByteRange = ByteRange::new(0, 8192);

/// Watches for a cold start. Feed it served time; while [`ColdStart::is_armed`], feed it requests too.
#[derive(Clone, Debug, Default)]
pub struct ColdStart {
    quiet_ms: u64,
    left: u32,
}

impl ColdStart {
    /// Time was served; `busy`: at least one request came in it.
    pub fn served(&mut self, ms: u64, busy: bool) {
        if busy {
            self.quiet_ms = 0;
            return;
        }
        self.quiet_ms = self.quiet_ms.saturating_add(ms);
        if self.quiet_ms >= QUIET_MS {
            self.left = FIRST_REQUESTS;
        }
    }
    /// The owner knows that no guest can be running on (a new boot of the host): the next boot read is a cold start.
    pub fn expect(&mut self) {
        self.left = FIRST_REQUESTS;
    }
    /// The owner said that the guest starts now: its first boot reads are part of that start, not another one.
    pub fn told(&mut self) {
        *self = ColdStart::default();
    }
    /// Requests have to be shown to [`ColdStart::request`]: otherwise the hot path need not bother.
    pub fn is_armed(&self) -> bool {
        self.left > 0
    }
    /// A request came; true: this is a cold start.
    pub fn request(&mut self, range: ByteRange, is_read: bool) -> bool {
        if self.left == 0 {
            return false;
        }
        let boots = is_read && range.overlaps(&BOOT);
        self.left = if boots { 0 } else { self.left - 1 };
        boots
    }
}

/// The order of first reads since the newest cold start, in 16 coarse ranks: 16 extents, then 16, 32, 64 and so on.
/// Coarse on purpose: the early part is fine, and a rank fits a nibble.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// Extents that have a rank.
    pub extents: u64,
    /// Served milliseconds since the start.
    pub since_ms: u64,
    /// When each rank got its last extent, ms since the start.
    pub rank_ms: [u32; RANKS as usize],
}

impl Trace {
    /// The rank of the next extent to enter, which is counted.
    pub fn enter(&mut self) -> u8 {
        let rank = if self.since_ms >= TRACE_MS { LATE } else { Self::rank_of(self.extents) };
        self.extents += 1;
        self.rank_ms[usize::from(rank)] = u32::try_from(self.since_ms).unwrap_or(u32::MAX).max(1);
        rank
    }
    /// How many extents a full rank (0 to 14) has; the last is open-ended.
    pub fn extents_of(rank: u8) -> u64 {
        match rank {
            0 => 16,
            r if r < LATE - 1 => 16 << (r - 1),
            _ => u64::MAX,
        }
    }
    /// The rank of the `n`th extent of a start (from 0): the first 16, then doubling.
    pub fn rank_of(n: u64) -> u8 {
        let doublings = 64 - (n / 16).leading_zeros();
        (doublings as u8).min(LATE - 1)
    }
}

/// What one start demanded, as it goes from one map to another: what was read, by rank. What was touched [`LATE`] is left
/// out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Demanded {
    /// For each rank when its last extent was first read, ms since the start, and its extents, ascending.
    pub ranks: [(u32, Vec<u64>); LATE as usize],
}

impl Demanded {
    /// Extents in all.
    pub fn extents(&self) -> u64 {
        self.ranks.iter().map(|(_, extents)| extents.len() as u64).sum()
    }
    /// Extents with their ranks, first demanded first.
    pub fn in_order(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        (0u8..).zip(&self.ranks).flat_map(|(rank, (_, extents))| extents.iter().map(move |e| (*e, rank)))
    }
    /// As the newest trace of a map that ended.
    pub fn trace(&self) -> Trace {
        let mut rank_ms = [0; RANKS as usize];
        rank_ms.iter_mut().zip(&self.ranks).for_each(|(ms, rank)| *ms = rank.0);
        Trace { extents: self.extents(), since_ms: TRACE_MS, rank_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn armed() -> ColdStart {
        let mut c = ColdStart::default();
        c.served(QUIET_MS - 1, false);
        assert!(!c.is_armed());
        c.served(1, false);
        assert!(c.is_armed());
        c
    }

    #[test]
    fn a_boot_read_after_a_quiet_minute_is_a_cold_start() {
        let lba0 = ByteRange::new(0, 512);
        assert!(armed().request(lba0, true));
        assert!(armed().request(ByteRange::new(1024, 1024), true), "ext4 superblock");
        assert!(armed().request(ByteRange::new(512, 512), true), "GPT header");
        let mut c = armed();
        assert!(
            !c.request(ByteRange::new(1 << 30, 4096), true) && c.request(lba0, true),
            "udev looks elsewhere first"
        );
        assert!(!c.request(lba0, true), "once");
    }

    #[test]
    fn these_are_none() {
        let lba0 = ByteRange::new(0, 512);
        assert!(!ColdStart::default().request(lba0, true), "a server that just started");
        let mut busy = ColdStart::default();
        for _ in 0..10 {
            busy.served(QUIET_MS - 1, false);
            busy.served(1_000, true);
        }
        assert!(!busy.request(lba0, true), "never a quiet minute");
        assert!(!armed().request(lba0, false), "a write");
        let mut late = armed();
        for i in 0..u64::from(FIRST_REQUESTS) {
            assert!(!late.request(ByteRange::new((i + 1) << 20, 4096), true));
        }
        assert!(!late.request(lba0, true), "long after the first requests");
    }

    #[test]
    fn ranks_double_and_end_with_the_hour() {
        let edges =
            [(0, 0), (15, 0), (16, 1), (31, 1), (32, 2), (63, 2), (64, 3), (1 << 17, 14), (u64::MAX, 14)];
        for (n, rank) in edges {
            assert_eq!(Trace::rank_of(n), rank, "{n}");
        }
        let first = |rank| (0..rank).map(Trace::extents_of).sum::<u64>();
        for rank in 1..LATE {
            assert_eq!((Trace::rank_of(first(rank) - 1), Trace::rank_of(first(rank))), (rank - 1, rank));
        }
        let mut t = Trace::default();
        assert_eq!((0..17).map(|_| t.enter()).max(), Some(1));
        t.since_ms = 2_500;
        t.enter();
        assert_eq!((t.extents, t.rank_ms[0], t.rank_ms[1]), (18, 1, 2_500));
        t.since_ms = TRACE_MS;
        assert_eq!(t.enter(), LATE);
    }
}
