//! The ids of a leaf's stored extents, in order. A page of its own: ids are 32 incompressible bytes an extent, places about
//! two, and a guest that waits for a read needs places only. Writers compare with them, verification reads them.
//!
//! ```text
//! u8 kind 4, u16 n, n ids of 32 bytes
//! ```

use super::super::id::Id;
use super::leaf::count;
use super::{FAN, PageKind};
use crate::bytes::{Malformed, Reader, Writer};

/// As stored; 1 to 1,024 ids, none of them zero.
pub fn encode_ids(ids: &[Id]) -> Vec<u8> {
    assert!(!ids.is_empty() && ids.len() as u64 <= FAN, "ids of a leaf");
    let mut w = Writer::new();
    w.u8(PageKind::Ids as u8).u16(ids.len() as u16);
    for i in ids {
        w.raw(&i.0);
    }
    w.finish()
}

/// Reads ids.
pub fn decode_ids(bytes: &[u8]) -> Result<Vec<Id>, Malformed> {
    let mut r = Reader::new(bytes);
    PageKind::expect(&mut r, PageKind::Ids)?;
    let n = count(&mut r)?;
    let ids: Vec<Id> = (0..n).map(|_| r.array("ids").map(Id)).collect::<Result<_, _>>()?;
    r.end("ids")?;
    if ids.iter().any(Id::is_zero) { Err(Malformed("ids")) } else { Ok(ids) }
}
