//! A holder in memory: an image (bytes, or a sparse pattern as large as one likes), which tests and the simulator
//! switch: inline or late, away, damaged, held back.

use super::{Difference, FetchSink, Fetched, Holder, Identity, Presence, Sealed, Urgency};
use crate::{Error, Kind, Result};
use rekindle_core::bytes::is_zero;
use rekindle_core::volume::{ExtentBytes, ExtentRange, Geometry, Uuid};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Where the bytes come from.
#[derive(Clone, Debug)]
enum Image {
    /// All of them.
    Bytes(Arc<[u8]>),
    /// Extents of these ranges hold a pattern of their own ([`MemHolder::pattern`]), all others zeros.
    Pattern(Arc<[ExtentRange]>, u64),
}

/// How fetches are answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// On the asking thread, before `fetch` returns.
    Inline,
    /// From a thread of its own after this time.
    Late(Duration),
    /// When a test calls [`MemHolder::release`].
    Held,
}

struct Switches {
    mode: Mode,
    away: bool,
    corrupt: BTreeSet<u64>,
    fetches: BTreeMap<u64, u64>,
    demand: u64,
    held: Vec<(u64, Arc<dyn FetchSink>)>,
    bases: BTreeMap<Uuid, Difference>,
    then: Option<Box<dyn FnOnce() + Send>>,
    then_look: Option<Box<dyn FnOnce() + Send>>,
    backwards: bool,
    knows_ids: bool,
}

/// A holder of one image.
pub struct MemHolder {
    identity: Identity,
    geometry: Geometry,
    image: Image,
    switches: Mutex<Switches>,
}

impl MemHolder {
    /// Holds `bytes`, which must be as long as the geometry says. Extents of zeros are present as zeros.
    pub fn from_bytes(geometry: Geometry, bytes: Vec<u8>) -> Arc<Self> {
        assert_eq!(bytes.len() as u64, geometry.size, "an image is as long as its volume");
        Self::make(geometry, Image::Bytes(bytes.into()))
    }
    /// Holds a pattern in `data` and zeros elsewhere: terabytes without memory. `seed` makes two patterns differ.
    pub fn from_pattern(geometry: Geometry, data: &[ExtentRange], seed: u64) -> Arc<Self> {
        Self::make(geometry, Image::Pattern(data.into(), seed))
    }
    fn make(geometry: Geometry, image: Image) -> Arc<Self> {
        let identity = Identity {
            moment: crate::random::uuid(),
            volume: crate::random::uuid(),
            shown: "an image in memory".into(),
        };
        let switches = Switches {
            mode: Mode::Inline,
            away: false,
            corrupt: BTreeSet::new(),
            fetches: BTreeMap::new(),
            demand: 0,
            held: Vec::new(),
            bases: BTreeMap::new(),
            then: None,
            then_look: None,
            backwards: false,
            knows_ids: false,
        };
        Arc::new(MemHolder { identity, geometry, image, switches: Mutex::new(switches) })
    }

    /// Answers on the asking thread (as at the beginning).
    pub fn answer_inline(&self) {
        self.lock().mode = Mode::Inline;
    }
    /// Answers from another thread after `delay`.
    pub fn answer_late(&self, delay: Duration) {
        self.lock().mode = Mode::Late(delay);
    }
    /// Answers only at [`MemHolder::release`].
    pub fn hold(&self) {
        self.lock().mode = Mode::Held;
    }
    /// Answers up to `n` held fetches on this thread, oldest first; returns their extents.
    pub fn release(&self, n: usize) -> Vec<u64> {
        let batch: Vec<_> = {
            let mut s = self.lock();
            let n = n.min(s.held.len());
            s.held.drain(..n).collect()
        };
        batch.iter().for_each(|(extent, sink)| sink.fetched(*extent, self.bring(*extent)));
        batch.into_iter().map(|(extent, _)| extent).collect()
    }
    /// How many fetches are held.
    pub fn held(&self) -> usize {
        self.lock().held.len()
    }
    /// Away: every answer from now on is `Kind::Unavailable`. Back: as before.
    pub fn set_available(&self, available: bool) {
        self.lock().away = !available;
    }
    /// Fetching this extent succeeds, opening it finds it damaged. Undone by `damaged = false`.
    pub fn set_damaged(&self, extent: u64, damaged: bool) {
        let mut s = self.lock();
        if damaged {
            s.corrupt.insert(extent)
        } else {
            s.corrupt.remove(&extent)
        };
    }
    /// What `difference` answers for `base`.
    pub fn set_difference(&self, base: Uuid, difference: Difference) {
        self.lock().bases.insert(base, difference);
    }
    /// The next fetch begins with this, on the asking thread.
    pub fn at_next_fetch(&self, then: impl FnOnce() + Send + 'static) {
        self.lock().then = Some(Box::new(then));
    }
    /// The next look at what is present begins with this, on the thread that looks.
    pub fn at_next_look(&self, then: impl FnOnce() + Send + 'static) {
        self.lock().then_look = Some(Box::new(then));
    }
    /// Its own order is the reverse from now on.
    pub fn store_backwards(&self) {
        self.lock().backwards = true;
    }
    /// From now on `check` answers without a fetch.
    pub fn know_identities(&self) {
        self.lock().knows_ids = true;
    }
    /// How often `extent` was asked for.
    pub fn fetches_of(&self, extent: u64) -> u64 {
        self.lock().fetches.get(&extent).copied().unwrap_or(0)
    }
    /// How many fetches were asked for in all, and how many of them because a guest waited.
    pub fn fetches(&self) -> (u64, u64) {
        let s = self.lock();
        (s.fetches.values().sum(), s.demand)
    }
    /// The true bytes of `extent`, whatever is switched: what a test compares with.
    pub fn truth(&self, extent: u64, out: &mut [u8]) {
        match &self.image {
            Image::Bytes(all) => {
                let r = self.geometry.extent_bytes(extent);
                out.copy_from_slice(&all[r.start as usize..r.end() as usize]);
            }
            Image::Pattern(data, seed) if data.iter().any(|r| r.iter().contains(&extent)) => {
                Self::pattern(*seed, extent, out);
            }
            Image::Pattern(..) => out.fill(0),
        }
    }
    /// The pattern of one extent: every 8 bytes differ from every other 8 bytes of the volume and are never zero.
    pub fn pattern(seed: u64, extent: u64, out: &mut [u8]) {
        const WORDS: u64 = ExtentBytes::MAX as u64 / 8;
        for (i, word) in out.chunks_mut(8).enumerate() {
            // An odd factor makes this a bijection of u64, so no two words are the same; the low bit is set apart.
            let n = (extent * WORDS + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ seed;
            word.copy_from_slice(&n.max(1).to_le_bytes()[..word.len()]);
        }
    }

    // No step leaves the switches half set, so a panic elsewhere under the lock harms nothing.
    fn lock(&self) -> MutexGuard<'_, Switches> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn is_zero(&self, extent: u64) -> bool {
        match &self.image {
            Image::Bytes(all) => {
                let r = self.geometry.extent_bytes(extent);
                is_zero(&all[r.start as usize..r.end() as usize])
            }
            Image::Pattern(data, _) => !data.iter().any(|r| r.iter().contains(&extent)),
        }
    }
    /// The answer of a fetch as the switches stand now.
    fn bring(&self, extent: u64) -> Result<Fetched> {
        if extent >= self.geometry.extents() {
            return Err(Error::new(
                Kind::Invalid,
                format!("extent {extent} is behind the end of the volume"),
            ));
        }
        let (away, damaged) = {
            let s = self.lock();
            (s.away, s.corrupt.contains(&extent))
        };
        if away {
            return Err(Error::new(Kind::Unavailable, format!("{}: away", self.identity.shown)));
        }
        if self.is_zero(extent) {
            return Ok(Fetched::Zero);
        }
        let mut bytes = vec![0; self.geometry.extent_bytes(extent).len as usize];
        self.truth(extent, &mut bytes);
        Ok(Fetched::Sealed(Box::new(MemSealed { extent, bytes, damaged })))
    }
}

struct MemSealed {
    extent: u64,
    bytes: Vec<u8>,
    damaged: bool,
}

impl Sealed for MemSealed {
    fn open(&self, out: &mut [u8]) -> Result<()> {
        if self.damaged || out.len() != self.bytes.len() {
            return Err(Error::new(
                Kind::Corrupt,
                format!("an image in memory, extent {}: authentication failed", self.extent),
            ));
        }
        out.copy_from_slice(&self.bytes);
        Ok(())
    }
    fn stored(&self) -> u32 {
        self.bytes.len() as u32
    }
}

impl Holder for MemHolder {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn presence(&self, first: u64, count: u64, out: &mut Vec<Presence>) -> Result<()> {
        if first.checked_add(count).is_none_or(|end| end > self.geometry.extents()) {
            return Err(Error::new(Kind::Invalid, "presence was asked for behind the end of the volume"));
        }
        let then = self.lock().then_look.take();
        if let Some(then) = then {
            then();
        }
        let backwards = self.lock().backwards;
        let order = |e| if backwards { self.geometry.extents() - e } else { e };
        out.extend((first..first + count).map(|e| match self.is_zero(e) {
            true => Presence::Zero,
            false => Presence::Stored { order: order(e), stored: self.geometry.extent_bytes(e).len as u32 },
        }));
        Ok(())
    }

    fn check(&self, extent: u64, bytes: &[u8]) -> Result<Option<bool>> {
        if !self.lock().knows_ids {
            return Ok(None);
        }
        let mut truth = vec![0; bytes.len()];
        self.truth(extent, &mut truth);
        Ok(Some(truth == bytes))
    }

    fn fetch(self: Arc<Self>, extents: &[u64], urgency: Urgency, sink: &Arc<dyn FetchSink>) {
        let then = self.lock().then.take();
        then.into_iter().for_each(|then| then());
        let mode = {
            let mut s = self.lock();
            for e in extents {
                *s.fetches.entry(*e).or_default() += 1;
            }
            s.demand += if urgency == Urgency::Demand { extents.len() as u64 } else { 0 };
            if s.mode == Mode::Held {
                s.held.extend(extents.iter().map(|e| (*e, sink.clone())));
            }
            s.mode
        };
        match mode {
            Mode::Inline => extents.iter().for_each(|e| sink.fetched(*e, self.bring(*e))),
            Mode::Held => {}
            Mode::Late(delay) => {
                let (extents, sink) = (extents.to_vec(), sink.clone());
                std::thread::spawn(move || {
                    std::thread::sleep(delay);
                    extents.iter().for_each(|e| sink.fetched(*e, self.bring(*e)));
                });
            }
        }
    }

    fn difference(&self, base: Uuid) -> Result<Difference> {
        if base == self.identity.moment {
            return Ok(Difference { extents: Vec::new(), trusted: true });
        }
        let known = self.lock().bases.get(&base).cloned();
        known.ok_or_else(|| Error::new(Kind::Gone, format!("moment {} is not known here", base.short())))
    }

    fn answers_inline(&self) -> bool {
        self.lock().mode == Mode::Inline
    }
}

#[cfg(test)]
mod tests {
    use super::super::kit;
    use super::*;

    fn shape(extents: u64) -> Geometry {
        Geometry::new((extents << 16) - 512, ExtentBytes::DEFAULT, 512, 512).unwrap()
    }

    #[test]
    fn conforms_inline_and_late() {
        let g = shape(9);
        let mut bytes = vec![0; g.size as usize];
        MemHolder::pattern(3, 1, &mut bytes[2 << 16..5 << 16]);
        *bytes.last_mut().unwrap() = 1;
        for holder in [
            MemHolder::from_bytes(g, bytes.clone()),
            MemHolder::from_pattern(
                g,
                &[ExtentRange { start: 1, end: 3 }, ExtentRange { start: 8, end: 9 }],
                5,
            ),
        ] {
            let mut truth = vec![0; g.size as usize];
            for (e, piece) in truth.chunks_mut(1 << 16).enumerate() {
                holder.truth(e as u64, piece);
            }
            kit::check(holder.clone(), &truth);
            holder.answer_late(Duration::from_millis(1));
            kit::check(holder, &truth);
        }
    }

    #[test]
    fn a_large_pattern_costs_nothing_and_never_repeats() {
        let g = shape(1 << 40 >> 16);
        let h = MemHolder::from_pattern(g, &[ExtentRange { start: 7, end: 1 << 20 }], 1);
        let (mut a, mut b) = (vec![0; 1 << 16], vec![0; 1 << 16]);
        h.truth(7, &mut a);
        h.truth(1 << 19, &mut b);
        assert!(a.chunks(8).zip(b.chunks(8)).all(|(a, b)| a != b && a != [0; 8]));
    }

    #[test]
    fn switches() {
        let h = MemHolder::from_pattern(shape(4), &[ExtentRange { start: 0, end: 2 }], 0);
        let sink = kit::Collected::new();
        let dyn_sink: Arc<dyn FetchSink> = sink.clone();
        h.hold();
        h.clone().fetch(&[1, 0, 3], Urgency::Demand, &dyn_sink);
        assert!(!h.answers_inline() && sink.is_empty());
        assert_eq!(h.release(1), [1]);
        h.set_available(false);
        assert_eq!((h.held(), h.release(1)), (2, vec![0]));
        h.set_available(true);
        h.set_damaged(1, true);
        h.answer_inline();
        assert_eq!(h.release(9), [3]);
        let got = sink.take();
        assert!(matches!(got[0], (1, Ok(Fetched::Sealed(_)))) && matches!(got[2], (3, Ok(Fetched::Zero))));
        assert!(matches!(&got[1], (0, Err(e)) if e.kind == Kind::Unavailable));
        h.clone().fetch(&[1], Urgency::Background, &dyn_sink);
        let got = sink.take();
        let Ok(Fetched::Sealed(sealed)) = &got[0].1 else { panic!("damage shows when opened") };
        assert_eq!(sealed.open(&mut vec![0; 1 << 16]).unwrap_err().kind, Kind::Corrupt);
        assert_eq!((h.fetches_of(1), h.fetches()), (2, (4, 3)));
        let base = crate::random::uuid();
        h.set_difference(base, Difference { extents: vec![1], trusted: false });
        assert_eq!(h.difference(base).unwrap().extents, [1]);
        let fetched = Arc::new(Mutex::new(0));
        let counted = fetched.clone();
        h.at_next_fetch(move || *counted.lock().unwrap() += 1);
        (0..2).for_each(|_| h.clone().fetch(&[0], Urgency::Background, &dyn_sink));
        assert_eq!(*fetched.lock().unwrap(), 1, "once");
        let mut bytes = vec![0; 1 << 16];
        h.truth(0, &mut bytes);
        assert_eq!(h.check(0, &bytes).unwrap(), None);
        h.know_identities();
        assert_eq!((h.check(0, &bytes).unwrap(), h.check(1, &bytes).unwrap()), (Some(true), Some(false)));
        h.store_backwards();
        let mut known = Vec::new();
        h.presence(0, 2, &mut known).unwrap();
        let order = |p: &Presence| if let Presence::Stored { order, .. } = p { *order } else { 0 };
        assert!(order(&known[0]) > order(&known[1]));
    }
}
