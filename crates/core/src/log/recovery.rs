//! What a log says after a crash: the records by sequence up to the first gap.
//!
//! Inside a segment a record lies right behind the one before it or, after a FLUSH, on the next physical block. Where
//! neither place holds the next sequence the segment ends; the next segment must go on with that very sequence, or there
//! is a gap and everything behind it is void. Void for good: the table of the new incarnation, durable before anything
//! is served, says for every kept segment where it ends and does not name the others.

use super::{HEADER_BYTES, Index, Record, SEGMENT_START, SegmentEntry, SegmentTable, fresh_block};
use crate::volume::ByteRange;

/// What was found, and the table to make durable before serving.
pub struct Recovered {
    /// What the log holds.
    pub index: Index,
    /// The next incarnation; names exactly the segments that keep records.
    pub table: SegmentTable,
    /// Segments that hold nothing that counts: their files may be used again, under a new number.
    pub unused: Vec<SegmentEntry>,
    /// The sequence of the next record.
    pub next_sequence: u64,
    /// Records kept.
    pub records: u64,
    /// A segment now ends before what was durable in it, by an earlier recovery that kept it or by the table: the medium lost
    /// what it had promised.
    /// Nothing may be served from such a log.
    pub damaged: Option<u32>,
}

/// Reads the log that `table` names. `read` brings the whole file of a segment; `shape` are the sizes of the volumes, in
/// the order of the set; `each` hears of every kept record, in order.
pub fn recover<E>(
    table: &SegmentTable,
    shape: &[u64],
    block_bytes: u64,
    mut read: impl FnMut(&SegmentEntry) -> Result<Vec<u8>, E>,
    mut each: impl FnMut(&Record),
) -> Result<Recovered, E> {
    let mut index = Index::new(shape.len());
    let mut next = table.first_sequence;
    let (mut kept, mut unused, mut records) = (Vec::new(), Vec::new(), 0);
    let (mut gap, mut damaged) = (false, None);
    for entry in &table.segments {
        if gap {
            unused.push(*entry);
            continue;
        }
        let bytes = read(entry)?;
        let begin = next;
        let end = entry.end.unwrap_or(u64::MAX).min(table.cut.unwrap_or(u64::MAX));
        scan(&bytes, entry, &mut next, end, block_bytes, shape, |record, offset| {
            index.insert(record.volume, record.range, record.kind, record.sequence, record.segment, offset);
            records += 1;
            each(record);
        });
        if entry.end.is_some_and(|e| next < e.min(end)) {
            damaged = Some(entry.segment);
        }
        gap = damaged.is_some() || table.cut.is_some_and(|c| next >= c);
        if next > begin {
            kept.push(SegmentEntry { end: Some(next), ..*entry });
        } else {
            unused.push(*entry);
        }
    }
    if next <= table.durable && damaged.is_none() {
        damaged = kept.last().or(unused.first()).map(|s: &SegmentEntry| s.segment);
    }
    let table = SegmentTable {
        incarnation: table.incarnation + 1,
        cut: None,
        // The caller flushes what it keeps before this table is durable.
        durable: next - 1,
        segments: kept,
        ..table.clone()
    };
    Ok(Recovered { index, table, unused, next_sequence: next, records, damaged })
}

/// Walks the records of one segment from sequence `next` on, below `end`.
fn scan(
    bytes: &[u8],
    entry: &SegmentEntry,
    next: &mut u64,
    end: u64,
    block_bytes: u64,
    shape: &[u64],
    mut each: impl FnMut(&Record, u32),
) {
    let mut at = SEGMENT_START;
    while *next < end {
        let here = [at, fresh_block(at, block_bytes)];
        let tried = if here[0] == here[1] { &here[..1] } else { &here[..] };
        let found = tried.iter().find_map(|at| {
            let record = Record::decode(bytes.get(*at as usize..)?).ok()?;
            expected(&record, entry, *next, shape).then_some((*at, record))
        });
        let Some((place, record)) = found else { return };
        each(&record, (place + HEADER_BYTES) as u32);
        at = place + HEADER_BYTES + record.data_bytes();
        *next += 1;
    }
}

/// Whether this is the record that must come next; anything else is a remainder of earlier uses.
fn expected(record: &Record, entry: &SegmentEntry, next: u64, shape: &[u64]) -> bool {
    let inside = |r: &ByteRange| shape.get(record.volume as usize).is_some_and(|size| r.end() <= *size);
    record.segment == entry.segment
        && record.incarnation == entry.incarnation
        && record.sequence == next
        && inside(&record.range)
}

#[cfg(test)]
mod tests {
    use super::super::Kind;
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const FILE: u64 = 16 << 10;
    const BLOCK: u64 = 4096;

    /// A log of small segments in memory, written as the engine writes one.
    struct Log {
        table: SegmentTable,
        files: BTreeMap<u32, Vec<u8>>,
        at: u64,
        next: u64,
    }

    impl Log {
        fn new() -> Self {
            let mut log = Log { table: SegmentTable::new(), files: BTreeMap::new(), at: 0, next: 1 };
            log.segment(None);
            log
        }
        fn segment(&mut self, reuse: Option<u32>) {
            let file = reuse.unwrap_or(self.table.next_file);
            self.table.next_file = self.table.next_file.max(file + 1);
            let entry = SegmentEntry {
                segment: self.table.next_segment,
                file,
                incarnation: self.table.incarnation,
                bytes: FILE,
                end: None,
            };
            self.table.next_segment += 1;
            self.table.segments.push(entry);
            self.files.entry(file).or_insert_with(|| vec![0; FILE as usize]);
            self.at = SEGMENT_START;
        }
        /// Appends one record; returns where it lies.
        fn append(&mut self, start: u64, len: u64, kind: Kind, flush: bool) -> (u32, u64) {
            let mut record = Record {
                incarnation: self.table.incarnation,
                segment: 0,
                sequence: self.next,
                volume: 0,
                kind,
                range: ByteRange::new(start, len),
            };
            if self.at + HEADER_BYTES + record.data_bytes() > FILE {
                self.segment(None);
            }
            let last = *self.table.segments.last().unwrap();
            record.segment = last.segment;
            let data = vec![self.next as u8; record.data_bytes() as usize];
            let file = self.files.get_mut(&last.file).unwrap();
            let place = self.at;
            let mut bytes = record.encode(&data).to_vec();
            bytes.extend_from_slice(&data);
            file[place as usize..place as usize + bytes.len()].copy_from_slice(&bytes);
            self.at += bytes.len() as u64;
            if flush {
                self.at = fresh_block(self.at, BLOCK);
            }
            self.next += 1;
            (last.file, place)
        }
        /// Recovers; returns the kept sequences. Goes on in a used file, as the engine does.
        fn recover(&mut self) -> Vec<u64> {
            let mut kept = Vec::new();
            let r = recover::<()>(
                &self.table,
                &[1 << 30],
                BLOCK,
                |e| Ok(self.files[&e.file].clone()),
                |r| kept.push(r.sequence),
            )
            .unwrap();
            assert_eq!((r.records as usize, r.damaged), (kept.len(), None));
            r.index.check();
            (self.table, self.next) = (r.table, r.next_sequence);
            self.segment(r.unused.first().map(|s| s.file));
            kept
        }
    }

    fn record() -> impl Strategy<Value = (u64, u64, u8, bool)> {
        (0u64..64, 1u64..6, 0u8..3, any::<bool>())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(150))]
        #[test]
        fn up_to_the_first_gap_and_nothing_lost_returns(
            lives in proptest::collection::vec(
                (proptest::collection::vec(record(), 1..24), any::<proptest::sample::Index>(), 0usize..600), 1..4)
        ) {
            let mut log = Log::new();
            let mut promised: Vec<u64> = Vec::new();
            for (records, torn, byte) in lives {
                let mut placed = Vec::new();
                for (start, blocks, kind, flush) in records {
                    let kind = [Kind::Write, Kind::Zero, Kind::Trim][kind as usize];
                    let sequence = log.next;
                    placed.push((sequence, log.append(start * 512, blocks * 512, kind, flush)));
                }
                // One record is torn; those behind it are whole, and must never be seen again.
                let k = torn.index(placed.len() + 1);
                if let Some((_, (file, place))) = placed.get(k) {
                    let file = log.files.get_mut(file).unwrap();
                    file[*place as usize + byte % HEADER_BYTES as usize] ^= 0x10;
                }
                promised.extend(placed[..k].iter().map(|p| p.0));
                prop_assert_eq!(&log.recover(), &promised);
                prop_assert_eq!(&log.recover(), &promised, "recovering twice is recovering once");
            }
        }
    }

    #[test]
    fn a_failed_flush_cuts_at_the_last_good_one() {
        let mut log = Log::new();
        (0..9).for_each(|i| {
            log.append(i * 512, 512, Kind::Write, false);
        });
        log.table.cut = Some(5);
        assert_eq!(log.recover(), [1, 2, 3, 4]);
        log.append(0, 512, Kind::Write, false);
        assert_eq!(log.recover(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_a_recovery_kept_may_not_vanish() {
        let mut log = Log::new();
        let (file, place) = log.append(0, 512, Kind::Write, true);
        log.append(512, 512, Kind::Write, true);
        log.recover();
        log.files.get_mut(&file).unwrap()[place as usize] ^= 1;
        let r =
            recover::<()>(&log.table, &[1 << 30], BLOCK, |e| Ok(log.files[&e.file].clone()), |_| ()).unwrap();
        assert_eq!(r.damaged, Some(1));
    }

    #[test]
    fn a_record_outside_its_volume_is_none() {
        let mut log = Log::new();
        log.append(1 << 20, 512, Kind::Trim, false);
        let r =
            recover::<()>(&log.table, &[1 << 20], BLOCK, |e| Ok(log.files[&e.file].clone()), |_| ()).unwrap();
        assert_eq!(r.records, 0);
    }
}
