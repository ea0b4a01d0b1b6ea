//! The claim table of a restoring volume: one atomic byte per extent (invariant 3), and one byte that says in which
//! generation the guest last wrote it (invariant 12). The steps are core's (`hydrate::State`); here are the atomics.
//!
//! Two bytes an extent, allocated in chunks when first touched, so that a volume of 16 TiB opens at once and a sparse
//! one stays small. A chunk is also a page of the durable state (`pages`).

use super::sync::{AtomicU8, AtomicU64, yield_now};
use crate::sparse::Sparse;
use rekindle_core::hydrate::{Place, State};
use rekindle_core::volume::ExtentRange;
use std::sync::atomic::Ordering::*;

/// Extents of a chunk, and of a durable page.
pub const CHUNK: u64 = 2048;

struct Chunk {
    state: Box<[AtomicU8]>,
    mark: Box<[AtomicU8]>,
}

impl Chunk {
    fn new() -> Self {
        let zeros = || (0..CHUNK).map(|_| AtomicU8::new(0)).collect();
        Chunk { state: zeros(), mark: zeros() }
    }
}

/// State and mark of every extent of one volume.
pub struct Claims {
    chunks: Sparse<Chunk>,
    extents: u64,
    absent: AtomicU64,
    zero: AtomicU64,
    /// One bit a chunk: marks changed since the durable pages were last written.
    dirty: Box<[AtomicU64]>,
}

/// The claim of one extent. Released by `release`; dropped, it leaves the place as it was.
pub struct Claim<'a> {
    table: &'a Claims,
    extent: u64,
    place: Place,
}

impl Claims {
    /// All absent, nothing marked.
    pub fn new(extents: u64) -> Self {
        let chunks = extents.div_ceil(CHUNK);
        Claims {
            chunks: Sparse::new(chunks as usize),
            extents,
            absent: AtomicU64::new(extents),
            zero: AtomicU64::new(0),
            dirty: (0..chunks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
        }
    }
    /// How many extents.
    pub fn extents(&self) -> u64 {
        self.extents
    }
    /// How many are absent.
    pub fn absent(&self) -> u64 {
        self.absent.load(Acquire)
    }
    /// How many are zeros by state, not yet in the target.
    pub fn zero(&self) -> u64 {
        self.zero.load(Acquire)
    }
    /// How many are absent, and how many zero: both are 0 only when nothing is missing. In this order, and with a counter
    /// raised before the other is lowered, an extent on its way from absent to zero is seen at least once.
    pub fn missing(&self) -> (u64, u64) {
        let absent = self.absent();
        (absent, self.zero())
    }
    fn chunk(&self, extent: u64) -> &Chunk {
        let chunk = self.chunks.get_or_make((extent / CHUNK) as usize, Chunk::new);
        chunk.expect("callers ask for extents of the volume")
    }
    fn cell(&self, extent: u64) -> &AtomicU8 {
        &self.chunk(extent).state[(extent % CHUNK) as usize]
    }

    /// Where the extent is, as of now.
    pub fn state(&self, extent: u64) -> State {
        let chunk = self.chunks.get((extent / CHUNK) as usize);
        let bits = chunk.map_or(0, |c| c.state[(extent % CHUNK) as usize].load(Acquire));
        State::from_bits(bits).expect("only legal steps change a state")
    }
    fn step(&self, extent: u64, f: impl Fn(State) -> Option<State>) -> Option<State> {
        let f = |b| State::from_bits(b).and_then(&f).map(State::bits);
        self.cell(extent).fetch_update(AcqRel, Acquire, f).ok().and_then(State::from_bits)
    }
    /// Marks a fetch; false if one is under way or there is nothing to fetch.
    pub fn fetch(&self, extent: u64) -> bool {
        self.step(extent, State::fetch).is_some()
    }
    /// The fetch ended.
    pub fn fetched(&self, extent: u64) {
        self.step(extent, |s| Some(s.fetched()));
    }
    /// Takes the claim if it is free.
    pub fn try_claim(&self, extent: u64) -> Option<Claim<'_>> {
        let before = self.step(extent, State::claim)?;
        Some(Claim { table: self, extent, place: before.place() })
    }
    /// Takes the claim, waiting for another's local write to end.
    pub fn claim(&self, extent: u64) -> Claim<'_> {
        let mut rounds = 0u32;
        loop {
            if let Some(claim) = self.try_claim(extent) {
                return claim;
            }
            // The other one is at a write to the target: microseconds, or a busy disk.
            rounds += 1;
            if rounds < 64 { yield_now() } else { std::thread::sleep(std::time::Duration::from_micros(50)) }
        }
    }
    fn count(&self, from: Place, to: Place) {
        let counter = |p| match p {
            Place::Absent => Some(&self.absent),
            Place::Zero => Some(&self.zero),
            Place::Local => None,
        };
        if from != to {
            // Raised first (`missing`).
            if let Some(c) = counter(to) {
                c.fetch_add(1, AcqRel);
            }
            if let Some(c) = counter(from) {
                c.fetch_sub(1, AcqRel);
            }
        }
    }

    /// The guest wrote these extents in generation `generation` (from 1).
    pub fn mark(&self, extents: ExtentRange, generation: u8) {
        for e in extents.iter() {
            let cell = &self.chunk(e).mark[(e % CHUNK) as usize];
            // Marks only rise; the caller's lock orders writers, so no compare is needed.
            if cell.load(Relaxed) != generation {
                cell.store(generation, Release);
                let page = e / CHUNK;
                self.dirty[(page / 64) as usize].fetch_or(1 << (page % 64), AcqRel);
            }
        }
    }
    /// The generation of the extent's last change; 0: as the moment has it.
    pub fn marked(&self, extent: u64) -> u8 {
        let chunk = self.chunks.get((extent / CHUNK) as usize);
        chunk.map_or(0, |c| c.mark[(extent % CHUNK) as usize].load(Acquire))
    }
    /// Every marked extent, ascending, with its mark.
    pub fn each_marked(&self, mut each: impl FnMut(u64, u8)) {
        for (i, chunk) in self.chunks.iter() {
            for (j, mark) in chunk.mark.iter().enumerate() {
                match mark.load(Acquire) {
                    0 => {}
                    m => each(i as u64 * CHUNK + j as u64, m),
                }
            }
        }
    }
    /// All marks of a page, for its durable copy.
    pub fn marks_of(&self, page: u64, out: &mut [u8]) {
        match self.chunks.get(page as usize) {
            Some(c) => out.iter_mut().zip(c.mark.iter()).for_each(|(o, m)| *o = m.load(Acquire)),
            None => out.fill(0),
        }
    }
    /// Takes the pages whose marks changed since the last call.
    pub fn take_dirty(&self) -> Vec<u64> {
        let mut out = Vec::new();
        for (i, word) in self.dirty.iter().enumerate() {
            let mut bits = if word.load(Acquire) == 0 { 0 } else { word.swap(0, AcqRel) };
            while bits != 0 {
                out.push(i as u64 * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
        out
    }
    /// Puts back what a durable page says, before anything runs.
    pub fn load(&self, extent: u64, place: Place, mark: u8) {
        if place != Place::Absent {
            let bits = if place == Place::Zero { State::ZERO } else { State::LOCAL };
            self.cell(extent).store(bits.bits(), Release);
            self.count(Place::Absent, place);
        }
        if mark != 0 {
            self.chunk(extent).mark[(extent % CHUNK) as usize].store(mark, Release);
        }
    }
}

impl Claim<'_> {
    /// Where the extent is: looked at under the claim, so it stays true.
    pub fn place(&self) -> Place {
        self.place
    }
    /// Ends the claim; the extent is now at `place`.
    pub fn release(mut self, place: Place) {
        let before = std::mem::replace(&mut self.place, place);
        self.table.count(before, place);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let place = self.place;
        self.table.step(self.extent, |s| Some(s.release(place)));
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    #[test]
    fn a_large_table_costs_nothing_until_touched() {
        let c = Claims::new(1 << 28);
        assert_eq!((c.absent(), c.state(1 << 27), c.marked(5)), (1 << 28, State::ABSENT, 0));
        assert_eq!(c.chunks.iter().count(), 0);
    }

    #[test]
    fn claims_counts_and_marks() {
        let c = Claims::new(5000);
        assert!(c.fetch(7) && !c.fetch(7));
        let claim = c.try_claim(7).unwrap();
        assert!(c.try_claim(7).is_none() && claim.place() == Place::Absent);
        drop(claim);
        assert!(c.state(7).is_fetching(), "a claim that changes nothing keeps the fetch");
        c.claim(7).release(Place::Zero);
        assert_eq!((c.absent(), c.zero(), c.state(7)), (4999, 1, State::ZERO));
        c.claim(7).release(Place::Local);
        assert_eq!((c.absent(), c.zero(), c.state(7)), (4999, 0, State::LOCAL));
        c.mark(ExtentRange { start: 2040, end: 2060 }, 3);
        assert_eq!((c.marked(2039), c.marked(2040), c.marked(2059)), (0, 3, 3));
        assert_eq!((c.take_dirty(), c.take_dirty()), (vec![0, 1], vec![]));
        c.mark(ExtentRange { start: 2040, end: 2041 }, 3);
        assert!(c.take_dirty().is_empty(), "a mark that is there changes nothing");
    }
}
