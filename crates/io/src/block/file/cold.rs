//! Writes past the page cache to a file that is otherwise served through it, as long as the medium takes them well.
//!
//! **Nothing is read ahead meanwhile.** A folio of the cache may be as large as 2 MiB. One that read-ahead made over a range
//! that is being written directly and over its neighbour, and that somebody else's buffered write to the neighbour then made
//! dirty, cannot be dropped when the direct write is done: reads would find what was there before it, until a flush fails
//! (ext4 since Linux 6.16, XFS since 5.18). Without read-ahead reads bring the pages they ask for, writes make folios of
//! their own range, and no folio reaches into what nobody but the direct write touches.

use crate::past_cache::{CACHED_MAX, PastCache};
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::*};
use std::time::Instant;

/// Microseconds for [`CACHED_MAX`] (a longer write counts as so many of them): a disk that seeks needs them, one that does not
/// has them to spare. Scattered writes to a disk that seeks are sorted by the page cache, which is worth more than what it
/// costs.
const SEEKS_US: u32 = 4000;

#[derive(Default)]
pub(super) struct Cold {
    /// Cold writes come, and nothing is read ahead.
    expected: AtomicBool,
    /// Opened when it is first needed: a disk that is only served needs none.
    past_cache: OnceLock<PastCache>,
    /// What a write took of late, in microseconds. Once it is more than [`SEEKS_US`] it stays: no other is written so.
    mean_us: AtomicU32,
}

impl Cold {
    pub(super) fn past_cache(&self, file: &File) -> &PastCache {
        self.past_cache.get_or_init(|| PastCache::of(file))
    }
    /// From now on `file` is written so, or no more.
    pub(super) fn expect(&self, file: &File, expected: bool) {
        let advice = if expected { Advice::Random } else { Advice::Normal };
        let advised = fadvise(file, 0, None, advice).is_ok();
        self.expected.store(expected && advised, Release);
    }
    /// Writes all of `data` to `file`, which is open for writing and buffered; `None`: it has to go through the cache.
    pub(super) fn write(&self, file: &File, at: u64, data: &[u8]) -> Option<std::io::Result<()>> {
        if !self.expected.load(Acquire) || self.mean_us.load(Relaxed) > SEEKS_US {
            return None;
        }
        let begun = Instant::now();
        let done = self.past_cache(file).write(at, data)?;
        // Two threads that forget each other's figure do no harm.
        let took = begun.elapsed().as_micros() * CACHED_MAX as u128 / data.len().max(CACHED_MAX) as u128;
        let mean = follow(self.mean_us.load(Relaxed), took);
        self.mean_us.store(mean, Relaxed);
        Some(done)
    }
    /// As if writes had been that slow.
    #[cfg(test)]
    pub(super) fn seeks(&self) {
        self.mean_us.store(2 * SEEKS_US, Relaxed);
    }
}

/// One that is very late counts as twice the limit: it takes more than half of the last dozens to tell a disk from a hiccup.
fn follow(mean: u32, took_us: u128) -> u32 {
    let took = took_us.min(u128::from(2 * SEEKS_US)) as u32;
    mean - mean / 32 + took / 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_seeks_is_told_from_one_that_hiccups() {
        let mean = |took: &dyn Fn(u32) -> u128| (0..1000).map(took).fold(0, follow);
        assert!(mean(&|_| 9_000) > SEEKS_US && mean(&|_| 30_000) > SEEKS_US);
        assert!(mean(&|_| 500) < 1000);
        let hiccups = |i: u32| if i.is_multiple_of(4) { 1_000_000 } else { 300 };
        assert!((1..1000).all(|n| (0..n).map(hiccups).fold(0, follow) <= SEEKS_US));
    }
}
