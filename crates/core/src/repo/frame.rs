//! A frame: the unit that is sealed, fetched and moved. Its layout in a pack:
//!
//! ```text
//! 0   1   method: low nibble compression (0 raw, 1 zstd), high nibble cipher (0 keyed BLAKE3, 1 XAES-256-GCM)
//! 1   24  nonce (random; zeros without encryption)
//! 25  n   body: the plain bytes, compressed, then encrypted
//! 25+n 16 tag
//! ```
//!
//! The seal also covers, unseen, what the reader already knows from the page that led here (`associated`): repository,
//! birth name, kind, method and plain length. So a frame taken from another place, or cut, does not open.

use super::config::Cipher;
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::Uuid;

/// Bytes before the body.
pub const HEAD: usize = 25;
/// Bytes of the tag behind the body.
pub const TAG: usize = 16;
/// Bytes of a nonce.
pub const NONCE: usize = 24;
/// Bytes a frame adds to its body.
pub const OVERHEAD: usize = HEAD + TAG;
/// The slot under which a pack's directory is sealed.
pub const DIRECTORY_SLOT: u32 = u32::MAX;

/// What a frame holds. An unknown kind is an error: a reader that cannot know what it skips must not guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FrameKind {
    /// One extent.
    Data = 1,
    /// One page of metadata (manifest, ids, usage, hot list).
    Page = 2,
    /// The directory of a pack.
    Directory = 3,
    /// Reserved: neighbouring cold extents together.
    Group = 4,
    /// Reserved: a base frame and changed 4 KiB blocks.
    Patch = 5,
}

impl FrameKind {
    /// The kind that is stored as `b`.
    pub fn from_byte(b: u8) -> Result<Self, Malformed> {
        Ok(match b {
            1 => FrameKind::Data,
            2 => FrameKind::Page,
            3 => FrameKind::Directory,
            4 => FrameKind::Group,
            5 => FrameKind::Patch,
            _ => return Err(Malformed("frame kind")),
        })
    }
}

/// How the body was made small.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Compression {
    /// As it is: compressing saved under a sixteenth.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

/// The method byte.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Method {
    /// How it was made small.
    pub compression: Compression,
    /// How it was sealed.
    pub cipher: Cipher,
}

impl Method {
    /// As stored.
    pub fn byte(self) -> u8 {
        self.compression as u8 | (self.cipher as u8) << 4
    }
    /// From its stored form.
    pub fn from_byte(b: u8) -> Result<Self, Malformed> {
        let compression = match b & 15 {
            0 => Compression::Raw,
            1 => Compression::Zstd,
            _ => return Err(Malformed("compression")),
        };
        Ok(Method { compression, cipher: Cipher::from_byte(b >> 4)? })
    }
}

/// What a frame is called and what it must turn out to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FrameName {
    /// The repository.
    pub repository: Uuid,
    /// The pack it was born in.
    pub birth: Uuid,
    /// Its slot there.
    pub slot: u32,
    /// What it holds.
    pub kind: FrameKind,
    /// Bytes when opened.
    pub plain: u32,
}

/// Bytes of the associated data.
pub const ASSOCIATED: usize = 48;

impl FrameName {
    /// The associated data: `"RKFR"`, kind, method, two zero bytes, repository, birth pack, slot, plain length.
    pub fn associated(&self, method: Method) -> [u8; ASSOCIATED] {
        let mut w = Writer::new();
        w.raw(b"RKFR").u8(self.kind as u8).u8(method.byte()).u16(0);
        w.raw(&self.repository.0).raw(&self.birth.0).u32(self.slot).u32(self.plain);
        let mut out = [0; ASSOCIATED];
        out.copy_from_slice(w.bytes());
        out
    }
}

/// A frame taken apart, nothing of it proven yet.
#[derive(Clone, Copy, Debug)]
pub struct FrameParts<'a> {
    /// Method byte, read.
    pub method: Method,
    /// Nonce.
    pub nonce: &'a [u8; NONCE],
    /// Sealed body.
    pub body: &'a [u8],
    /// Tag.
    pub tag: &'a [u8; TAG],
}

impl<'a> FrameParts<'a> {
    /// Splits stored bytes.
    pub fn split(stored: &'a [u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(stored);
        let method = Method::from_byte(r.u8("method")?)?;
        let (nonce, rest) = r.rest().split_first_chunk().ok_or(Malformed("nonce"))?;
        let (body, tag) = rest.split_last_chunk().ok_or(Malformed("tag"))?;
        Ok(FrameParts { method, nonce, body, tag })
    }
}
