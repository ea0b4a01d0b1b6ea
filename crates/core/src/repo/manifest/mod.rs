//! The manifest of a volume: a persistent tree of pages that maps each extent straight to its frame. docs/format/manifest.md.
//!
//! Level 0 pages (leaves) cover 1,024 extents; each level above covers 1,024 pages of the one below; the root is an inner
//! page (level 1 at least). Pages do not say which part of the volume they cover, so equal parts share one page. A page
//! that does not exist covers zeros.
//!
//! Nothing is ever changed in place: an incremental writes the pages on the way from each changed leaf to the root and
//! names the others by reference. To keep scattered changes cheap, a leaf may be a PATCH: a whole leaf by reference and up
//! to 128 changed entries. Delta runs beside the tree were rejected for format 1: they need merging, fences and a second
//! lookup on every read, and at 1,024 extents a leaf a patch costs about 50 bytes a changed extent and 100 a touched
//! leaf, the same order as an amortised run. Their page kind is reserved.

mod ids;
mod inner;
mod leaf;
mod patch;
mod shape;

pub use ids::{decode_ids, encode_ids};
pub use inner::{Child, Inner};
pub use leaf::{Leaf, LeafEntry};
pub use patch::{PATCH_MAX, Patch, PatchEntry};
pub use shape::{FAN, Shape};

use crate::bytes::{Malformed, Reader};

/// The first byte of every page.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum PageKind {
    /// Places of 1,024 extents.
    Leaf = 1,
    /// A leaf and changed entries.
    Patch = 2,
    /// Children.
    Inner = 3,
    /// Ids of a leaf's stored extents: apart, because reading needs places only.
    Ids = 4,
    /// Usage facts of 1,024 extents, opaque here.
    Usage = 5,
    /// Part of a hot list.
    HotChunk = 6,
    /// Head of a hot list.
    HotHead = 7,
    /// Reserved: a sorted run of changed entries beside the tree.
    Run = 8,
    /// Reserved: part of a hot list with places.
    HotPlaces = 9,
}

impl PageKind {
    /// Takes the kind byte, which must say `kind`.
    pub fn expect(r: &mut Reader<'_>, kind: PageKind) -> Result<(), Malformed> {
        if r.u8("page kind")? == kind as u8 { Ok(()) } else { Err(Malformed("page kind")) }
    }
}
