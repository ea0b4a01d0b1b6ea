//! What every holder must do. One `check`, run by each implementation's tests against the true image.
#![allow(clippy::unwrap_used)] // This is test code that other crates' tests call; a failure here should panic.

use super::{FetchSink, Fetched, Holder, Presence, Urgency};
use crate::{Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A sink that keeps what came, for tests.
#[derive(Default)]
pub struct Collected {
    came: Mutex<Vec<(u64, Result<Fetched>)>>,
    more: Condvar,
}

impl Collected {
    /// An empty sink.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    /// Nothing came since the last take.
    pub fn is_empty(&self) -> bool {
        self.came.lock().unwrap().is_empty()
    }
    /// What came so far.
    pub fn take(&self) -> Vec<(u64, Result<Fetched>)> {
        std::mem::take(&mut self.came.lock().unwrap())
    }
    /// Waits until `n` answers came and takes them all; panics after ten seconds.
    pub fn wait(&self, n: usize) -> Vec<(u64, Result<Fetched>)> {
        let came = self.came.lock().unwrap();
        let (mut came, late) =
            self.more.wait_timeout_while(came, Duration::from_secs(10), |c| c.len() < n).unwrap();
        assert!(!late.timed_out(), "{} of {n} fetches were answered in ten seconds", came.len());
        std::mem::take(&mut came)
    }
}
impl FetchSink for Collected {
    fn fetched(&self, extent: u64, what: Result<Fetched>) {
        self.came.lock().unwrap().push((extent, what));
        self.more.notify_all();
    }
}

/// Panics with the reason if `holder` breaks the port's contract or does not hold exactly `truth`.
pub fn check(holder: Arc<dyn Holder>, truth: &[u8]) {
    let g = holder.geometry();
    assert_eq!(g.size, truth.len() as u64);
    let expected = |e: u64| {
        let r = g.extent_bytes(e);
        &truth[r.start as usize..r.end() as usize]
    };
    let present = presence(&*holder);
    assert_eq!(present.len() as u64, g.extents());
    for (e, p) in present.iter().enumerate() {
        let zero = expected(e as u64).iter().all(|b| *b == 0);
        assert!(*p != Presence::Zero || zero, "extent {e} is called zero and is not");
    }
    for urgency in [Urgency::Demand, Urgency::Background] {
        let extents: Vec<u64> = (0..g.extents()).rev().collect();
        for (e, bytes) in fetch(&holder, &extents, urgency) {
            assert_eq!(bytes, expected(e), "extent {e}");
        }
    }
    checks(&*holder, expected);
    // The same extent asked for twice is answered twice; none asked for answers nothing.
    assert_eq!(fetch_raw(&holder, &[0, 0], Urgency::Demand).len(), 2);
    let sink = Collected::new();
    holder.clone().fetch(&[], Urgency::Demand, &(sink.clone() as Arc<dyn FetchSink>));
    beyond_the_end(&holder);
    identity_stays(&*holder);
    assert!(sink.is_empty());
}

/// A check that answers at all tells right bytes from bytes of which one bit is wrong.
fn checks<'a>(holder: &dyn Holder, expected: impl Fn(u64) -> &'a [u8]) {
    for e in 0..holder.geometry().extents() {
        let mut bytes = expected(e).to_vec();
        assert_ne!(holder.check(e, &bytes).unwrap(), Some(false), "extent {e} is right");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_ne!(holder.check(e, &bytes).unwrap(), Some(true), "extent {e} is wrong");
    }
}

fn presence(holder: &dyn Holder) -> Vec<Presence> {
    let n = holder.geometry().extents();
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    holder.presence(0, n, &mut whole).unwrap();
    (0..n).step_by(3).for_each(|e| holder.presence(e, 3.min(n - e), &mut pieces).unwrap());
    assert_eq!(whole, pieces, "presence depends on how it is asked for");
    whole
}

fn fetch_raw(holder: &Arc<dyn Holder>, extents: &[u64], urgency: Urgency) -> Vec<(u64, Result<Fetched>)> {
    let sink = Collected::new();
    let inline = holder.answers_inline();
    holder.clone().fetch(extents, urgency, &(sink.clone() as Arc<dyn FetchSink>));
    let got = if inline { sink.take() } else { sink.wait(extents.len()) };
    assert_eq!(got.len(), extents.len(), "each extent is answered once, inline if so promised");
    got
}

fn fetch(holder: &Arc<dyn Holder>, extents: &[u64], urgency: Urgency) -> BTreeMap<u64, Vec<u8>> {
    let g = holder.geometry();
    let mut out = BTreeMap::new();
    for (e, what) in fetch_raw(holder, extents, urgency) {
        let mut bytes = vec![0xaa; g.extent_bytes(e).len as usize];
        match what.unwrap() {
            Fetched::Zero => bytes.fill(0),
            Fetched::Sealed(sealed) => {
                sealed.open(&mut bytes).unwrap();
                let again = bytes.clone();
                sealed.open(&mut bytes).unwrap();
                assert_eq!(bytes, again, "opening twice gives the same");
            }
        }
        assert!(out.insert(e, bytes).is_none(), "extent {e} was answered twice");
    }
    out
}

fn beyond_the_end(holder: &Arc<dyn Holder>) {
    let n = holder.geometry().extents();
    assert_eq!(holder.presence(n, 1, &mut Vec::new()).unwrap_err().kind, Kind::Invalid);
    let got = fetch_raw(holder, &[n], Urgency::Demand);
    assert!(matches!(&got[0].1, Err(e) if e.kind == Kind::Invalid), "an extent behind the end is invalid");
}

fn identity_stays(holder: &dyn Holder) {
    let me = holder.identity();
    assert_eq!(me, holder.identity());
    let same = holder.difference(me.moment).unwrap();
    assert!(same.extents.is_empty() && same.trusted, "nothing differs from oneself");
    assert_eq!(holder.difference(crate::random::uuid()).unwrap_err().kind, Kind::Gone);
}
