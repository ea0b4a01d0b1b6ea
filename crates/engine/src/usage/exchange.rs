//! Usage on its way: into a snapshot, out of one into a restored volume, from a drill back to the production map, from
//! other tools' traces.

use super::map::{State, UsageMap};
use rekindle_core::repo::drill::EXTENTS_MAX;
use rekindle_core::usage::{
    Demanded, Facts, LATE, PAGE_EXTENTS, PageId, Summary, TICK_MS, Traced, decode_page, empty_page,
    encode_page,
};
use rekindle_core::volume::Uuid;
use rekindle_io::{Error, Kind, Result};

/// What a snapshot keeps beside the pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UsageSnapshot {
    /// The encoded summary: store it, and pass it to the next snapshot.
    pub summary: Vec<u8>,
    /// The pages emitted are all there are; else pages not emitted are those of the parent.
    pub is_whole: bool,
}

/// What came over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Inherited {
    /// Pages taken.
    pub pages: u64,
    /// Pages that were damaged or of something else: their extents begin unknown.
    pub damaged: u64,
}

/// When each page was written: of 16 TiB 262,144 pages, which a backup of nothing need not walk over.
pub(super) struct Stamps {
    pub(super) of_page: Vec<u64>,
    pub(super) newest: u64,
}

impl UsageMap {
    /// Emits the pages that changed since the snapshot with the summary `parent` (all, if that was of another map or
    /// cannot be read), ascending. A page is a few KiB, at most 17.
    pub fn snapshot(
        &self,
        parent: Option<&[u8]>,
        emit: &mut dyn FnMut(u64, Vec<u8>) -> Result<()>,
    ) -> Result<UsageSnapshot> {
        let summary = self.summary();
        let parent =
            parent.and_then(|p| Summary::decode(self.volume, p).ok()).filter(|p| p.map == summary.map);
        let mut facts = empty_page();
        // A page at a time is locked, never across `emit`: it may wait for a store. A page folded again meanwhile is newer
        // than the summary; it will simply count as changed next time too.
        for index in self.changed_pages(parent.map_or(0, |p| p.stamp))? {
            if let Some(head) = self.load_as_is(&mut self.state(), index, &mut facts)? {
                let id = PageId { volume: self.volume, extent: self.geometry.extent, index };
                emit(index, encode_page(&id, head, &facts))?;
            }
        }
        Ok(UsageSnapshot { summary: summary.encode(), is_whole: parent.is_none() })
    }
    /// Pages with a stamp above `after`, ascending.
    fn changed_pages(&self, after: u64) -> Result<Vec<u64>> {
        let mut s = self.state();
        self.load_stamps(&mut s)?;
        let Some(stamps) = s.stamps.as_ref().filter(|stamps| stamps.newest > after) else {
            return Ok(Vec::new());
        };
        let pages = stamps.of_page.iter().zip(0..);
        Ok(pages.filter(|(stamp, _)| **stamp > after).map(|(_, index)| index).collect())
    }
    fn load_stamps(&self, s: &mut State) -> Result<()> {
        if s.stamps.is_none() {
            let mut stamps = Stamps { of_page: vec![0; s.file.pages() as usize], newest: 0 };
            let mut from = 0;
            while let Some(index) = s.file.next_written(from)? {
                let stamp = s.file.stamp(index)?;
                stamps.of_page[index as usize] = stamp;
                stamps.newest = stamps.newest.max(stamp);
                from = index + 1;
            }
            s.stamps = Some(stamps);
        }
        Ok(())
    }

    /// Goes on with the usage of a snapshot, as after a restore, which is a cold start: what was the newest trace there is
    /// the trace before here. `source` is the volume whose map it was (the same, except for a clone). May run while the
    /// volume is served already, so that going online does not wait for it: the summary is taken at once, then page after
    /// page, added to what was counted meanwhile. Whatever is damaged is left out. Once a map: twice would count twice.
    pub fn inherit(
        &self,
        source: Uuid,
        summary: &[u8],
        pages: &mut dyn Iterator<Item = (u64, Vec<u8>)>,
    ) -> Result<Inherited> {
        let from = Summary::decode(source, summary).map_err(|e| Error::new(Kind::Corrupt, e.to_string()))?;
        self.adopt_summary(&mut self.state(), &from);
        let mut came = Inherited::default();
        let (mut theirs, mut ours) = (empty_page(), empty_page());
        for (index, bytes) in pages {
            let id = PageId { volume: source, extent: self.geometry.extent, index };
            let mut s = self.state();
            match decode_page(&id, &bytes, &mut theirs) {
                Ok(head) if index < s.file.pages() => {
                    self.load(&mut s, index, &mut ours)?;
                    for (our, their) in ours.iter_mut().zip(theirs.iter_mut()) {
                        their.age(head.cold_starts, s.summary.cold_starts);
                        our.join(their);
                    }
                    self.store(&mut s, index, &ours)?;
                    came.pages += 1;
                }
                _ => came.damaged += 1,
            }
        }
        self.put_summary(&mut self.state())?;
        Ok(came)
    }

    /// What the newest cold start demanded, everything folded: what is kept of a drill that is thrown away. Bounded: of a
    /// start that read more than a drill may hold, the first part.
    pub fn demanded(&self) -> Result<Demanded> {
        let summary = self.summary();
        let mut demanded = Demanded::default();
        self.visit(&mut |extent, facts| {
            if let Some(rank) = facts.rank().filter(|r| *r < LATE) {
                demanded.ranks[usize::from(rank)].1.push(extent);
            }
        })?;
        let mut left = EXTENTS_MAX as usize;
        for ((ms, extents), rank_ms) in demanded.ranks.iter_mut().zip(summary.rank_ms) {
            *ms = rank_ms;
            extents.truncate(left);
            left -= extents.len();
        }
        Ok(demanded)
    }
    /// Takes in what the start of drill `number` demanded as the newest cold start of this volume; our set becomes the set
    /// before. Counts of a drill are not usage of production and stay behind.
    pub fn merge_drill(&self, number: u64, demanded: &Demanded) -> Result<()> {
        self.adopt_trace(&mut self.state(), number, demanded.trace());
        self.enter_all(demanded, |facts, rank| facts.enter(rank))
    }
    /// The same on a volume that is being restored, whose guest's own start is newer still: into the set before.
    pub fn know_drill(&self, number: u64, demanded: &Demanded) -> Result<()> {
        {
            let mut s = self.state();
            s.summary.drill = s.summary.drill.max(number);
        }
        self.enter_all(demanded, |facts, rank| facts.enter_before(rank))
    }
    /// A page at a time is locked: the guest is served meanwhile.
    fn enter_all(&self, demanded: &Demanded, enter: impl Fn(&mut Facts, u8)) -> Result<()> {
        let inside = |(extent, _): &(u64, u8)| *extent < self.geometry.extents();
        let mut all: Vec<(u64, u8)> = demanded.in_order().filter(inside).collect();
        all.sort_unstable();
        let mut facts = empty_page();
        for page in all.chunk_by(|a, b| a.0 / PAGE_EXTENTS as u64 == b.0 / PAGE_EXTENTS as u64) {
            let index = page[0].0 / PAGE_EXTENTS as u64;
            let mut s = self.state();
            self.load(&mut s, index, &mut facts)?;
            page.iter().for_each(|(e, rank)| enter(&mut facts[*e as usize % PAGE_EXTENTS], *rank));
            self.store(&mut s, index, &facts)?;
        }
        self.put_summary(&mut self.state())
    }

    /// Takes operations of another tool's trace as if they had just been served; give them in order of time. `clock` keeps
    /// the trace's time between calls and starts at 0.
    pub fn import(&self, op: Traced, clock_ms: &mut u64) {
        let passed = op.at_ms.saturating_sub(*clock_ms);
        if passed >= 1000 {
            let mut s = self.state();
            for step in steps(passed) {
                self.pass(&mut s, step);
            }
            *clock_ms = op.at_ms;
        }
        if op.range.start.checked_add(op.range.len).is_some_and(|end| end <= self.geometry.size) {
            if op.is_read { self.read(op.range) } else { self.write(op.range) }
        }
    }
}

/// A long pause of a trace in steps of a tick, so that what came before it is folded where it belongs.
fn steps(ms: u64) -> impl Iterator<Item = u64> {
    let whole = ms / TICK_MS;
    // After a day of pause the rest changes nothing that anyone could tell.
    std::iter::repeat_n(TICK_MS, whole.min(8640) as usize).chain([ms % TICK_MS])
}
