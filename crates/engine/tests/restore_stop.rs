//! Goal: a clean stop keeps what was filled. Method: stopped wherever the mover may be, then killed or cut off, then opened.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_engine::restore::{Heat, MoverPace, RestoreOptions, Step};
use rekindle_io::block::BlockExt;
use rekindle_io::fault::Crash;
use std::time::Duration;

#[test]
fn what_was_filled_before_a_clean_stop_is_not_fetched_again() {
    let pace = MoverPace { move_after: Duration::ZERO, settle_after: Duration::from_secs(30) };
    for steps in 0..12 {
        let m = Machine::new();
        let set = m.create_with(RestoreOptions { pace, ..options() });
        while set.mover_step(false).unwrap() == Step::Worked {}
        set.volumes()[0].write_at((MID - 1) * EXTENT, &[7; EXTENT as usize]).unwrap();
        assert_eq!(set.fetch(0, &[MID], Heat::Cold), 1);
        // Between two settlings, in a pass, in a settling that began before the next arrival.
        for i in 0..steps {
            set.mover_step(i > 4).unwrap();
        }
        assert_eq!(set.fetch(0, &[MID + 1], Heat::Cold), 1);
        set.stop().unwrap();
        drop(set);
        for crash in [Crash::Kill, Crash::Power { seed: steps }] {
            let set = m.after(crash).resume().unwrap();
            for extent in [MID, MID + 1] {
                assert!(!set.is_absent(0, extent), "{steps} steps, {crash:?}");
                assert!(read(&set, extent) == m.truth(extent), "{steps} steps, {crash:?}");
            }
            assert!(read(&set, MID - 1) == [7; EXTENT as usize], "{steps} steps, {crash:?}");
        }
    }
}
