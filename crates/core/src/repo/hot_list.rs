//! The hot list of a volume: its extents in restore order, so that a restore can begin before the usage map is read. A
//! damaged or missing list costs speed only.
//!
//! It names extents, not places: places of unchanged extents would make every incremental read the parent's leaf pages,
//! while a restore reads a leaf of 64 MiB once, in 4 KB. Chunks with places have a reserved kind.
//!
//! ```text
//! head:  u8 kind 7, u64 extents in all, u16 n chunks, n page references
//! chunk: u8 kind 6, u32 n, n extents as signed varint differences (in restore order, no two equal)
//! ```

use super::manifest::PageKind;
use super::place::PageRef;
use super::varint;
use crate::bytes::{Malformed, Reader, Writer};

/// Extents in one chunk.
pub const CHUNK: usize = 16 << 10;
/// The most chunks: 16 Mi extents, a TiB of hot data in 64 KiB extents.
pub const CHUNKS_MAX: usize = 1024;

/// Encodes one chunk.
pub fn encode_chunk(extents: &[u64]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(PageKind::HotChunk as u8).u32(extents.len() as u32);
    let mut last = 0i64;
    for e in extents {
        varint::put_signed(&mut w, *e as i64 - last);
        last = *e as i64;
    }
    w.finish()
}

/// Reads one chunk of a volume that has `limit` extents.
pub fn decode_chunk(bytes: &[u8], limit: u64) -> Result<Vec<u64>, Malformed> {
    let mut r = Reader::new(bytes);
    PageKind::expect(&mut r, PageKind::HotChunk)?;
    let n = r.u32("hot list")? as usize;
    if n > CHUNK {
        return Err(Malformed("hot list"));
    }
    let (mut out, mut last) = (Vec::with_capacity(n), 0i64);
    for _ in 0..n {
        last = last.checked_add(varint::get_signed(&mut r, "hot list")?).ok_or(Malformed("hot list"))?;
        if last < 0 || last as u64 >= limit {
            return Err(Malformed("hot list"));
        }
        out.push(last as u64);
    }
    r.end("hot list")?;
    Ok(out)
}

/// The head of a list.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HotHead {
    /// Extents in all chunks.
    pub extents: u64,
    /// The chunks, hottest first.
    pub chunks: Vec<PageRef>,
}

impl HotHead {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(PageKind::HotHead as u8).u64(self.extents).u16(self.chunks.len() as u16);
        self.chunks.iter().for_each(|c| c.encode(&mut w));
        w.finish()
    }
    /// Reads a head.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        PageKind::expect(&mut r, PageKind::HotHead)?;
        let extents = r.u64("hot list")?;
        let n = r.u16("hot list")? as usize;
        if n > CHUNKS_MAX {
            return Err(Malformed("hot list"));
        }
        let chunks = (0..n).map(|_| PageRef::decode(&mut r)).collect::<Result<_, _>>()?;
        r.end("hot list")?;
        Ok(HotHead { extents, chunks })
    }
}
