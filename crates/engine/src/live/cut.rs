//! One volume while a backup reads it: copy-before-write, race-free.
//!
//! Per extent two facts: taken (the backup has it, or will never read it) and kept (its old bytes are in the fleece, or are
//! zeros). The guest keeps the old bytes, says so, and only then writes. The backup reads from the disk, and then looks: what
//! was not kept by then was not written before the read ended, so the bytes are of the instant; else the fleece has them. So
//! it never holds the guest up. Two guest writes to one extent wait for each other while one keeps it: the claim is one of
//! 256 locks chosen by extent.
//!
//! Giving up: the flag is up before the first write that keeps nothing is issued, and a backup read looks at it after
//! it has read. So whatever it returns is of the instant.

use super::bits::Bits;
use super::fleece::Fleece;
use super::sync::{Mutex, MutexGuard, lock};
use rekindle_core::volume::{ByteRange, ExtentRange, Geometry};
use rekindle_io::block::{Allocation, Block, BlockExt};
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;

const CLAIMS: u64 = 256;

/// The cut.
pub(super) struct Cut {
    geometry: Geometry,
    inner: Arc<dyn Block>,
    fleece: Arc<Fleece>,
    /// Its place in the fleece.
    volume: usize,
    taken: Bits,
    kept: Bits,
    claims: Box<[Mutex<()>]>,
}

impl Cut {
    pub(super) fn new(geometry: Geometry, inner: Arc<dyn Block>, fleece: Arc<Fleece>, volume: usize) -> Cut {
        let n = geometry.extents();
        Cut {
            geometry,
            inner,
            fleece,
            volume,
            taken: Bits::new(n),
            kept: Bits::new(n),
            claims: (0..CLAIMS).map(|_| Mutex::new(())).collect(),
        }
    }
    fn claim(&self, extent: u64) -> MutexGuard<'_, ()> {
        lock(&self.claims[(extent % CLAIMS) as usize])
    }
    /// Before the guest changes `range`: what the backup still needs of it is kept. Never fails the guest.
    pub(super) fn before_change(&self, range: ByteRange) {
        for e in self.geometry.touched(range).iter() {
            if self.fleece.is_given_up() {
                return;
            }
            if self.taken.get(e) || self.kept.get(e) {
                continue;
            }
            let _claim = self.claim(e);
            if self.taken.get(e) || self.kept.get(e) {
                continue;
            }
            let at = self.geometry.extent_bytes(e).start;
            if let Err(e) = self.fleece.keep((self.volume, e), |old| self.inner.read_at(at, old)) {
                return self.fleece.give_up(e);
            }
            self.kept.set(e);
            if self.taken.get(e) {
                // Meanwhile: whichever of the two looks last sees both, and frees it.
                self.fleece.forget((self.volume, e));
            }
        }
    }
    /// Whether a trim of `range` may be done: not while the backup still needs any of it.
    pub(super) fn allows_trim(&self, range: ByteRange) -> bool {
        self.fleece.is_given_up()
            || self.geometry.touched(range).iter().all(|e| self.taken.get(e) || self.kept.get(e))
    }
    /// The bytes of an extent as of the instant.
    pub(super) fn read(&self, extent: u64, out: &mut [u8]) -> Result<()> {
        let at = self.geometry.extent_bytes(extent);
        if extent >= self.geometry.extents() || out.len() as u64 != at.len {
            return Err(Error::new(Kind::Invalid, format!("extent {extent} into {} bytes", out.len())));
        }
        if self.taken.get(extent) {
            return Err(Error::new(Kind::Invalid, format!("extent {extent} was given up as taken")));
        }
        if !self.kept.get(extent) {
            self.inner.read_at(at.start, out)?;
        }
        // Perhaps only now: then what was read may be the guest's.
        if self.kept.get(extent) {
            self.fleece.read((self.volume, extent), out)?;
        }
        self.fleece.check()
    }
    /// The backup needs these no more.
    pub(super) fn taken(&self, range: ExtentRange) {
        let range = ExtentRange { start: range.start, end: range.end.min(self.geometry.extents()) };
        if range.start >= range.end {
            return;
        }
        // In this order, see `before_change`.
        self.taken.set_range(range);
        for e in self.kept.set_in(range) {
            self.fleece.forget((self.volume, e));
        }
    }
    /// An extent whose old bytes are in memory: read next, it makes room for the guest soonest.
    pub(super) fn urgent(&self) -> Option<u64> {
        self.fleece.urgent(self.volume)
    }
    /// The next stretch that may hold data as of the instant.
    pub(super) fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        let size = self.geometry.size;
        let mut at = from;
        let mut runs: Vec<Allocation> = Vec::new();
        while at < size {
            runs.clear();
            self.inner.allocation(ByteRange::new(at, size - at), &mut runs)?;
            for run in &runs {
                // A gap in the answer would pass for a hole and lose what lies there.
                assert!(run.range.start == at && run.range.len > 0, "an allocation answer has a gap at {at}");
                let range = if run.zero { self.kept_in(run.range) } else { Some(run.range) };
                if let Some(range) = range {
                    self.fleece.check()?;
                    return Ok(Some(range));
                }
                at = run.range.end();
            }
        }
        self.fleece.check()?;
        Ok(None)
    }
    /// A hole now was data at the instant if the guest zeroed it since: it was kept first. Looked at after the hole was
    /// seen, so nothing slips between.
    fn kept_in(&self, hole: ByteRange) -> Option<ByteRange> {
        let touched = self.geometry.touched(hole);
        let kept = self.kept.set_in(touched).find(|e| !self.taken.get(*e))?;
        self.geometry.extent_bytes(kept).intersect(&hole)
    }
}
