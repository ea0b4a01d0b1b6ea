//! A pack: one immutable object of frames back to back, with a directory at its tail from which every index can be
//! rebuilt.
//!
//! ```text
//! header     64   "RKPACK01", u16 version 1, 6 zero bytes, repository 16, pack 16, 12 zero bytes, crc32c of the 60 before
//! frames          from 64 on, without gaps
//! directory       a frame of kind Directory, slot 2^32-1
//! footer     64   "RKPEND01", u16 version 1, 2 zero bytes, u32 slots, u32 offset, u32 stored, u32 plain (of the directory),
//!                 pack 16, 16 zero bytes, crc32c of the 60 before
//! ```

use super::frame::FrameKind;
use super::id::Id;
use super::varint;
use crate::bytes::{Malformed, Reader, Writer, crc32c};
use crate::volume::Uuid;

/// Bytes of the header.
pub const HEADER: usize = 64;
/// Bytes of the footer.
pub const FOOTER: usize = 64;
/// The most frames in one pack; a directory stays under 3 MiB.
pub const SLOTS_MAX: usize = 1 << 16;
const VERSION: u16 = 1;

fn close(mut w: Writer) -> [u8; 64] {
    w.raw(&[0; 64][..60 - w.len()]);
    let crc = crc32c(w.bytes());
    w.u32(crc);
    let mut out = [0; 64];
    out.copy_from_slice(w.bytes());
    out
}

fn open<'a>(bytes: &'a [u8], magic: &[u8; 8], what: &'static str) -> Result<Reader<'a>, Malformed> {
    let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Malformed(what))?;
    let mut r = Reader::new(body);
    if body.len() != 60
        || crc32c(body) != u32::from_le_bytes(*crc)
        || r.array::<8>(what)? != *magic
        || r.u16(what)? != VERSION
    {
        return Err(Malformed(what));
    }
    Ok(r)
}

/// The header of pack `pack`.
pub fn header(repository: Uuid, pack: Uuid) -> [u8; HEADER] {
    let mut w = Writer::new();
    w.raw(b"RKPACK01").u16(VERSION).raw(&[0; 6]).raw(&repository.0).raw(&pack.0);
    close(w)
}

/// Checks a header; gives repository and pack.
pub fn read_header(bytes: &[u8]) -> Result<(Uuid, Uuid), Malformed> {
    let mut r = open(bytes, b"RKPACK01", "pack header")?;
    r.take(6, "pack header")?;
    Ok((Uuid(r.array("pack header")?), Uuid(r.array("pack header")?)))
}

/// Where the directory of a pack lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Footer {
    /// Frames in the pack, without the directory.
    pub slots: u32,
    /// First byte of the directory's frame.
    pub offset: u32,
    /// Its stored bytes.
    pub stored: u32,
    /// Its plain bytes.
    pub plain: u32,
    /// The pack.
    pub pack: Uuid,
}

impl Footer {
    /// The 64 bytes at the end of the object.
    pub fn encode(&self) -> [u8; FOOTER] {
        let mut w = Writer::new();
        w.raw(b"RKPEND01").u16(VERSION).u16(0);
        w.u32(self.slots).u32(self.offset).u32(self.stored).u32(self.plain).raw(&self.pack.0);
        close(w)
    }
    /// Checks and reads a footer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = open(bytes, b"RKPEND01", "pack footer")?;
        r.u16("pack footer")?;
        Ok(Footer {
            slots: r.u32("pack footer")?,
            offset: r.u32("pack footer")?,
            stored: r.u32("pack footer")?,
            plain: r.u32("pack footer")?,
            pack: Uuid(r.array("pack footer")?),
        })
    }
}

/// One frame, as the directory of its pack lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// What it holds.
    pub kind: FrameKind,
    /// Id of its content.
    pub id: Id,
    /// First byte in this pack.
    pub offset: u32,
    /// Stored bytes.
    pub stored: u32,
    /// Plain bytes.
    pub plain: u32,
    /// Its birth name, when it was moved here: pack and slot.
    pub moved_from: Option<(Uuid, u32)>,
}

/// Directory: u32 count, then per slot kind, mark (1: moved, then birth pack and slot), offset as difference to the end of
/// the slot before, stored, plain as varints; then all ids.
pub fn encode_directory(slots: &[Slot]) -> Vec<u8> {
    let mut w = Writer::new();
    w.u32(slots.len() as u32);
    let mut end = HEADER as i64;
    for s in slots {
        w.u8(s.kind as u8).u8(s.moved_from.is_some().into());
        if let Some((pack, slot)) = s.moved_from {
            w.raw(&pack.0).u32(slot);
        }
        varint::put_signed(&mut w, i64::from(s.offset) - end);
        varint::put(&mut w, s.stored.into());
        varint::put(&mut w, s.plain.into());
        end = i64::from(s.offset) + i64::from(s.stored);
    }
    for s in slots {
        w.raw(&s.id.0);
    }
    w.finish()
}

/// Reads a directory.
pub fn decode_directory(bytes: &[u8]) -> Result<Vec<Slot>, Malformed> {
    let mut r = Reader::new(bytes);
    let n = r.u32("directory")? as usize;
    if n > SLOTS_MAX {
        return Err(Malformed("directory"));
    }
    let mut slots = Vec::with_capacity(n);
    let mut end = HEADER as i64;
    for _ in 0..n {
        let slot = decode_slot(&mut r, end)?;
        end = i64::from(slot.offset) + i64::from(slot.stored);
        slots.push(slot);
    }
    for s in &mut slots {
        s.id = Id(r.array("directory ids")?);
    }
    r.end("directory")?;
    Ok(slots)
}

fn decode_slot(r: &mut Reader<'_>, end: i64) -> Result<Slot, Malformed> {
    let bad = Malformed("directory slot");
    let kind = FrameKind::from_byte(r.u8("directory slot")?)?;
    let moved_from = match r.u8("directory slot")? {
        0 => None,
        1 => Some((Uuid(r.array("directory slot")?), r.u32("directory slot")?)),
        _ => return Err(bad),
    };
    let offset = end
        .checked_add(varint::get_signed(r, "directory slot")?)
        .and_then(|v| u32::try_from(v).ok())
        .ok_or(bad)?;
    let (stored, plain) = (varint::get_u32(r, "directory slot")?, varint::get_u32(r, "directory slot")?);
    if stored == 0 || offset.checked_add(stored).is_none() {
        return Err(bad);
    }
    Ok(Slot { kind, id: Id::ZERO, offset, stored, plain, moved_from })
}
