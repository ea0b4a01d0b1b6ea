//! Verification: after completion every extent the guest did not write is read back from the medium of the destination, up to
//! a run of neighbours at once, and compared with what the moment holds: by its identity where the holder knows it, else by
//! fetching it again. (At fill every frame was authenticated; this is about what the destination made of it.) Extents the
//! guest wrote have no identity to be compared with; what the holder had of them was authenticated when it was merged.
//!
//! An extent that differs is fetched again, written under its claim, and read once more after a flush; if it differs
//! then, the destination does not keep what is written to it, and that is the end. Background work with a share of its own:
//! the caller steps it as slowly as it likes.
//!
//! Where the identities are damaged in the holder, extents are fetched instead. What cannot be fetched either was not
//! compared: it is named, everything else is verified, and it is tried again as often as the caller steps. The set does not
//! count as verified before: letting its source go is for people to decide.
//!
//! It begins with a flush: what is verified is durable then, and where there is no way past a cache nothing dirty is compared
//! with itself. It ends at a hand-over, also an unverified one: from there the guest writes to the destination without a mark,
//! and mending what then differs would put the moment over what the guest wrote. So each look, and each mending, is inside
//! the gate.
//!
//! Before that no write of a guest is taken for damage, or mended over. It goes to the log; its extent is marked before it can
//! be moved to the destination, and it is moved under the claim that look and read are one under, as look and mending are.

use super::claims::Claim;
use super::damage::RestoreDamage;
use super::lock;
use super::mover::Step;
use super::parts::Volume;
use super::set::RestoreSet;
use super::target::Heat;
use rekindle_core::hydrate::Place;
use rekindle_core::volume::ExtentRange;
use rekindle_io::holder::{FetchSink, Fetched, Holder, Presence, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::sync::atomic::Ordering::*;
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLockReadGuard};
use std::time::Duration;

/// How far a verification is. Starts again from the beginning after a restart.
#[derive(Default)]
pub struct Verifier {
    volume: usize,
    extent: u64,
    again: Vec<(usize, u64)>,
    /// Bytes read back and right.
    pub verified_bytes: u64,
    /// Extents the guest wrote, which have nothing to be compared with.
    pub skipped: u64,
    /// Extents that differed and were written again.
    pub mended: u64,
    /// Everything was looked at; where the next look at what could not be compared begins.
    again_from: Option<(usize, u64)>,
    /// Nothing could be compared at the last look that could not before.
    in_vain: bool,
}

impl Verifier {
    /// All that is left is what could not be compared, and that was so at the last look: there is no hurry.
    pub fn waits(&self) -> bool {
        self.in_vain
    }
}

/// So many extents a step.
const BATCH: u64 = 64;

impl RestoreSet {
    /// Verifies the next extents; `Idle` when everything is verified, which is durable then.
    pub fn verify_step(&self, at: &mut Verifier) -> Result<Step> {
        if !self.is_complete() {
            return Err(Error::new(Kind::Busy, "not complete yet: there is nothing to verify against"));
        }
        if (at.volume, at.extent) == (0, 0) {
            self.flush_all()?;
        }
        if let Some(v) = self.parts.volumes.get(at.volume) {
            let n = BATCH.min(v.geometry.extents() - at.extent);
            self.verify_batch(v, at, n)?;
            at.extent += n;
            if at.extent == v.geometry.extents() {
                (at.volume, at.extent) = (at.volume + 1, 0);
            }
            return Ok(Step::Worked);
        }
        self.verify_mended(at)?;
        if self.parts.volumes.iter().any(|v| !lock(&v.uncompared).is_empty()) {
            self.rest_verified.store(true, Release);
            self.compare_again(at)?;
            return Ok(Step::Worked);
        }
        let _gate = self.while_restoring()?;
        let mut plan = lock(&self.parts.plan);
        if !plan.1.verified {
            plan.1.verified = true;
            plan.0.store(&plan.1)?;
        }
        Ok(Step::Idle)
    }
    /// Keeps the hand-over out for as long as it is held. `Kind::Gone` when it has been.
    fn while_restoring(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let gate = self.parts.gate.read().unwrap_or_else(PoisonError::into_inner);
        if self.parts.volumes.iter().any(|v| v.settled.get().is_some()) {
            return Err(Error::new(Kind::Gone, "the set was handed over: its destinations are the guest's"));
        }
        Ok(gate)
    }
    fn flush_all(&self) -> Result<()> {
        // Not inside the gate: an instant that waited for this flush would hold the guest up. One more flush hurts nobody.
        drop(self.while_restoring()?);
        for v in &self.parts.volumes {
            if let Err(e) = v.target.flush() {
                // A failed flush leaves the destination failed, whoever asked for it.
                self.parts.fail(e.clone().at(format!("flush of the destination of {}", v.name)));
                return Err(e);
            }
        }
        Ok(())
    }
    fn verify_batch(&self, v: &Volume, at: &mut Verifier, n: u64) -> Result<()> {
        let mut known = Vec::with_capacity(n as usize);
        match v.holder.presence(at.extent, n, &mut known) {
            // It cannot say: each is asked for.
            Err(e) if e.is_loss() => known = vec![STORED; n as usize],
            done => done?,
        }
        self.verify_extents(v, at.extent, &known, at)
    }
    /// Verifies neighbours from `extent` on, and mends them.
    fn verify_extents(&self, v: &Volume, extent: u64, known: &[Presence], at: &mut Verifier) -> Result<()> {
        let mut buf = self.parts.buffer(v);
        let (mut extent, mut known) = (extent, known);
        while !known.is_empty() {
            let n = match self.read_back(v, extent, known, &mut buf)? {
                Back::Not(found) => {
                    self.mend_if_wrong(v, extent, found, at)?;
                    1
                }
                Back::Read(n) => {
                    let mut rest = &buf[..];
                    for (extent, presence) in (extent..).zip(&known[..n]) {
                        let (bytes, behind) = rest.split_at(v.geometry.extent_bytes(extent).len as usize);
                        let found = self.compare(v, extent, *presence, bytes)?;
                        self.mend_if_wrong(v, extent, found, at)?;
                        rest = behind;
                    }
                    n
                }
            };
            (extent, known) = (extent + n as u64, &known[n..]);
        }
        self.parts.put_back(buf);
        Ok(())
    }
    fn mend_if_wrong(&self, v: &Volume, extent: u64, found: Found, at: &mut Verifier) -> Result<()> {
        let lost = |e: &Error| {
            if lock(&v.uncompared).add(extent, e) {
                tracing::warn!("{}: extent {extent} of the destination cannot be compared: {e}", v.name);
            }
        };
        match found {
            Found::Right(n) => at.verified_bytes += n,
            Found::Guest => at.skipped += 1,
            Found::Unknown(e) => {
                lost(&e);
                return Ok(());
            }
            Found::Wrong => {
                if let Some(e) = self.mend(v, extent)? {
                    lost(&e.at("the destination lost it"));
                    return Ok(());
                }
                at.mended += 1;
                at.again.push((v.at.into(), extent));
            }
        }
        lock(&v.uncompared).remove(extent);
        Ok(())
    }
    /// Looks again at some of what could not be compared, and at more at once as long as that brings anything.
    fn compare_again(&self, at: &mut Verifier) -> Result<()> {
        let (volume, from) = at.again_from.unwrap_or_default();
        let v = &self.parts.volumes[volume.min(self.parts.volumes.len() - 1)];
        let some: Vec<u64> = lock(&v.uncompared).from(from).take(BATCH as usize).collect();
        for extent in &some {
            self.verify_extents(v, *extent, &[STORED], at)?;
        }
        let left = lock(&v.uncompared);
        at.in_vain = !some.is_empty() && some.iter().all(|e| left.contains(*e));
        at.again_from = match some.last() {
            Some(last) if some.len() == BATCH as usize => Some((volume, last + 1)),
            _ => Some(((volume + 1) % self.parts.volumes.len(), 0)),
        };
        Ok(())
    }
    /// What could not be compared, with at most `ranges_max` ranges a volume; `only_damage_left`: all else is verified.
    pub fn uncompared(&self, ranges_max: usize) -> RestoreDamage {
        let of =
            |v: &Volume| lock(&v.uncompared).report(&v.geometry, ranges_max, |e| v.claims.marked(e) == 0);
        let mut volumes: Vec<_> = self.parts.volumes.iter().map(|v| (v.name.clone(), of(v))).collect();
        volumes.retain(|(_, d)| d.extents > 0);
        let only_damage_left = !volumes.is_empty() && self.rest_verified.load(Acquire);
        RestoreDamage { volumes, only_damage_left }
    }
    /// Writes what the moment holds, unless the guest wrote meanwhile; or gives why that cannot be had.
    fn mend(&self, v: &Volume, extent: u64) -> Result<Option<Error>> {
        tracing::warn!("{}: extent {extent} of the destination is not what was written; mending it", v.name);
        let range = v.geometry.extent_bytes(extent);
        let mut bytes = vec![0; range.len as usize];
        match fetch_now(&v.holder, extent, &mut bytes) {
            Err(e) if e.is_loss() => return Ok(Some(e)),
            done => done?,
        }
        let _gate = self.while_restoring()?;
        let claim = v.claims.claim(extent);
        if v.claims.marked(extent) == 0 && claim.place() == Place::Local {
            v.target.write(range.start, &bytes, Heat::Hot)?;
        }
        drop(claim);
        self.mended.fetch_add(1, Relaxed);
        Ok(None)
    }
    fn verify_mended(&self, at: &mut Verifier) -> Result<()> {
        if at.again.is_empty() {
            return Ok(());
        }
        self.flush_all()?;
        for (volume, extent) in std::mem::take(&mut at.again) {
            let v = &self.parts.volumes[volume];
            let mut buf = self.parts.buffer(v);
            let Back::Read(_) = self.read_back(v, extent, &[STORED], &mut buf)? else { continue };
            let bytes = &buf[..v.geometry.extent_bytes(extent).len as usize];
            if matches!(self.compare(v, extent, STORED, bytes)?, Found::Wrong) {
                let what =
                    format!("{}: the destination does not keep what is written to extent {extent}", v.name);
                let e = Error::new(Kind::Corrupt, what);
                self.parts.fail(e.clone());
                return Err(e);
            }
            self.parts.put_back(buf);
        }
        Ok(())
    }
    /// Reads back `extent` and those behind it into `buf`, at once, as far as there is something to be compared.
    fn read_back(&self, v: &Volume, extent: u64, known: &[Presence], buf: &mut [u8]) -> Result<Back> {
        let _gate = self.while_restoring()?;
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (extent, presence) in (extent..).zip(known).take(buf.len() >> v.geometry.extent.shift()) {
            let first = claims.is_empty();
            // Nobody but the fill waits for a claim while holding another.
            let claim = if first { Some(v.claims.claim(extent)) } else { v.claims.try_claim(extent) };
            let Some(claim) = claim else { break };
            // Under the claim neither mover nor mending write here; a mark tells whether they ever brought a guest's bytes.
            let guest = v.claims.marked(extent) != 0 || claim.place() != Place::Local;
            let hole = *presence == Presence::Zero && v.target.is_hole(v.geometry.extent_bytes(extent));
            match (guest, hole) {
                (false, false) => claims.push(claim),
                _ if !first => break,
                (true, _) => return Ok(Back::Not(Found::Guest)),
                (false, true) => return Ok(Back::Not(Found::Right(0))),
            }
        }
        let range = v.geometry.bytes_of(ExtentRange { start: extent, end: extent + claims.len() as u64 });
        v.target.read_medium(range.start, &mut buf[..range.len as usize])?;
        Ok(Back::Read(claims.len()))
    }
    fn compare(&self, v: &Volume, extent: u64, presence: Presence, bytes: &[u8]) -> Result<Found> {
        let right = match presence {
            Presence::Zero => bytes.iter().all(|b| *b == 0),
            Presence::Stored { .. } => match self.is_stored(v, extent, bytes) {
                Err(e) if e.is_loss() => return Ok(Found::Unknown(e)),
                done => done?,
            },
        };
        Ok(if right { Found::Right(bytes.len() as u64) } else { Found::Wrong })
    }
    /// By identity; where that is not known, or damaged, with what the holder gives.
    fn is_stored(&self, v: &Volume, extent: u64, bytes: &[u8]) -> Result<bool> {
        match v.holder.check(extent, bytes) {
            Ok(Some(right)) => return Ok(right),
            Err(e) if !e.is_loss() => return Err(e),
            Ok(None) | Err(_) => {}
        }
        let mut want = vec![0; bytes.len()];
        fetch_now(&v.holder, extent, &mut want)?;
        Ok(want == *bytes)
    }
}

/// Stored somewhere: what has to be asked for.
const STORED: Presence = Presence::Stored { order: 0, stored: 0 };

/// What came of reading back.
enum Back {
    /// So many extents are in the buffer, one behind the other.
    Read(usize),
    /// The first need not be read.
    Not(Found),
}

enum Found {
    Right(u64),
    Guest,
    Wrong,
    /// The holder cannot say any more what it was.
    Unknown(Error),
}

#[derive(Default)]
struct One {
    came: Mutex<Option<Result<Fetched>>>,
    bell: Condvar,
}
impl FetchSink for One {
    fn fetched(&self, _: u64, what: Result<Fetched>) {
        *lock(&self.came) = Some(what);
        self.bell.notify_all();
    }
}

/// Fetches one extent and waits for it, a minute at most.
pub(super) fn fetch_now(holder: &Arc<dyn Holder>, extent: u64, out: &mut [u8]) -> Result<()> {
    let one = Arc::new(One::default());
    let sink: Arc<dyn FetchSink> = one.clone();
    holder.clone().fetch(&[extent], Urgency::Background, &sink);
    let came = lock(&one.came);
    let wait = Duration::from_secs(60);
    let (mut came, _) =
        one.bell.wait_timeout_while(came, wait, |c| c.is_none()).unwrap_or_else(PoisonError::into_inner);
    match came.take() {
        Some(Ok(Fetched::Zero)) => {
            out.fill(0);
            Ok(())
        }
        Some(Ok(Fetched::Sealed(s))) => s.open(out),
        Some(Err(e)) => Err(e),
        None => Err(Error::new(Kind::Unavailable, "the backup did not answer within a minute")),
    }
}
