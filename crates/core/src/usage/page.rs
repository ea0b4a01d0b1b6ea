//! Usage facts as pages of the manifest tree's shape: 1,024 extents a page, so that a page nobody touched is the same
//! bytes in the next snapshot and is shared. The same layout is a slot of the live facts file.
//!
//! Page: magic `RKUP`, CRC-32C of all that follows, version u8, log2 of the extent u8, count u16 of extents with facts,
//! cold starts seen u32, volume uuid 16, page index u64, change stamp u64, bitmap of 128 bytes (bit i = extent i has
//! facts), then 16 bytes of facts for each bit, ascending. A page is bound to its volume and place: one that belongs
//! elsewhere is an error, never data. Damage costs speed only (invariant 11): callers go on without the page.
//!
//! Summary: one small record a volume, beside the pages: what the pages' numbers are relative to.

use super::facts::{FACTS_BYTES, Facts, RANKS};
use crate::bytes::{Malformed, Reader, Writer, crc32c};
use crate::volume::{ExtentBytes, Uuid};

/// Extents in a page.
pub const PAGE_EXTENTS: usize = 1024;
/// Bytes before the bitmap.
pub const PAGE_HEAD_BYTES: usize = 48;
/// The longest page.
pub const PAGE_BYTES_MAX: usize = PAGE_HEAD_BYTES + PAGE_EXTENTS / 8 + PAGE_EXTENTS * FACTS_BYTES;
const MAGIC: &[u8; 4] = b"RKUP";
const SUMMARY_MAGIC: &[u8; 4] = b"RKUS";
const VERSION: u8 = 1;
const SUMMARY_VERSION: u32 = 2;

/// Which page of which volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageId {
    /// The volume the facts are of.
    pub volume: Uuid,
    /// Its extent size.
    pub extent: ExtentBytes,
    /// Extents `index * 1024..`.
    pub index: u64,
}

/// What a page is relative to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PageHead {
    /// Cold starts seen when the page was written: the ranks in it are of that one and the one before.
    pub cold_starts: u32,
    /// The fold that wrote it, in the counting of the map that wrote it.
    pub stamp: u64,
}

/// A page that cannot be used; the caller goes on without it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PageError {
    /// Torn, damaged, or of an unknown version.
    #[error("usage page: {0}")]
    Damaged(#[from] Malformed),
    /// Whole, but of another volume, extent size or place.
    #[error("usage page of another volume or place")]
    Elsewhere,
}

/// Decoded facts of a page: always 1,024.
pub type PageFacts = [Facts; PAGE_EXTENTS];

/// An empty page.
pub fn empty_page() -> Box<PageFacts> {
    Box::new([Facts::default(); PAGE_EXTENTS])
}

/// Encodes a page; its length tells how many extents have facts.
pub fn encode_page(id: &PageId, head: PageHead, facts: &PageFacts) -> Vec<u8> {
    let mut bitmap = [0u8; PAGE_EXTENTS / 8];
    let mut body = Writer::new();
    let mut count = 0u16;
    for (i, f) in facts.iter().enumerate().filter(|(_, f)| !f.is_empty()) {
        bitmap[i / 8] |= 1 << (i % 8);
        f.encode(&mut body);
        count += 1;
    }
    let mut w = Writer::new();
    w.u8(VERSION).u8(id.extent.shift() as u8).u16(count).u32(head.cold_starts);
    w.raw(&id.volume.0).u64(id.index).u64(head.stamp).raw(&bitmap).raw(body.bytes());
    let mut out = Writer::new();
    out.raw(MAGIC).u32(crc32c(w.bytes())).raw(w.bytes());
    out.finish()
}

/// How long the page at the front of `bytes` is, from its head alone: a slot of the facts file may be longer.
pub fn page_len(head: &[u8]) -> Result<usize, PageError> {
    let mut r = Reader::new(head);
    if r.array::<4>("magic")? != *MAGIC {
        return Err(Malformed("magic").into());
    }
    let (_crc, _version, _shift) = (r.u32("checksum")?, r.u8("version")?, r.u8("extent size")?);
    let count = usize::from(r.u16("count")?);
    if count > PAGE_EXTENTS {
        return Err(Malformed("count").into());
    }
    Ok(PAGE_HEAD_BYTES + PAGE_EXTENTS / 8 + count * FACTS_BYTES)
}

/// The change stamp in a page's head, unchecked: for telling changed pages apart without reading them whole.
pub fn page_stamp(head: &[u8]) -> Result<u64, PageError> {
    page_len(head)?;
    let mut r = Reader::new(head);
    r.take(PAGE_HEAD_BYTES - 8, "head")?;
    Ok(r.u64("stamp")?)
}

/// Decodes a page that must be exactly `bytes` and belong to `id`.
pub fn decode_page(id: &PageId, bytes: &[u8], out: &mut PageFacts) -> Result<PageHead, PageError> {
    if page_len(bytes)? != bytes.len() {
        return Err(Malformed("length").into());
    }
    let mut r = Reader::new(&bytes[4..]);
    if r.u32("checksum")? != crc32c(r.rest()) {
        return Err(Malformed("checksum").into());
    }
    if r.u8("version")? != VERSION {
        return Err(Malformed("version").into());
    }
    let (shift, count) = (r.u8("extent size")?, r.u16("count")?);
    let cold_starts = r.u32("cold starts")?;
    let (volume, index, stamp) = (Uuid(r.array("volume")?), r.u64("page")?, r.u64("stamp")?);
    if (volume, u32::from(shift), index) != (id.volume, id.extent.shift(), id.index) {
        return Err(PageError::Elsewhere);
    }
    let bitmap: [u8; PAGE_EXTENTS / 8] = r.array("bitmap")?;
    if bitmap.iter().map(|b| b.count_ones()).sum::<u32>() != u32::from(count) {
        return Err(Malformed("bitmap").into());
    }
    for (i, slot) in out.iter_mut().enumerate() {
        let known = bitmap[i / 8] >> (i % 8) & 1 == 1;
        *slot = if known { Facts::decode(&mut r)? } else { Facts::default() };
    }
    r.end("end of page")?;
    Ok(PageHead { cold_starts, stamp })
}

/// What the numbers in a volume's pages are relative to, and how the last start went.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// The volume.
    pub volume: Uuid,
    /// The map that keeps the pages: stamps of different maps do not compare.
    pub map: Uuid,
    /// Stamp of the newest fold.
    pub stamp: u64,
    /// Ticks of served time.
    pub tick: u32,
    /// Cold starts seen.
    pub cold_starts: u32,
    /// Served milliseconds since the newest cold start.
    pub since_start_ms: u64,
    /// Extents in the newest trace.
    pub trace_extents: u64,
    /// For each rank of the newest trace, when its last extent was first touched, in ms since the cold start; 0: none.
    pub rank_ms: [u32; RANKS as usize],
    /// Number of the newest drill whose trace was taken in; 0: none.
    pub drill: u64,
}

/// Length of an encoded summary.
pub const SUMMARY_BYTES: usize = SUMMARY_BYTES_1 + 8;
/// Length of one in version 1.
pub const SUMMARY_BYTES_1: usize = 8 + 4 + 32 + 8 + 8 + 8 + 8 + 4 * RANKS as usize;

impl Summary {
    /// magic `RKUS`, CRC-32C, version u32, volume 16, map 16, stamp u64, tick u32, cold starts u32, ms since start u64,
    /// trace extents u64, 16 x rank ms u32, drill u64 (which version 1 lacks).
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u32(SUMMARY_VERSION).raw(&self.volume.0).raw(&self.map.0);
        w.u64(self.stamp)
            .u32(self.tick)
            .u32(self.cold_starts)
            .u64(self.since_start_ms)
            .u64(self.trace_extents);
        for ms in self.rank_ms {
            w.u32(ms);
        }
        w.u64(self.drill);
        let mut out = Writer::new();
        out.raw(SUMMARY_MAGIC).u32(crc32c(w.bytes())).raw(w.bytes());
        out.finish()
    }
    /// Decodes a summary that must be exactly `bytes` and of `volume`.
    pub fn decode(volume: Uuid, bytes: &[u8]) -> Result<Summary, PageError> {
        let mut r = Reader::new(bytes);
        if r.array::<4>("summary magic")? != *SUMMARY_MAGIC {
            return Err(Malformed("summary magic").into());
        }
        if r.u32("summary checksum")? != crc32c(r.rest()) {
            return Err(Malformed("summary checksum").into());
        }
        let version = r.u32("summary version")?;
        if !(1..=SUMMARY_VERSION).contains(&version) {
            return Err(Malformed("summary version").into());
        }
        let mut s = Summary {
            volume: Uuid(r.array("volume")?),
            map: Uuid(r.array("map")?),
            stamp: r.u64("stamp")?,
            tick: r.u32("tick")?,
            cold_starts: r.u32("cold starts")?,
            since_start_ms: r.u64("since start")?,
            trace_extents: r.u64("trace")?,
            rank_ms: [0; RANKS as usize],
            drill: 0,
        };
        for ms in &mut s.rank_ms {
            *ms = r.u32("rank time")?;
        }
        if version > 1 {
            s.drill = r.u64("drill")?;
        }
        r.end("end of summary")?;
        if s.volume != volume {
            return Err(PageError::Elsewhere);
        }
        Ok(s)
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::Touch;
    use super::*;
    use proptest::prelude::*;

    fn id() -> PageId {
        PageId { volume: Uuid([7; 16]), extent: ExtentBytes::DEFAULT, index: 3 }
    }
    fn page(touched: &[usize]) -> Box<PageFacts> {
        let mut p = empty_page();
        for &i in touched {
            p[i].fold(i as u64, Touch { reads: i as u32 + 1, writes: 0, scanned: false }, 0);
            p[i].enter(1);
        }
        p
    }

    #[test]
    fn the_layout_is_golden() {
        let bytes = encode_page(&id(), PageHead { cold_starts: 2, stamp: 5 }, &page(&[1]));
        let mut golden = Vec::from(*b"RKUP");
        golden.extend([0; 4]);
        golden.extend([1, 16, 1, 0, 2, 0, 0, 0]);
        golden.extend([7; 16]);
        golden.extend([3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        golden.push(2);
        golden.extend([0; 127]);
        golden.extend([2, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 192, 0, 0, 1]);
        let crc = crc32c(&golden[8..]).to_le_bytes();
        golden[4..8].copy_from_slice(&crc);
        assert_eq!(bytes, golden);
        assert_eq!(page_len(&bytes[..PAGE_HEAD_BYTES]), Ok(bytes.len()));
        assert_eq!(page_stamp(&bytes[..PAGE_HEAD_BYTES]), Ok(5));
    }

    #[test]
    fn a_page_of_another_place_or_volume_is_no_data() {
        let bytes = encode_page(&id(), PageHead::default(), &page(&[0, 1023]));
        let mut out = empty_page();
        assert!(decode_page(&id(), &bytes, &mut out).is_ok());
        let others = [
            PageId { index: 4, ..id() },
            PageId { volume: Uuid([8; 16]), ..id() },
            PageId { extent: ExtentBytes::new(1 << 20).unwrap(), ..id() },
        ];
        for other in others {
            assert_eq!(decode_page(&other, &bytes, &mut out), Err(PageError::Elsewhere));
        }
    }

    #[test]
    fn the_summary_is_golden_and_bound() {
        let mut s = Summary { volume: Uuid([1; 16]), map: Uuid([2; 16]), stamp: 3, ..Summary::default() };
        (s.tick, s.cold_starts, s.since_start_ms, s.trace_extents, s.rank_ms[15]) = (4, 5, 6, 7, 8);
        s.drill = 9;
        let bytes = s.encode();
        assert_eq!((bytes.len(), &bytes[..4]), (SUMMARY_BYTES, &b"RKUS"[..]));
        assert_eq!(bytes[44..52], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[52..76], [4, 0, 0, 0, 5, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[136..], [8, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Summary::decode(Uuid([1; 16]), &bytes), Ok(s));
        assert_eq!(Summary::decode(Uuid([9; 16]), &bytes), Err(PageError::Elsewhere));
        assert!(Summary::decode(Uuid([1; 16]), &bytes[..bytes.len() - 1]).is_err());
        let mut first = bytes[..SUMMARY_BYTES_1].to_vec();
        first[8] = 1;
        let crc = crc32c(&first[8..]).to_le_bytes();
        first[4..8].copy_from_slice(&crc);
        assert_eq!(Summary::decode(Uuid([1; 16]), &first), Ok(Summary { drill: 0, ..s }), "version 1");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_come_back_and_any_flipped_bit_is_noticed(
            touched in prop::collection::btree_set(0usize..1024, 0..40), at: prop::sample::Index, bit in 0u8..8,
        ) {
            let touched: Vec<usize> = touched.into_iter().collect();
            let facts = page(&touched);
            let head = PageHead { cold_starts: 9, stamp: 77 };
            let mut bytes = encode_page(&id(), head, &facts);
            let mut out = empty_page();
            prop_assert_eq!(decode_page(&id(), &bytes, &mut out), Ok(head));
            prop_assert!(out == facts);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode_page(&id(), &bytes, &mut out).is_err());
        }
        #[test]
        fn junk_never_panics(junk in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut out = empty_page();
            let _ = (decode_page(&id(), &junk, &mut out), Summary::decode(Uuid::default(), &junk));
            let mut framed = Vec::from(*b"RKUP");
            framed.extend(crc32c(&junk).to_le_bytes());
            framed.extend(&junk);
            let _ = decode_page(&id(), &framed, &mut out);
        }
    }
}
