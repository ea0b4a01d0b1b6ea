//! What to fetch, in which order: window by window of the volume, each sorted into the holder's own order. What reads as
//! zeros is made so here, what the destination has already is left out here.

use super::{Compare, Shared};
use crate::repository::Id;
use rekindle_core::volume::{ExtentRange, Geometry};
use rekindle_io::destination::Destination;
use rekindle_io::holder::{Holder, Presence};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::SyncSender;

/// Extents looked at together: 16 GiB at 64 KiB, 10 MiB of memory.
const WINDOW: u64 = 1 << 18;
/// Extents of a presence request, and of a comparison: one leaf.
pub(super) const LEAF: u64 = 1024;
/// Bytes that a batch fetches at most, unless one extent is larger.
const BATCH_BYTES: u64 = 2 << 20;

/// Extents fetched together, in the holder's order.
pub(super) struct Batch {
    pub extents: Vec<u64>,
    /// Bytes that the fetch moves.
    pub stored: u64,
}

pub(super) struct Planner<'a> {
    holder: &'a dyn Holder,
    compare: Option<&'a dyn Compare>,
    to: &'a dyn Destination,
    range: ExtentRange,
    geometry: Geometry,
}

/// (order, extent, stored bytes)
type Wanted = Vec<(u64, u64, u32)>;

impl<'a> Planner<'a> {
    /// Plans `range`.
    pub fn new(
        holder: &'a dyn Holder,
        compare: Option<&'a dyn Compare>,
        to: &'a dyn Destination,
        range: ExtentRange,
    ) -> Self {
        Planner { geometry: holder.geometry(), holder, compare, to, range }
    }

    /// Sends batches until all is planned or the copy stops.
    pub fn run(&self, shared: &Shared<'_>, batches: &SyncSender<Batch>) -> Result<()> {
        let mut first = self.range.start;
        while first < self.range.end {
            let end = (first + WINDOW).min(self.range.end);
            let mut wanted = Wanted::new();
            for leaf in (first..end).step_by(LEAF as usize) {
                shared.check()?;
                self.leaf(ExtentRange { start: leaf, end: (leaf + LEAF).min(end) }, &mut wanted, shared)?;
            }
            wanted.sort_unstable();
            self.send(&wanted, batches)?;
            first = end;
        }
        Ok(())
    }

    fn leaf(&self, extents: ExtentRange, wanted: &mut Wanted, shared: &Shared<'_>) -> Result<()> {
        let mut presence = Vec::with_capacity(extents.count() as usize);
        let known = super::worker::patiently(shared, || {
            presence.clear();
            self.holder.presence(extents.start, extents.count(), &mut presence)
        });
        match known {
            Err(e) if e.is_loss() => return extents.iter().try_for_each(|x| shared.lost(x, &e, self.to)),
            other => other?,
        }
        let ids = match self.compare {
            Some(compare) => match super::worker::patiently(shared, || compare.ids(extents)) {
                // They only spare fetches.
                Err(e) if e.is_loss() => None,
                other => Some((compare, other?)),
            },
            None => None,
        };
        let mut zeros = ExtentRange { start: extents.start, end: extents.start };
        let mut buf = Vec::new();
        for (i, extent) in extents.iter().enumerate() {
            if let Some((compare, ids)) = &ids
                && self.has(extent, ids[i], *compare, &mut buf)?
            {
                shared.equal.fetch_add(buf.len() as u64, Relaxed);
                continue;
            }
            match presence[i] {
                Presence::Stored { order, stored } => wanted.push((order, extent, stored)),
                Presence::Zero if zeros.end == extent => zeros.end = extent + 1,
                Presence::Zero => {
                    self.zero(zeros, shared)?;
                    zeros = ExtentRange { start: extent, end: extent + 1 };
                }
            }
        }
        self.zero(zeros, shared)
    }

    /// The destination has this extent already.
    fn has(&self, extent: u64, id: Id, compare: &dyn Compare, buf: &mut Vec<u8>) -> Result<bool> {
        let range = self.geometry.extent_bytes(extent);
        buf.resize(range.len as usize, 0);
        self.to.read(range.start, buf)?;
        Ok(compare.id_of(buf) == id)
    }

    fn zero(&self, extents: ExtentRange, shared: &Shared<'_>) -> Result<()> {
        if extents.count() == 0 {
            return Ok(());
        }
        let range = self.geometry.bytes_of(extents);
        if !self.to.is_fresh() {
            self.to.zero(range)?;
        }
        shared.zero.fetch_add(range.len, Relaxed);
        Ok(())
    }

    fn send(&self, wanted: &Wanted, batches: &SyncSender<Batch>) -> Result<()> {
        let mut batch = Batch { extents: Vec::new(), stored: 0 };
        let send = |batch: &mut Batch| {
            let full = std::mem::replace(batch, Batch { extents: Vec::new(), stored: 0 });
            // All workers have ended: one of them tells why.
            batches.send(full).map_err(|_| Error::new(Kind::Cancelled, "the copy ended"))
        };
        let extent_bytes = self.geometry.extent.get();
        for (_, extent, stored) in wanted {
            let n = batch.extents.len() as u64;
            if n > 0 && (n * extent_bytes >= BATCH_BYTES || batch.stored + u64::from(*stored) > BATCH_BYTES) {
                send(&mut batch)?;
            }
            batch.extents.push(*extent);
            batch.stored += u64::from(*stored);
        }
        if batch.extents.is_empty() { Ok(()) } else { send(&mut batch) }
    }
}
