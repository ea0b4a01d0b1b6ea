//! Goal: a repository with one object missing or damaged restores all the rest, names what it cannot, and restores that
//! too once the object is back; a repository that is not there at all is waited for instead. Method: a real repository in
//! a folder, each of its packs taken away in turn, fill and mover stepped by hand.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

use rekindle_core::volume::{ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_engine::backup::VolumeIdentity;
use rekindle_engine::repository::{CommitMeta, InitOptions, Repository, Snapshot, WriterOptions};
use rekindle_engine::restore::{
    Fill, FillOptions, FillStep, NewVolume, RestoreOptions, RestoreSet, RestoreState, Step, Verifier,
    VolumeParts,
};
use rekindle_io::block::{BlockExt, MemBlock};
use rekindle_io::clock::ManualClock;
use rekindle_io::logfile::MemDir;
use rekindle_io::store::DirStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const EXTENT: u64 = 16 << 10;
/// Three leaves of the manifest, the last one short.
const EXTENTS: u64 = 2100;

fn geometry() -> Geometry {
    Geometry::new(EXTENTS * EXTENT - 512, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap()
}

/// Every 16th extent has data.
fn image() -> Vec<u8> {
    let mut image = vec![0; geometry().size as usize];
    for e in (0..EXTENTS).step_by(16) {
        let r = geometry().extent_bytes(e);
        let half = &mut image[r.start as usize..r.start as usize + r.len as usize / 2];
        blake3::Hasher::new().update(&e.to_le_bytes()).finalize_xof().fill(half);
    }
    image
}

fn repository(dir: &Path, image: &[u8]) -> Snapshot {
    let repo = Repository::init(DirStore::create(dir).unwrap(), &InitOptions::new(None, 1)).unwrap();
    let options = WriterOptions { pack_bytes: 256 << 10, threads: 0, ..WriterOptions::default() };
    let mut w = repo.begin_snapshot("db", None, options).unwrap();
    let identity = VolumeIdentity {
        name: "db".into(),
        uuid: Uuid([1; 16]),
        tracking: Uuid([2; 16]),
        generation: Generation(1),
    };
    let v = w.volume(identity, geometry());
    for e in 0..EXTENTS {
        let r = geometry().extent_bytes(e);
        w.put(v, e, &image[r.start as usize..r.end() as usize]).unwrap();
    }
    let info = w.commit(CommitMeta::default()).unwrap();
    // Opened anew: nothing is cached.
    let repo = Repository::open(DirStore::open(dir).unwrap(), None).unwrap();
    repo.snapshot_by_uuid(info.commit.snapshot).unwrap()
}

struct World {
    clock: Arc<ManualClock>,
    set: Arc<RestoreSet>,
    fill: Arc<Fill>,
}

fn restore(snapshot: &Snapshot) -> World {
    let clock = Arc::new(ManualClock::default());
    let volume = NewVolume {
        name: "db".into(),
        volume: Uuid([1; 16]),
        origin: None,
        destination: "disk".into(),
        parts: VolumeParts {
            holder: snapshot.holder("db").unwrap(),
            target: MemBlock::new(geometry().size),
            fresh: true,
            usage: None,
        },
    };
    let options = RestoreOptions::default();
    let set = RestoreSet::create(MemDir::new(), "db", vec![volume], options, clock.clone()).unwrap();
    let fill = Fill::new(set.clone(), FillOptions::default(), clock.clone());
    World { clock, set, fill }
}

impl World {
    fn steps(&self, n: usize) -> bool {
        (0..n).any(|_| {
            let step = self.fill.step();
            while self.set.work_step() == Step::Worked {}
            self.set.timer_step();
            self.clock.advance(Duration::from_millis(if step == FillStep::Worked { 1 } else { 100 }));
            step == FillStep::Complete
        })
    }
    fn read(&self, extent: u64) -> rekindle_io::Result<Vec<u8>> {
        let r = geometry().extent_bytes(extent);
        let mut out = vec![0; r.len as usize];
        self.set.volumes()[0].read_at(r.start, &mut out).map(|()| out)
    }
}

fn packs(dir: &Path) -> Vec<PathBuf> {
    let folders = std::fs::read_dir(dir.join("d")).unwrap().map(|f| f.unwrap().path());
    folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|p| p.unwrap().path())).collect()
}

#[test]
fn any_one_object_lost_loses_what_it_held_until_it_is_back() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image) = (tmp.path().join("repo"), image());
    let id = repository(&dir, &image).info().commit.snapshot;
    let (mut data, mut metadata) = (0, 0);
    for pack in packs(&dir) {
        for flipped in [false, true] {
            let away = tmp.path().join("away");
            std::fs::rename(&pack, &away).unwrap();
            if flipped {
                let bytes = std::fs::read(&away).unwrap().iter().map(|b| b ^ 0x40).collect::<Vec<_>>();
                std::fs::write(&pack, bytes).unwrap();
            }
            let repo = Repository::open(DirStore::open(&dir).unwrap(), None).unwrap();
            let w = restore(&repo.snapshot_by_uuid(id).unwrap());
            assert!(!w.steps(300), "something is missing");
            let damage = w.set.damage(100);
            assert!(damage.only_damage_left && damage.volumes.len() == 1, "{damage:?}");
            let d = &damage.volumes[0].1;
            let object = pack.strip_prefix(&dir).unwrap().to_str().unwrap();
            assert!(d.ranges.iter().all(|r| r.object.as_deref() == Some(object)), "{d:?}");
            let inside = |e: u64| d.ranges.iter().any(|r| r.range.overlaps(&geometry().extent_bytes(e)));
            let lost = (0..EXTENTS).filter(|e| inside(*e)).count() as u64;
            assert_eq!(lost, d.extents);
            (data, metadata) = if lost < EXTENTS / 16 { (data + 1, metadata) } else { (data, metadata + 1) };
            for e in 0..EXTENTS {
                let r = geometry().extent_bytes(e);
                match w.read(e) {
                    Ok(bytes) => {
                        assert!(!inside(e) && bytes == image[r.start as usize..r.end() as usize], "{e}")
                    }
                    Err(error) => assert!(inside(e) && error.is_loss(), "{e}: {error:?}"),
                }
            }
            std::fs::rename(&away, &pack).unwrap();
            assert!(w.steps(1000), "not asked for again: {:?}", w.set.damage(3));
            assert_eq!(w.set.damage(3), Default::default());
            (0..EXTENTS).for_each(|e| {
                let r = geometry().extent_bytes(e);
                assert!(w.read(e).unwrap() == image[r.start as usize..r.end() as usize], "{e}");
            });
        }
    }
    assert!(data >= 2 && metadata >= 2, "{data} runs lost data, {metadata} metadata");
}

/// Flips a bit of every byte from `from` on, `len` at most; twice is back. In place: the store keeps what it has opened.
fn flip(path: &Path, from: usize, len: usize) {
    let mut rights = path.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
    std::fs::set_permissions(path, rights).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes.iter_mut().skip(from).take(len).for_each(|b| *b ^= 0x40);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn identities_that_are_lost_after_completion_are_done_without() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image) = (tmp.path().join("repo"), image());
    let id = repository(&dir, &image).info().commit.snapshot;
    let mut pages = 0;
    for pack in packs(&dir) {
        let len = std::fs::read(&pack).unwrap().len();
        // Metadata lies at the end: one piece of it at a time.
        for from in (len.saturating_sub(16 << 10)..len).step_by(2048) {
            let repo = Repository::open(DirStore::open(&dir).unwrap(), None).unwrap();
            let w = restore(&repo.snapshot_by_uuid(id).unwrap());
            assert!(w.steps(10_000));
            flip(&pack, from, 2048);
            let mut at = Verifier::default();
            let verified = (0..200).any(|_| w.set.verify_step(&mut at).unwrap() == Step::Idle);
            assert!(verified, "{:?}", w.set.uncompared(9));
            // Whoever asks for identities now is told: they were needed, and are not there.
            let holder = repo.snapshot_by_uuid(id).unwrap().holder("db").unwrap();
            pages += u64::from([0, 1024, 2048].iter().any(|e| holder.ids(*e, 1).is_err()));
            flip(&pack, from, 2048);
        }
    }
    assert!(pages > 0, "no identities were damaged");
}

#[test]
fn what_is_lost_after_completion_is_compared_by_fetching_or_named() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image) = (tmp.path().join("repo"), image());
    let id = repository(&dir, &image).info().commit.snapshot;
    let all = packs(&dir);
    let (mut without, mut named) = (0, 0);
    for lost in all.iter().map(|p| vec![p.clone()]).chain([all.clone()]) {
        let repo = Repository::open(DirStore::open(&dir).unwrap(), None).unwrap();
        let w = restore(&repo.snapshot_by_uuid(id).unwrap());
        assert!(w.steps(10_000));
        lost.iter().for_each(|p| flip(p, 0, usize::MAX));
        let mut at = Verifier::default();
        let mut verify = || {
            let verified = (0..200).any(|_| !at.waits() && w.set.verify_step(&mut at).unwrap() == Step::Idle);
            (verified, at.waits())
        };
        let uncompared = || w.set.uncompared(100);
        match verify() {
            // Data that has been fetched, or identities: what those stand for is fetched instead.
            (true, _) => without += 1,
            (_, waits) => {
                let (lost, state) = (uncompared(), w.set.status().state);
                assert!(waits && lost.only_damage_left && state == RestoreState::Complete, "{lost:?}");
                let ranges = &lost.volumes[0].1.ranges;
                assert!(
                    ranges.iter().all(|r| r.object.as_ref().is_some_and(|o| o.starts_with("d/"))),
                    "{lost:?}"
                );
                // The guest's own bytes need no comparing.
                let first = ranges[0].range;
                w.set.volumes()[0].write_at(first.start, &vec![1; EXTENT as usize]).unwrap();
                assert_eq!(
                    uncompared().volumes.first().map_or(0, |v| v.1.extents),
                    lost.volumes[0].1.extents - 1
                );
                named += 1;
            }
        }
        lost.iter().for_each(|p| flip(p, 0, usize::MAX));
        // Looked at again, all is compared.
        let again = (0..200).any(|_| w.set.verify_step(&mut at).unwrap() == Step::Idle);
        assert!(again && uncompared().volumes.is_empty(), "{:?}", uncompared());
        assert_eq!(w.set.status().state, RestoreState::Verified);
    }
    assert!(without >= 4 && named >= 2 && without + named == all.len() + 1, "{without} {named}");
}

#[test]
fn a_small_write_into_damage_holds_the_log_and_says_so() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image) = (tmp.path().join("repo"), image());
    let id = repository(&dir, &image).info().commit.snapshot;
    // The first pack holds the first extents, and no metadata.
    let lost = packs(&dir).into_iter().find(|pack| {
        flip(pack, 0, usize::MAX);
        let repo = Repository::open(DirStore::open(&dir).unwrap(), None).unwrap();
        let w = restore(&repo.snapshot_by_uuid(id).unwrap());
        w.steps(300);
        let found = w.read(0).is_err() && w.read(EXTENTS - 4).is_ok();
        flip(pack, 0, usize::MAX);
        found
    });
    let lost = lost.unwrap();
    flip(&lost, 0, usize::MAX);
    let repo = Repository::open(DirStore::open(&dir).unwrap(), None).unwrap();
    for heal_by_writing in [true, false] {
        let w = restore(&repo.snapshot_by_uuid(id).unwrap());
        assert!(!w.steps(300) && w.set.damage(1).only_damage_left);
        let disk = &w.set.volumes()[0];
        let settle = || {
            for _ in 0..100 {
                w.clock.advance(Duration::from_secs(1));
                while w.set.mover_step(false).unwrap() == Step::Worked {}
                w.set.log_step().unwrap();
            }
        };
        assert_eq!(w.set.held_by_damage(), 0);
        disk.write_at(512, &[7; 512]).unwrap();
        // Elsewhere, whole extents: those are moved, and their space is not freed.
        for e in 1000..1800 {
            disk.write_at(e * EXTENT, &vec![8; EXTENT as usize]).unwrap();
            w.set.log_step().unwrap();
        }
        settle();
        let (used, held) = (w.set.status().log_bytes.0, w.set.held_by_damage());
        assert!(used == held && held > 8 << 20, "{used} {held}");
        assert_eq!(w.set.status().log_pieces.0, 1, "all else was moved");
        if heal_by_writing {
            disk.write_at(0, &vec![9; EXTENT as usize]).unwrap();
        } else {
            flip(&lost, 0, usize::MAX);
            w.set.forget_damage();
            w.fill.retry_damaged();
            assert!(w.steps(1000));
        }
        settle();
        assert_eq!((w.set.held_by_damage(), w.set.status().log_pieces.0), (0, 0));
        assert!(w.set.status().log_bytes.0 < used);
        let (first, whole) = (w.read(0).unwrap(), &image[..EXTENT as usize]);
        if heal_by_writing {
            assert!(first.iter().all(|b| *b == 9));
        } else {
            assert!(
                first[512..1024] == [7; 512]
                    && first[1024..] == whole[1024..]
                    && first[..512] == whole[..512]
            );
        }
    }
}

#[test]
fn a_store_that_is_not_there_is_away_and_not_damaged() {
    let tmp = tempfile::tempdir().unwrap();
    let (dir, image) = (tmp.path().join("repo"), image());
    let w = restore(&repository(&dir, &image));
    w.set.make_zero(0, ExtentRange { start: 1, end: 2 }).unwrap();
    // As when the file system of the store is not mounted: an empty folder.
    let names: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    let away = tmp.path().join("away");
    std::fs::create_dir(&away).unwrap();
    names.iter().for_each(|n| std::fs::rename(dir.join(n), away.join(n)).unwrap());
    assert!(!w.steps(100));
    assert!(w.fill.status().stalled.is_some() && w.set.damage(1).volumes.is_empty());
    names.iter().for_each(|n| std::fs::rename(away.join(n), dir.join(n)).unwrap());
    assert!(w.steps(1000));
}
