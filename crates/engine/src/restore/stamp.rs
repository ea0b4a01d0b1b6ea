//! The stamp: what ties a destination to the one state that may go on with it.
//!
//! State and destination are one volume in two places, and each is worthless with an older copy of the other: the log of
//! an older state lacks writes that were flushed, its pages send for extents that hold newer bytes; a destination that
//! was put back lacks what the state says it holds. So both carry a stamp, a count and the opening it was made in, and
//! `resume` refuses a pair that does not match. Nothing of this touches the guest's FLUSH.
//!
//! The record names the stamps that may be found; the last of them is what the destinations carry, or are to carry:
//!
//! | step | record | destinations |
//! |---|---|---|
//! | begun: labelled before the record exists | `[1]` | 1 |
//! | a settling begins | `[n, n+1]` durable | n |
//! | stamp and moved data written, one flush | | n or n+1; n+1 |
//! | before any page or table relies on that flush | `[n+1]` durable | n+1 |
//! | opened, all of them looked at and none refused | `[what it named, m]` durable | what it named |
//! | before anything is served; durable with a settling at once | | m, of a new opening |
//! | stopped | `[n, n+1]` | n+1, not flushed |
//! | a hand-over puts the edges in place | `[n]`, `written back` durable | n, or none any more |
//! | it was given up, or crashed: labelled anew, flushed | `[n, n+1]`, `written back`, then `[n+1]` | n+1 |
//!
//! A crash between any two steps finds a stamp that the record names. A state copied aside is refused from the next
//! settling (while the guest writes they are half a minute apart), opening or stop on; a destination from before the last
//! one likewise. Two copies that both went on differ in the opening. A copy that is younger than the last stamp cannot be
//! told from the original: docs/assumptions.md.
//!
//! With `written back` in the record and no stamp in the destination each sector of both edges must be zero or what the
//! edges file holds. A volume under three blocks has no room for stamps and is not checked.
//!
//! Layout, in one sector so that it is never torn; twice, in the second and third block, so that one damaged sector is
//! harmless: magic `RKSTAMP1`, restore uuid, volume's place in the set u16, count u64, opening uuid, CRC-32C of all before.

use super::lock;
use super::parts::Parts;
use super::plan::PlanRecord;
use super::set::edges_name;
use super::target::{Label, Target};
use rekindle_core::bytes::{Reader, Writer, crc32c};
use rekindle_core::volume::Uuid;
use rekindle_io::block::Block;
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering::*;

const MAGIC: &[u8; 8] = b"RKSTAMP1";
const BODY: usize = 8 + 16 + 2 + 8 + 16;
/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// One state of the pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// One more at each change.
    pub count: u64,
    /// Drawn at random whenever the restore is begun or resumed.
    pub opening: Uuid,
}

/// Whose stamp it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// The restore.
    pub restore: Uuid,
    /// Place of the volume in its set.
    pub volume: u16,
}

impl Stamp {
    /// The first of an opening, behind all of `known`.
    pub fn first(known: &[Stamp]) -> Stamp {
        let count = known.iter().map(|s| s.count).max().unwrap_or(0) + 1;
        Stamp { count, opening: rekindle_io::random::uuid() }
    }
    /// The one after it.
    pub fn next(self) -> Stamp {
        Stamp { count: self.count + 1, ..self }
    }
    pub fn encode(self, owner: Owner) -> [u8; SECTOR] {
        let mut w = Writer::new();
        w.raw(MAGIC).raw(&owner.restore.0).u16(owner.volume).u64(self.count).raw(&self.opening.0);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        let mut out = [0; SECTOR];
        out[..BODY + 4].copy_from_slice(w.bytes());
        out
    }
    pub fn decode(raw: &[u8]) -> Option<(Owner, Stamp)> {
        let mut r = Reader::new(raw.get(..BODY + 4)?);
        if &r.array::<8>("stamp").ok()? != MAGIC {
            return None;
        }
        let owner = Owner { restore: Uuid(r.array("stamp").ok()?), volume: r.u16("stamp").ok()? };
        let stamp = Stamp { count: r.u64("stamp").ok()?, opening: Uuid(r.array("stamp").ok()?) };
        (r.u32("stamp").ok()? == crc32c(&raw[..BODY])).then_some((owner, stamp))
    }
}

/// An error unless the destination carries only stamps of `known`, or has no room for any: then it is not the one that goes
/// with the record, at `state`, that names them.
pub fn judge(target: &Target, known: &[Stamp], written_back: bool, state: &str) -> Result<()> {
    let refuse = |what: String| Err(Error::new(Kind::Invalid, what));
    if !target.has_stamps() {
        return Ok(());
    }
    let found = recognise(target, written_back)?;
    let Some(odd) = found.iter().find(|s| !known.contains(s)) else { return Ok(()) };
    let counts = || known.iter().map(|s| s.count);
    if counts().all(|c| c < odd.count) {
        return refuse(format!(
            "the state in {state} is an older copy: this destination went on without it, and writes that were \
             flushed since are not in it"
        ));
    }
    if counts().all(|c| c > odd.count) {
        return refuse(format!(
            "it is an older copy of the destination: the state in {state} went on without it, and relies on what \
             was written since"
        ));
    }
    refuse(format!("it went on with another copy of the state than the one in {state}"))
}

/// The stamps of the destination of this restore and volume, whatever their count; none if a hand-over may have put the
/// volume's own first bytes there and nothing speaks against it. An error that says what it is if it is anything else.
fn recognise(target: &Target, written_back: bool) -> Result<Vec<Stamp>> {
    let (found, other) = target.stamps()?;
    if !found.is_empty() || written_back && other.is_none() && target.is_half_written_back()? {
        return Ok(found);
    }
    let what = match other {
        Some(o) if o.restore == target.owner().restore => {
            "it is the destination of another volume of this set"
        }
        Some(_) => "it is the half-restored destination of another restore",
        None => "it does not carry the label of this restore: another file or disk, or overwritten since",
    };
    Err(Error::new(Kind::Invalid, what))
}

/// Whether `block` is the half-restored destination of the volume at `volume` of the restore that `state` holds, at whatever
/// stage: an error that says what it is if it is anything else, or too small to tell. Changes nothing.
pub fn is_destination(
    state: &dyn LogDir,
    plan: &PlanRecord,
    volume: usize,
    block: Arc<dyn Block>,
) -> Result<()> {
    recognise(&target(state, plan, volume, block)?, plan.written_back).map(drop)
}

/// Whether the restore that `state` holds would go on with `block` as the destination of the volume at `volume`: an error
/// that says why not. Changes nothing.
pub fn would_go_on(
    state: &dyn LogDir,
    plan: &PlanRecord,
    volume: usize,
    block: Arc<dyn Block>,
) -> Result<()> {
    let target = target(state, plan, volume, block)?;
    judge(&target, &plan.known_stamps()?, plan.written_back, &state.place())
}

fn target(state: &dyn LogDir, plan: &PlanRecord, volume: usize, block: Arc<dyn Block>) -> Result<Target> {
    let edges = state.open(&edges_name(volume))?;
    let edges = edges.ok_or_else(|| Error::new(Kind::Corrupt, "the edges file is missing"))?;
    let owner = Owner { restore: plan.restore_uuid()?, volume: volume as u16 };
    let label = Label { owner, text: String::new() };
    Ok(Target::new(block, edges, plan.volumes[volume].size, label, false))
}

impl Parts {
    /// The record names the next stamp beside what the destinations carry: from now on it may be written there.
    pub fn intend_stamp(&self) -> Result<Stamp> {
        let mut plan = lock(&self.plan);
        let before = plan.1.stamps.clone();
        let mut known = plan.1.known_stamps()?;
        let next = known.last().expect("whatever is open was stamped").next();
        known.push(next);
        plan.1.set_stamps(&known);
        let done = plan.0.store(&plan.1);
        done.inspect_err(|_| plan.1.stamps = before)?;
        Ok(next)
    }
    /// Every destination carries `stamp`, durably, or a newer one that was named since.
    pub fn stamped(&self, stamp: Stamp) -> Result<()> {
        let mut plan = lock(&self.plan);
        if plan.1.known_stamps()?.last() != Some(&stamp) {
            return Ok(());
        }
        // So it is, also if the record cannot be told now: whoever stores it next may say so.
        plan.1.set_stamps(&[stamp]);
        plan.1.written_back = false;
        plan.0.store(&plan.1)?;
        self.stamps_due.store(false, Release);
        Ok(())
    }
    /// At a stop: the destinations carry the next stamp as far as a kill goes, for the price of a small write.
    pub fn stamp_unflushed(&self) -> Result<()> {
        let stamp = self.intend_stamp()?;
        self.volumes.iter().try_for_each(|v| v.target.stamp(stamp))
    }
    /// The label comes back over what a hand-over that was given up put at the edges.
    pub fn label_again(&self) -> Result<()> {
        let stamp = self.intend_stamp()?;
        for v in &self.volumes {
            v.target.write_label(stamp, true)?;
            v.target.flush()?;
        }
        self.stamped(stamp)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { count: 5, opening: Uuid([7; 16]) };
    const OWNER: Owner = Owner { restore: Uuid([9; 16]), volume: 2 };

    #[test]
    fn the_layout_of_a_stamp_is_golden() {
        let raw = STAMP.encode(OWNER);
        assert_eq!(&raw[..8], b"RKSTAMP1");
        assert_eq!((&raw[8..24], &raw[24..26]), (&[9; 16][..], &[2, 0][..]));
        assert_eq!((&raw[26..34], &raw[34..50]), (&[5, 0, 0, 0, 0, 0, 0, 0][..], &[7; 16][..]));
        assert_eq!(raw[50..54], crc32c(&raw[..50]).to_le_bytes());
        assert!(raw[54..].iter().all(|b| *b == 0));
        assert_eq!(Stamp::decode(&raw), Some((OWNER, STAMP)));
    }

    #[test]
    fn a_damaged_stamp_is_none() {
        let raw = STAMP.encode(OWNER);
        for bit in 0..(BODY + 4) * 8 {
            let mut b = raw;
            b[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Stamp::decode(&b), None, "bit {bit}");
        }
        assert!((0..BODY + 4).all(|n| Stamp::decode(&raw[..n]).is_none()));
        assert_eq!(Stamp::decode(&[0; SECTOR]), None);
    }
}
