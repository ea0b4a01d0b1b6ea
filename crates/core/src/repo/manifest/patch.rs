//! A patch: a whole leaf by reference, and entries that differ from it, with their ids. Chains have length one: the base is
//! a leaf, never a patch.
//!
//! ```text
//! u8 kind 2, base page reference 48, pack table, u16 n, then per entry ascending: u16 index, u8 stored, and if stored
//! pack index, slot and offset as differences, stored length (varints), id 32
//! ```

use super::super::id::Id;
use super::super::place::{PackTable, PageRef, Place, Running};
use super::super::varint;
use super::{FAN, PageKind};
use crate::bytes::{Malformed, Reader, Writer};

/// The most changed entries; above it the leaf is written whole.
pub const PATCH_MAX: usize = 128;

/// One changed entry: its index in the leaf, and place and id, or `None` for zeros.
pub type PatchEntry = (u16, Option<(Place, Id)>);

/// A patch in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// The whole leaf beneath.
    pub base: PageRef,
    /// Changes, ascending by index.
    pub entries: Vec<PatchEntry>,
}

impl Patch {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let (mut packs, mut run, mut body) = (PackTable::default(), Running::default(), Writer::new());
        for (index, entry) in &self.entries {
            body.u16(*index).u8(entry.is_some().into());
            if let Some((p, id)) = entry {
                let pack = packs.index(p.pack);
                varint::put(&mut body, pack.into());
                run.put(&mut body, pack, p.slot, p.offset, p.stored);
                body.raw(&id.0);
            }
        }
        let mut w = Writer::new();
        w.u8(PageKind::Patch as u8);
        self.base.encode(&mut w);
        packs.encode(&mut w);
        w.u16(self.entries.len() as u16).raw(body.bytes());
        w.finish()
    }
    /// Reads a patch.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        PageKind::expect(&mut r, PageKind::Patch)?;
        let base = PageRef::decode(&mut r)?;
        let packs = PackTable::decode(&mut r, PATCH_MAX)?;
        let n = r.u16("patch")? as usize;
        if n == 0 || n > PATCH_MAX {
            return Err(Malformed("patch"));
        }
        let (mut entries, mut run): (Vec<PatchEntry>, _) = (Vec::with_capacity(n), Running::default());
        for _ in 0..n {
            let index = r.u16("patch")?;
            if u64::from(index) >= FAN || entries.last().is_some_and(|(last, _)| *last >= index) {
                return Err(Malformed("patch order"));
            }
            entries.push((index, decode_entry(&mut r, &packs, &mut run)?));
        }
        r.end("patch")?;
        Ok(Patch { base, entries })
    }
}

fn decode_entry(
    r: &mut Reader<'_>,
    packs: &PackTable,
    run: &mut Running,
) -> Result<Option<(Place, Id)>, Malformed> {
    match r.u8("patch")? {
        0 => Ok(None),
        1 => {
            let index = u16::try_from(varint::get(r, "patch")?).map_err(|_| Malformed("patch"))?;
            let pack = packs.get(index).ok_or(Malformed("patch pack"))?;
            let (slot, offset, stored) = run.get(r, index)?;
            let id = Id(r.array("patch id")?);
            if id.is_zero() {
                return Err(Malformed("patch id"));
            }
            Ok(Some((Place { pack, slot, offset, stored }, id)))
        }
        _ => Err(Malformed("patch")),
    }
}
