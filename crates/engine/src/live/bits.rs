//! A bit for each extent, in pages that take memory and time only once something in them differs: a cut of 16 TiB has
//! 268 million extents, of which an incremental reads a few.

use super::sync::{AtomicBool, AtomicU64, SeqCst};
use rekindle_core::volume::ExtentRange;
use std::sync::OnceLock;

/// 16 KiB, 2,048 of them for 16 TiB: each cut makes them all, and sets most.
const PAGE_WORDS: u64 = 2048;
/// Extents of a page.
const PAGE: u64 = PAGE_WORDS * 64;

#[derive(Default)]
struct Page {
    /// Every bit is set, whatever the words say.
    all: AtomicBool,
    words: OnceLock<Box<[AtomicU64]>>,
}

impl Page {
    fn word(&self, word: u64) -> u64 {
        if self.all.load(SeqCst) {
            return u64::MAX;
        }
        self.words.get().map_or(0, |words| words[(word % PAGE_WORDS) as usize].load(SeqCst))
    }
    fn word_to_change(&self, word: u64) -> &AtomicU64 {
        let words = self.words.get_or_init(|| (0..PAGE_WORDS).map(|_| AtomicU64::new(0)).collect());
        &words[(word % PAGE_WORDS) as usize]
    }
}

/// Bits, none set at first. What is set as a whole page stays set.
pub(super) struct Bits(Box<[Page]>);

impl Bits {
    pub(super) fn new(n: u64) -> Bits {
        Bits((0..n.div_ceil(PAGE)).map(|_| Page::default()).collect())
    }
    fn page(&self, word: u64) -> &Page {
        &self.0[(word / PAGE_WORDS) as usize]
    }
    pub(super) fn get(&self, n: u64) -> bool {
        self.page(n / 64).word(n / 64) & (1 << (n % 64)) != 0
    }
    pub(super) fn set(&self, n: u64) {
        self.page(n / 64).word_to_change(n / 64).fetch_or(1 << (n % 64), SeqCst);
    }
    /// Clears a bit that was set by itself; whether it was.
    pub(super) fn clear(&self, n: u64) -> bool {
        let bit = 1 << (n % 64);
        self.page(n / 64).word_to_change(n / 64).fetch_and(!bit, SeqCst) & bit != 0
    }
    pub(super) fn set_range(&self, range: ExtentRange) {
        let mut at = range.start;
        while at < range.end {
            let end = range.end.min((at / PAGE + 1) * PAGE);
            let page = self.page(at / 64);
            if end - at == PAGE {
                page.all.store(true, SeqCst);
            } else {
                for word in at / 64..=(end - 1) / 64 {
                    page.word_to_change(word).fetch_or(mask(word, ExtentRange { start: at, end }), SeqCst);
                }
            }
            at = end;
        }
    }
    /// The bits that are set in `range`, ascending, each word as it is when its turn comes; passes empty pages at once.
    pub(super) fn set_in(&self, range: ExtentRange) -> impl Iterator<Item = u64> {
        let pages = range.start / PAGE..range.end.div_ceil(PAGE);
        let touched = pages.filter(|p| {
            let page = &self.0[*p as usize];
            page.all.load(SeqCst) || page.words.get().is_some()
        });
        let words = touched.flat_map(move |p| {
            let (start, end) = (range.start.max(p * PAGE), range.end.min((p + 1) * PAGE));
            start / 64..end.div_ceil(64)
        });
        words.flat_map(move |word| {
            let mut left = self.page(word).word(word) & mask(word, range);
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| u64::from(left.trailing_zeros()))?;
                left &= left - 1;
                Some(word * 64 + bit)
            })
        })
    }
}

/// The bits of word `word` that lie in `range`, which touches it.
fn mask(word: u64, range: ExtentRange) -> u64 {
    let from = range.start.max(word * 64) - word * 64;
    let to = range.end.min(word * 64 + 64) - word * 64;
    if to - from == 64 { u64::MAX } else { ((1 << (to - from)) - 1) << from }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn as_a_plain_set_would_answer() {
        let n = PAGE * 3 + 77;
        let bits = Bits::new(n);
        let mut plain = std::collections::BTreeSet::new();
        let r = |start, end| ExtentRange { start, end };
        for range in [r(5, 6), r(60, 70), r(PAGE - 1, PAGE * 2 + 1), r(PAGE * 3 + 70, n)] {
            bits.set_range(range);
            plain.extend(range.start..range.end);
        }
        for e in [0, 64, PAGE * 2 + 100] {
            bits.set(e);
            plain.insert(e);
        }
        assert!(bits.clear(64) && !bits.clear(4) && !bits.clear(64));
        plain.remove(&64);
        assert!((0..n).all(|e| bits.get(e) == plain.contains(&e)));
        for range in [r(0, n), r(6, 62), r(PAGE + 3, PAGE + 9), r(PAGE * 2 + 1, PAGE * 3 + 71)] {
            let expected: Vec<u64> = plain.range(range.start..range.end).copied().collect();
            assert_eq!(bits.set_in(range).collect::<Vec<_>>(), expected, "{range:?}");
        }
    }
}
