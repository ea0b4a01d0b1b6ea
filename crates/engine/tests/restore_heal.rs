//! Goal: what a restore found damaged and the guest healed by writing is in the next snapshot, also when it wrote the very
//! bytes that were lost. Method: a real repository in a folder one pack of which is damaged or missing, a backup while
//! restoring, and reading back while what was lost is still lost.

#![allow(clippy::unwrap_used)] // a test that cannot go on says so by panicking

mod kit;

use kit::*;
use rekindle_core::volume::{ExtentBytes, Geometry, Uuid};
use rekindle_engine::backup::{self, BackupOptions, BackupReport, How, SetInstant, VolumeIdentity};
use rekindle_engine::progress::Unwatched;
use rekindle_engine::repository::{CommitMeta, InitOptions, Repository, WriterOptions};
use rekindle_engine::restore::{RestoreOptions, RestoreSet, VolumeParts};
use rekindle_io::block::BlockExt;
use rekindle_io::store::DirStore;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Fewer than the machine's disk has room for.
const EXTENTS: u64 = 64;

fn content(extent: u64) -> Vec<u8> {
    let mut out = vec![0; EXTENT as usize];
    blake3::Hasher::new().update(&extent.to_le_bytes()).finalize_xof().fill(&mut out);
    out
}

fn open(dir: &Path) -> Repository {
    Repository::open(DirStore::open(dir).unwrap(), None).unwrap()
}

/// A snapshot of a volume of which each extent is different, and its packs.
fn repository(dir: &Path) -> (Uuid, Vec<PathBuf>) {
    let repo = Repository::init(DirStore::create(dir).unwrap(), &InitOptions::new(None, 1)).unwrap();
    let options = WriterOptions { pack_bytes: 256 << 10, threads: 0, ..WriterOptions::default() };
    let mut w = repo.begin_snapshot("db", None, options).unwrap();
    let geometry = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 512).unwrap();
    let (name, (tracking, generation)) = ("data".into(), ORIGIN);
    let v = w.volume(VolumeIdentity { name, uuid: VOLUME, tracking, generation }, geometry);
    for e in 0..EXTENTS {
        w.put(v, e, &content(e)).unwrap();
    }
    let snapshot = w.commit(CommitMeta::default()).unwrap().commit.snapshot;
    let folders = std::fs::read_dir(dir.join("d")).unwrap().map(|f| f.unwrap().path());
    let packs = folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|p| p.unwrap().path()));
    (snapshot, packs.collect())
}

/// One pack of data: bytes of its frames flipped, its directory whole, so that the dedup index still believes it; or gone.
fn damage(pack: &Path, gone: bool) {
    if gone {
        return std::fs::remove_file(pack).unwrap();
    }
    let mut rights = pack.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut rights, 0o644);
    std::fs::set_permissions(pack, rights).unwrap();
    let mut bytes = std::fs::read(pack).unwrap();
    bytes.iter_mut().step_by(1000).take(200).for_each(|b| *b ^= 0x40);
    std::fs::write(pack, bytes).unwrap();
}

/// A repository whose largest pack is damaged, its snapshot, and what of that is lost.
fn damaged_repository(gone: bool) -> (tempfile::TempDir, PathBuf, Uuid, Vec<u64>) {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("repo");
    let (snapshot, packs) = repository(&dir);
    damage(packs.iter().max_by_key(|p| p.metadata().unwrap().len()).unwrap(), gone);
    let all = lost(&open(&dir), snapshot);
    (tmp, dir, snapshot, all)
}

fn restore(repo: &Repository, snapshot: Uuid) -> Arc<RestoreSet> {
    let m = Machine::new();
    let holder = repo.snapshot_by_uuid(snapshot).unwrap().holder("data").unwrap();
    let v = vec![volume(VolumeParts { holder, ..m.parts() })];
    // With a log of the usual size: nobody makes room in it here.
    RestoreSet::create(m.state(), "db", v, RestoreOptions::default(), m.clock.clone()).unwrap()
}

fn back_up(repo: &Repository, instant: &dyn SetInstant) -> BackupReport {
    let mut options = BackupOptions::new("db", 2);
    options.readers = 0;
    options.writer.threads = 0;
    let report = backup::run(instant, repo, &options, &Unwatched).unwrap();
    assert_eq!(report.volumes[0].how, How::Incremental);
    report
}

/// Extents that cannot be read.
fn lost(repo: &Repository, snapshot: Uuid) -> Vec<u64> {
    let set = restore(repo, snapshot);
    let read = |e: u64| {
        let mut out = vec![0; EXTENT as usize];
        set.volumes()[0].read_at(e * EXTENT, &mut out).map(|()| assert!(out == content(e), "{e}"))
    };
    (0..EXTENTS).filter(|e| read(*e).is_err()).collect()
}

#[test]
fn what_was_lost_and_written_again_is_in_the_next_snapshot() {
    for gone in [false, true] {
        let (_tmp, dir, snapshot, all) = damaged_repository(gone);
        assert!(all.len() > 5 && all.len() < 30, "{all:?}");
        let set = restore(&open(&dir), snapshot);
        let disk = &set.volumes()[0];
        // What was not lost is written again too: it is not stored twice.
        let whole = (0..EXTENTS).filter(|e| !all.contains(e)).take(3);
        all.iter().copied().chain(whole).for_each(|e| disk.write_at(e * EXTENT, &content(e)).unwrap());
        work(&set);
        let report = back_up(&open(&dir), &*set.instant().unwrap());
        let v = &report.volumes[0];
        assert_eq!((v.stored, v.unchanged), (all.len() as u64, 3));
        assert!(lost(&open(&dir), report.snapshot.commit.snapshot).is_empty());
        assert_eq!(lost(&open(&dir), snapshot), all, "the old one names what it named");
    }
}

/// Content that was lost at one place comes back at another: a file that was copied back from elsewhere.
#[test]
fn what_was_lost_and_written_elsewhere_is_in_the_next_snapshot() {
    let (_tmp, dir, snapshot, all) = damaged_repository(false);
    let set = restore(&open(&dir), snapshot);
    let to = (0..EXTENTS).find(|e| !all.contains(e)).unwrap();
    let disk = &set.volumes()[0];
    // Twice: the second names what the first one stored.
    for at in [to, all[0]] {
        disk.write_at(at * EXTENT, &content(all[1])).unwrap();
    }
    let report = back_up(&open(&dir), &*set.instant().unwrap());
    assert_eq!((report.volumes[0].stored, report.volumes[0].deduped), (1, 1));
    let set = restore(&open(&dir), report.snapshot.commit.snapshot);
    for at in [to, all[0]] {
        assert!(read(&set, at) == content(all[1]));
    }
}
