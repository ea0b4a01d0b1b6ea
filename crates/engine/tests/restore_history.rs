//! Goal: a restoring set that finds out that its state is an older copy, put back behind a backup, does not forget it. Method:
//! the state is put back and closes a generation a second time; the backup that meets the first one fails, the machine
//! loses power, one copy of the record is damaged or none.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_core::volume::ExtentRange;
use rekindle_engine::backup::{Changed, VolumeIdentity};
use rekindle_engine::restore::RestoreSet;
use rekindle_io::block::BlockExt;
use rekindle_io::fault::Crash;

/// Who the set is now, and what differs from `parent`.
fn since(set: &RestoreSet, parent: &VolumeIdentity) -> (VolumeIdentity, Changed) {
    let instant = set.instant().unwrap();
    let volume = instant.volumes()[0];
    (volume.identity(), volume.changed(parent.tracking, parent.generation))
}

fn write(set: &RestoreSet, extent: u64) {
    set.volumes()[0].write_at(extent * EXTENT, &[9; 512]).unwrap();
    set.volumes()[0].flush().unwrap();
}

#[test]
fn a_doubt_about_a_parent_outlives_backup_and_process_while_restoring() {
    for seed in 0..9 {
        let machine = Machine::new();
        let set = machine.create();
        write(&set, 3);
        let copy = machine.dir.crash(Crash::Kill);
        let origin =
            VolumeIdentity { name: "db".into(), uuid: VOLUME, tracking: ORIGIN.0, generation: ORIGIN.1 };
        let (first, _) = since(&set, &origin);
        drop(set);
        let put_back = Machine { dir: copy, ..machine.after(Crash::Kill) };
        let set = put_back.resume().unwrap();
        write(&set, 40);
        let (again, changed) = since(&set, &first);
        assert_eq!((again.tracking, again.generation), (first.tracking, first.generation), "closed twice");
        assert!(matches!(changed, Changed::CompareAll(_)), "{changed:?}");
        // That backup fails, and the power with it.
        let after = put_back.after(Crash::Power { seed });
        drop(set);
        if seed % 3 > 0 {
            damage_record(&*after.dir, seed % 3 - 1);
        }
        let set = after.resume().unwrap();
        let (now, changed) = since(&set, &first);
        assert!(matches!(changed, Changed::CompareAll(_)), "seed {seed}: extent 40 is missing: {changed:?}");
        assert_ne!(now.tracking, first.tracking);
        // The moment it is restored to is a parent all the same, and so is what is closed from now on.
        let Changed::Since { marked, .. } = since(&set, &origin).1 else { panic!("the moment") };
        assert_eq!(
            marked.ranges().collect::<Vec<_>>(),
            [ExtentRange { start: 3, end: 4 }, ExtentRange { start: 40, end: 41 }]
        );
        write(&set, 50);
        let Changed::Since { marked, .. } = since(&set, &now).1 else { panic!("a later backup") };
        assert_eq!(marked.ranges().collect::<Vec<_>>(), [ExtentRange { start: 50, end: 51 }]);
    }
}
