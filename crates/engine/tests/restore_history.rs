//! Goal: a restoring set that finds out that its state is an older copy, put back behind a backup, does not forget it. Method:
//! the state is put back and closes a generation a second time; the backup that meets the first one fails, the machine
//! loses power, one copy of the record is damaged or none.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_engine::backup::{Changed, VolumeIdentity};
use rekindle_engine::restore::{NewVolume, RestoreOptions, RestoreSet, VolumeParts};
use rekindle_io::block::{BlockExt, MemBlock};
use rekindle_io::clock::ManualClock;
use rekindle_io::fault::Crash;
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::{LogDir, MemDir};
use std::sync::Arc;

const EXTENT: u64 = 16 << 10;
const EXTENTS: u64 = 64;
const ORIGIN: (Uuid, Generation) = (Uuid([2; 16]), Generation(1));

struct Machine {
    state: Arc<MemDir>,
    disk: Arc<MemBlock>,
    holder: Arc<MemHolder>,
}

impl Machine {
    fn new() -> Self {
        let g = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap();
        let holder = MemHolder::from_pattern(g, &[ExtentRange { start: 0, end: EXTENTS }], 1);
        Machine { state: MemDir::new(), disk: MemBlock::new(g.size), holder }
    }
    fn parts(&self) -> VolumeParts {
        let (holder, target) = (self.holder.clone(), self.disk.clone());
        VolumeParts { holder, target, fresh: true, usage: None, uncache: None }
    }
    fn create(&self) -> Arc<RestoreSet> {
        let (name, origin) = ("db".to_string(), Some(ORIGIN));
        let volume = Uuid([1; 16]);
        let v = NewVolume { name, volume, origin, destination: "disk".into(), parts: self.parts() };
        let clock = Arc::new(ManualClock::default());
        RestoreSet::create(self.state.clone(), "db", vec![v], RestoreOptions::default(), clock).unwrap()
    }
    fn resume(&self) -> rekindle_io::Result<Arc<RestoreSet>> {
        let clock = Arc::new(ManualClock::default());
        RestoreSet::resume(self.state.clone(), RestoreOptions::default(), clock, |_| Ok(self.parts()))
    }
    fn crash(&self, crash: Crash) -> Machine {
        let (state, disk) = (self.state.crash(crash), self.disk.crash(crash));
        Machine { state, disk, holder: self.holder.clone() }
    }
}

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
        let copy = machine.state.crash(Crash::Kill);
        let origin = VolumeIdentity {
            name: "db".into(),
            uuid: Uuid([1; 16]),
            tracking: ORIGIN.0,
            generation: ORIGIN.1,
        };
        let (first, _) = since(&set, &origin);
        drop(set);
        let put_back = Machine { state: copy, ..machine.crash(Crash::Kill) };
        let set = put_back.resume().unwrap();
        write(&set, 40);
        let (again, changed) = since(&set, &first);
        assert_eq!((again.tracking, again.generation), (first.tracking, first.generation), "closed twice");
        assert!(matches!(changed, Changed::CompareAll(_)), "{changed:?}");
        // That backup fails, and the power with it.
        let after = put_back.crash(Crash::Power { seed });
        drop(set);
        if seed % 3 > 0 {
            damage(&*after.state, seed % 3 - 1);
        }
        let set = after.resume().unwrap();
        let (now, changed) = since(&set, &first);
        assert!(matches!(changed, Changed::CompareAll(_)), "seed {seed}: extent 40 is missing: {changed:?}");
        assert_ne!(now.tracking, first.tracking);
        // The moment it is restored to is a parent all the same, and so is what is closed from now on.
        let Changed::Since { marked, .. } = since(&set, &origin).1 else { panic!("the moment") };
        assert_eq!(marked, [ExtentRange { start: 3, end: 4 }, ExtentRange { start: 40, end: 41 }]);
        write(&set, 50);
        let Changed::Since { marked, .. } = since(&set, &now).1 else { panic!("a later backup") };
        assert_eq!(marked, [ExtentRange { start: 50, end: 51 }]);
    }
}

/// One of the two copies of the restore record.
fn damage(state: &dyn LogDir, copy: u64) {
    const SLOT: u64 = 260 << 10;
    let file = state.open("restore").unwrap().unwrap();
    let mut magic = [0; 8];
    file.read_at(copy * SLOT, &mut magic).unwrap();
    assert_eq!(&magic, b"RKSLOT01", "the layout changed");
    file.write_at(copy * SLOT, &[&[0x55; 512]]).unwrap();
    file.sync().unwrap();
}
