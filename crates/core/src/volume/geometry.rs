//! Sizes that a volume keeps for life: bytes, extent size, logical and physical blocks.

use super::{ByteRange, ExtentRange};

/// Size of an extent: a power of two from 16 KiB to 4 MiB, 64 KiB by default; fixed per volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExtentBytes(u32);

impl ExtentBytes {
    /// 64 KiB: ratio costs 2 % against 1 MiB, and a small random write drags little along (measured).
    pub const DEFAULT: ExtentBytes = ExtentBytes(1 << 16);
    /// The smallest extent.
    pub const MIN: u32 = 16 << 10;
    /// The largest extent.
    pub const MAX: u32 = 4 << 20;

    /// Checks the size.
    pub fn new(bytes: u64) -> Result<Self, GeometryError> {
        if bytes.is_power_of_two() && (u64::from(Self::MIN)..=u64::from(Self::MAX)).contains(&bytes) {
            Ok(ExtentBytes(bytes as u32))
        } else {
            Err(GeometryError::Extent(bytes))
        }
    }
    /// The size in bytes.
    pub const fn get(self) -> u64 {
        self.0 as u64
    }
    /// log2 of the size.
    pub const fn shift(self) -> u32 {
        self.0.trailing_zeros()
    }
}

/// The fixed shape of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Geometry {
    /// Size in bytes: a multiple of `logical_block`, at least one block.
    pub size: u64,
    /// Unit of usage, tracking, backup, hydration.
    pub extent: ExtentBytes,
    /// The smallest write the guest may send: 512 or 4096.
    pub logical_block: u32,
    /// What the disk prefers: at least `logical_block`.
    pub physical_block: u32,
}

/// A geometry that no volume can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GeometryError {
    /// Extent size.
    #[error("an extent of {0} bytes is not possible: use a power of two from 16 KiB to 4 MiB")]
    Extent(u64),
    /// Volume size.
    #[error(
        "a volume of {size} bytes is not possible: the size must be a multiple of its {block}-byte blocks, not zero, and at most 8 EiB"
    )]
    Size {
        /// Bytes asked for.
        size: u64,
        /// Logical block.
        block: u32,
    },
    /// Block sizes.
    #[error(
        "block sizes {logical}/{physical} are not possible: powers of two, 512 to 65,536, physical not below logical"
    )]
    Block {
        /// Logical block.
        logical: u32,
        /// Physical block.
        physical: u32,
    },
}

impl Geometry {
    /// Checks all parts against each other.
    pub fn new(size: u64, extent: ExtentBytes, logical: u32, physical: u32) -> Result<Self, GeometryError> {
        let ok = |b: u32| b.is_power_of_two() && (512..=65_536).contains(&b);
        if !ok(logical) || !ok(physical) || physical < logical {
            return Err(GeometryError::Block { logical, physical });
        }
        if size == 0 || size > i64::MAX as u64 || !size.is_multiple_of(u64::from(logical)) {
            return Err(GeometryError::Size { size, block: logical });
        }
        Ok(Geometry { size, extent, logical_block: logical, physical_block: physical })
    }
    /// How many extents; the last may be short.
    pub const fn extents(&self) -> u64 {
        self.size.div_ceil(self.extent.get())
    }
    /// The bytes of extent `index`; short at the end of the volume.
    pub fn extent_bytes(&self, index: u64) -> ByteRange {
        let start = index << self.extent.shift();
        ByteRange::new(start, self.extent.get().min(self.size.saturating_sub(start)))
    }
    /// The bytes of all of `extents`, end to end; short at the end of the volume, none of none.
    pub fn bytes_of(&self, extents: ExtentRange) -> ByteRange {
        let start = self.extent_bytes(extents.start).start;
        match extents.count() {
            0 => ByteRange::new(start, 0),
            _ => ByteRange::new(start, self.extent_bytes(extents.end - 1).end() - start),
        }
    }
    /// All extents that `range` touches.
    pub fn touched(&self, range: ByteRange) -> ExtentRange {
        if range.len == 0 {
            return ExtentRange::default();
        }
        let s = self.extent.shift();
        ExtentRange { start: range.start >> s, end: ((range.end() - 1) >> s) + 1 }
    }
    /// The extents that `range` covers wholly (a short last extent counts as whole).
    pub fn covered(&self, range: ByteRange) -> ExtentRange {
        let s = self.extent.shift();
        let start = range.start.div_ceil(self.extent.get());
        let end = if range.end() >= self.size { self.extents() } else { range.end() >> s };
        ExtentRange { start: start.min(end), end }
    }
    /// Extent by extent the same bytes: blocks are what a disk prefers, and differ where a volume was restored to.
    pub fn same_extents(&self, other: &Geometry) -> bool {
        (self.size, self.extent) == (other.size, other.extent)
    }
    /// Whether `range` lies inside the volume.
    pub fn contains(&self, range: ByteRange) -> bool {
        range.start.checked_add(range.len).is_some_and(|end| end <= self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn g(size: u64) -> Geometry {
        Geometry::new(size, ExtentBytes::DEFAULT, 512, 4096).unwrap()
    }

    #[test]
    fn touched_and_covered() {
        let g = g((3 << 16) + 512);
        assert_eq!(g.extents(), 4);
        assert_eq!(g.extent_bytes(3), ByteRange::new(3 << 16, 512));
        assert_eq!(g.bytes_of(ExtentRange { start: 1, end: 4 }), ByteRange::new(1 << 16, (2 << 16) + 512));
        assert_eq!(g.bytes_of(ExtentRange { start: 2, end: 2 }), ByteRange::new(2 << 16, 0));
        let check = |start, len, touched: (u64, u64), covered: (u64, u64)| {
            let r = ByteRange::new(start, len);
            let (t, c) = (g.touched(r), g.covered(r));
            assert_eq!((t.start, t.end), touched, "touched {r:?}");
            assert_eq!(
                (c.end - c.start, c.count() > 0 && c.start == covered.0),
                (covered.1 - covered.0, covered.1 > covered.0)
            );
        };
        check(0, 512, (0, 1), (0, 0));
        check(0, 65536, (0, 1), (0, 1));
        check(1, 65536, (0, 2), (1, 1));
        check(65535, 65538, (0, 3), (1, 2));
        check(3 << 16, 512, (3, 4), (3, 4));
        check(0, (3 << 16) + 512, (0, 4), (0, 4));
    }

    #[test]
    fn impossible_geometries_are_refused() {
        assert!(
            ExtentBytes::new(8192).is_err()
                && ExtentBytes::new(3 << 16).is_err()
                && ExtentBytes::new(8 << 20).is_err()
        );
        for (size, l, p) in
            [(0, 512, 512), (513, 512, 512), (512, 4096, 4096), (4096, 4096, 512), (4096, 500, 512)]
        {
            assert!(Geometry::new(size, ExtentBytes::DEFAULT, l, p).is_err(), "{size} {l} {p}");
        }
    }
}
