//! One record: a header of 48 bytes, then the data of a write. The checksum covers both, so a torn record is no record.
//!
//! | offset | field |
//! |---|---|
//! | 0 | magic `RKLR` |
//! | 4 | CRC-32C of everything behind it, data included |
//! | 8 | incarnation: which life of the log wrote it |
//! | 12 | segment: which use of a file it was written for; what an earlier use left behind is no record |
//! | 16 | sequence, from 1, without gaps |
//! | 24 | kind: 1 write, 2 zero, 3 trim; then a zero byte |
//! | 26 | volume: its place in the set |
//! | 28 | bytes of data that follow (0 unless a write) |
//! | 32 | first byte of the range in the volume |
//! | 40 | length of the range (for a write: the bytes of data) |

use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::ByteRange;

/// Bytes of a header. A multiple of 16, as all data is (whole blocks): records need no padding between them.
pub const HEADER_BYTES: u64 = 48;
/// The most data one record carries; a larger write becomes several records, answered together.
pub const RECORD_DATA_MAX: u64 = 1 << 20;

const MAGIC: u32 = u32::from_le_bytes(*b"RKLR");

/// What a record does to its range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The data that follows is there.
    Write,
    /// Zeros, for which space stays allocated.
    Zero,
    /// Zeros that may become a hole: a TRIM, or a zero whose space nobody asked to keep.
    Trim,
}

/// The header of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// Which life of the log.
    pub incarnation: u32,
    /// Which use of which file.
    pub segment: u32,
    /// Place in the order of the whole set.
    pub sequence: u64,
    /// Place of the volume in its set.
    pub volume: u16,
    /// What it does.
    pub kind: Kind,
    /// To which bytes.
    pub range: ByteRange,
}

impl Record {
    /// Bytes of data behind the header.
    pub fn data_bytes(&self) -> u64 {
        if self.kind == Kind::Write { self.range.len } else { 0 }
    }
    /// The header for `data`, which is laid right behind it (empty unless a write).
    pub fn encode(&self, data: &[u8]) -> [u8; HEADER_BYTES as usize] {
        assert_eq!(data.len() as u64, self.data_bytes(), "a record carries exactly the bytes of its range");
        assert!(data.len() as u64 <= RECORD_DATA_MAX, "a record is at most 1 MiB");
        let mut w = Writer::new();
        w.u32(MAGIC).u32(0).u32(self.incarnation).u32(self.segment).u64(self.sequence);
        w.u8(self.kind.code()).u8(0).u16(self.volume).u32(data.len() as u32);
        w.u64(self.range.start).u64(self.range.len);
        let mut out = [0; HEADER_BYTES as usize];
        out.copy_from_slice(w.bytes());
        let crc = checksum(&out[8..], data);
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out
    }
    /// The record at the front of `bytes`, if a whole one is there.
    pub fn decode(bytes: &[u8]) -> Result<Record, Malformed> {
        let mut r = Reader::new(bytes);
        if r.u32("record")? != MAGIC {
            return Err(Malformed("record magic"));
        }
        let crc = r.u32("record")?;
        let covered = r.rest();
        let (incarnation, segment, sequence) = (r.u32("record")?, r.u32("record")?, r.u64("record")?);
        let kind = Kind::from_code(r.u8("record")?)?;
        let pad = r.u8("record")?;
        let (volume, data_len) = (r.u16("record")?, u64::from(r.u32("record")?));
        let (start, len) = (r.u64("record")?, r.u64("record")?);
        let data = r.take(data_len as usize, "record data")?;
        let head = &covered[..HEADER_BYTES as usize - 8];
        if checksum(head, data) != crc {
            return Err(Malformed("record checksum"));
        }
        let fits = start.checked_add(len).is_some_and(|end| end <= i64::MAX as u64);
        let expected = if kind == Kind::Write { len } else { 0 };
        if pad != 0 || !fits || len == 0 || data_len != expected || data_len > RECORD_DATA_MAX {
            return Err(Malformed("record fields"));
        }
        Ok(Record { incarnation, segment, sequence, volume, kind, range: ByteRange::new(start, len) })
    }
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Write => 1,
            Kind::Zero => 2,
            Kind::Trim => 3,
        }
    }
    fn from_code(code: u8) -> Result<Kind, Malformed> {
        match code {
            1 => Ok(Kind::Write),
            2 => Ok(Kind::Zero),
            3 => Ok(Kind::Trim),
            _ => Err(Malformed("record kind")),
        }
    }
}

/// CRC-32C of two parts as if they lay end to end; data is never copied to be checked.
fn checksum(head: &[u8], data: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(head);
    digest.update(data);
    digest.finalize() as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(kind: Kind, len: u64) -> Record {
        Record {
            incarnation: 3,
            segment: 7,
            sequence: 0x0102_0304,
            volume: 2,
            kind,
            range: ByteRange::new(1 << 20, len),
        }
    }

    #[test]
    fn the_layout_is_golden() {
        let data = [0xabu8; 512];
        let head = sample(Kind::Write, 512).encode(&data);
        let hex: String = head.iter().map(|b| format!("{b:02x}")).collect();
        let crc = u32::from_le_bytes(head[4..8].try_into().unwrap());
        let mut all = head[8..].to_vec();
        all.extend_from_slice(&data);
        assert_eq!(crc, crate::bytes::crc32c(&all));
        assert_eq!(&hex[..8], "524b4c52");
        assert_eq!(
            &hex[16..],
            "03000000070000000403020100000000010002000002000000001000000000000002000000000000"
        );
    }

    #[test]
    fn round_trip_and_every_torn_or_flipped_record_is_none() {
        for (kind, len) in [(Kind::Write, 1024), (Kind::Zero, 1 << 40), (Kind::Trim, 512)] {
            let record = sample(kind, len);
            let data = vec![0x5a; record.data_bytes() as usize];
            let mut bytes = record.encode(&data).to_vec();
            bytes.extend_from_slice(&data);
            assert_eq!(Record::decode(&bytes), Ok(record));
            for cut in 0..bytes.len() {
                assert!(Record::decode(&bytes[..cut]).is_err());
            }
            for i in 0..bytes.len() {
                bytes[i] ^= 1 << (i % 8);
                assert!(Record::decode(&bytes).is_err(), "a flipped bit in byte {i} went unseen");
                bytes[i] ^= 1 << (i % 8);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), magic: bool) {
            if magic && bytes.len() >= 4 {
                bytes[..4].copy_from_slice(b"RKLR");
            }
            let _ = Record::decode(&bytes);
        }
    }
}
