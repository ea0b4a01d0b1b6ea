//! The log's index in memory: which bytes of which volume the log holds, and where. Newest wins.
//!
//! Records enter in the order of their sequence (the caller's lock sees to it), so an insert overwrites whatever it
//! covers. Freeing takes only what still names the record that was moved: a newer write of the same bytes stays.
//! Every operation costs O(log n) and the pieces it touches. Pieces are counted, in all and by segment: the first count
//! bounds memory (about 40 bytes a piece), the second says when nothing names a segment any more.

use super::Kind;
use crate::volume::ByteRange;
use std::collections::BTreeMap;

/// Where the bytes of a piece are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// In the segment, from this byte of its file on.
    Data {
        /// Byte of the segment's file.
        offset: u32,
    },
    /// Zeros whose space stays allocated.
    Zero,
    /// Zeros that may be a hole.
    Trim,
}

/// One stretch of a volume that the log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Which bytes of the volume.
    pub range: ByteRange,
    /// The record.
    pub sequence: u64,
    /// The segment the record lies in.
    pub segment: u32,
    /// Where in it.
    pub source: Source,
    /// Already written to the target, not yet known to be durable there.
    pub moved: bool,
}

/// A piece as it is kept: 24 bytes beside its key.
#[derive(Clone, Copy)]
struct Entry {
    len: u64,
    /// The sequence; the top bit says moved.
    sequence: u64,
    segment: u32,
    /// Offset of the data, or one of the two marks below.
    offset: u32,
}

const MOVED: u64 = 1 << 63;
const ZERO: u32 = u32::MAX;
const TRIM: u32 = u32::MAX - 1;

impl Entry {
    fn view(&self, start: u64) -> Piece {
        let source = match self.offset {
            ZERO => Source::Zero,
            TRIM => Source::Trim,
            offset => Source::Data { offset },
        };
        Piece {
            range: ByteRange::new(start, self.len),
            sequence: self.sequence & !MOVED,
            segment: self.segment,
            source,
            moved: self.sequence & MOVED != 0,
        }
    }
    /// The part from `skip` bytes on, `len` long.
    fn part(&self, skip: u64, len: u64) -> Entry {
        let offset = if self.offset >= TRIM { self.offset } else { self.offset + skip as u32 };
        Entry { len, offset, ..*self }
    }
}

/// The index of all volumes of a set.
pub struct Index {
    volumes: Vec<BTreeMap<u64, Entry>>,
    pieces: usize,
    by_segment: BTreeMap<u32, u32>,
    last: u64,
}

impl Index {
    /// An empty index for so many volumes.
    pub fn new(volumes: usize) -> Self {
        Index { volumes: vec![BTreeMap::new(); volumes], pieces: 0, by_segment: BTreeMap::new(), last: 0 }
    }
    /// How many pieces there are. An insert adds at most two.
    pub fn pieces(&self) -> usize {
        self.pieces
    }
    /// How many pieces name `segment`.
    pub fn live(&self, segment: u32) -> u32 {
        self.by_segment.get(&segment).copied().unwrap_or(0)
    }

    /// A record enters. `offset` is where its data lies in its segment's file (ignored unless a write).
    ///
    /// # Panics
    /// When a record enters out of order: an older one would cover a newer one.
    pub fn insert(
        &mut self,
        volume: u16,
        range: ByteRange,
        kind: Kind,
        sequence: u64,
        segment: u32,
        offset: u32,
    ) {
        assert!(sequence > self.last && sequence < MOVED, "a record entered the index out of order");
        self.last = sequence;
        self.cut_out(volume, range, |_| true, |_| None);
        let offset = match kind {
            Kind::Write => offset,
            Kind::Zero => ZERO,
            Kind::Trim => TRIM,
        };
        self.put(volume, range.start, Entry { len: range.len, sequence, segment, offset });
    }
    /// The parts of `range` that still name record `sequence` leave: its bytes are durable elsewhere.
    pub fn free(&mut self, volume: u16, range: ByteRange, sequence: u64) {
        self.cut_out(volume, range, |e| e.sequence & !MOVED == sequence, |_| None);
    }
    /// The parts of `range` that still name record `sequence` are now in the target, not yet durable there.
    pub fn mark_moved(&mut self, volume: u16, range: ByteRange, sequence: u64) {
        let moved = |e: Entry| Some(Entry { sequence: e.sequence | MOVED, ..e });
        self.cut_out(volume, range, |e| e.sequence & !MOVED == sequence, moved);
    }
    /// What is marked as moved leaves, looking at `count` pieces at most from `(volume, start)` on; returns where to go on.
    pub fn free_moved(&mut self, from: (u16, u64), count: usize) -> Option<(u16, u64)> {
        let mut left = count;
        for volume in from.0..self.volumes.len() as u16 {
            let start = if volume == from.0 { from.1 } else { 0 };
            let all: Vec<(u64, Entry)> =
                self.volumes[volume as usize].range(start..).take(left).map(|(k, e)| (*k, *e)).collect();
            for (start, entry) in &all {
                if entry.sequence & MOVED != 0 {
                    self.take(volume, *start);
                }
            }
            left -= all.len();
            if left == 0 {
                return all.last().map(|(s, e)| (volume, s + e.len));
            }
        }
        None
    }

    /// Calls `each` for `range` in order without gaps: stretches the log holds, and stretches it does not.
    pub fn resolve(&self, volume: u16, range: ByteRange, mut each: impl FnMut(ByteRange, Option<Piece>)) {
        let mut at = range.start;
        self.overlapping(volume, range, |piece| {
            if piece.range.start > at {
                each(ByteRange::new(at, piece.range.start - at), None);
            }
            at = piece.range.end();
            each(piece.range, Some(piece));
        });
        if at < range.end() {
            each(ByteRange::new(at, range.end() - at), None);
        }
    }
    /// Calls `each` with the parts of all pieces inside `range`, in order.
    pub fn overlapping(&self, volume: u16, range: ByteRange, mut each: impl FnMut(Piece)) {
        let map = &self.volumes[volume as usize];
        let first = map.range(..=range.start).next_back().map_or(range.start, |(k, _)| *k);
        for (start, entry) in map.range(first..range.end()) {
            let whole = ByteRange::new(*start, entry.len);
            if let Some(part) = whole.intersect(&range) {
                each(entry.part(part.start - start, part.len).view(part.start));
            }
        }
    }
    /// Whether records up to `sequence` (inclusive) hold every byte of `range`.
    pub fn covers(&self, volume: u16, range: ByteRange, sequence: u64) -> bool {
        let mut bytes = 0;
        self.overlapping(volume, range, |p| bytes += if p.sequence <= sequence { p.range.len } else { 0 });
        bytes == range.len
    }
    /// The first piece that ends behind `(volume, start)` and is not moved and not above `sequence`, looking at `count`
    /// pieces at most. `Err` says where to go on looking, `Err(None)` that there is none.
    pub fn next_unmoved(
        &self,
        from: (u16, u64),
        sequence: u64,
        count: usize,
    ) -> Result<(u16, Piece), Option<(u16, u64)>> {
        let mut left = count;
        for volume in from.0..self.volumes.len() as u16 {
            let map = &self.volumes[volume as usize];
            let start = if volume == from.0 { from.1 } else { 0 };
            // The piece that lies across the place counts too.
            let across = map.range(..start).next_back().filter(|(k, e)| **k + e.len > start);
            let start = across.map_or(start, |(k, _)| *k);
            for (start, entry) in map.range(start..) {
                if left == 0 {
                    return Err(Some((volume, *start)));
                }
                left -= 1;
                if entry.sequence <= sequence {
                    return Ok((volume, entry.view(*start)));
                }
            }
        }
        Err(None)
    }

    /// A copy that stays as it is now: 32 bytes a piece. Offsets remain right as long as the segments' files are held.
    pub fn freeze(&self) -> Frozen {
        let copy = |m: &BTreeMap<u64, Entry>| m.iter().map(|(k, e)| (*k, *e)).collect();
        Frozen { volumes: self.volumes.iter().map(copy).collect() }
    }

    /// Takes every part of `range` for which `which` holds out, and puts back what `instead` makes of it.
    fn cut_out(
        &mut self,
        volume: u16,
        range: ByteRange,
        which: impl Fn(&Entry) -> bool,
        instead: impl Fn(Entry) -> Option<Entry>,
    ) {
        let map = &self.volumes[volume as usize];
        let first = map.range(..=range.start).next_back().map_or(range.start, |(k, _)| *k);
        let hit: Vec<u64> = map
            .range(first..range.end())
            .filter(|(start, e)| **start + e.len > range.start && which(e))
            .map(|(start, _)| *start)
            .collect();
        for start in hit {
            let entry = self.take(volume, start);
            let end = start + entry.len;
            let (from, to) = (start.max(range.start), end.min(range.end()));
            if start < from {
                self.put(volume, start, entry.part(0, from - start));
            }
            if let Some(new) = instead(entry.part(from - start, to - from)) {
                self.put(volume, from, new);
            }
            if to < end {
                self.put(volume, to, entry.part(to - start, end - to));
            }
        }
    }
    fn put(&mut self, volume: u16, start: u64, entry: Entry) {
        self.pieces += 1;
        *self.by_segment.entry(entry.segment).or_default() += 1;
        let old = self.volumes[volume as usize].insert(start, entry);
        assert!(old.is_none(), "two pieces of the log's index overlap");
    }
    fn take(&mut self, volume: u16, start: u64) -> Entry {
        let entry =
            self.volumes[volume as usize].remove(&start).expect("found a moment ago, under the same lock");
        self.pieces -= 1;
        let n = self.by_segment.get_mut(&entry.segment).expect("counted when it was put");
        *n -= 1;
        if *n == 0 {
            self.by_segment.remove(&entry.segment);
        }
        entry
    }

    /// Checks the structure: pieces apart, counts right. For tests and the simulator.
    pub fn check(&self) {
        let mut by_segment: BTreeMap<u32, u32> = BTreeMap::new();
        let mut pieces = 0;
        for map in &self.volumes {
            let mut end = 0;
            for (start, e) in map {
                assert!(*start >= end && e.len > 0, "pieces overlap");
                end = start + e.len;
                pieces += 1;
                *by_segment.entry(e.segment).or_default() += 1;
            }
        }
        assert_eq!((pieces, &by_segment), (self.pieces, &self.by_segment), "counts drifted");
    }
}

/// What an index held at one sequence.
pub struct Frozen {
    volumes: Vec<Vec<(u64, Entry)>>,
}

impl Frozen {
    /// Calls `each` with the parts of all pieces inside `range`, in order.
    pub fn overlapping(&self, volume: u16, range: ByteRange, mut each: impl FnMut(Piece)) {
        let all = &self.volumes[volume as usize];
        let first = all.partition_point(|(start, e)| start + e.len <= range.start);
        for (start, entry) in all[first..].iter().take_while(|(start, _)| *start < range.end()) {
            if let Some(part) = ByteRange::new(*start, entry.len).intersect(&range) {
                each(entry.part(part.start - start, part.len).view(part.start));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64, u64, u8),
        Free(u64, u64, u64),
        Mark(u64, u64, u64),
        FreeMoved(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0u64..40, 1u64..20, 0u8..3).prop_map(|(s, l, k)| Step::Insert(s, l, k)),
            1 => (0u64..40, 1u64..30, 1u64..40).prop_map(|(s, l, n)| Step::Free(s, l, n)),
            1 => (0u64..40, 1u64..30, 1u64..40).prop_map(|(s, l, n)| Step::Mark(s, l, n)),
            1 => (1usize..5).prop_map(Step::FreeMoved),
        ]
    }

    /// A byte of the plain model: (sequence, kind, data offset, moved).
    type Plain = Option<(u64, Kind, u32, bool)>;

    fn compare(index: &Index, plain: &[Plain]) {
        index.check();
        let mut seen: Vec<Plain> = Vec::new();
        index.resolve(1, ByteRange::new(0, plain.len() as u64), |range, piece| {
            for i in 0..range.len {
                seen.push(piece.map(|p| match p.source {
                    Source::Data { offset } => (p.sequence, Kind::Write, offset + i as u32, p.moved),
                    Source::Zero => (p.sequence, Kind::Zero, 0, p.moved),
                    Source::Trim => (p.sequence, Kind::Trim, 0, p.moved),
                }));
            }
        });
        assert_eq!(seen, plain);
        let (mut live, mut frozen) = (Vec::new(), Vec::new());
        let copy = index.freeze();
        for range in [ByteRange::new(0, 64), ByteRange::new(5, 9), ByteRange::new(33, 1)] {
            index.overlapping(1, range, |p| live.push(p));
            copy.overlapping(1, range, |p| frozen.push(p));
        }
        assert_eq!(live, frozen);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn equals_a_plain_vector(steps in proptest::collection::vec(step(), 1..40)) {
            let mut index = Index::new(2);
            let mut plain: Vec<Plain> = vec![None; 64];
            let mut sequence = 0;
            for s in steps {
                match s {
                    Step::Insert(start, len, kind) => {
                        sequence += 1;
                        let kind = [Kind::Write, Kind::Zero, Kind::Trim][kind as usize];
                        let base = sequence as u32 * 1000;
                        index.insert(1, ByteRange::new(start, len), kind, sequence, sequence as u32 / 3, base);
                        for i in 0..len {
                            let at = if kind == Kind::Write { base + i as u32 } else { 0 };
                            plain[(start + i) as usize] = Some((sequence, kind, at, false));
                        }
                    }
                    Step::Free(start, len, n) => {
                        index.free(1, ByteRange::new(start, len), n);
                        let hit = plain.iter_mut().skip(start as usize).take(len as usize);
                        hit.filter(|b| b.is_some_and(|b| b.0 == n)).for_each(|b| *b = None);
                    }
                    Step::Mark(start, len, n) => {
                        index.mark_moved(1, ByteRange::new(start, len), n);
                        let hit = plain.iter_mut().skip(start as usize).take(len as usize);
                        hit.flatten().filter(|b| b.0 == n).for_each(|b| b.3 = true);
                    }
                    Step::FreeMoved(count) => {
                        let mut from = Some((0, 0));
                        while let Some(at) = from {
                            from = index.free_moved(at, count);
                        }
                        plain.iter_mut().filter(|b| b.is_some_and(|b| b.3)).for_each(|b| *b = None);
                    }
                }
                compare(&index, &plain);
                let unmoved = plain.iter().position(|b| b.is_some_and(|b| !b.3 && b.0 <= 9));
                let mut found = index.next_unmoved((0, 0), 9, 2);
                while let Err(Some(at)) = found {
                    found = index.next_unmoved(at, 9, 2);
                }
                prop_assert_eq!(found.ok().map(|(_, p)| p.range.start), unmoved.map(|u| u as u64));
                let whole = plain[8..24].iter().all(|b| b.is_some_and(|b| b.0 <= 9));
                prop_assert_eq!(index.covers(1, ByteRange::new(8, 16), 9), whole);
            }
        }
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn an_older_record_may_not_enter_late() {
        let mut index = Index::new(1);
        index.insert(0, ByteRange::new(0, 512), Kind::Write, 2, 1, 0);
        index.insert(0, ByteRange::new(0, 512), Kind::Write, 1, 1, 0);
    }
}
