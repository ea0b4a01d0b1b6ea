//! What no hot list names, of one volume: streamed in windows, each in the holder's own cheap order, so that memory does
//! not grow with the volume and a window's fetches run along the packs. Zeros need no fetch: they are made zero here.

use super::super::set::RestoreSet;
use rekindle_core::hydrate::{Pass, Rest};
use rekindle_core::volume::ExtentRange;
use rekindle_io::Result;
use rekindle_io::holder::{Holder, Presence};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Acquire};

/// Extents of a window: 1 GiB at 64 KiB.
const WINDOW: u64 = 16_384;
/// Extents that one page of a holder's metadata describes, at most.
const DESCRIBED: u64 = 1024;
/// Windows without anything absent that one call passes over.
const SKIP: u64 = 64;

/// How far it has come; under the fill's lock, so nothing here asks the holder, which may take its time or hang.
pub(super) struct VolumeRest {
    pub(super) set: Arc<RestoreSet>,
    pub(super) volume: u16,
    pub(super) extents: u64,
    pub(super) holder: Arc<dyn Holder>,
    /// In the order of extents, not of packs.
    pub(super) linear: bool,
    at: u64,
    /// What the last look found.
    found: VecDeque<u64>,
    ahead: Ahead,
}

/// Whether the windows behind `at` are being looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ahead {
    /// There is still something to be given.
    Unneeded,
    Wanted,
    UnderWay,
}

impl VolumeRest {
    pub(super) fn new(
        set: Arc<RestoreSet>,
        volume: u16,
        extents: u64,
        holder: Arc<dyn Holder>,
        linear: bool,
    ) -> Self {
        let (at, found, ahead) = (0, VecDeque::new(), Ahead::Unneeded);
        VolumeRest { set, volume, extents, holder, linear, at, found, ahead }
    }
    /// The look it waits for, if nobody is at it: to be taken without the lock, then [`VolumeRest::looked`] is told.
    pub(super) fn look(&mut self) -> Option<WindowLook> {
        if self.ahead != Ahead::Wanted {
            return None;
        }
        self.ahead = Ahead::UnderWay;
        let (set, holder, found) = (self.set.clone(), self.holder.clone(), VecDeque::new());
        let (volume, extents, linear, at) = (self.volume, self.extents, self.linear, self.at);
        Some(WindowLook { set, volume, extents, holder, linear, at, found })
    }
    /// Somebody looks.
    pub(super) fn is_looked_at(&self) -> bool {
        self.ahead == Ahead::UnderWay
    }
    /// Takes in what a look found.
    pub(super) fn looked(&mut self, look: WindowLook) {
        (self.at, self.found, self.ahead) = (look.at, look.found, Ahead::Unneeded);
    }
}

impl Rest for VolumeRest {
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
        out.append(&mut self.found);
        if out.is_empty() && self.at >= self.extents {
            self.at = 0;
            return Pass::Over;
        }
        if out.is_empty() && self.ahead == Ahead::Unneeded {
            self.ahead = Ahead::Wanted;
        }
        Pass::More
    }
}

/// A look at the next windows.
pub(super) struct WindowLook {
    set: Arc<RestoreSet>,
    pub(super) volume: u16,
    extents: u64,
    holder: Arc<dyn Holder>,
    linear: bool,
    at: u64,
    found: VecDeque<u64>,
}

impl WindowLook {
    /// Looks until something is found, everything has been looked at, it has passed over much, or `ends`. Why it could not
    /// see all, if so: what it did not see is looked at again.
    pub(super) fn run(&mut self, ends: &AtomicBool) -> Result<()> {
        for _ in 0..SKIP {
            if ends.load(Acquire) {
                break;
            }
            let window = ExtentRange { start: self.at, end: (self.at + WINDOW).min(self.extents) };
            if window.iter().any(|e| self.set.is_absent(self.volume, e)) {
                self.window(window)?;
            }
            self.at = window.end;
            if !self.found.is_empty() || self.at >= self.extents {
                break;
            }
        }
        Ok(())
    }
    /// Looks at one window. Damaged metadata loses what it describes, not the whole window.
    fn window(&mut self, window: ExtentRange) -> Result<()> {
        let mut presence = Vec::with_capacity(window.count() as usize);
        match self.holder.presence(window.start, window.count(), &mut presence) {
            Ok(()) => {}
            Err(e) if e.is_loss() && window.count() > DESCRIBED => {
                let parts = (window.start..window.end).step_by(DESCRIBED as usize);
                let mut parts =
                    parts.map(|start| ExtentRange { start, end: (start + DESCRIBED).min(window.end) });
                return parts.try_for_each(|part| self.window(part));
            }
            Err(e) if e.is_loss() => {
                self.set.lost(self.volume, window, &e);
                return Ok(());
            }
            Err(e) => return Err(e),
        }
        let mut absent = Vec::new();
        let looked = self.sort_out(window, &presence, &mut absent);
        absent.sort_unstable();
        self.found.extend(absent.into_iter().map(|(_, extent)| extent));
        looked
    }
    /// Zeros are made zero, what is stored and absent is put aside with its place in the order.
    fn sort_out(
        &self,
        window: ExtentRange,
        presence: &[Presence],
        absent: &mut Vec<(u64, u64)>,
    ) -> Result<()> {
        let mut zeros: Option<ExtentRange> = None;
        for (extent, p) in window.iter().zip(presence) {
            match (p, &mut zeros) {
                (Presence::Zero, Some(z)) if z.end == extent => z.end += 1,
                (Presence::Zero, _) => {
                    self.make_zero(zeros.replace(ExtentRange { start: extent, end: extent + 1 }))?;
                }
                (Presence::Stored { order, .. }, _) => {
                    if self.set.is_absent(self.volume, extent) {
                        absent.push((if self.linear { extent } else { *order }, extent));
                    }
                }
            }
        }
        self.make_zero(zeros)
    }
    fn make_zero(&self, zeros: Option<ExtentRange>) -> Result<()> {
        zeros.map_or(Ok(()), |zeros| self.set.make_zero(self.volume, zeros).map(drop))
    }
}
