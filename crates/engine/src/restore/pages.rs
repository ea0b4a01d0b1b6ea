//! The durable copy of the claim table: place, overlay bit and mark of every extent, in pages of 2,048 extents.
//!
//! A page has two slots, written in turn, each with a sequence and a checksum; the newer whole one counts, so a torn
//! page falls back to what was durable before. That is safe because whatever relies on a page (freeing a log record)
//! waits for its sync. A page that was never written means: absent, unmarked. Two damaged slots are an error, not absent:
//! data may lie in the target alone. A page is written at most once between two syncs, or the second write would destroy
//! the only durable copy.
//!
//! Slot: magic `RKPG`, CRC-32C of everything behind it, sequence u64, page u64, 1,024 bytes of states (two extents a
//! byte, low half first: place in bits 0-1, overlay in bit 2), 2,048 bytes of marks. Page p lies at p x 8,192.

use super::claims::CHUNK;
use rekindle_core::bytes::{Reader, Writer, crc32c};
use rekindle_core::hydrate::{Place, State};
use rekindle_io::logfile::LogFile;
use rekindle_io::{Error, Kind, Result};
use std::collections::HashSet;
use std::sync::Arc;

const SLOT: u64 = 4096;
const MAGIC: u32 = u32::from_le_bytes(*b"RKPG");
const STATES: usize = CHUNK as usize / 2;
const BODY: usize = 24 + STATES + CHUNK as usize;

/// One page as it is kept.
#[derive(Clone)]
pub struct Page {
    sequence: u64,
    states: Box<[u8; STATES]>,
    /// Marks, one byte an extent.
    pub marks: Box<[u8; CHUNK as usize]>,
}

impl Page {
    fn blank() -> Self {
        Page { sequence: 0, states: Box::new([0; STATES]), marks: Box::new([0; CHUNK as usize]) }
    }
    /// The place of extent `i` of the page.
    pub fn place(&self, i: u64) -> Option<Place> {
        let bits = self.states[i as usize / 2] >> (i % 2 * 4) & 0xf;
        State::from_durable(bits).map(State::place)
    }
    /// Sets the place of extent `i` of the page.
    pub fn set_place(&mut self, i: u64, place: Place) {
        let bits = match place {
            Place::Absent => State::ABSENT,
            Place::Zero => State::ZERO,
            Place::Local => State::LOCAL,
        }
        .durable();
        let byte = &mut self.states[i as usize / 2];
        let shift = i % 2 * 4;
        *byte = *byte & !(0xf << shift) | bits << shift;
    }
    fn encode(&self, page: u64) -> Vec<u8> {
        let mut w = Writer::new();
        w.u64(self.sequence).u64(page).raw(&self.states[..]).raw(&self.marks[..]);
        let mut out = Writer::new();
        out.u32(MAGIC).u32(crc32c(w.bytes())).raw(w.bytes());
        out.finish()
    }
    fn decode(raw: &[u8], page: u64) -> Option<Page> {
        let mut r = Reader::new(raw.get(..BODY)?);
        if r.u32("page").ok()? != MAGIC || r.u32("page").ok()? != crc32c(r.rest()) {
            return None;
        }
        let (sequence, number) = (r.u64("page").ok()?, r.u64("page").ok()?);
        let (states, marks) = (r.array("page").ok()?, r.array("page").ok()?);
        let out = Page { sequence, states: Box::new(states), marks: Box::new(marks) };
        (number == page && (0..CHUNK).all(|i| out.place(i).is_some())).then_some(out)
    }
}

/// The pages of one volume.
pub struct Pages {
    file: Arc<dyn LogFile>,
    written: HashSet<u64>,
}

impl Pages {
    /// Over a file that may be new. What a killed process left in the page cache is made durable before it is believed.
    pub fn open(file: Arc<dyn LogFile>) -> Result<Self> {
        if file.len()? > 0 {
            file.sync()?;
        }
        Ok(Pages { file, written: HashSet::new() })
    }
    fn read(&self, page: u64) -> Result<(Page, u64)> {
        let mut raw = vec![0; 2 * SLOT as usize];
        self.file.read_at(page * 2 * SLOT, &mut raw)?;
        choose(&raw, page)
    }
    /// Changes one page; durable after `sync`.
    pub fn update(&mut self, page: u64, change: impl FnOnce(&mut Page)) -> Result<()> {
        assert!(!self.written.contains(&page), "a state page was written twice before a sync");
        let (mut content, slot) = self.read(page)?;
        content.sequence += 1;
        change(&mut content);
        // A write that fails (no space) may be tried again: it only ever touches the slot that does not count.
        self.file.write_at(page * 2 * SLOT + slot * SLOT, &[&content.encode(page)])?;
        self.written.insert(page);
        Ok(())
    }
    /// Makes all updates durable.
    pub fn sync(&mut self) -> Result<()> {
        if !self.written.is_empty() {
            self.file.sync()?;
            self.written.clear();
        }
        Ok(())
    }
    /// Hands every page that was ever written to `each`, reading 1 MiB at a time.
    pub fn load(&self, pages: u64, mut each: impl FnMut(u64, &Page)) -> Result<()> {
        const STEP: u64 = 128;
        let len = self.file.len()?;
        let end = pages.min(len.div_ceil(2 * SLOT));
        let mut raw = vec![0; (STEP * 2 * SLOT) as usize];
        for first in (0..end).step_by(STEP as usize) {
            let n = STEP.min(end - first);
            let raw = &mut raw[..(n * 2 * SLOT) as usize];
            self.file.read_at(first * 2 * SLOT, raw)?;
            for (page, raw) in (first..).zip(raw.chunks(2 * SLOT as usize)) {
                if raw.iter().any(|b| *b != 0) {
                    each(page, &choose(raw, page)?.0);
                }
            }
        }
        Ok(())
    }
}

/// The newer whole slot, and the slot to write next.
fn choose(raw: &[u8], page: u64) -> Result<(Page, u64)> {
    let slots = raw.split_at(SLOT as usize);
    let blank = |s: &[u8]| s.iter().all(|b| *b == 0);
    match (Page::decode(slots.0, page), Page::decode(slots.1, page)) {
        (Some(a), Some(b)) if a.sequence > b.sequence => Ok((a, 1)),
        (Some(a), None) => Ok((a, 1)),
        (_, Some(b)) => Ok((b, 0)),
        // Never written, or torn while it was written for the first time: then nothing relied on it.
        (None, None) if blank(slots.1) => Ok((Page::blank(), 0)),
        (None, None) => Err(Error::new(
            Kind::Corrupt,
            format!(
                "state page {page}: both copies are damaged; what the destination holds is no longer known"
            ),
        )),
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use rekindle_io::fault::Crash;
    use rekindle_io::logfile::{LogDir, MemDir};

    fn open(dir: &Arc<MemDir>) -> Pages {
        let file = match dir.open("s").expect("a folder in memory") {
            Some(f) => f,
            None => dir.create("s").expect("a folder in memory"),
        };
        Pages::open(file).expect("a folder in memory")
    }
    fn set(pages: &mut Pages, page: u64, version: u8) {
        let change = |p: &mut Page| {
            // Every extent, so that old and new differ in every sector.
            (0..CHUNK).for_each(|i| p.set_place(i, if version > 1 { Place::Local } else { Place::Zero }));
            p.marks.fill(version);
        };
        pages.update(page, change).expect("a folder in memory");
    }
    fn versions(dir: &Arc<MemDir>) -> Result<Vec<(u64, u8)>> {
        let mut out = Vec::new();
        open(dir).load(1000, |page, p| {
            assert!(p.marks.iter().all(|m| *m == p.marks[0]), "a torn page was believed");
            out.push((page, p.marks[0]));
        })?;
        Ok(out)
    }

    #[test]
    fn the_layout_is_golden() {
        let mut p = Page::blank();
        p.sequence = 3;
        p.set_place(0, Place::Zero);
        p.set_place(1, Place::Local);
        p.marks[2] = 9;
        let bytes = p.encode(5);
        assert_eq!((&bytes[..4], bytes.len()), (&b"RKPG"[..], BODY));
        assert_eq!(bytes[4..8], crc32c(&bytes[8..]).to_le_bytes());
        assert_eq!(bytes[8..24], [3, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((bytes[24], bytes[24 + STATES + 2]), (0x21, 9));
        let back = Page::decode(&bytes, 5).expect("whole");
        assert_eq!(
            (back.place(0), back.place(1), back.place(2)),
            (Some(Place::Zero), Some(Place::Local), Some(Place::Absent))
        );
        assert!(Page::decode(&bytes, 6).is_none(), "a page of another place");
        assert!((0..BODY).all(|i| {
            let mut b = bytes.clone();
            b[i] ^= 1;
            Page::decode(&b, 5).is_none()
        }));
    }

    #[test]
    fn a_torn_page_is_what_was_durable_or_what_was_written() {
        for seed in 0..40 {
            let dir = MemDir::new();
            let mut pages = open(&dir);
            dir.sync_names().expect("a folder in memory");
            for version in 1..5 {
                set(&mut pages, 7, version);
                let found = versions(&dir.crash(Crash::Power { seed })).expect("one slot is whole");
                let old = (version > 1).then_some((7, version - 1));
                let ok = found == [(7, version)]
                    || found == Vec::from_iter(old)
                    || found == [(7, 0)] && version == 1;
                assert!(ok, "seed {seed}: {version} was written, {found:?} found");
                pages.sync().expect("a folder in memory");
                assert_eq!(versions(&dir.crash(Crash::Power { seed })).expect("durable"), [(7, version)]);
            }
        }
    }

    #[test]
    fn two_damaged_copies_are_an_error_not_absent() {
        let dir = MemDir::new();
        let mut pages = open(&dir);
        for version in 1..3 {
            set(&mut pages, 0, version);
            pages.sync().expect("a folder in memory");
        }
        let file = dir.open("s").expect("a folder in memory").expect("it was made");
        file.write_at(100, &[b"x"]).expect("a folder in memory");
        assert_eq!(versions(&dir).expect("the other counts"), [(0, 2)]);
        file.write_at(SLOT + 100, &[b"x"]).expect("a folder in memory");
        assert_eq!(versions(&dir).map(drop).expect_err("nothing may be assumed").kind, Kind::Corrupt);
    }

    #[test]
    #[should_panic(expected = "twice before a sync")]
    fn writing_a_page_twice_before_a_sync_is_a_bug() {
        let mut pages = open(&MemDir::new());
        set(&mut pages, 0, 1);
        set(&mut pages, 0, 2);
    }
}
