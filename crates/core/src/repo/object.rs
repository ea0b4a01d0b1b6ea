//! The envelope of every small sealed object (commits, checkpoints, sessions, holds, index runs).
//!
//! ```text
//! "RKO1", u8 kind, u8 version, u8 method (as in frames), u8 zero, u32 plain length, nonce 24, body, tag 16
//! ```
//! The seal covers the first 12 bytes, the repository and the object's own name: an object under another name does not open.

use super::frame::{Method, NONCE, TAG};
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::Uuid;

/// What an object is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum ObjectKind {
    /// A commit of a set.
    Commit = 1,
    /// All live commits of a set up to a sequence.
    Checkpoint = 2,
    /// A writer's session, open.
    SessionOpen = 3,
    /// A writer's session, ended.
    SessionEnd = 4,
    /// A hold.
    Hold = 5,
    /// A hold's end.
    HoldReleased = 6,
    /// A sorted run of the dedup index.
    Index = 7,
    /// What the start of a drill demanded.
    Drill = 8,
}

/// Version of all object bodies in format 1.
pub const VERSION: u8 = 1;
/// Bytes before the nonce.
pub const HEAD: usize = 12;
/// The most an object may hold when opened: 20,000 snapshots in a checkpoint fit many times.
pub const PLAIN_MAX: u32 = 64 << 20;

/// The first 12 bytes.
pub fn head(kind: ObjectKind, method: Method, plain: u32) -> [u8; HEAD] {
    let mut w = Writer::new();
    w.raw(b"RKO1").u8(kind as u8).u8(VERSION).u8(method.byte()).u8(0).u32(plain);
    let mut out = [0; HEAD];
    out.copy_from_slice(w.bytes());
    out
}

/// What the seal covers besides the body.
pub fn associated(head: &[u8; HEAD], repository: Uuid, name: &str) -> Vec<u8> {
    let mut w = Writer::new();
    w.raw(head).raw(&repository.0).string(name);
    w.finish()
}

/// An object taken apart, nothing of it proven yet.
#[derive(Clone, Copy, Debug)]
pub struct ObjectParts<'a> {
    /// The first 12 bytes.
    pub head: [u8; HEAD],
    /// Method byte, read.
    pub method: Method,
    /// Bytes when opened; at most `PLAIN_MAX`.
    pub plain: u32,
    /// Nonce.
    pub nonce: &'a [u8; NONCE],
    /// Sealed body.
    pub body: &'a [u8],
    /// Tag.
    pub tag: &'a [u8; TAG],
}

impl<'a> ObjectParts<'a> {
    /// Splits stored bytes of an object that must be of `kind`.
    pub fn split(stored: &'a [u8], kind: ObjectKind) -> Result<Self, Malformed> {
        let mut r = Reader::new(stored);
        let head: [u8; HEAD] = r.array("object head")?;
        let mut h = Reader::new(&head);
        if h.array::<4>("object")? != *b"RKO1" || h.u8("object")? != kind as u8 || h.u8("object")? != VERSION
        {
            return Err(Malformed("object head"));
        }
        let method = Method::from_byte(h.u8("object")?)?;
        let (zero, plain) = (h.u8("object")?, h.u32("object")?);
        if zero != 0 || plain > PLAIN_MAX {
            return Err(Malformed("object head"));
        }
        let (nonce, rest) = r.rest().split_first_chunk().ok_or(Malformed("object nonce"))?;
        let (body, tag) = rest.split_last_chunk().ok_or(Malformed("object tag"))?;
        Ok(ObjectParts { head, method, plain, nonce, body, tag })
    }
}
