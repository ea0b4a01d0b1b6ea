//! Reads wanted extents of one volume ahead of the caller and in order: readers fill a fixed number of buffers, the caller
//! takes them in the order they were planned. Holes are skipped unread. Backups read an instant so, streams a snapshot.
//!
//! A reader takes an empty buffer before it takes the next stretch, so the oldest stretch under way always has one and
//! the order can never starve; memory is the buffers. What the source calls urgent goes before its turn.

mod order;

pub(crate) use order::ReadOrder;

use rekindle_core::volume::{ByteRange, ExtentRange, ExtentSet, Geometry};
use rekindle_io::Result;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

/// Bytes read in one piece, unless an extent is larger.
const PIECE_BYTES: u64 = 512 << 10;
/// Buffers for each reader.
const BUFFERS: usize = 4;

/// What is read: the bytes of a volume that do not change meanwhile.
pub(crate) trait Source: Sync {
    /// Its shape.
    fn geometry(&self) -> Geometry;
    /// The next stretch at or after `from` that may hold data; `None`: only zeros follow.
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>>;
    /// Fills `out` with the bytes of `extents`, end to end.
    fn read(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()>;
    /// An extent that is best read next, before its turn. Each is named once, perhaps after it was read.
    fn urgent(&self) -> Option<u64> {
        None
    }
    /// The bytes of `extents` were read, or knows that they are zeros.
    fn taken(&self, _extents: ExtentRange) {}
}

/// What was found in a stretch of extents.
pub(crate) enum Found<'a> {
    /// Only zeros, known without reading.
    Zero(ExtentRange),
    /// The bytes of one extent.
    Data(u64, &'a [u8]),
}

/// A stretch of one kind, at most a buffer long if it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Piece {
    extents: ExtentRange,
    hole: bool,
}

/// Cuts stretches into pieces.
struct Pieces<'a> {
    volume: &'a dyn Source,
    geometry: Geometry,
    order: ReadOrder,
    /// What is left of the stretch at hand.
    rest: ExtentRange,
    /// What was cut already.
    cut: ExtentSet,
    /// Where data was found last; asked again only outside of it.
    data: ByteRange,
    failed: bool,
}

impl<'a> Pieces<'a> {
    fn new(volume: &'a dyn Source, order: ReadOrder) -> Self {
        let geometry = volume.geometry();
        Pieces {
            volume,
            geometry,
            order,
            rest: ExtentRange::default(),
            cut: ExtentSet::default(),
            data: ByteRange::default(),
            failed: false,
        }
    }
    fn cut(&mut self) -> Result<Piece> {
        let (start, shift) = (self.rest.start, self.geometry.extent.shift());
        let first = self.geometry.extent_bytes(start);
        if !self.data.overlaps(&first) {
            // Only what begins behind this extent proves it empty; an answer that makes no sense is read as data.
            self.data = match self.volume.next_data(first.start)? {
                None => ByteRange::new(self.geometry.size, 0),
                Some(data) if data.start >= first.end() => data,
                Some(data) => ByteRange::new(first.start, data.end().saturating_sub(first.start).max(1)),
            };
        }
        let hole = self.data.start >= first.end();
        let end = if hole {
            // The extent where data begins again, or the end of the volume.
            (self.data.start >> shift).max(start + 1)
        } else {
            let data_end = self.data.end().min(self.geometry.size).div_ceil(self.geometry.extent.get());
            data_end.clamp(start + 1, start + (PIECE_BYTES >> shift).max(1))
        };
        // Where only zeros follow, `data` begins at the volume's end, perhaps inside the last extent.
        let end = if hole && self.data.start >= self.geometry.size { self.rest.end } else { end };
        let wanted = ExtentRange { start, end: end.min(self.rest.end) };
        let extents =
            ExtentRange { start, end: self.cut.first_in(wanted).map_or(wanted.end, |seen| seen.start) };
        self.rest.start = extents.end;
        self.cut.insert(extents);
        Ok(Piece { extents, hole })
    }
    fn urgent(&mut self) -> Option<Piece> {
        loop {
            let extent = self.volume.urgent()?;
            if !self.cut.contains(extent) {
                let extents = ExtentRange { start: extent, end: extent + 1 };
                self.cut.insert(extents);
                return Some(Piece { extents, hole: false });
            }
        }
    }
    /// Goes to the next extent in order that was not cut before its turn; `false`: there is none.
    fn seek(&mut self) -> bool {
        loop {
            while self.rest.start < self.rest.end {
                if !self.cut.contains(self.rest.start) {
                    return true;
                }
                self.rest.start += 1;
            }
            match self.order.next() {
                Some(rest) => self.rest = rest,
                None => return false,
            }
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.failed {
            return None;
        }
        if let Some(piece) = self.urgent() {
            return Some(Ok(piece));
        }
        if !self.seek() {
            return None;
        }
        let piece = self.cut();
        self.failed = piece.is_err();
        Some(piece)
    }
}

/// A piece with what was read of it.
type Read = (Result<Piece>, Vec<u8>);

/// Reads everything `order` yields and hands it to `take`, in that order. `readers` threads read ahead; 0 reads on this
/// thread. The first failure, of reading or of `take`, ends it.
pub(crate) fn collect(
    volume: &dyn Source,
    order: ReadOrder,
    readers: usize,
    take: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut pieces = Pieces::new(volume, order);
    // Nothing changed, or one piece: not worth a thread.
    let Some(first) = pieces.next() else { return Ok(()) };
    let mut buffer = Vec::new();
    let piece = read(volume, first, &mut buffer)?;
    hand_over(volume, piece, &buffer, take)?;
    if readers == 0 {
        for piece in pieces {
            let piece = read(volume, piece, &mut buffer)?;
            hand_over(volume, piece, &buffer, take)?;
        }
        return Ok(());
    }
    read_ahead(volume, pieces, readers, take)
}

fn read_ahead(
    volume: &dyn Source,
    pieces: Pieces<'_>,
    readers: usize,
    take: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let source = Mutex::new(pieces.enumerate());
    let stop = AtomicBool::new(false);
    let (empty, empties) = mpsc::channel::<Vec<u8>>();
    let empties = Mutex::new(empties);
    // As many as there are buffers: sending never waits.
    let (full, fulls) = mpsc::sync_channel(readers * BUFFERS);
    for _ in 0..readers * BUFFERS {
        // The receiving end lives until the end of this function.
        let _ = empty.send(Vec::new());
    }
    std::thread::scope(|s| {
        for _ in 0..readers {
            let full = full.clone();
            s.spawn(|| reader(volume, &source, &empties, full, &stop));
        }
        drop(full);
        let done = in_order(volume, &fulls, &empty, take);
        stop.store(true, Ordering::Relaxed);
        // Readers that wait for a buffer end.
        drop(empty);
        done
    })
}

fn reader<'a>(
    volume: &dyn Source,
    source: &Mutex<std::iter::Enumerate<Pieces<'a>>>,
    empties: &Mutex<Receiver<Vec<u8>>>,
    full: SyncSender<(usize, Read)>,
    stop: &AtomicBool,
) {
    loop {
        let buffer = empties.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut buffer) = buffer else { return };
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let next = source.lock().unwrap_or_else(PoisonError::into_inner).next();
        let Some((number, piece)) = next else { return };
        let piece = read(volume, piece, &mut buffer);
        if full.send((number, (piece, buffer))).is_err() {
            return;
        }
    }
}

/// Takes pieces as they come, hands them over as they were planned.
fn in_order(
    volume: &dyn Source,
    fulls: &Receiver<(usize, Read)>,
    empty: &mpsc::Sender<Vec<u8>>,
    take: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    let mut early: BTreeMap<usize, Read> = BTreeMap::new();
    let mut next = 0;
    for (number, read) in fulls {
        early.insert(number, read);
        while let Some((piece, buffer)) = early.remove(&next) {
            hand_over(volume, piece?, &buffer, take)?;
            next += 1;
            // Readers that have ended need no buffer.
            let _ = empty.send(buffer);
        }
    }
    Ok(())
}

fn read(volume: &dyn Source, piece: Result<Piece>, buffer: &mut Vec<u8>) -> Result<Piece> {
    let piece = piece?;
    if piece.hole {
        volume.taken(piece.extents);
        return Ok(piece);
    }
    let geometry = volume.geometry();
    let bytes: u64 = piece.extents.iter().map(|e| geometry.extent_bytes(e).len).sum();
    buffer.resize(bytes as usize, 0);
    volume.read(piece.extents, buffer)?;
    // What was kept of them for us may go, however long they wait for their turn.
    volume.taken(piece.extents);
    Ok(piece)
}

fn hand_over(
    volume: &dyn Source,
    piece: Piece,
    buffer: &[u8],
    take: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    if piece.hole {
        return take(Found::Zero(piece.extents));
    }
    let geometry = volume.geometry();
    let mut rest = buffer;
    for extent in piece.extents.iter() {
        let (bytes, behind) = rest.split_at(geometry.extent_bytes(extent).len as usize);
        take(Found::Data(extent, bytes))?;
        rest = behind;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::volume::ExtentBytes;
    use std::sync::atomic::AtomicU64;

    const E: u64 = 16 << 10;

    /// Every seventh extent is a hole; names as urgent what a script says, unwanted and repeated ones too.
    struct Urgent {
        script: Mutex<Vec<u64>>,
        taken: AtomicU64,
    }
    impl Source for Urgent {
        fn geometry(&self) -> Geometry {
            Geometry::new(500 * E, ExtentBytes::new(E).unwrap(), 512, 4096).unwrap()
        }
        fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
            let next = (from / E..500).find(|e| e % 7 != 0);
            Ok(next.map(|e| ByteRange::new((e * E).max(from), (e + 1) * E - (e * E).max(from))))
        }
        fn read(&self, extents: ExtentRange, out: &mut [u8]) -> Result<()> {
            for (e, bytes) in extents.iter().zip(out.chunks_mut(E as usize)) {
                bytes.fill(e as u8);
            }
            Ok(())
        }
        fn urgent(&self) -> Option<u64> {
            self.script.lock().unwrap().pop()
        }
        fn taken(&self, extents: ExtentRange) {
            self.taken.fetch_add(extents.count(), Ordering::Relaxed);
        }
    }

    #[test]
    fn what_is_urgent_is_read_first_and_nothing_twice() {
        for readers in [0, 2] {
            // 63 is a hole now, 130 is named twice; the hot ones come after them.
            let script = [480, 63, 130, 131, 130, 66, 0].into_iter().rev().collect();
            let source = Urgent { script: Mutex::new(script), taken: AtomicU64::new(0) };
            let order = ReadOrder::new(
                std::sync::Arc::new([ExtentRange { start: 0, end: 500 }].into_iter().collect()),
                &[300, 0, 480],
            );
            let mut seen = Vec::new();
            collect(&source, order, readers, &mut |found| {
                match found {
                    Found::Zero(r) => seen.extend(r.iter()),
                    Found::Data(e, bytes) => {
                        assert!(bytes.iter().all(|b| *b == e as u8));
                        seen.push(e);
                    }
                }
                Ok(())
            })
            .unwrap();
            assert_eq!(seen[..6], [480, 63, 130, 131, 66, 0]);
            assert_eq!(source.taken.load(Ordering::Relaxed), 500);
            seen.sort_unstable();
            assert_eq!(seen, (0..500).collect::<Vec<_>>());
        }
    }
}
