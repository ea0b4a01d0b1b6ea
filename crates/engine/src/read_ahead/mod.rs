//! Reads wanted extents of one volume ahead of the caller and in order: readers fill a fixed number of buffers, the caller
//! takes them in the order they were planned. Holes are skipped unread. Backups read an instant so, streams a snapshot.
//!
//! A reader takes an empty buffer before it takes the next stretch, so the oldest stretch under way always has one and
//! the order can never starve; memory is the buffers.

mod order;

pub(crate) use order::{ReadOrder, gaps, join};

use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::Result;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Mutex, PoisonError};

/// Bytes read in one piece, unless an extent is larger.
const PIECE_BYTES: u64 = 1 << 20;
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
    /// The caller has the bytes of `extents`, or knows that they are zeros.
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
        let extents = ExtentRange { start, end: end.min(self.rest.end) };
        self.rest.start = extents.end;
        Ok(Piece { extents, hole })
    }
}

impl Iterator for Pieces<'_> {
    type Item = Result<Piece>;

    fn next(&mut self) -> Option<Result<Piece>> {
        if self.failed {
            return None;
        }
        if self.rest.start >= self.rest.end {
            self.rest = self.order.next()?;
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
        return Ok(piece);
    }
    let geometry = volume.geometry();
    let bytes: u64 = piece.extents.iter().map(|e| geometry.extent_bytes(e).len).sum();
    buffer.resize(bytes as usize, 0);
    volume.read(piece.extents, buffer)?;
    Ok(piece)
}

fn hand_over(
    volume: &dyn Source,
    piece: Piece,
    buffer: &[u8],
    take: &mut dyn FnMut(Found<'_>) -> Result<()>,
) -> Result<()> {
    // The bytes are here: what was kept of them for us may go while they are being sealed.
    volume.taken(piece.extents);
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
