//! Identities of content: a keyed Merkle tree over 16 KiB blocks, so that the root of a volume depends neither on where
//! frames lie nor on the extent size.
//!
//! - A block is 16 KiB of the volume; what lies behind the volume's end counts as zeros.
//! - An all-zero range of any size has the id `ZERO` (32 zero bytes), so holes need no hashing at any level.
//! - A block that is not all zero has `BLAKE3-keyed(block)`; an inner node `BLAKE3-keyed(0x01 | left | right)`. Inputs of
//!   blocks are 16,384 bytes and those of nodes 65, so one can never be taken for the other.
//! - An extent of 2^e blocks is a node of height e; a volume's root is the node of height H = max(18, log2 of its blocks
//!   rounded up). 18 because a leaf page of the largest extents (1,024 x 4 MiB) has that height: below it roots of unlike
//!   extent sizes could not be compared.
//!
//! Ids are keyed: who sees only the store cannot confirm that it holds a file he knows.

use crate::bytes::is_zero;
use std::fmt;

/// Bytes of a base block of the Merkle tree.
pub const BLOCK: usize = 16 << 10;
/// log2 of `BLOCK`.
pub const BLOCK_SHIFT: u32 = 14;
/// The smallest height of a volume's root.
pub const ROOT_HEIGHT_MIN: u32 = 18;

/// A run of zeros to compare with: memcmp is fast in every build.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// The id of some content. Equal ids under one key mean equal bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Id(pub [u8; 32]);

impl Id {
    /// The id of zeros, whatever their length.
    pub const ZERO: Id = Id([0; 32]);
    /// Stands for zeros.
    pub fn is_zero(&self) -> bool {
        *self == Id::ZERO
    }
    /// The first 16 hex digits: how people are shown a root.
    pub fn short(&self) -> String {
        self.to_string()[..16].to_string()
    }
}
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key under which ids are made; secret, because it would let one confirm guesses of content.
#[derive(Clone)]
pub struct IdKey([u8; 32]);

impl fmt::Debug for IdKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdKey(..)")
    }
}

impl IdKey {
    /// From 32 derived bytes.
    pub fn new(key: [u8; 32]) -> Self {
        IdKey(key)
    }
    /// The node over two neighbours of equal height.
    pub fn node(&self, left: Id, right: Id) -> Id {
        if left.is_zero() && right.is_zero() {
            return Id::ZERO;
        }
        let mut input = [0; 65];
        input[0] = 1;
        input[1..33].copy_from_slice(&left.0);
        input[33..].copy_from_slice(&right.0);
        Id(*blake3::keyed_hash(&self.0, &input).as_bytes())
    }
    /// The id of one block; a short one counts as padded with zeros.
    fn block(&self, bytes: &[u8]) -> Id {
        if is_zero(bytes) {
            return Id::ZERO;
        }
        let hash = if bytes.len() == BLOCK {
            blake3::keyed_hash(&self.0, bytes)
        } else {
            let mut h = blake3::Hasher::new_keyed(&self.0);
            h.update(bytes).update(&ZEROS[bytes.len()..]).finalize()
        };
        Id(*hash.as_bytes())
    }
    /// The id of an extent of `extent_bytes` (a power of two, at least 16 KiB) that begins with `bytes` and goes on in zeros.
    pub fn extent(&self, bytes: &[u8], extent_bytes: u64) -> Id {
        assert!(extent_bytes.is_power_of_two() && extent_bytes >= BLOCK as u64, "not the size of an extent");
        assert!(bytes.len() as u64 <= extent_bytes, "more bytes than the extent has");
        let blocks = extent_bytes >> BLOCK_SHIFT;
        self.fold(bytes.chunks(BLOCK).map(|b| self.block(b)), blocks.trailing_zeros())
    }
    /// The node of `height` levels above `ids`, padded with `ZERO` on the right. At most 2^height ids.
    pub fn fold(&self, ids: impl IntoIterator<Item = Id>, height: u32) -> Id {
        // One pending left node per level, like carrying in a binary counter: no buffer of all ids.
        let mut pending: [Option<Id>; 64] = [None; 64];
        for id in ids {
            let mut carry = id;
            let mut level = 0;
            while let Some(left) = pending[level].take() {
                carry = self.node(left, carry);
                level += 1;
            }
            pending[level] = Some(carry);
        }
        self.close(&pending, height)
    }
    fn close(&self, pending: &[Option<Id>; 64], height: u32) -> Id {
        let top = height as usize;
        assert!(pending[top + 1..].iter().all(Option::is_none), "more ids than the height can hold");
        if let Some(full) = pending[top] {
            assert!(pending[..top].iter().all(Option::is_none), "more ids than the height can hold");
            return full;
        }
        (0..top).fold(Id::ZERO, |right, level| match pending[level] {
            Some(left) => self.node(left, right),
            // Nothing here: what came so far is the left half of the next level, or still nothing at all.
            None => self.node(right, Id::ZERO),
        })
    }
    /// The id of a page or other opaque content.
    pub fn opaque(&self, bytes: &[u8]) -> Id {
        let mut h = blake3::Hasher::new_keyed(&self.0);
        Id(*h.update(&[2]).update(bytes).finalize().as_bytes())
    }
    /// A stable name part for a set: its name is nobody's business who sees only the store.
    pub fn set_tag(&self, name: &str) -> String {
        let mut h = blake3::Hasher::new_keyed(&self.0);
        let hash = h.update(&[3]).update(name.as_bytes()).finalize();
        hash.as_bytes()[..16].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// The height of the root of a volume of `size` bytes.
pub fn root_height(size: u64) -> u32 {
    size.div_ceil(BLOCK as u64).max(1).next_power_of_two().trailing_zeros().max(ROOT_HEIGHT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key() -> IdKey {
        IdKey::new([7; 32])
    }

    /// The definition, written as recursion over the whole padded volume.
    fn plain(key: &IdKey, bytes: &[u8], height: u32) -> Id {
        let span = BLOCK << height;
        if bytes.is_empty() {
            return Id::ZERO;
        }
        if height == 0 {
            return key.block(bytes);
        }
        let mid = (span / 2).min(bytes.len());
        key.node(plain(key, &bytes[..mid], height - 1), plain(key, &bytes[mid..], height - 1))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn fold_is_the_definition(blocks in prop::collection::vec(0u8..3, 1..40), cut in 0usize..BLOCK, spare in 0u32..3) {
            let mut bytes: Vec<u8> = blocks.iter().flat_map(|b| std::iter::repeat_n(*b, BLOCK)).collect();
            bytes.truncate(bytes.len() - cut);
            let height = (blocks.len() as u64).next_power_of_two().trailing_zeros() + spare;
            let k = key();
            let want = plain(&k, &bytes, height);
            prop_assert_eq!(k.fold(bytes.chunks(BLOCK).map(|b| k.block(b)), height), want);
            // Extents of 64 KiB folded above give the same root: it does not depend on the extent size.
            if height >= 2 {
                prop_assert_eq!(k.fold(bytes.chunks(BLOCK * 4).map(|e| k.extent(e, 1 << 16)), height - 2), want);
            }
        }
    }

    #[test]
    fn zeros_have_one_id_and_any_byte_changes_it() {
        let k = key();
        assert_eq!(k.extent(&[0; 70_000], 1 << 17), Id::ZERO);
        assert_eq!(k.extent(&[], 1 << 16), Id::ZERO);
        let mut e = vec![0; 1 << 16];
        e[65_535] = 1;
        let a = k.extent(&e, 1 << 16);
        e[65_535] = 2;
        assert!(!a.is_zero() && a != k.extent(&e, 1 << 16));
        assert_ne!(a, IdKey::new([8; 32]).extent(&e, 1 << 16));
    }

    #[test]
    fn heights() {
        assert_eq!((root_height(1), root_height(4 << 30), root_height((4 << 30) + 1)), (18, 18, 19));
        assert_eq!(root_height(16 << 40), 30);
    }
}
