//! Half-open ranges of bytes and of extents.

/// Bytes `start..start+len` of a volume. `start + len` fits in u64 by construction of everything that makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteRange {
    /// First byte.
    pub start: u64,
    /// How many bytes.
    pub len: u64,
}

impl ByteRange {
    /// `start..start+len`.
    pub const fn new(start: u64, len: u64) -> Self {
        ByteRange { start, len }
    }
    /// One past the last byte.
    pub const fn end(&self) -> u64 {
        self.start + self.len
    }
    /// Shares at least one byte with `other`.
    pub const fn overlaps(&self, other: &ByteRange) -> bool {
        self.start < other.end() && other.start < self.end()
    }
    /// Holds all of `other`.
    pub const fn covers(&self, other: &ByteRange) -> bool {
        self.start <= other.start && other.end() <= self.end()
    }
    /// The shared part, if any.
    pub fn intersect(&self, other: &ByteRange) -> Option<ByteRange> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| ByteRange::new(start, end - start))
    }
}

/// Extents `start..end` of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ExtentRange {
    /// First extent.
    pub start: u64,
    /// One past the last extent.
    pub end: u64,
}

impl ExtentRange {
    /// How many extents.
    pub const fn count(&self) -> u64 {
        self.end - self.start
    }
    /// The extents, in order.
    pub fn iter(&self) -> std::ops::Range<u64> {
        self.start..self.end
    }
}
