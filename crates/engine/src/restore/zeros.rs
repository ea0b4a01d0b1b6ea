//! Extents of which the snapshot says that they are zeros: they need no holder, at most a write.

use super::claims::Claim;
use super::parts::{Parts, Volume};
use rekindle_core::hydrate::Place;
use rekindle_core::volume::ExtentRange;
use rekindle_io::Result;

impl Parts {
    /// Extents the holder has as zeros: never fetched, always made zero. Onto a destination that reads as zeros anyway
    /// that takes no write; elsewhere the state says zero and `write_zeros` follows. Returns how many changed.
    pub fn make_zero(&self, volume: &Volume, extents: ExtentRange) -> Result<u64> {
        let pristine = volume.target.is_pristine();
        let place = if pristine { Place::Local } else { Place::Zero };
        let mut changed = 0;
        for e in extents.iter() {
            if volume.claims.state(e).place() != Place::Absent {
                continue;
            }
            let Some(claim) = volume.claims.try_claim(e) else { continue };
            if claim.place() == Place::Absent {
                self.changed(volume.at, ExtentRange { start: e, end: e + 1 }, place);
                claim.release(place);
                changed += 1;
            }
        }
        Ok(changed)
    }
    /// Writes zeros where the state says zero, in `extents`; returns how many became local.
    pub fn write_zeros(&self, volume: &Volume, extents: ExtentRange) -> Result<u64> {
        let mut changed = 0;
        let mut run = Vec::new();
        for e in extents.iter().chain([u64::MAX]) {
            let claim = if e == u64::MAX || volume.claims.state(e).place() != Place::Zero {
                None
            } else {
                volume.claims.try_claim(e).filter(|c| c.place() == Place::Zero)
            };
            match claim {
                Some(c) => run.push((e, c)),
                None => changed += self.zero_run(volume, std::mem::take(&mut run))?,
            }
            if run.len() == 256 {
                changed += self.zero_run(volume, std::mem::take(&mut run))?;
            }
        }
        Ok(changed)
    }
    fn zero_run(&self, volume: &Volume, run: Vec<(u64, Claim<'_>)>) -> Result<u64> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(0) };
        let extents = ExtentRange { start: first.0, end: last.0 + 1 };
        let range = volume.geometry.bytes_of(extents);
        if !volume.target.is_hole(range) {
            volume.target.zero(range, false)?;
        }
        self.changed(volume.at, extents, Place::Local);
        let n = run.len() as u64;
        run.into_iter().for_each(|(_, c)| c.release(Place::Local));
        Ok(n)
    }
}
