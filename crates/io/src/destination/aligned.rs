//! Memory as O_DIRECT wants it.

use std::ops::{Deref, DerefMut};

/// Alignment of offsets, lengths and memory: enough for every device.
pub const ALIGN: usize = 4096;

/// A buffer that begins at a multiple of [`ALIGN`].
pub struct Aligned {
    // Never grows: it would move.
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    /// `len` zeros.
    pub fn new(len: usize) -> Self {
        let bytes = vec![0; len + ALIGN];
        // A platform that cannot tell gives usize::MAX: unaligned is slower, not wrong.
        let from = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Aligned { bytes, from, len }
    }
}

impl Deref for Aligned {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes[self.from..][..self.len]
    }
}

impl DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.from..][..self.len]
    }
}

/// Whether O_DIRECT takes these bytes at this place.
pub(crate) fn is_aligned(at: u64, bytes: &[u8]) -> bool {
    at.is_multiple_of(ALIGN as u64)
        && bytes.len().is_multiple_of(ALIGN)
        && bytes.as_ptr().addr().is_multiple_of(ALIGN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned_wherever_they_lie() {
        for len in [0, 1, 4095, 4096, 1 << 20] {
            let mut buf = Aligned::new(len);
            buf.fill(7);
            assert_eq!((buf.len(), buf.as_ptr().addr() % ALIGN), (len, 0));
        }
        let buf = Aligned::new(3 * ALIGN);
        assert!(is_aligned(0, &buf) && is_aligned(8192, &buf[ALIGN..]));
        let refused = [(512, &buf[..]), (0, &buf[..512]), (0, &buf[512..][..ALIGN])];
        assert!(refused.iter().all(|(at, bytes)| !is_aligned(*at, bytes)));
    }
}
