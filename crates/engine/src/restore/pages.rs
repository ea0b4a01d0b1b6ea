//! The durable copy of the claim table: place, overlay bit and mark of every extent, in pages of 2,048 extents.
//!
//! A page has two slots, each with a sequence and a checksum; the newer whole one counts. An update writes one of them,
//! `sync` makes that durable and only then writes the other the same: a torn write leaves what was durable before, which
//! is safe because whatever relies on a page (freeing a log record) waits for `sync`; and once it has returned a damaged
//! sector leaves the other slot. (With slots written in turn, damage of the newer one brought the older back: extents that
//! had come since counted as absent, and the moment would have been put over what the guest had flushed.)
//!
//! A page that was never written means: absent, unmarked; so does one whose first slot is torn while the other is blank.
//! Two damaged slots are an error, not absent: data may lie in the target alone. A page is updated at most once between
//! two syncs, or the second write would destroy the only durable copy.
//!
//! Slot: magic `RKPG`, CRC-32C of everything behind it, sequence u64, page u64, 1,024 bytes of states (two extents a
//! byte, low half first: place in bits 0-1, overlay in bit 2), 2,048 bytes of marks. Page p lies at p x 8,192.

use super::claims::CHUNK;
use super::lock;
use super::plan::PlanRecord;
use super::set::state_name;
use rekindle_core::bytes::{Reader, Writer, crc32c};
use rekindle_core::hydrate::{Place, State};
use rekindle_io::logfile::{LogDir, LogFile};
use rekindle_io::{Error, Kind, Result};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

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
    /// Updated since the last sync.
    written: BTreeSet<u64>,
    /// A crash came between the two slots of these.
    uneven: Mutex<BTreeSet<u64>>,
}

impl Pages {
    /// Over a file that may be new. What a killed process left in the page cache is made durable before it is believed.
    pub fn open(file: Arc<dyn LogFile>) -> Result<Self> {
        if file.len()? > 0 {
            file.sync()?;
        }
        Ok(Pages { file, written: BTreeSet::new(), uneven: Mutex::default() })
    }
    fn read(&self, page: u64) -> Result<Chosen> {
        let mut raw = vec![0; 2 * SLOT as usize];
        self.file.read_at(page * 2 * SLOT, &mut raw)?;
        choose(&raw, page)
    }
    /// Changes one page; durable after `sync`.
    pub fn update(&mut self, page: u64, change: impl FnOnce(&mut Page)) -> Result<()> {
        assert!(!self.written.contains(&page), "a state page was written twice before a sync");
        let Chosen { mut content, other, .. } = self.read(page)?;
        content.sequence += 1;
        change(&mut content);
        // A write that fails (no space) may be tried again: it only ever touches the slot that does not count.
        self.file.write_at(page * 2 * SLOT + other * SLOT, &[&content.encode(page)])?;
        self.written.insert(page);
        Ok(())
    }
    /// Makes all updates durable, in both slots. After an error for want of space it may be tried again.
    pub fn sync(&mut self) -> Result<()> {
        if self.written.is_empty() {
            return Ok(());
        }
        self.file.sync()?;
        self.even_out(&self.written)?;
        self.written.clear();
        Ok(())
    }
    /// After a crash: what counts is in both slots. Also what no page was updated for since.
    pub fn mend(&mut self) -> Result<()> {
        let uneven = std::mem::take(&mut *lock(&self.uneven));
        if uneven.is_empty() { Ok(()) } else { self.even_out(&uneven) }
    }
    fn even_out(&self, pages: &BTreeSet<u64>) -> Result<()> {
        for page in pages {
            let Chosen { content, other, even } = self.read(*page)?;
            if !even {
                self.file.write_at(page * 2 * SLOT + other * SLOT, &[&content.encode(*page)])?;
            }
        }
        self.file.sync()
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
                    let chosen = choose(raw, page)?;
                    if !chosen.even {
                        lock(&self.uneven).insert(page);
                    }
                    each(page, &chosen.content);
                }
            }
        }
        Ok(())
    }
}

/// Extents of the volume at `volume` that are durable nowhere but with the holder, by the restore that `state` holds. More
/// than are missing when it goes on: what the guest wrote over them lies in the log. Changes nothing, and makes nothing
/// durable: a count is not relied upon.
pub fn missing(state: &dyn LogDir, plan: &PlanRecord, volume: usize) -> Result<u64> {
    let extents = plan.volumes[volume].geometry()?.extents();
    let Some(file) = state.open(&state_name(volume))? else {
        return Err(Error::new(Kind::Corrupt, format!("{} lacks {}", state.place(), state_name(volume))));
    };
    let mut here = 0;
    let pages = Pages { file, written: BTreeSet::new(), uneven: Mutex::default() };
    pages.load(extents.div_ceil(CHUNK), |_, p| {
        here += (0..CHUNK).filter(|i| p.place(*i).is_some_and(|p| p != Place::Absent)).count() as u64;
    })?;
    Ok(extents.saturating_sub(here))
}

/// What counts of a page.
struct Chosen {
    content: Page,
    /// The slot that does not count: the one to write next.
    other: u64,
    /// Both slots hold the same.
    even: bool,
}

fn choose(raw: &[u8], page: u64) -> Result<Chosen> {
    let slots = raw.split_at(SLOT as usize);
    let blank = |s: &[u8]| s.iter().all(|b| *b == 0);
    let chosen = |content, other, even| Ok(Chosen { content, other, even });
    match (Page::decode(slots.0, page), Page::decode(slots.1, page)) {
        (Some(a), Some(b)) if a.sequence > b.sequence => chosen(a, 1, false),
        (Some(a), Some(b)) => {
            let even = a.sequence == b.sequence;
            chosen(b, 0, even)
        }
        (Some(a), None) => chosen(a, 1, false),
        (None, Some(b)) => chosen(b, 0, false),
        // Never written, or torn while it was written for the first time: then nothing relied on it.
        (None, None) if blank(slots.1) => chosen(Page::blank(), 0, true),
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
    use rekindle_io::fault::{Crash, FaultPlan};
    use rekindle_io::logfile::{FaultyDir, MemDir};

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
                pages.file.sync().expect("a folder in memory");
                pages.file.write_at(15 * SLOT, &[&[version; 700]]).expect("a folder in memory");
                let torn = versions(&dir.crash(Crash::Power { seed })).expect("the first slot is durable");
                assert_eq!(torn, [(7, version)], "seed {seed}");
                pages.sync().expect("a folder in memory");
                assert_eq!(versions(&dir.crash(Crash::Power { seed })).expect("durable"), [(7, version)]);
            }
        }
    }

    /// From the first version on, in any sector of either slot: garbage, zeros, what another sector holds, a flipped bit.
    #[test]
    fn one_damaged_sector_never_brings_an_older_version_back() {
        let damages: [fn(&mut [u8]); 4] =
            [|s| s.fill(0xff), |s| s.fill(0), |s| s.rotate_left(1), |s| s.iter_mut().for_each(|b| *b ^= 1)];
        let dir = MemDir::new();
        let mut pages = open(&dir);
        for version in 1..4 {
            set(&mut pages, 0, version);
            pages.sync().expect("a folder in memory");
            for (sector, damage) in (0..2 * SLOT / 512).flat_map(|s| damages.iter().map(move |d| (s, d))) {
                let hurt = dir.crash(Crash::Kill);
                let file = hurt.open("s").expect("a folder in memory").expect("it was made");
                let mut raw = [0; 512];
                file.read_at(sector * 512, &mut raw).expect("a folder in memory");
                damage(&mut raw);
                file.write_at(sector * 512, &[&raw]).expect("a folder in memory");
                assert_eq!(versions(&hurt).expect("the other counts"), [(0, version)], "sector {sector}");
            }
        }
    }

    #[test]
    fn one_damaged_byte_never_brings_an_older_version_back() {
        let dir = MemDir::new();
        let mut pages = open(&dir);
        for version in 1..3 {
            set(&mut pages, 0, version);
            pages.sync().expect("a folder in memory");
            let mut raw = vec![0; 2 * SLOT as usize];
            open(&dir).file.read_at(0, &mut raw).expect("a folder in memory");
            for at in 0..raw.len() {
                raw[at] ^= 0x10;
                let found = choose(&raw, 0).expect("the other counts").content;
                assert!(found.marks.iter().all(|m| *m == version), "byte {at}");
                raw[at] ^= 0x10;
            }
        }
    }

    /// A power cut between the two slots of a sync: mended when it is opened, damage is harmless again.
    #[test]
    fn a_crash_between_the_slots_is_mended() {
        let (mem, plan) = (MemDir::new(), Arc::new(FaultPlan::new()));
        let mut pages = open(&mem);
        set(&mut pages, 0, 1);
        pages.sync().expect("a folder in memory");
        let faulty: Arc<dyn LogDir> = FaultyDir::new(mem.clone(), plan.clone());
        let file = faulty.open("s").expect("a folder in memory").expect("it was made");
        let mut pages = Pages::open(file).expect("a folder in memory");
        set(&mut pages, 0, 2);
        plan.die_at(plan.count() + 1);
        assert!(pages.sync().is_err());
        let after = mem.crash(Crash::Power { seed: 1 });
        assert_eq!(versions(&after).expect("whole"), [(0, 2)]);
        let mut pages = open(&after);
        pages.load(1, |_, _| {}).expect("whole");
        pages.mend().expect("a folder in memory");
        let file = after.open("s").expect("a folder in memory").expect("it was made");
        for slot in 0..2 {
            let hurt = after.crash(Crash::Power { seed: 2 });
            hurt.open("s")
                .expect("in memory")
                .expect("made")
                .write_at(slot * SLOT, &[b"x"])
                .expect("in memory");
            assert_eq!(versions(&hurt).expect("the other counts"), [(0, 2)], "slot {slot}");
        }
        file.write_at(0, &[b"x"]).and_then(|()| file.write_at(SLOT, &[b"x"])).expect("a folder in memory");
        assert_eq!(versions(&after).map(drop).expect_err("nothing may be assumed").kind, Kind::Corrupt);
    }

    #[test]
    #[should_panic(expected = "twice before a sync")]
    fn writing_a_page_twice_before_a_sync_is_a_bug() {
        let mut pages = open(&MemDir::new());
        set(&mut pages, 0, 1);
        set(&mut pages, 0, 2);
    }
}
