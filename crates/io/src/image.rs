//! Bytes in memory that know what a power cut would leave: a sparse array of 64 KiB chunks, each with its last synced
//! content, its dirty 512-byte sectors and the versions those sectors went through since.

use crate::fault::{Crash, mix};
use rekindle_core::volume::ByteRange;
use std::collections::{BTreeMap, BTreeSet};

const CHUNK: usize = 64 << 10;
const SECTOR: usize = 512;
/// Unit of allocation, as file systems have it.
const PAGE: usize = 4096;
/// Versions kept of one sector between syncs; more teach no test anything new.
const VERSIONS_MAX: usize = 3;

#[derive(Clone)]
struct Unsynced {
    /// Content at the last sync.
    bytes: Box<[u8]>,
    /// Allocated pages at the last sync.
    pages: u16,
    /// A bit per sector written since.
    dirty: u128,
    /// Content a dirty sector had before it was written once more.
    between: Vec<(u8, Box<[u8]>)>,
}

#[derive(Clone)]
struct Chunk {
    now: Box<[u8]>,
    /// A bit per allocated 4 KiB page.
    pages: u16,
    unsynced: Option<Unsynced>,
}

/// The bytes. Reading beyond what was written gives zeros; there is no end.
#[derive(Clone, Default)]
pub(crate) struct Image {
    chunks: BTreeMap<u64, Chunk>,
    dirty: BTreeSet<u64>,
}

/// Splits `offset..offset+len` at chunk borders: (chunk, start inside it, length).
fn pieces(offset: u64, len: u64) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let end = offset + len;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let (chunk, start) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
        let n = ((end - at) as usize).min(CHUNK - start);
        at += n as u64;
        Some((chunk, start, n))
    })
}

fn page_bits(start: usize, end: usize) -> u16 {
    (start..end).fold(0, |bits, p| bits | 1 << p)
}

impl Chunk {
    fn new() -> Self {
        Chunk { now: vec![0; CHUNK].into(), pages: 0, unsynced: None }
    }
    /// Notes that `start..start+len` is about to change.
    fn touch(&mut self, start: usize, len: usize) {
        let u = self.unsynced.get_or_insert_with(|| Unsynced {
            bytes: self.now.clone(),
            pages: self.pages,
            dirty: 0,
            between: Vec::new(),
        });
        for s in start / SECTOR..(start + len).div_ceil(SECTOR) {
            if u.dirty & (1 << s) != 0
                && u.between.iter().filter(|(n, _)| *n == s as u8).count() < VERSIONS_MAX
            {
                u.between.push((s as u8, self.now[s * SECTOR..(s + 1) * SECTOR].into()));
            }
            u.dirty |= 1 << s;
        }
    }
    /// What a power cut leaves.
    fn cut(&self, seed: u64) -> Chunk {
        let Some(u) = &self.unsynced else { return self.clone() };
        let mut found = u.bytes.clone();
        let mut kept = 0;
        for s in (0..CHUNK / SECTOR).filter(|s| u.dirty & (1 << s) != 0) {
            let at = s * SECTOR..(s + 1) * SECTOR;
            let between: Vec<_> = u.between.iter().filter(|(n, _)| *n == s as u8).collect();
            match mix(seed, s as u64) as usize % (between.len() + 2) {
                0 => kept += 1,
                1 => found[at.clone()].copy_from_slice(&self.now[at]),
                n => found[at].copy_from_slice(&between[n - 2].1),
            }
        }
        // Allocation follows the data: what survived wholly unsynced keeps its old pages.
        let mut pages = if kept == u.dirty.count_ones() { u.pages } else { u.pages | self.pages };
        // A sector that went back to a version from before a punch brings its page with it: no hole holds bytes.
        for p in (0..CHUNK / PAGE).filter(|p| found[p * PAGE..(p + 1) * PAGE].iter().any(|b| *b != 0)) {
            pages |= 1 << p;
        }
        Chunk { now: found, pages, unsynced: None }
    }
    /// Spoils one in four of the pages with dirty sectors.
    fn tear(&mut self, dirty: u128, seed: u64) {
        const SECTORS: usize = PAGE / SECTOR;
        let written = |p: usize| dirty >> (p * SECTORS) & ((1 << SECTORS) - 1) != 0;
        for p in (0..CHUNK / PAGE).filter(|p| written(*p)) {
            let dice = mix(seed, p as u64);
            if dice.is_multiple_of(4) {
                self.now[p * PAGE..(p + 1) * PAGE].fill((dice >> 8) as u8 | 1);
                self.pages |= 1 << p;
            }
        }
    }
}

impl Image {
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) {
        let mut rest = buf;
        for (c, start, n) in pieces(offset, rest.len() as u64) {
            let (head, tail) = rest.split_at_mut(n);
            match self.chunks.get(&c) {
                Some(chunk) => head.copy_from_slice(&chunk.now[start..start + n]),
                None => head.fill(0),
            }
            rest = tail;
        }
    }
    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        let mut rest = data;
        for (c, start, n) in pieces(offset, data.len() as u64) {
            let (head, tail) = rest.split_at(n);
            let chunk = self.chunks.entry(c).or_insert_with(Chunk::new);
            chunk.touch(start, n);
            chunk.now[start..start + n].copy_from_slice(head);
            chunk.pages |= page_bits(start / PAGE, (start + n).div_ceil(PAGE));
            self.dirty.insert(c);
            rest = tail;
        }
    }
    /// Makes the range read as zeros; whole pages of it become a hole unless `keep`, and are allocated if `keep`.
    pub(crate) fn zero(&mut self, offset: u64, len: u64, keep: bool) {
        if len == 0 {
            return;
        }
        let end = offset + len;
        let (first, last) = (offset / CHUNK as u64, (end - 1) / CHUNK as u64);
        let chunks: Vec<u64> = if keep {
            (first..=last).collect()
        } else {
            self.chunks.range(first..=last).map(|(c, _)| *c).collect()
        };
        for c in chunks {
            let base = c * CHUNK as u64;
            let start = offset.saturating_sub(base) as usize;
            let stop = ((end - base) as usize).min(CHUNK);
            let chunk = self.chunks.entry(c).or_insert_with(Chunk::new);
            chunk.touch(start, stop - start);
            chunk.now[start..stop].fill(0);
            if keep {
                chunk.pages |= page_bits(start / PAGE, stop.div_ceil(PAGE));
            } else {
                chunk.pages &= !page_bits(start.div_ceil(PAGE), (stop / PAGE).max(start.div_ceil(PAGE)));
            }
            self.dirty.insert(c);
        }
    }
    pub(crate) fn sync(&mut self) {
        for c in std::mem::take(&mut self.dirty) {
            let Some(chunk) = self.chunks.get_mut(&c) else { continue };
            chunk.unsynced = None;
            if chunk.pages == 0 {
                self.chunks.remove(&c);
            }
        }
    }
    /// What is found after the machine went down. With `tears`, a power cut may also take physical blocks of 4 KiB that
    /// were being written whole, with the sectors of them that had been synced.
    pub(crate) fn crash(&self, crash: Crash, tears: bool) -> Image {
        let Crash::Power { seed } = crash else { return self.clone() };
        let mut chunks = self.chunks.clone();
        for c in &self.dirty {
            if let Some(chunk) = chunks.get_mut(c) {
                let dirty = chunk.unsynced.as_ref().map_or(0, |u| u.dirty);
                *chunk = chunk.cut(mix(seed, *c));
                if tears {
                    chunk.tear(dirty, mix(seed, !*c));
                }
            }
        }
        Image { chunks, dirty: BTreeSet::new() }
    }
    /// The first run of allocated bytes that begins in `range` or reaches into it.
    pub(crate) fn next_data(&self, range: ByteRange) -> Option<ByteRange> {
        let mut found: Option<ByteRange> = None;
        for (c, chunk) in self.chunks.range(range.start / CHUNK as u64..) {
            for p in (0..CHUNK / PAGE).filter(|p| chunk.pages & (1 << p) != 0) {
                let page = ByteRange::new(c * CHUNK as u64 + (p * PAGE) as u64, PAGE as u64);
                match (&mut found, page.intersect(&range)) {
                    (Some(f), Some(i)) if f.end() == i.start => f.len += i.len,
                    (Some(_), _) => return found,
                    (None, i) => found = i,
                }
            }
            if c * CHUNK as u64 >= range.end() {
                break;
            }
        }
        found
    }
    /// Bytes allocated.
    pub(crate) fn allocated(&self) -> u64 {
        self.chunks.values().map(|c| u64::from(c.pages.count_ones()) * PAGE as u64).sum()
    }
}
