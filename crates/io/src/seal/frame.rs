//! From plain bytes to a frame or a sealed object and back. Layouts: core::repo::{frame, object}.

use super::aead::XaesKey;
use super::compress::{compress, decompress};
use rekindle_core::repo::Cipher;
use rekindle_core::repo::frame::{Compression, FrameName, FrameParts, HEAD, Method, NONCE, OVERHEAD, TAG};
use rekindle_core::repo::object::{self, ObjectKind, ObjectParts};
use rekindle_core::volume::Uuid;
use std::cell::RefCell;

/// The bytes are not what was written under this name. The text says how far the check came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Damaged(pub &'static str);

const SEAL: Damaged = Damaged("authentication failed");

/// Seals and opens under one key: really (XAES-256-GCM), or as a checksum for a repository without encryption.
pub enum Sealer {
    /// Authenticated encryption.
    Xaes(XaesKey),
    /// Keyed BLAKE3 of associated data, nonce and body: finds damage, keeps nothing secret.
    Checksum([u8; 32]),
}

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Sealer {
    /// For `cipher` under `key`.
    pub fn new(cipher: Cipher, key: &[u8; 32]) -> Self {
        match cipher {
            Cipher::Xaes => Sealer::Xaes(XaesKey::new(key)),
            Cipher::Checksum => Sealer::Checksum(*key),
        }
    }
    /// The cipher.
    pub fn cipher(&self) -> Cipher {
        match self {
            Sealer::Xaes(_) => Cipher::Xaes,
            Sealer::Checksum(_) => Cipher::Checksum,
        }
    }
    fn nonce(&self) -> [u8; NONCE] {
        let mut nonce = [0; NONCE];
        if let Sealer::Xaes(_) = self {
            crate::random::fill(&mut nonce);
        }
        nonce
    }
    fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
        match self {
            Sealer::Xaes(key) => key.seal(nonce, aad, body),
            Sealer::Checksum(key) => checksum(key, nonce, aad, body),
        }
    }
    fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        body: &[u8],
        tag: &[u8; TAG],
        out: &mut [u8],
    ) -> Result<(), Damaged> {
        match self {
            Sealer::Xaes(key) => key.open(nonce, aad, body, tag, out).map_err(|_| SEAL),
            Sealer::Checksum(key) => {
                if checksum(key, nonce, aad, body) != *tag {
                    return Err(Damaged("checksum does not match"));
                }
                out.copy_from_slice(body);
                Ok(())
            }
        }
    }

    /// Appends a frame whose body is already made small; gives the stored length.
    pub fn seal_frame(&self, name: &FrameName, how: Compression, body: &[u8], out: &mut Vec<u8>) -> u32 {
        self.seal_frame_with(&self.nonce(), name, how, body, out)
    }
    fn seal_frame_with(
        &self,
        nonce: &[u8; NONCE],
        name: &FrameName,
        how: Compression,
        body: &[u8],
        out: &mut Vec<u8>,
    ) -> u32 {
        let method = Method { compression: how, cipher: self.cipher() };
        out.reserve(body.len() + OVERHEAD);
        out.push(method.byte());
        out.extend_from_slice(nonce);
        let start = out.len();
        out.extend_from_slice(body);
        let tag = self.seal(nonce, &name.associated(method), &mut out[start..]);
        out.extend_from_slice(&tag);
        (HEAD + body.len() + TAG) as u32
    }
    /// Opens a frame into `out`, whose length must be the plain length the name says. On `Err` what `out` holds is not data.
    pub fn open_frame(&self, name: &FrameName, stored: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
        if out.len() != name.plain as usize {
            return Err(Damaged("the frame has another length than asked for"));
        }
        let parts = FrameParts::split(stored).map_err(|_| Damaged("not a frame"))?;
        if parts.method.cipher != self.cipher() {
            return Err(Damaged("sealed in another way than this repository"));
        }
        self.open_body(parts, &name.associated(parts.method), out)
    }
    fn open_body(&self, parts: FrameParts<'_>, aad: &[u8], out: &mut [u8]) -> Result<(), Damaged> {
        if parts.method.compression == Compression::Raw {
            if parts.body.len() != out.len() {
                return Err(Damaged("length does not match"));
            }
            return self.open(parts.nonce, aad, parts.body, parts.tag, out);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.resize(parts.body.len(), 0);
            self.open(parts.nonce, aad, parts.body, parts.tag, scratch)?;
            decompress(Compression::Zstd, scratch, out).map_err(|_| Damaged("cannot be decompressed"))
        })
    }

    /// A whole small object under `name`.
    pub fn seal_object(&self, repository: Uuid, kind: ObjectKind, name: &str, plain: &[u8]) -> Vec<u8> {
        self.seal_object_with(&self.nonce(), repository, kind, name, plain)
    }
    fn seal_object_with(
        &self,
        nonce: &[u8; NONCE],
        repository: Uuid,
        kind: ObjectKind,
        name: &str,
        plain: &[u8],
    ) -> Vec<u8> {
        let mut body = Vec::new();
        let compression = compress(plain, &mut body);
        let head = object::head(kind, Method { compression, cipher: self.cipher() }, plain.len() as u32);
        let tag = self.seal(nonce, &object::associated(&head, repository, name), &mut body);
        [&head[..], nonce, &body, &tag].concat()
    }
    /// Opens a small object that must be of `kind` and lie under `name`.
    pub fn open_object(
        &self,
        repository: Uuid,
        kind: ObjectKind,
        name: &str,
        stored: &[u8],
    ) -> Result<Vec<u8>, Damaged> {
        let parts = ObjectParts::split(stored, kind).map_err(|m| Damaged(m.0))?;
        if parts.method.cipher != self.cipher() {
            return Err(Damaged("sealed in another way than this repository"));
        }
        let aad = object::associated(&parts.head, repository, name);
        // Authenticate before the plain length is believed: a forged head must not cost memory.
        let mut body = vec![0; parts.body.len()];
        self.open(parts.nonce, &aad, parts.body, parts.tag, &mut body)?;
        let mut out = vec![0; parts.plain as usize];
        decompress(parts.method.compression, &body, &mut out)
            .map_err(|_| Damaged("cannot be decompressed"))?;
        Ok(out)
    }
}

fn checksum(key: &[u8; 32], nonce: &[u8], aad: &[u8], body: &[u8]) -> [u8; TAG] {
    let mut h = blake3::Hasher::new_keyed(key);
    // The lengths keep the three parts apart.
    h.update(&(aad.len() as u64).to_le_bytes()).update(aad).update(nonce).update(body);
    let mut tag = [0; TAG];
    tag.copy_from_slice(&h.finalize().as_bytes()[..TAG]);
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::repo::FrameKind;

    fn name() -> FrameName {
        FrameName {
            repository: Uuid([1; 16]),
            birth: Uuid([2; 16]),
            slot: 7,
            kind: FrameKind::Data,
            plain: 600,
        }
    }
    fn plain() -> Vec<u8> {
        (0..600u32).map(|i| (i / 30) as u8).collect()
    }
    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    fn frame(sealer: &Sealer) -> Vec<u8> {
        let (mut body, mut out) = (Vec::new(), Vec::new());
        let how = compress(&plain(), &mut body);
        let n = sealer.seal_frame(&name(), how, &body, &mut out);
        assert_eq!(n as usize, out.len());
        out
    }

    #[test]
    fn every_flipped_byte_and_every_other_name_is_refused() {
        for cipher in [Cipher::Xaes, Cipher::Checksum] {
            let sealer = Sealer::new(cipher, &[3; 32]);
            let stored = frame(&sealer);
            let mut out = vec![0; 600];
            sealer.open_frame(&name(), &stored, &mut out).unwrap();
            assert_eq!(out, plain());
            for i in 0..stored.len() {
                let mut bad = stored.clone();
                bad[i] ^= 0x10;
                assert!(sealer.open_frame(&name(), &bad, &mut out).is_err(), "byte {i}");
                assert!(sealer.open_frame(&name(), &stored[..i], &mut out).is_err(), "cut at {i}");
            }
            let n = name();
            for other in [
                FrameName { repository: Uuid([9; 16]), ..n },
                FrameName { birth: Uuid([9; 16]), ..n },
                FrameName { slot: 8, ..n },
                FrameName { kind: FrameKind::Page, ..n },
            ] {
                assert!(sealer.open_frame(&other, &stored, &mut out).is_err(), "{other:?}");
            }
            assert!(sealer.open_frame(&FrameName { plain: 601, ..n }, &stored, &mut [0; 601]).is_err());
            assert!(Sealer::new(cipher, &[4; 32]).open_frame(&n, &stored, &mut out).is_err());
        }
    }

    #[test]
    fn objects_are_bound_to_kind_and_name() {
        for cipher in [Cipher::Xaes, Cipher::Checksum] {
            let (sealer, repo) = (Sealer::new(cipher, &[3; 32]), Uuid([1; 16]));
            let stored = sealer.seal_object(repo, ObjectKind::Hold, "h/1", &plain());
            assert_eq!(sealer.open_object(repo, ObjectKind::Hold, "h/1", &stored).unwrap(), plain());
            assert!(sealer.open_object(repo, ObjectKind::Hold, "h/2", &stored).is_err());
            assert!(sealer.open_object(repo, ObjectKind::Commit, "h/1", &stored).is_err());
            assert!(sealer.open_object(Uuid([2; 16]), ObjectKind::Hold, "h/1", &stored).is_err());
            for i in 0..stored.len() {
                let mut bad = stored.clone();
                bad[i] ^= 1;
                assert!(sealer.open_object(repo, ObjectKind::Hold, "h/1", &bad).is_err(), "byte {i}");
            }
        }
    }

    /// Golden bytes of a frame and an object: raw body, fixed nonce.
    #[test]
    fn golden() {
        let sealer = Sealer::new(Cipher::Xaes, &[3; 32]);
        let n = FrameName { plain: 4, ..name() };
        let mut out = Vec::new();
        sealer.seal_frame_with(&[5; NONCE], &n, Compression::Raw, b"data", &mut out);
        assert_eq!(hex(&out), include_str!("golden/frame.hex").trim());
        let object = sealer.seal_object_with(&[5; NONCE], Uuid([1; 16]), ObjectKind::Hold, "h/1", b"hold");
        assert_eq!(hex(&object), include_str!("golden/object.hex").trim());
        let sealer = Sealer::new(Cipher::Checksum, &[3; 32]);
        out.clear();
        sealer.seal_frame(&n, Compression::Raw, b"data", &mut out);
        assert_eq!(hex(&out), include_str!("golden/frame-checksum.hex").trim());
    }
}
