//! An inner page: up to 1,024 children; one that is missing covers zeros (or, in a usage tree, nothing).
//!
//! ```text
//! u8 kind 3, u8 level, u16 n, pack table, ceil(n/8) bytes of marks, then per child that exists: pack index, slot and offset
//! as differences, stored, plain, stored extents, stored bytes (varints), id 32
//! ```

use super::super::id::Id;
use super::super::place::{PackTable, PageRef, Place, Running};
use super::super::varint;
use super::leaf::{count, marked, marks};
use super::{FAN, PageKind};
use crate::bytes::{Malformed, Reader, Writer};

/// A child.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Child {
    /// Its page.
    pub page: PageRef,
    /// Merkle node over everything below (usage tree: id of the page).
    pub id: Id,
    /// Stored extents below.
    pub extents: u64,
    /// Bytes of their frames.
    pub bytes: u64,
}

/// An inner page in memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Inner {
    /// 1: the children are leaves.
    pub level: u8,
    /// The children.
    pub children: Vec<Option<Child>>,
}

/// The highest level any volume needs.
pub const LEVEL_MAX: u8 = 5;

impl Inner {
    /// A page without children.
    pub fn empty(level: u8, n: usize) -> Self {
        Inner { level, children: vec![None; n] }
    }
    /// Child `i`.
    pub fn child(&self, i: usize) -> Option<&Child> {
        self.children.get(i)?.as_ref()
    }
    /// Stored extents and bytes below.
    pub fn totals(&self) -> (u64, u64) {
        self.children.iter().flatten().fold((0, 0), |(n, b), c| (n + c.extents, b + c.bytes))
    }
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let (mut packs, mut run, mut body) = (PackTable::default(), Running::default(), Writer::new());
        for c in self.children.iter().flatten() {
            let (p, pack) = (&c.page.place, packs.index(c.page.place.pack));
            varint::put(&mut body, pack.into());
            run.put(&mut body, pack, p.slot, p.offset, p.stored);
            varint::put(&mut body, c.page.plain.into());
            varint::put(&mut body, c.extents);
            varint::put(&mut body, c.bytes);
            body.raw(&c.id.0);
        }
        let mut w = Writer::new();
        w.u8(PageKind::Inner as u8).u8(self.level).u16(self.children.len() as u16);
        packs.encode(&mut w);
        w.raw(&marks(self.children.len(), |i| self.children[i].is_some())).raw(body.bytes());
        w.finish()
    }
    /// Reads an inner page.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        PageKind::expect(&mut r, PageKind::Inner)?;
        let level = r.u8("inner level")?;
        if !(1..=LEVEL_MAX).contains(&level) {
            return Err(Malformed("inner level"));
        }
        let n = count(&mut r)?;
        let packs = PackTable::decode(&mut r, FAN as usize)?;
        let marks = r.take(n.div_ceil(8), "inner marks")?;
        let (mut children, mut run) = (vec![None; n], Running::default());
        for (_, c) in children.iter_mut().enumerate().filter(|(i, _)| marked(marks, *i)) {
            *c = Some(decode_child(&mut r, &packs, &mut run)?);
        }
        r.end("inner")?;
        Ok(Inner { level, children })
    }
}

fn decode_child(r: &mut Reader<'_>, packs: &PackTable, run: &mut Running) -> Result<Child, Malformed> {
    let index = u16::try_from(varint::get(r, "child")?).map_err(|_| Malformed("child"))?;
    let pack = packs.get(index).ok_or(Malformed("child pack"))?;
    let (slot, offset, stored) = run.get(r, index)?;
    let plain = varint::get_u32(r, "child")?;
    let (extents, bytes) = (varint::get(r, "child")?, varint::get(r, "child")?);
    let child = Child {
        page: PageRef { place: Place { pack, slot, offset, stored }, plain },
        id: Id(r.array("child id")?),
        extents,
        bytes,
    };
    if child.page.plain == 0 || child.id.is_zero() || extents > 1 << 50 || bytes > 1 << 62 {
        return Err(Malformed("child"));
    }
    Ok(child)
}
