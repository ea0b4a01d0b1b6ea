//! A key slot `k/<uuid>`: the repository's master key, wrapped under one credential.
//!
//! ```text
//! "RKKEY001", u8 kind, 3 zero bytes, u32 memory KiB, u32 passes, u32 lanes, salt 16, check 16, u64 created, label
//! (u16 length, at most 200 bytes), nonce 24, wrapped 32, tag 16, crc32c
//! ```
//! Everything before the nonce, the slot's uuid and the hash of `config` are covered by the wrapping seal.

use crate::bytes::{Malformed, Reader, Writer, crc32c};

/// What opens a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum SlotKind {
    /// A passphrase, stretched by Argon2id.
    Passphrase = 1,
    /// A key file with at least 32 bytes of entropy; not stretched.
    KeyFile = 2,
}

/// Costs of Argon2id.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KdfCost {
    /// KiB of memory.
    pub memory_kib: u32,
    /// Passes.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl KdfCost {
    /// 64 MiB, 3 passes, 4 lanes (RFC 9106, second choice): about 150 ms.
    pub const DEFAULT: KdfCost = KdfCost { memory_kib: 64 << 10, passes: 3, lanes: 4 };
    /// A forged slot must not make a reader use all memory or run for hours.
    fn sane(self) -> bool {
        (8..=1 << 20).contains(&self.memory_kib)
            && (1..=16).contains(&self.passes)
            && (1..=16).contains(&self.lanes)
    }
}

/// A slot as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeySlot {
    /// What opens it.
    pub kind: SlotKind,
    /// How the passphrase is stretched; ignored for a key file.
    pub cost: KdfCost,
    /// Salt of the derivation.
    pub salt: [u8; 16],
    /// Proof of the master key: GCM alone does not commit to a key.
    pub check: [u8; 16],
    /// Nanoseconds since 1970; for people.
    pub created_ns: u64,
    /// For people, e.g. the host that added it.
    pub label: String,
    /// Nonce of the wrapping.
    pub nonce: [u8; 24],
    /// The master key, sealed.
    pub wrapped: [u8; 32],
    /// Tag of the wrapping.
    pub tag: [u8; 16],
}

/// The longest label.
pub const LABEL_MAX: usize = 200;

impl KeySlot {
    /// What the wrapping seal covers of the slot itself.
    pub fn head(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(b"RKKEY001").u8(self.kind as u8).raw(&[0; 3]);
        w.u32(self.cost.memory_kib).u32(self.cost.passes).u32(self.cost.lanes);
        w.raw(&self.salt).raw(&self.check).u64(self.created_ns).string(&self.label);
        w.finish()
    }
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.head()).raw(&self.nonce).raw(&self.wrapped).raw(&self.tag);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        w.finish()
    }
    /// Checks and reads a slot.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let bad = Malformed("key slot");
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(bad)?;
        let mut r = Reader::new(body);
        if crc32c(body) != u32::from_le_bytes(*crc) || r.array::<8>("key slot")? != *b"RKKEY001" {
            return Err(bad);
        }
        let kind = match r.u8("key slot")? {
            1 => SlotKind::Passphrase,
            2 => SlotKind::KeyFile,
            _ => return Err(bad),
        };
        r.take(3, "key slot")?;
        let cost = KdfCost { memory_kib: r.u32("kdf")?, passes: r.u32("kdf")?, lanes: r.u32("kdf")? };
        if !cost.sane() {
            return Err(Malformed("kdf"));
        }
        let slot = KeySlot {
            kind,
            cost,
            salt: r.array("key slot")?,
            check: r.array("key slot")?,
            created_ns: r.u64("key slot")?,
            label: r.string(LABEL_MAX, "key slot")?,
            nonce: r.array("key slot")?,
            wrapped: r.array("key slot")?,
            tag: r.array("key slot")?,
        };
        r.end("key slot")?;
        Ok(slot)
    }
}
