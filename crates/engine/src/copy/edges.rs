//! The first and last MiB of a volume: without them nothing takes the destination for a disk.

use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};

/// Covers partition tables at both ends and the superblocks of the usual file systems.
const EDGE_BYTES: u64 = 1 << 20;

/// In whole extents.
pub(super) struct Edges {
    geometry: Geometry,
    head: ExtentRange,
    tail: ExtentRange,
}

impl Edges {
    pub fn of(geometry: &Geometry) -> Self {
        let n = geometry.extents();
        let extents = EDGE_BYTES.div_ceil(geometry.extent.get());
        let head = extents.min(n);
        // The last extent may be short: one more makes up for it.
        let tail = n.saturating_sub(extents + 1).max(head);
        Edges {
            geometry: *geometry,
            head: ExtentRange { start: 0, end: head },
            tail: ExtentRange { start: tail, end: n },
        }
    }
    /// Everything between.
    pub fn middle(&self) -> ExtentRange {
        ExtentRange { start: self.head.end, end: self.tail.start }
    }
    /// The tail first: while the head is zero, nothing takes this for a volume.
    pub fn extents(&self) -> impl Iterator<Item = ExtentRange> {
        [self.tail, self.head].into_iter().filter(|r| r.count() > 0)
    }
    pub fn ranges(&self) -> impl Iterator<Item = ByteRange> {
        self.extents().map(|r| self.geometry.bytes_of(r))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::volume::ExtentBytes;

    #[test]
    fn edges_and_middle_are_all() {
        for (extent, sizes) in [(16 << 10, [512, 1 << 20, 5 << 20]), (4 << 20, [1 << 20, 9 << 20, 64 << 20])]
        {
            for size in sizes.into_iter().flat_map(|s| [s, s + 512, s + 16384 - 512]) {
                let g = Geometry::new(size, ExtentBytes::new(extent).unwrap(), 512, 512).unwrap();
                let edges = Edges::of(&g);
                let mut all: Vec<u64> =
                    edges.extents().chain([edges.middle()]).flat_map(|r| r.iter()).collect();
                all.sort_unstable();
                assert_eq!(all, (0..g.extents()).collect::<Vec<_>>(), "{size}");
                let covered = |at: u64| edges.ranges().any(|r| r.start <= at && at < r.end());
                assert!([0, EDGE_BYTES - 1, size - 1].iter().all(|at| *at >= size || covered(*at)), "{size}");
                assert!(covered(size.saturating_sub(EDGE_BYTES)), "{size}");
            }
        }
    }
}
