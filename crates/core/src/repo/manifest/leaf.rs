//! A leaf: the places of up to 1,024 extents; a clear mark is a zero extent.
//!
//! ```text
//! u8 kind 1, u16 n, option ids page (48 bytes, present iff anything is stored), pack table, ceil(n/8) bytes of marks (bit i
//! set: extent i is stored), then per stored extent: pack index, slot and offset as differences, stored length (varints)
//! ```

use super::super::place::{PackTable, PageRef, Place, Running};
use super::super::varint;
use super::{FAN, PageKind};
use crate::bytes::{Malformed, Reader, Writer};

/// Place of one extent with a small pack index; `stored` 0: a zero extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeafEntry {
    /// Index into the leaf's packs.
    pub pack: u16,
    /// Birth slot.
    pub slot: u32,
    /// First byte.
    pub offset: u32,
    /// Bytes; 0 for zeros.
    pub stored: u32,
}

/// A leaf in memory: 16 bytes an extent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Leaf {
    /// Packs named by the entries.
    pub packs: PackTable,
    /// One an extent.
    pub entries: Vec<LeafEntry>,
    /// The page of the stored extents' ids.
    pub ids: Option<PageRef>,
}

impl Leaf {
    /// A leaf of `n` zero extents.
    pub fn zeros(n: usize) -> Self {
        Leaf { packs: PackTable::default(), entries: vec![LeafEntry::default(); n], ids: None }
    }
    /// The place of extent `i` of this leaf; `None`: zeros.
    pub fn place(&self, i: usize) -> Option<Place> {
        let e = self.entries.get(i).filter(|e| e.stored > 0)?;
        Some(Place { pack: self.packs.get(e.pack)?, slot: e.slot, offset: e.offset, stored: e.stored })
    }
    /// Sets the place of extent `i`.
    pub fn set(&mut self, i: usize, place: Option<Place>) {
        self.entries[i] = match place {
            None => LeafEntry::default(),
            Some(p) => {
                LeafEntry { pack: self.packs.index(p.pack), slot: p.slot, offset: p.offset, stored: p.stored }
            }
        };
    }
    /// The same leaf with only the packs it uses, in order of first use: its one encoding.
    pub fn tidy(&self) -> Leaf {
        let mut out = Leaf::zeros(self.entries.len());
        out.ids = self.ids;
        (0..self.entries.len()).for_each(|i| out.set(i, self.place(i)));
        out
    }
    /// Extents that are stored and the bytes of their frames.
    pub fn totals(&self) -> (u64, u64) {
        self.entries
            .iter()
            .filter(|e| e.stored > 0)
            .fold((0, 0), |(n, b), e| (n + 1, b + u64::from(e.stored)))
    }
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(PageKind::Leaf as u8).u16(self.entries.len() as u16);
        PageRef::encode_option(self.ids.as_ref(), &mut w);
        self.packs.encode(&mut w);
        w.raw(&marks(self.entries.len(), |i| self.entries[i].stored > 0));
        let mut run = Running::default();
        for e in self.entries.iter().filter(|e| e.stored > 0) {
            varint::put(&mut w, e.pack.into());
            run.put(&mut w, e.pack, e.slot, e.offset, e.stored);
        }
        w.finish()
    }
    /// Reads a leaf.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        PageKind::expect(&mut r, PageKind::Leaf)?;
        let n = count(&mut r)?;
        let ids = PageRef::decode_option(&mut r)?;
        let packs = PackTable::decode(&mut r, FAN as usize)?;
        let marks = r.take(n.div_ceil(8), "leaf marks")?;
        let (mut entries, mut run) = (vec![LeafEntry::default(); n], Running::default());
        for (_, e) in entries.iter_mut().enumerate().filter(|(i, _)| marked(marks, *i)) {
            let pack = varint::get(&mut r, "leaf pack")?;
            if pack >= packs.len() as u64 {
                return Err(Malformed("leaf pack"));
            }
            let (slot, offset, stored) = run.get(&mut r, pack as u16)?;
            *e = LeafEntry { pack: pack as u16, slot, offset, stored };
        }
        r.end("leaf")?;
        let any = entries.iter().any(|e| e.stored > 0);
        if any == ids.is_some() { Ok(Leaf { packs, entries, ids }) } else { Err(Malformed("leaf ids")) }
    }
}

/// Takes a count of entries: 1 to 1,024.
pub(super) fn count(r: &mut Reader<'_>) -> Result<usize, Malformed> {
    let n = r.u16("page entries")? as usize;
    if n == 0 || n as u64 > FAN { Err(Malformed("page entries")) } else { Ok(n) }
}
/// One bit an entry.
pub(super) fn marks(n: usize, set: impl Fn(usize) -> bool) -> Vec<u8> {
    let mut out = vec![0; n.div_ceil(8)];
    (0..n).filter(|i| set(*i)).for_each(|i| out[i / 8] |= 1 << (i % 8));
    out
}
/// Bit `i` is set.
pub(super) fn marked(marks: &[u8], i: usize) -> bool {
    marks[i / 8] & (1 << (i % 8)) != 0
}
