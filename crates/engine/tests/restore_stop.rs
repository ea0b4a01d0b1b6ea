//! Goal: a clean stop keeps what was filled. Method: stopped wherever the mover may be, then killed or cut off, then opened.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ExtentBytes, ExtentRange, Geometry, Uuid};
use rekindle_engine::restore::{MoverPace, NewVolume, RestoreOptions, RestoreSet, Step, VolumeParts};
use rekindle_io::block::{BlockExt, MemBlock};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::Crash;
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::MemDir;
use std::sync::Arc;
use std::time::Duration;

const EXTENT: u64 = 16 << 10;
const EXTENTS: u64 = 200;
/// Away from the first and the last MiB.
const MID: u64 = 100;

fn parts(holder: &Arc<MemHolder>, disk: &Arc<MemBlock>, fresh: bool) -> VolumeParts {
    VolumeParts { holder: holder.clone(), target: disk.clone(), fresh, usage: None, uncache: None }
}

fn read(set: &RestoreSet, extent: u64) -> Vec<u8> {
    let mut out = vec![0; EXTENT as usize];
    set.volumes()[0].read_at(extent * EXTENT, &mut out).unwrap();
    out
}

#[test]
fn what_was_filled_before_a_clean_stop_is_not_fetched_again() {
    let g = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap();
    let holder = MemHolder::from_pattern(g, &[ExtentRange { start: 0, end: EXTENTS }], 1);
    let clock = Arc::new(ManualClock::default());
    let pace = MoverPace { move_after: Duration::ZERO, settle_after: Duration::from_secs(30) };
    let options = || RestoreOptions { pace, ..RestoreOptions::default() };
    for steps in 0..12 {
        let (dir, disk) = (MemDir::new(), MemBlock::new(EXTENTS * EXTENT));
        let v = NewVolume {
            name: "db".into(),
            volume: Uuid([5; 16]),
            origin: None,
            destination: "disk".into(),
            parts: parts(&holder, &disk, true),
        };
        let set = RestoreSet::create(dir.clone(), "db", vec![v], options(), clock.clone()).unwrap();
        while set.mover_step(false).unwrap() == Step::Worked {}
        set.volumes()[0].write_at((MID - 1) * EXTENT, &[7; EXTENT as usize]).unwrap();
        assert_eq!(set.fetch(0, &[MID]), 1);
        // Between two settlings, in a pass, in a settling that began before the next arrival.
        for i in 0..steps {
            set.mover_step(i > 4).unwrap();
        }
        assert_eq!(set.fetch(0, &[MID + 1]), 1);
        set.stop().unwrap();
        drop(set);
        for crash in [Crash::Kill, Crash::Power { seed: steps }] {
            let disk = disk.crash(crash);
            let opened = |_: &_| Ok(parts(&holder, &disk, false));
            let set = RestoreSet::resume(dir.crash(crash), options(), clock.clone(), opened).unwrap();
            assert!(!set.is_absent(0, MID) && !set.is_absent(0, MID + 1), "{steps} steps, {crash:?}");
            let mut truth = vec![0; EXTENT as usize];
            for extent in [MID, MID + 1] {
                holder.truth(extent, &mut truth);
                assert!(read(&set, extent) == truth, "{steps} steps, {crash:?}");
            }
            assert!(read(&set, MID - 1) == [7; EXTENT as usize], "{steps} steps, {crash:?}");
        }
    }
}
