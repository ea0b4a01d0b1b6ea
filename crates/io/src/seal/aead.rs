//! XAES-256-GCM on aws-lc-rs: AES-256-GCM under a key derived from the first half of a 192-bit nonce (C2SP XAES-256-GCM).
//! Random nonces of 192 bits do not run out; those of plain GCM would after 2^32 frames.
//!
//! The derivation is CMAC of one whole block, twice; a key schedule is made per message, which costs under a microsecond.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cmac;
use rekindle_core::repo::frame::{NONCE, TAG};

/// The seal did not open: wrong key, wrong name, or changed bytes. Which one cannot be known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAuthentic;

/// A key of XAES-256-GCM.
pub struct XaesKey {
    mac: cmac::Key,
}

const SIZES: &str = "fixed key and nonce sizes are right by construction";

impl XaesKey {
    /// From 32 secret bytes.
    pub fn new(key: &[u8; 32]) -> Self {
        XaesKey { mac: cmac::Key::new(cmac::AES_256, key).expect(SIZES) }
    }
    /// The AES-256-GCM key for this nonce: CMAC of `00 <n> 'X' 00 | nonce[..12]` for n = 1, 2.
    fn derive(&self, nonce: &[u8; NONCE]) -> (LessSafeKey, Nonce) {
        let mut block = [0; 16];
        block[2] = b'X';
        block[4..].copy_from_slice(&nonce[..12]);
        let mut key = zeroize::Zeroizing::new([0; 32]);
        for (n, half) in (1u8..).zip(key.chunks_exact_mut(16)) {
            block[1] = n;
            half.copy_from_slice(cmac::sign(&self.mac, &block).expect(SIZES).as_ref());
        }
        let mut rest = [0; 12];
        rest.copy_from_slice(&nonce[12..]);
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &*key).expect(SIZES));
        (key, Nonce::assume_unique_for_key(rest))
    }
    /// Encrypts `body` in place and gives the tag. The nonce must be fresh and random.
    pub fn seal(&self, nonce: &[u8; NONCE], aad: &[u8], body: &mut [u8]) -> [u8; TAG] {
        let (key, nonce) = self.derive(nonce);
        // Fails only over 64 GiB: frames and objects are far below.
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).expect("under 64 GiB");
        let mut out = [0; TAG];
        out.copy_from_slice(tag.as_ref());
        out
    }
    /// Decrypts `body` into `out` of equal length; on `Err` what `out` holds is undefined and must not be used.
    pub fn open(
        &self,
        nonce: &[u8; NONCE],
        aad: &[u8],
        body: &[u8],
        tag: &[u8; TAG],
        out: &mut [u8],
    ) -> Result<(), NotAuthentic> {
        let (key, nonce) = self.derive(nonce);
        key.open_separate_gather(nonce, Aad::from(aad), body, tag, out).map_err(|_| NotAuthentic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(b: &[u8]) -> String {
        b.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The two vectors of the C2SP specification.
    #[test]
    fn the_vectors_of_the_specification() {
        for (key, aad, want) in [
            (1, "", "ce546ef63c9cc60765923609b33a9a1974e96e52daf2fcf7075e2271"),
            (3, "c2sp.org/XAES-256-GCM", "986ec1832593df5443a179437fd083bf3fdb41abd740a21f71eb769d"),
        ] {
            let mut body = *b"XAES-256-GCM";
            let nonce = b"ABCDEFGHIJKLMNOPQRSTUVWX";
            let key = XaesKey::new(&[key; 32]);
            let tag = key.seal(nonce, aad.as_bytes(), &mut body);
            assert_eq!(format!("{}{}", hex(&body), hex(&tag)), want);
            let mut out = [0; 12];
            key.open(nonce, aad.as_bytes(), &body, &tag, &mut out).unwrap();
            assert_eq!(&out, b"XAES-256-GCM");
        }
    }

    #[test]
    fn any_changed_bit_is_refused() {
        let key = XaesKey::new(&[9; 32]);
        let (nonce, mut body) = ([5; NONCE], *b"sixteen bytes ok");
        let tag = key.seal(&nonce, b"name", &mut body);
        let refused = |nonce: &[u8; NONCE], aad: &[u8], body: &[u8], tag: &[u8; TAG]| {
            assert_eq!(key.open(nonce, aad, body, tag, &mut [0; 16]), Err(NotAuthentic));
        };
        for bit in 0..NONCE * 8 {
            let mut n = nonce;
            n[bit / 8] ^= 1 << (bit % 8);
            refused(&n, b"name", &body, &tag);
        }
        for bit in 0..128 {
            let (mut b, mut t) = (body, tag);
            b[bit / 8] ^= 1 << (bit % 8);
            refused(&nonce, b"name", &b, &tag);
            t[bit / 8] ^= 1 << (bit % 8);
            refused(&nonce, b"name", &body, &t);
        }
        refused(&nonce, b"nbme", &body, &tag);
    }
}
