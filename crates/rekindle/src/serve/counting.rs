//! Counting usage before the map is there: a volume is served within milliseconds, its usage map takes longer (it needs the
//! volume's identity, and on a restore the snapshot's map is inherited first). What the guest does meanwhile is its cold
//! start, the most valuable thing there is to count, so it is kept and told to the map, in order, when that comes.

use rekindle_core::volume::ByteRange;
use rekindle_engine::live::Observer;
use rekindle_engine::restore::GuestUse;
use rekindle_engine::usage::UsageMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Operations kept at most (1 MiB and a half); more are not counted.
const KEPT_MAX: usize = 1 << 16;

/// Counts, now or later.
#[derive(Default)]
pub struct Counting {
    map: OnceLock<Arc<UsageMap>>,
    /// `None` once the map has come.
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    operations: Vec<(bool, ByteRange)>,
    closed: bool,
}

impl Counting {
    /// From now on into `map`, what was kept first.
    pub fn count_into(&self, map: Arc<UsageMap>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (write, range) in std::mem::take(&mut kept.operations) {
            if write { map.write(range) } else { map.read(range) }
        }
        kept.closed = true;
        let _ = self.map.set(map);
    }
    /// What was kept so far was no guest: we looked at the disk ourselves.
    pub fn begin_anew(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).operations.clear();
    }
    /// There will be no map: nothing is kept any more.
    pub fn give_up(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        *kept = Kept { operations: Vec::new(), closed: true };
    }
    /// The map, once it has come.
    pub fn map(&self) -> Option<&Arc<UsageMap>> {
        self.map.get()
    }
    fn count(&self, write: bool, range: ByteRange) {
        if let Some(map) = self.map.get() {
            return if write { map.write(range) } else { map.read(range) };
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if !kept.closed && kept.operations.len() < KEPT_MAX {
            kept.operations.push((write, range));
        }
    }
}

impl Observer for Counting {
    fn read(&self, range: ByteRange) {
        self.count(false, range);
    }
    fn write(&self, range: ByteRange) {
        self.count(true, range);
    }
}

impl GuestUse for Counting {
    fn read(&self, range: ByteRange) {
        self.count(false, range);
    }
    fn write(&self, range: ByteRange) {
        self.count(true, range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::volume::{ExtentBytes, Geometry, Uuid};
    use rekindle_io::logfile::MemDir;

    #[test]
    fn what_came_before_the_map_is_in_it() {
        let c = Counting::default();
        let at = |extent: u64| ByteRange::new(extent << 16, 4096);
        Observer::read(&c, at(1));
        GuestUse::write(&c, at(2));
        let g = Geometry::new(1 << 20, ExtentBytes::DEFAULT, 512, 512).unwrap();
        let map = UsageMap::open(&*MemDir::new(), "usage", Uuid([1; 16]), g).unwrap();
        c.count_into(map.clone());
        Observer::read(&c, at(1));
        map.close().unwrap();
        let mut seen = Vec::new();
        map.visit(&mut |e, f| seen.push((e, f.reads, f.writes))).unwrap();
        assert_eq!(seen.iter().filter(|s| s.1 + s.2 > 0).collect::<Vec<_>>(), [&(1, 2, 0), &(2, 0, 1)]);
    }
}
