//! What no hot list names, of one volume: streamed in windows, each in the holder's own cheap order, so that memory does
//! not grow with the volume and a window's fetches run along the packs. Zeros need no fetch: they are made zero here.

use super::super::set::RestoreSet;
use rekindle_core::hydrate::{Pass, Rest};
use rekindle_core::volume::ExtentRange;
use rekindle_io::Error;
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
    /// Nothing can be given before another look.
    wants_look: bool,
    /// Somebody looks.
    pub(super) looked_at: bool,
}

impl VolumeRest {
    pub(super) fn new(
        set: Arc<RestoreSet>,
        volume: u16,
        extents: u64,
        holder: Arc<dyn Holder>,
        linear: bool,
    ) -> Self {
        let found = VecDeque::new();
        let (at, wants_look, looked_at) = (0, false, false);
        VolumeRest { set, volume, extents, holder, linear, at, found, wants_look, looked_at }
    }
    /// The look it waits for, if nobody is at it: to be taken without the lock, then [`VolumeRest::looked`] is told.
    pub(super) fn look(&mut self) -> Option<WindowLook> {
        if !self.wants_look || self.looked_at {
            return None;
        }
        (self.wants_look, self.looked_at) = (false, true);
        let (set, holder) = (self.set.clone(), self.holder.clone());
        let (presence, sorted, found) = (Vec::new(), Vec::new(), VecDeque::new());
        let (volume, extents, linear, at) = (self.volume, self.extents, self.linear, self.at);
        Some(WindowLook { set, volume, extents, holder, linear, at, presence, sorted, found, error: None })
    }
    /// Takes in what a look found; why it could not see all, if so: what it did not see is looked at again.
    pub(super) fn looked(&mut self, look: WindowLook) -> Option<Error> {
        (self.at, self.found, self.looked_at) = (look.at, look.found, false);
        look.error
    }
}

impl Rest for VolumeRest {
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
        out.append(&mut self.found);
        if out.is_empty() && self.at >= self.extents {
            self.at = 0;
            return Pass::Over;
        }
        self.wants_look = out.is_empty();
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
    presence: Vec<Presence>,
    sorted: Vec<(u64, u64)>,
    found: VecDeque<u64>,
    /// Why a window could not be looked at.
    error: Option<Error>,
}

impl WindowLook {
    /// Looks until something is found, everything has been looked at, it has passed over much, or `ends`.
    pub(super) fn run(&mut self, ends: &AtomicBool) {
        for _ in 0..SKIP {
            if ends.load(Acquire) {
                break;
            }
            let window = ExtentRange { start: self.at, end: (self.at + WINDOW).min(self.extents) };
            if window.iter().any(|e| self.set.is_absent(self.volume, e)) && !self.window(window) {
                break; // `error` says why; the window is looked at again.
            }
            self.at = window.end;
            if !self.found.is_empty() || self.at >= self.extents {
                break;
            }
        }
    }
    /// Looks at one window; false: could not. Damaged metadata loses what it describes, not the whole window.
    fn window(&mut self, window: ExtentRange) -> bool {
        self.presence.clear();
        match self.holder.presence(window.start, window.count(), &mut self.presence) {
            Ok(()) => {}
            Err(e) if e.is_loss() && window.count() > DESCRIBED => {
                let parts = (window.start..window.end).step_by(DESCRIBED as usize);
                let mut parts =
                    parts.map(|start| ExtentRange { start, end: (start + DESCRIBED).min(window.end) });
                return parts.all(|part| self.window(part));
            }
            Err(e) if e.is_loss() => {
                self.set.lost(self.volume, window, &e);
                return true;
            }
            Err(e) => {
                self.error = Some(e);
                return false;
            }
        }
        let presence = std::mem::take(&mut self.presence);
        let looked = self.sort_out(window, &presence);
        self.presence = presence;
        self.sorted.sort_unstable();
        self.found.extend(self.sorted.drain(..).map(|(_, extent)| extent));
        looked
    }
    /// Zeros are made zero, what is stored and absent is put aside.
    fn sort_out(&mut self, window: ExtentRange, presence: &[Presence]) -> bool {
        let mut zeros: Option<ExtentRange> = None;
        for (extent, p) in window.iter().zip(presence) {
            match (p, &mut zeros) {
                (Presence::Zero, Some(z)) if z.end == extent => z.end += 1,
                (Presence::Zero, _) => {
                    if !self.make_zero(zeros.replace(ExtentRange { start: extent, end: extent + 1 })) {
                        return false;
                    }
                }
                (Presence::Stored { order, .. }, _) => {
                    if self.set.is_absent(self.volume, extent) {
                        self.sorted.push((if self.linear { extent } else { *order }, extent));
                    }
                }
            }
        }
        self.make_zero(zeros)
    }
    fn make_zero(&mut self, zeros: Option<ExtentRange>) -> bool {
        let Some(zeros) = zeros else { return true };
        match self.set.make_zero(self.volume, zeros) {
            Ok(_) => true,
            Err(e) => {
                self.error = Some(e);
                false
            }
        }
    }
}
