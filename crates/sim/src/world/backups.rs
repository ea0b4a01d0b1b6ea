//! Backups of the restoring set: each reads what its instant held, and names what differs from every one before it.

use super::{EXTENT, End, World};
use crate::model::{BLOCK, Model};
use crate::rng::Rng;
use rekindle_core::volume::{Generation, Uuid};
use rekindle_engine::backup::{Changed, SetInstant};
use rekindle_io::Kind;

/// A backup under way: an open instant, and what both volumes held then.
pub(super) struct Backup {
    instant: Box<dyn SetInstant>,
    held: Vec<Vec<u8>>,
    next: u64,
    /// Extents that differed from the moment.
    changed: Vec<Vec<u64>>,
}

/// A snapshot in the repository: a later backup may build upon it, whatever crash came between.
pub(super) struct Parent {
    /// Of each volume: what its generations count in, the one it closed, and what it held.
    volumes: Vec<(Uuid, Generation, Vec<u8>)>,
}

impl Parent {
    /// Extents of `volume` that hold something else in `now`.
    fn differs(&self, volume: usize, now: &[u8]) -> Vec<u64> {
        let pairs = self.volumes[volume].2.chunks(EXTENT as usize).zip(now.chunks(EXTENT as usize));
        (0..).zip(pairs).filter(|(_, (then, now))| then != now).map(|(e, _)| e).collect()
    }
}

impl World {
    /// Opens an instant, or reads a few extents of the open one and compares them with what was held then.
    pub(super) fn backup_step(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("steps are of a living process");
        let Some(mut b) = self.backup.take() else {
            // A write that waits may be there in part: then nobody can say what the instant holds.
            if !self.flying.is_empty() || !rng.one_in(3) {
                return Ok(());
            }
            let instant = match set.instant() {
                Ok(i) => i,
                Err(e) => return self.background(Err(e)),
            };
            let held = self.models.iter().map(Model::bytes).collect();
            let changed =
                self.models.iter().map(|m| m.changed().map(|b| b * BLOCK / EXTENT).collect()).collect();
            self.backup = Some(Backup { instant, held, next: 0, changed });
            return Ok(());
        };
        self.holders.iter().for_each(|h| h.answer_inline());
        self.holders.iter().for_each(|h| h.set_available(true));
        let extents = set.shapes()[0].0.extents();
        for _ in 0..120 {
            let (v, e) = ((b.next % 2) as usize, b.next / 2);
            b.next += 1;
            if e == extents {
                self.backups.0 += 1;
                return self.check_changed(&b);
            }
            // All that changed, and some of the rest: reading fills nothing in.
            if e % 5 != 0 && !b.changed[v].contains(&e) {
                continue;
            }
            let range = set.shapes()[v].0.extent_bytes(e);
            let mut got = vec![0; range.len as usize];
            match b.instant.volumes()[v].read(e, &mut got) {
                Err(e) if e.kind == Kind::Full && b.instant.intact().is_err() => {
                    self.backups.1 += 1;
                    return Ok(());
                }
                done => self.background(done)?,
            }
            if got != b.held[v][range.start as usize..range.end() as usize] {
                return Err(End::Broken(format!(
                    "backup: extent {e} of volume {v} is not as at the instant"
                )));
            }
        }
        self.backup = Some(b);
        Ok(())
    }
    /// A backup names every extent that differs from its parent, be that the restored moment or any backup since
    /// (invariant 8). Then it may be a parent itself.
    fn check_changed(&mut self, b: &Backup) -> std::result::Result<(), End> {
        let mut parent = Parent { volumes: Vec::new() };
        for (v, (volume, changed)) in b.instant.volumes().iter().zip(&b.changed).enumerate() {
            let id = volume.identity();
            let moment = (Uuid([9; 16]), Generation(4), changed.clone());
            let earlier = |p: &Parent| (p.volumes[v].0, p.volumes[v].1, p.differs(v, &b.held[v]));
            for (tracking, generation, differs) in self.parents.iter().map(earlier).chain([moment]) {
                let marked = match volume.changed(tracking, generation) {
                    Changed::Since { marked, .. } => marked,
                    // Of another copy of the state: everything is compared.
                    Changed::CompareAll(_) if (tracking, generation) == (id.tracking, id.generation) => {
                        self.closed_twice = true;
                        continue;
                    }
                    // From then on generations count in another history.
                    Changed::CompareAll(_) if self.closed_twice && tracking != id.tracking => continue,
                    Changed::CompareAll(why) => {
                        let what = format!("backup: generation {} is no parent: {why}", generation.0);
                        return Err(End::Broken(what));
                    }
                };
                if let Some(e) = differs.iter().find(|e| !marked.contains(**e)) {
                    let closed = id.generation.0;
                    return Err(End::Broken(format!(
                        "backup of generation {closed}: extent {e} of volume {v} differs from generation {} and is \
                         not named",
                        generation.0
                    )));
                }
            }
            parent.volumes.push((id.tracking, id.generation, b.held[v].clone()));
        }
        self.parents.push(parent);
        Ok(())
    }
    /// A backup at once; see `check_changed`. Nothing may be in flight.
    pub fn backup(&mut self) -> std::result::Result<(), End> {
        let set = self.set.clone().expect("backed up by a living process");
        let instant = match set.instant() {
            Ok(i) => i,
            Err(e) => return self.background(Err(e)),
        };
        let backup = Backup {
            instant,
            held: self.models.iter().map(Model::bytes).collect(),
            next: 0,
            changed: self.models.iter().map(|m| m.changed().map(|b| b * BLOCK / EXTENT).collect()).collect(),
        };
        self.check_changed(&backup)
    }
}
