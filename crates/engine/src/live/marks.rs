//! The generation of each extent's last change: 2 bytes an extent, in memory and in a paged file.
//!
//! Page on disk (4,096 bytes): CRC-32C of what follows u32, index u32, 2,044 marks u16, all little-endian; a page of
//! zeros is one that was never written. A page that is torn or damaged makes its extents doubtful, not wrong.
//!
//! A mark changes under its page's lock together with the page's `dirty`; a checkpoint copies a page under that lock.
//! Otherwise a checkpoint between the two would write the page without the mark and call it clean.

use super::sync::{AtomicBool, AtomicU16, Mutex, Relaxed, SeqCst, lock};
use rekindle_core::bytes::{crc32c, is_zero};
use rekindle_core::volume::{ExtentRange, ExtentSet, Generation};
use rekindle_io::Result;
use rekindle_io::logfile::LogFile;
use std::sync::{Arc, OnceLock};

const PAGE_BYTES: usize = 4096;
/// Marks in one page.
const MARKS: usize = (PAGE_BYTES - 8) / 2;

struct Page {
    marks: Box<[AtomicU16]>,
    dirty: Mutex<bool>,
}

impl Page {
    fn new(marks: impl Iterator<Item = u16>) -> Page {
        Page { marks: marks.map(AtomicU16::new).collect(), dirty: Mutex::new(false) }
    }
    fn encode(&self, index: u64) -> Vec<u8> {
        let mut out = vec![0; 4];
        out.extend_from_slice(&(index as u32).to_le_bytes());
        out.extend(self.marks.iter().flat_map(|m| m.load(SeqCst).to_le_bytes()));
        let crc = crc32c(&out[4..]);
        out[..4].copy_from_slice(&crc.to_le_bytes());
        out
    }
    /// `None`: torn or damaged.
    fn decode(raw: &[u8], index: u64) -> Option<Page> {
        let word = |at: usize| raw[at..at + 4].try_into().ok().map(u32::from_le_bytes);
        let whole = word(0)? == crc32c(&raw[4..]) && word(4)? == index as u32;
        let marks = raw[8..].chunks_exact(2).map(|c| u16::from_le_bytes([c[0], c[1]]));
        whole.then(|| Page::new(marks))
    }
}

/// Pages side by side: a volume of 16 TiB has 131,000 pages, and looks at those in use must not walk over all of them.
type Group = Box<[OnceLock<Page>]>;
/// Pages of a group.
const GROUP: u64 = 256;

/// The marks of one volume.
pub(super) struct Marks {
    extents: u64,
    /// There when a page of them is.
    groups: Box<[OnceLock<Group>]>,
    /// Pages were written that no sync has covered yet.
    unsynced: AtomicBool,
}

impl Marks {
    /// Nothing marked.
    pub(super) fn blank(extents: u64) -> Marks {
        let groups = (0..extents.div_ceil(MARKS as u64 * GROUP)).map(|_| OnceLock::new()).collect();
        Marks { extents, groups, unsynced: AtomicBool::new(false) }
    }
    /// The place of page `index`.
    fn place(&self, index: u64) -> &OnceLock<Page> {
        let group = &self.groups[(index / GROUP) as usize];
        &group.get_or_init(|| (0..GROUP).map(|_| OnceLock::new()).collect())[(index % GROUP) as usize]
    }
    /// Pages in use, with their index, ascending.
    fn pages(&self) -> impl Iterator<Item = (u64, &Page)> {
        let groups = (0..).step_by(GROUP as usize).zip(&self.groups);
        let places = groups.filter_map(|(first, group)| Some((first..).zip(group.get()?))).flatten();
        places.filter_map(|(index, place)| Some((index, place.get()?)))
    }
    /// Reads the file; the second value names the extents of damaged pages.
    pub(super) fn load(file: &dyn LogFile, extents: u64) -> Result<(Marks, Vec<ExtentRange>)> {
        let marks = Marks::blank(extents);
        let mut damaged = Vec::new();
        let stored = file.len()?.div_ceil(PAGE_BYTES as u64).min(extents.div_ceil(MARKS as u64));
        let mut raw = vec![0; 256 * PAGE_BYTES];
        for first in (0..stored).step_by(256) {
            file.read_at(first * PAGE_BYTES as u64, &mut raw)?;
            for (n, raw) in raw.chunks_exact(PAGE_BYTES).enumerate() {
                let index = first + n as u64;
                if index >= stored || is_zero(raw) {
                    continue;
                }
                let page = Page::decode(raw, index).unwrap_or_else(|| {
                    let start = index * MARKS as u64;
                    damaged.push(ExtentRange { start, end: (start + MARKS as u64).min(extents) });
                    let page = Page::new((0..MARKS).map(|_| 0));
                    // Written anew by the next checkpoint; the doubt is kept elsewhere by then.
                    *lock(&page.dirty) = true;
                    page
                });
                drop(marks.place(index).set(page));
            }
        }
        Ok((marks, damaged))
    }
    /// Marks `extent` as changed in `generation`. When it is already, that is three loads.
    pub(super) fn mark(&self, extent: u64, generation: Generation) {
        let place = self.place(extent / MARKS as u64);
        let page = place.get_or_init(|| Page::new((0..MARKS).map(|_| 0)));
        let mark = &page.marks[(extent % MARKS as u64) as usize];
        if mark.load(SeqCst) != generation.0 {
            let mut dirty = lock(&page.dirty);
            mark.store(generation.0, SeqCst);
            *dirty = true;
        }
    }
    /// Writes every dirty page and syncs. After an error nothing it wrote counts as durable: the next call syncs again,
    /// and a file whose sync failed goes on failing.
    pub(super) fn store(&self, file: &dyn LogFile) -> Result<()> {
        for (index, page) in self.pages() {
            let raw = {
                let mut dirty = lock(&page.dirty);
                if !*dirty {
                    continue;
                }
                *dirty = false;
                page.encode(index)
            };
            self.unsynced.store(true, SeqCst);
            if let Err(e) = file.write_at(index * PAGE_BYTES as u64, &[&raw]) {
                *lock(&page.dirty) = true;
                return Err(e);
            }
        }
        if self.unsynced.load(SeqCst) {
            file.sync()?;
            self.unsynced.store(false, SeqCst);
        }
        Ok(())
    }
    /// Extents marked after `generation`.
    pub(super) fn since(&self, generation: Generation) -> ExtentSet {
        let mut out = ExtentSet::default();
        for (index, page) in self.pages() {
            let base = index * MARKS as u64;
            for (n, mark) in page.marks.iter().enumerate() {
                let extent = base + n as u64;
                if mark.load(Relaxed) > generation.0 && extent < self.extents {
                    out.insert(ExtentRange { start: extent, end: extent + 1 });
                }
            }
        }
        out
    }
    /// Forgets every mark (a fresh tracking begins). Nothing may be in flight.
    pub(super) fn clear(&self) {
        for (_, page) in self.pages() {
            let mut dirty = lock(&page.dirty);
            page.marks.iter().for_each(|m| m.store(0, SeqCst));
            *dirty = false;
        }
    }
}

/// The file of the marks of a tracking.
pub(super) type MarksFile = Arc<dyn LogFile>;

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use rekindle_io::logfile::{LogDir, MemDir};

    fn r(start: u64, end: u64) -> ExtentRange {
        ExtentRange { start, end }
    }

    #[test]
    fn survives_and_answers_since() {
        let d = MemDir::new();
        let f = d.create("marks").unwrap();
        let m = Marks::blank(5000);
        for (e, g) in [(0, 1), (1, 2), (2, 2), (2043, 3), (2044, 3), (4999, 1)] {
            m.mark(e, Generation(g));
        }
        m.store(&*f).unwrap();
        m.mark(3, Generation(9));
        let (m, damaged) = Marks::load(&*f, 5000).unwrap();
        assert!(damaged.is_empty());
        let since = |m: &Marks, g| m.since(Generation(g)).ranges().collect::<Vec<_>>();
        assert_eq!(since(&m, 0), [r(0, 3), r(2043, 2045), r(4999, 5000)]);
        assert_eq!(since(&m, 2), [r(2043, 2045)]);
        let mut raw = vec![0; 12];
        f.read_at(4096, &mut raw).unwrap();
        assert_eq!(raw[4..], [1, 0, 0, 0, 3, 0, 0, 0], "page 1: index, mark of extent 2,044, of 2,045");
        f.write_at(20, &[&[7]]).unwrap();
        let (m, damaged) = Marks::load(&*f, 5000).unwrap();
        assert_eq!(damaged, [r(0, 2044)]);
        assert_eq!(since(&m, 0), [r(2044, 2045), r(4999, 5000)]);
    }

    #[test]
    fn what_lies_far_apart_keeps_its_place() {
        const EXTENTS: u64 = 1 << 28;
        let group = MARKS as u64 * GROUP;
        let marked = [0, group - 1, group, 7 * group + 2043, 7 * group + 2044, EXTENTS - 1];
        let f = MemDir::new().create("marks").unwrap();
        let m = Marks::blank(EXTENTS);
        // From behind: nothing depends on the order in which they come.
        marked.iter().rev().for_each(|e| m.mark(*e, Generation(1)));
        m.store(&*f).unwrap();
        for m in [&m, &Marks::load(&*f, EXTENTS).unwrap().0] {
            let found: Vec<u64> = m.since(Generation(0)).ranges().flat_map(|r| r.start..r.end).collect();
            assert_eq!(found, marked);
        }
    }
}
