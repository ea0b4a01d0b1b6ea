//! zstd level 1 with one context a thread. No probe for incompressible data: level 1 gives up on noise in 10 microseconds.

use rekindle_core::repo::frame::Compression;
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

const LEVEL: i32 = 1;

thread_local! {
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Compresses `plain` into `out` (cleared first), or copies it when that saves under a sixteenth.
pub fn compress(plain: &[u8], out: &mut Vec<u8>) -> Compression {
    out.clear();
    // Room for less than 15/16 only: a result that does not fit is not worth keeping, and zstd stops early.
    let worth = plain.len() - plain.len().div_ceil(16);
    out.reserve(worth.max(plain.len()));
    let done = COMPRESSOR.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Compressor::new(LEVEL).ok();
        }
        out.resize(worth, 0);
        slot.as_mut().and_then(|c| c.compress_to_buffer(plain, &mut out[..]).ok())
    });
    match done {
        Some(n) => {
            out.truncate(n);
            Compression::Zstd
        }
        None => {
            out.clear();
            out.extend_from_slice(plain);
            Compression::Raw
        }
    }
}

/// The compressed bytes do not give exactly the expected length.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotCompressed;

/// Undoes `compress` into `out`, whose length must be the plain length exactly.
pub fn decompress(how: Compression, body: &[u8], out: &mut [u8]) -> Result<(), NotCompressed> {
    match how {
        Compression::Raw if body.len() == out.len() => {
            out.copy_from_slice(body);
            Ok(())
        }
        Compression::Raw => Err(NotCompressed),
        Compression::Zstd => {
            let n = DECOMPRESSOR.with_borrow_mut(|slot| {
                if slot.is_none() {
                    *slot = Decompressor::new().ok();
                }
                slot.as_mut().and_then(|d| d.decompress_to_buffer(body, out).ok())
            });
            if n == Some(out.len()) { Ok(()) } else { Err(NotCompressed) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn round_trip(seed in prop::collection::vec(any::<u8>(), 1..300), repeat in 1usize..100) {
            let plain: Vec<u8> = std::iter::repeat_n(&seed, repeat).flatten().copied().collect();
            let (mut packed, mut out) = (Vec::new(), vec![0; plain.len()]);
            let how = compress(&plain, &mut packed);
            prop_assert!(how == Compression::Raw || packed.len() * 16 <= plain.len() * 15);
            decompress(how, &packed, &mut out).unwrap();
            prop_assert_eq!(&out, &plain);
            prop_assert!(decompress(how, &packed, &mut vec![0; plain.len() + 1]).is_err());
        }
    }

    #[test]
    fn noise_stays_raw() {
        let mut noise = vec![0; 1 << 16];
        crate::random::fill(&mut noise);
        let mut out = Vec::new();
        assert_eq!((compress(&noise, &mut out), out.len()), (Compression::Raw, 1 << 16));
    }
}
