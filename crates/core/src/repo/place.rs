//! Where a frame lies and what it is called.
//!
//! A frame has a birth name (the pack it was first written to, its slot there) that it keeps for ever: the seal is bound
//! to it. The place is the last known one; a frame that was moved keeps its birth name and lies in another pack.

use super::varint;
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::Uuid;

/// A pack by birth and by where it lies now.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PackRef {
    /// The pack the frame was born in: part of its name.
    pub birth: Uuid,
    /// The pack that holds it, equal to `birth` until it is moved.
    pub held_in: Uuid,
}

impl PackRef {
    /// A frame that still lies where it was born.
    pub fn at_birth(pack: Uuid) -> Self {
        PackRef { birth: pack, held_in: pack }
    }
}

/// The place of a frame.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Place {
    /// In which pack.
    pub pack: PackRef,
    /// The birth slot.
    pub slot: u32,
    /// First byte in the pack that holds it.
    pub offset: u32,
    /// Bytes there, seal included; never 0 for a frame that exists.
    pub stored: u32,
}

/// The place of a page and its plain length (the seal covers both).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct PageRef {
    /// Where.
    pub place: Place,
    /// Bytes of the page when opened.
    pub plain: u32,
}

/// Encoded bytes of a `PageRef`.
pub const PAGE_REF_BYTES: usize = 48;

impl PageRef {
    /// Appends 48 bytes: birth, held in, slot, offset, stored, plain.
    pub fn encode(&self, w: &mut Writer) {
        let p = &self.place;
        w.raw(&p.pack.birth.0).raw(&p.pack.held_in.0).u32(p.slot).u32(p.offset).u32(p.stored).u32(self.plain);
    }
    /// Takes what `encode` appended; a frame of no bytes is malformed.
    pub fn decode(r: &mut Reader<'_>) -> Result<Self, Malformed> {
        let pack = PackRef { birth: Uuid(r.array("page birth")?), held_in: Uuid(r.array("page pack")?) };
        let place = Place {
            pack,
            slot: r.u32("page slot")?,
            offset: r.u32("page offset")?,
            stored: r.u32("page stored")?,
        };
        let page = PageRef { place, plain: r.u32("page plain")? };
        if page.place.stored == 0 || page.plain == 0 {
            return Err(Malformed("page reference"));
        }
        Ok(page)
    }
    /// Appends one byte 0 for none, or 1 and the reference.
    pub fn encode_option(page: Option<&PageRef>, w: &mut Writer) {
        match page {
            None => {
                w.u8(0);
            }
            Some(p) => {
                w.u8(1);
                p.encode(w);
            }
        }
    }
    /// Takes what `encode_option` appended.
    pub fn decode_option(r: &mut Reader<'_>) -> Result<Option<Self>, Malformed> {
        match r.u8("page mark")? {
            0 => Ok(None),
            1 => PageRef::decode(r).map(Some),
            _ => Err(Malformed("page mark")),
        }
    }
}

/// The packs a page names, each once, in order of first use: entries say a small index instead of 32 bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PackTable {
    packs: Vec<PackRef>,
}

impl PackTable {
    /// The index of `pack`, added if new. Linear from the end: neighbours mostly share a pack.
    pub fn index(&mut self, pack: PackRef) -> u16 {
        if let Some(i) = self.packs.iter().rposition(|p| *p == pack) {
            return i as u16;
        }
        self.packs.push(pack);
        (self.packs.len() - 1) as u16
    }
    /// The pack at `index`.
    pub fn get(&self, index: u16) -> Option<PackRef> {
        self.packs.get(index as usize).copied()
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.packs.len()
    }
    /// None yet.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }
    /// Appends u16 count, then per pack its birth uuid, one byte, and where it lies if elsewhere.
    pub fn encode(&self, w: &mut Writer) {
        w.u16(self.packs.len() as u16);
        for p in &self.packs {
            w.raw(&p.birth.0);
            if p.held_in == p.birth {
                w.u8(0);
            } else {
                w.u8(1).raw(&p.held_in.0);
            }
        }
    }
    /// Takes a table of at most `max` packs, no two equal.
    pub fn decode(r: &mut Reader<'_>, max: usize) -> Result<Self, Malformed> {
        let n = r.u16("pack table")? as usize;
        if n > max {
            return Err(Malformed("pack table"));
        }
        let mut packs = Vec::with_capacity(n);
        for _ in 0..n {
            let birth = Uuid(r.array("pack table")?);
            let held_in = match r.u8("pack table")? {
                0 => birth,
                1 => Uuid(r.array("pack table")?),
                _ => return Err(Malformed("pack table")),
            };
            packs.push(PackRef { birth, held_in });
        }
        Ok(PackTable { packs })
    }
}

/// Places as differences to the frame before in the same pack: runs of neighbours cost two bytes of zeros each.
#[derive(Default)]
pub(super) struct Running {
    last: Vec<(i64, i64)>,
}

impl Running {
    fn at(&mut self, pack: u16) -> &mut (i64, i64) {
        let i = pack as usize;
        if self.last.len() <= i {
            self.last.resize(i + 1, (0, 0));
        }
        &mut self.last[i]
    }
    /// Appends slot and offset as differences to the slot and the end of the frame before.
    pub(super) fn put(&mut self, w: &mut Writer, pack: u16, slot: u32, offset: u32, stored: u32) {
        let (next_slot, end) = *self.at(pack);
        varint::put_signed(w, i64::from(slot) - next_slot);
        varint::put_signed(w, i64::from(offset) - end);
        varint::put(w, u64::from(stored));
        *self.at(pack) = (i64::from(slot) + 1, i64::from(offset) + i64::from(stored));
    }
    /// Takes slot, offset and stored length; stored 0 or an end past 32 bits is malformed.
    pub(super) fn get(&mut self, r: &mut Reader<'_>, pack: u16) -> Result<(u32, u32, u32), Malformed> {
        let bad = Malformed("place");
        let (next_slot, end) = *self.at(pack);
        let sum = |base: i64, d: i64| base.checked_add(d).and_then(|v| u32::try_from(v).ok()).ok_or(bad);
        let slot = sum(next_slot, varint::get_signed(r, "slot")?)?;
        let offset = sum(end, varint::get_signed(r, "offset")?)?;
        let stored = varint::get_u32(r, "stored")?;
        if stored == 0 || offset.checked_add(stored).is_none() {
            return Err(bad);
        }
        *self.at(pack) = (i64::from(slot) + 1, i64::from(offset) + i64::from(stored));
        Ok((slot, offset, stored))
    }
}
