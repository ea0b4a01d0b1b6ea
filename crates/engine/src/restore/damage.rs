//! What the holder cannot give because it is damaged. Everything else goes on: a read of such an extent is an error, the
//! rest is restored, and nothing here stops for it.
//!
//! | what happens | what becomes of the damage |
//! |---|---|
//! | the guest overwrites all of the extent | it counts no more, from the moment the write is answered |
//! | the guest overwrites a part | that part can be read; the rest stays damaged, and the log keeps the part |
//! | the guest reads it | the holder is asked again |
//! | time passes | the fill asks for a few of them every ten seconds; one that comes lets all of them be asked for again |
//! | `resume`, or the restore is opened again | all are asked for again: nothing of this is durable |

use super::lock;
use super::parts::{Parts, Volume};
use super::set::RestoreSet;
use crate::damage::Damage;
use rekindle_core::volume::ExtentRange;
use rekindle_io::Error;

/// Damaged extents of a volume that are looked at for what they hold in the log.
const HELD_LOOK: usize = 1024;
/// So many extents of a volume are named in the log when they turn out to be damaged.
const SAID_MAX: u64 = 20;

/// The damage of a restore.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestoreDamage {
    /// Volumes that have any: name and damage.
    pub volumes: Vec<(String, Damage)>,
    /// Nothing but what is damaged is missing: waiting longer brings nothing.
    pub only_damage_left: bool,
}

impl Volume {
    /// Damaged, and still needed: neither restored nor overwritten.
    fn is_lost(&self, parts: &Parts, extent: u64) -> bool {
        let overwritten = || {
            self.claims.marked(extent) != 0
                && parts.log.covers(self.at, self.geometry.extent_bytes(extent), u64::MAX)
        };
        self.claims.state(extent).needs_holder() && !overwritten()
    }
    /// The holder gave `extent`. If it could not before, the damage may be mended: what was lost is worth another look.
    pub fn came(&self, extent: u64) {
        let mut damaged = lock(&self.damaged);
        if damaged.contains(extent) {
            tracing::info!("{}: extent {extent} can be read again", self.name);
            damaged.clear();
        }
    }
}

impl Parts {
    /// Notes that the holder cannot give `extent` of `volume`.
    pub fn lost(&self, volume: &Volume, extent: u64, e: &Error) {
        if lock(&volume.damaged).add(extent, e)
            && volume.losses_said.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < SAID_MAX
        {
            tracing::error!("{}: extent {extent} cannot be restored: {e}", volume.name);
        }
    }
    pub fn is_damaged(&self, volume: u16, extent: u64) -> bool {
        lock(&self.volumes[volume as usize].damaged).contains(extent)
    }
}

impl RestoreSet {
    /// What of the moment cannot be had, with at most `ranges_max` ranges a volume.
    pub fn damage(&self, ranges_max: usize) -> RestoreDamage {
        let p = &self.parts;
        // Before the damage is looked at: what is lost in between must not count as more than is missing.
        let (absent, zero) = self.missing();
        let of = |v: &Volume| lock(&v.damaged).report(&v.geometry, ranges_max, |e| v.is_lost(p, e));
        let mut volumes: Vec<_> = p.volumes.iter().map(|v| (v.name.clone(), of(v))).collect();
        volumes.retain(|(_, d)| d.extents > 0);
        let lost: u64 = volumes.iter().map(|(_, d)| d.extents).sum();
        RestoreDamage { volumes, only_damage_left: lost > 0 && (absent, zero) == (lost, 0) }
    }
    /// Bytes of the write log that cannot be freed: small writes into damaged extents stay there, and with the oldest of them
    /// all that is newer, since segments are freed oldest first. 0 as long as nothing is damaged. The object that comes
    /// back frees it, and so does a write over the whole extent, while the log has room for that.
    pub fn held_by_damage(&self) -> u64 {
        let p = &self.parts;
        let oldest = p.volumes.iter().filter_map(|v| {
            let damaged = lock(&v.damaged);
            let written = damaged.from(0).filter(|e| v.claims.marked(*e) != 0 && v.is_lost(p, *e));
            written.take(HELD_LOOK).filter_map(|e| p.log.oldest_of(v.at, v.geometry.extent_bytes(e))).min()
        });
        oldest.min().map_or(0, |segment| p.log.used_from(segment))
    }
    /// The holder could not give this extent when it was last asked.
    pub fn is_damaged(&self, volume: u16, extent: u64) -> bool {
        self.parts.is_damaged(volume, extent)
    }
    /// The holder could not say what it has of `extents`: those of them that are absent cannot be had.
    pub(super) fn lost(&self, volume: u16, extents: ExtentRange, e: &Error) {
        let v = &self.parts.volumes[volume as usize];
        extents.iter().filter(|x| self.is_absent(volume, *x)).for_each(|x| self.parts.lost(v, x, e));
    }
    /// Forgets what was damaged: all of it is asked for again.
    pub fn forget_damage(&self) {
        self.parts.volumes.iter().for_each(|v| lock(&v.damaged).clear());
    }
    /// Up to `most` damaged extents that are still needed, behind (volume, extent), and again from the first; where to go on.
    pub(super) fn damaged_behind(&self, at: (u16, u64), most: usize) -> (Vec<(u16, u64)>, (u16, u64)) {
        let p = &self.parts;
        let mut found = Vec::new();
        for v in &p.volumes[at.0 as usize..] {
            let first = if v.at == at.0 { at.1 } else { 0 };
            let damaged = lock(&v.damaged);
            let still = damaged.from(first).filter(|e| v.is_lost(p, *e)).map(|e| (v.at, e));
            found.extend(still.take(most - found.len()));
        }
        match found.last() {
            Some((volume, extent)) if found.len() == most => (found.clone(), (*volume, extent + 1)),
            _ => (found, (0, 0)),
        }
    }
}
