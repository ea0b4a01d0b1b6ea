//! A segment: one use of one file of the log. And the table that names, durably, which segments the log consists of.
//!
//! The table is small and replaced as a whole (two slots, the newer whole one counts; the engine keeps them). It is the
//! only place that says a segment is in use, where a recovered one ends, and which sequence the log begins with.

use crate::bytes::{Malformed, Reader, Writer, crc32c};
use crate::volume::Uuid;

/// Where the first record of a segment may lie: behind a header block of its own.
pub const SEGMENT_START: u64 = 4096;

const MAGIC: &[u8; 8] = b"RKLOGSEG";
const TABLE_MAGIC: &[u8; 8] = b"RKLOGTAB";
const VERSION: u32 = 1;
const TABLE_VERSION: u32 = 2;
/// More segments than any log has: 1 TiB of the smallest.
const SEGMENTS_MAX: u32 = 1 << 18;

/// The start of the first physical block at or behind `offset`.
pub fn fresh_block(offset: u64, block_bytes: u64) -> u64 {
    offset.next_multiple_of(block_bytes)
}

/// The first bytes of a segment file: for people and tools; recovery believes table and records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The restore it belongs to.
    pub owner: Uuid,
    /// Which use.
    pub segment: u32,
    /// Which life of the log.
    pub incarnation: u32,
    /// Bytes of the file.
    pub bytes: u64,
}

impl SegmentHeader {
    /// 48 bytes: magic, version, owner, segment, incarnation, bytes, CRC-32C.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(MAGIC).u32(VERSION).raw(&self.owner.0).u32(self.segment).u32(self.incarnation).u64(self.bytes);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        w.finish()
    }
    /// Reads it back.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.array::<8>("segment")? != *MAGIC || r.u32("segment")? != VERSION {
            return Err(Malformed("segment magic"));
        }
        let owner = Uuid(r.array("segment")?);
        let (segment, incarnation, size) = (r.u32("segment")?, r.u32("segment")?, r.u64("segment")?);
        let covered = bytes.len() - r.rest().len();
        if r.u32("segment")? != crc32c(&bytes[..covered]) {
            return Err(Malformed("segment checksum"));
        }
        Ok(SegmentHeader { owner, segment, incarnation, bytes: size })
    }
}

/// One segment the log consists of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentEntry {
    /// Which use: fresh for every use, ascending in the order of the log.
    pub segment: u32,
    /// Which file (`log-N`).
    pub file: u32,
    /// Records of other incarnations in it are none.
    pub incarnation: u32,
    /// Bytes of the file.
    pub bytes: u64,
    /// A recovery kept the records below this sequence; what lies behind is void for good. `None`: not recovered yet.
    pub end: Option<u64>,
}

/// Which segments the log consists of, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentTable {
    /// The current life of the log; every recovery begins the next.
    pub incarnation: u32,
    /// The sequence of the oldest record the log still has (or will have).
    pub first_sequence: u64,
    /// A flush of the log failed: only records below this sequence were ever durable, the rest is lost.
    pub cut: Option<u64>,
    /// Every record up to here was durable when this was written: one that is not found is damage, not the end.
    pub durable: u64,
    /// The next unused segment number.
    pub next_segment: u32,
    /// The next unused file number.
    pub next_file: u32,
    /// Oldest first.
    pub segments: Vec<SegmentEntry>,
}

impl SegmentTable {
    /// Of a log that has no segment yet.
    pub fn new() -> Self {
        SegmentTable {
            incarnation: 1,
            first_sequence: 1,
            cut: None,
            durable: 0,
            next_segment: 1,
            next_file: 1,
            segments: Vec::new(),
        }
    }
    /// The layout; framing and checksum are the slot's.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(TABLE_MAGIC).u32(TABLE_VERSION).u32(self.incarnation).u64(self.first_sequence);
        w.u64(self.cut.unwrap_or(0)).u64(self.durable).u32(self.next_segment).u32(self.next_file);
        w.u32(self.segments.len() as u32);
        for s in &self.segments {
            w.u32(s.segment).u32(s.file).u32(s.incarnation).u64(s.bytes).u64(s.end.unwrap_or(0));
        }
        w.finish()
    }
    /// Reads it back; segments must ascend.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        if r.array::<8>("log table")? != *TABLE_MAGIC || r.u32("log table")? != TABLE_VERSION {
            return Err(Malformed("log table magic"));
        }
        let (incarnation, first_sequence) = (r.u32("log table")?, r.u64("log table")?);
        // Sequences begin at 1, so 0 stands for "none".
        let cut = Some(r.u64("log table")?).filter(|c| *c != 0);
        let durable = r.u64("log table")?;
        let (next_segment, next_file, n) = (r.u32("log table")?, r.u32("log table")?, r.u32("log table")?);
        if n > SEGMENTS_MAX || first_sequence == 0 {
            return Err(Malformed("log table"));
        }
        let mut segments: Vec<SegmentEntry> = Vec::with_capacity(n.min(4096) as usize);
        for _ in 0..n {
            let (segment, file, incarnation) =
                (r.u32("log table")?, r.u32("log table")?, r.u32("log table")?);
            let (bytes, end) = (r.u64("log table")?, Some(r.u64("log table")?).filter(|e| *e != 0));
            if segment >= next_segment || segments.last().is_some_and(|l| l.segment >= segment) {
                return Err(Malformed("log table order"));
            }
            segments.push(SegmentEntry { segment, file, incarnation, bytes, end });
        }
        r.end("log table")?;
        Ok(SegmentTable { incarnation, first_sequence, cut, durable, next_segment, next_file, segments })
    }
}
impl Default for SegmentTable {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    #[test]
    fn the_layouts_are_golden() {
        let h = SegmentHeader { owner: Uuid([9; 16]), segment: 2, incarnation: 1, bytes: 8 << 20 };
        let bytes = h.encode();
        assert_eq!(
            hex(&bytes[..44]),
            "524b4c4f4753454701000000090909090909090909090909090909090200000001000000\
             0000800000000000"
        );
        assert_eq!(SegmentHeader::decode(&bytes), Ok(h));
        assert!((0..48).all(|i| {
            let mut b = bytes.clone();
            b[i] ^= 4;
            SegmentHeader::decode(&b).is_err()
        }));
        let t = SegmentTable {
            incarnation: 2,
            first_sequence: 5,
            cut: Some(77),
            durable: 6,
            next_segment: 4,
            next_file: 3,
            segments: vec![SegmentEntry { segment: 3, file: 1, incarnation: 2, bytes: 4096, end: Some(9) }],
        };
        assert_eq!(
            hex(&t.encode()),
            "524b4c4f47544142020000000200000005000000000000004d000000000000000600000000000000\
             0400000003000000\
             0100000003000000010000000200000000100000000000000900000000000000"
        );
        assert_eq!(SegmentTable::decode(&t.encode()), Ok(t));
        assert_eq!(SegmentTable::decode(&SegmentTable::new().encode()), Ok(SegmentTable::new()));
    }

    #[test]
    fn blocks() {
        assert_eq!((fresh_block(0, 4096), fresh_block(1, 4096), fresh_block(4096, 4096)), (0, 4096, 4096));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..80) {
            let _ = (SegmentHeader::decode(&bytes), SegmentTable::decode(&bytes));
            let good = SegmentTable::new().encode();
            prop_assert!(SegmentTable::decode(&good[..cut.min(good.len() - 1)]).is_err());
        }
    }
}
