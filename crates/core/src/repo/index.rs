//! A run of the dedup index: the extents one session stored, sorted by id. For writers only; its loss costs space.
//!
//! ```text
//! u16 packs and their table (as in pages), u32 n, then per entry the first 16 bytes of the id, u32 plain, u16 pack, u32 slot,
//! u32 offset, u32 stored
//! ```
//! 16 bytes of a keyed hash are enough to find, not to trust: a writer compares the whole id in the pack's directory.

use super::id::Id;
use super::place::{PackTable, Place};
use crate::bytes::{Malformed, Reader, Writer};

/// First half of an id.
pub type Prefix = [u8; 16];
/// The most entries of a run.
pub const ENTRIES_MAX: usize = 1 << 17;
const PACKS_MAX: usize = 4096;

/// One stored extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IndexEntry {
    /// First half of its id.
    pub prefix: Prefix,
    /// Plain bytes: a short last extent is not a whole one with the same id.
    pub plain: u32,
    /// Where.
    pub place: Place,
}

/// First half of `id`.
pub fn prefix(id: Id) -> Prefix {
    let mut p = [0; 16];
    p.copy_from_slice(&id.0[..16]);
    p
}

/// Encodes entries, which the caller has sorted by prefix; at most `ENTRIES_MAX`.
pub fn encode(entries: &[IndexEntry]) -> Vec<u8> {
    let mut packs = PackTable::default();
    let mut w = Writer::new();
    for e in entries {
        w.raw(&e.prefix).u32(e.plain).u16(packs.index(e.place.pack));
        w.u32(e.place.slot).u32(e.place.offset).u32(e.place.stored);
    }
    let mut out = Writer::new();
    packs.encode(&mut out);
    out.u32(entries.len() as u32).raw(w.bytes());
    out.finish()
}

/// Reads a run, entry by entry: readers keep less of each than it says. Order is checked; what came before an error may be
/// used, as far as an index is ever trusted.
pub fn decode(bytes: &[u8], each: &mut dyn FnMut(IndexEntry)) -> Result<(), Malformed> {
    let mut r = Reader::new(bytes);
    let packs = PackTable::decode(&mut r, PACKS_MAX)?;
    let n = r.u32("index")? as usize;
    if n > ENTRIES_MAX {
        return Err(Malformed("index"));
    }
    let mut last = Prefix::default();
    for _ in 0..n {
        let (prefix, plain) = (r.array("index")?, r.u32("index")?);
        let pack = packs.get(r.u16("index")?).ok_or(Malformed("index pack"))?;
        let place = Place { pack, slot: r.u32("index")?, offset: r.u32("index")?, stored: r.u32("index")? };
        if place.stored == 0 || last > prefix {
            return Err(Malformed("index entry"));
        }
        last = prefix;
        each(IndexEntry { prefix, plain, place });
    }
    r.end("index")
}
