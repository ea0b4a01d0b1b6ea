//! Goal: a backup that reads the data again names nothing that the repository has lost. Method: each pack of a small
//! repository in turn is taken away or cut short, and the set is compared, stored under another name, or come back to after
//! a crash; what was read is in the new snapshot.

use super::*;
use rekindle_io::Kind;
use std::sync::atomic::{AtomicU64, Ordering};

const EXTENTS: u64 = 80;
/// Three extents a pack, and what is of metadata in one.
const PACK: usize = 64 << 10;
/// Each frame and page in a pack of its own.
const APART: usize = 1 << 10;

fn noise(volume: &mut Volume, extent: u64, salt: u64) {
    let r = volume.geometry.extent_bytes(extent);
    let bytes = &mut volume.image[r.start as usize..r.end() as usize];
    blake3::Hasher::new().update(&(extent << 8 | salt).to_le_bytes()).finalize_xof().fill(bytes);
}

/// As an owner does it: what the parent lost costs another instant, and comparing.
fn back_up(
    repo: &Repository,
    volume: &mut Volume,
    options: &BackupOptions,
) -> rekindle_io::Result<BackupReport> {
    let mut once =
        |options: &BackupOptions| run(&Moment::of(std::slice::from_mut(volume)), repo, options, &Unwatched);
    match once(options) {
        Err(failed) if failed.parent_lost => {
            assert!(options.compare.is_none(), "compared, and still: {}", failed.error);
            let compare = Some("part of the manifest is lost".into());
            once(&BackupOptions { compare, ..options.clone() })
        }
        end => end,
    }
    .map_err(|failed| failed.error)
}

/// A volume whose extents all differ, but some that are zero; a full backup and a small one, and their repository.
fn world(pack_bytes: usize) -> (Arc<MemStore>, Volume) {
    let store = Arc::new(MemStore::new());
    let repo = Repository::init(store.clone(), &InitOptions::new(None, 1)).unwrap();
    let mut volume = Volume::new("data", 1, EXTENT * EXTENTS as usize);
    (0..EXTENTS).filter(|e| e % 7 != 3).for_each(|e| noise(&mut volume, e, 0));
    let mut options = options(1, 0);
    options.writer.pack_bytes = pack_bytes;
    back_up(&repo, &mut volume, &options).unwrap();
    // As many as make a patch that fills a pack.
    for e in (40..56).filter(|e| e % 7 != 3) {
        volume.write(e as usize, 2);
        noise(&mut volume, e, 1);
    }
    back_up(&repo, &mut volume, &options).unwrap();
    (store, volume)
}

#[derive(Clone, Copy, Debug)]
enum Loss {
    Gone,
    /// All but the last quarter, or the first.
    Cut(usize),
    Empty,
}

fn lose(store: &MemStore, pack: &str, how: Loss) {
    match how {
        Loss::Gone => store.delete(pack).unwrap(),
        Loss::Cut(quarters) => drop(store.damage(pack, |b| b.truncate(b.len() * quarters / 4))),
        Loss::Empty => drop(store.damage(pack, Vec::clear)),
    }
}

/// Each pack of each kind of loss, met by a process that knew the pages of the parent already, or not.
fn each_loss(pack_bytes: usize, mut test: impl FnMut(&Arc<MemStore>, &Repository, &mut Volume, &str)) {
    let (store, volume) = world(pack_bytes);
    let packs = store.list_all("d/").unwrap();
    assert!(packs.len() > 5, "{packs:?}");
    for pack in packs {
        // A pack of one frame or two is hit wherever it is.
        let all = [Loss::Gone, Loss::Cut(3), Loss::Cut(1), Loss::Empty];
        for how in &all[..if pack_bytes == APART { 1 } else { 4 }] {
            for knew in [false, true] {
                let store = Arc::new(store.copy());
                let repo = Repository::open(store.clone(), None).unwrap();
                if knew {
                    let newest = repo.snapshots(None).unwrap().snapshots.pop().unwrap();
                    let newest = repo.snapshot_of(newest);
                    assert!(read_all(&newest, "data") == volume.image);
                    newest.holder("data").unwrap().ids(0, EXTENTS).unwrap();
                }
                lose(&store, &pack.name, *how);
                test(&store, &repo, &mut volume.clone(), &format!("{how:?} of {}, knew: {knew}", pack.name));
            }
        }
    }
}

fn whole(store: &Arc<MemStore>, report: &BackupReport, volume: &Volume, what: &str) {
    let repo = Repository::open(store.clone(), None).unwrap();
    let snapshot = repo.snapshot_of(report.snapshot.clone());
    assert!(read_all(&snapshot, "data") == volume.image, "{what}");
}

#[test]
fn a_backup_that_compares_stores_what_was_lost_anew() {
    for pack_bytes in [PACK, APART] {
        let stored = AtomicU64::new(0);
        each_loss(pack_bytes, |store, repo, volume, what| {
            let compare = BackupOptions { compare: Some("as asked for".into()), ..options(3, 0) };
            let report = back_up(repo, volume, &compare).unwrap_or_else(|e| panic!("{what}: {e}"));
            whole(store, &report, volume, what);
            let new = report.volumes[0].stored;
            assert!(new < EXTENTS, "{what}: only what was lost is stored anew, not {new}");
            stored.fetch_add(new, Ordering::Relaxed);
        });
        assert!(stored.into_inner() > 0);
    }
    // Nothing lost, nothing stored.
    let (store, mut volume) = world(PACK);
    let repo = Repository::open(store.clone(), None).unwrap();
    let compare = BackupOptions { compare: Some("as asked for".into()), ..options(3, 0) };
    let report = back_up(&repo, &mut volume, &compare).unwrap();
    assert_eq!((report.volumes[0].stored, report.volumes[0].deduped), (0, 0));
}

#[test]
fn content_known_from_another_set_is_stored_anew_where_that_was_lost() {
    each_loss(PACK, |store, repo, volume, what| {
        let other = BackupOptions { set: "other".into(), ..options(3, 0) };
        let report = back_up(repo, volume, &other).unwrap();
        whole(store, &report, volume, what);
    });
}

/// Of `extents`, those that read as the volume has them.
fn right(store: &Arc<MemStore>, report: &BackupReport, volume: &Volume, extents: &[u64]) -> Vec<u64> {
    let repo = Repository::open(store.clone(), None).unwrap();
    let holder = repo.snapshot_of(report.snapshot.clone()).holder("data").unwrap();
    let sink = Collected::new();
    holder.clone().fetch(extents, Urgency::Background, &(sink.clone() as Arc<dyn FetchSink>));
    let is_right = |(extent, what): (u64, rekindle_io::Result<Fetched>)| {
        let r = volume.geometry.extent_bytes(extent);
        let mut bytes = vec![0; r.len as usize];
        match what {
            Ok(Fetched::Sealed(s)) if s.open(&mut bytes).is_err() => return None,
            Err(_) => return None,
            Ok(_) => (),
        }
        assert!(bytes == volume.image[r.start as usize..r.end() as usize], "{extent}");
        Some(extent)
    };
    let mut found: Vec<u64> = sink.wait(extents.len()).into_iter().filter_map(is_right).collect();
    found.sort_unstable();
    found
}

/// After a crash the regions that were active are read and compared: what they hold is in hand too.
#[test]
fn what_is_compared_after_a_crash_is_stored_anew_where_it_was_lost() {
    let (store, mut volume) = world(PACK);
    // Extents 8 to 11 are one region. What the crash does to 9 is nothing to extent 8.
    volume.write(9, 2);
    volume.crash(1);
    let repo = Repository::open(store.clone(), None).unwrap();
    let newest = repo.snapshots(None).unwrap().snapshots.pop().unwrap();
    let mut places = BTreeMap::new();
    let mut find = |e: u64, at: rekindle_core::repo::Place| -> rekindle_io::Result<()> {
        places.insert(e, at.pack.held_in);
        Ok(())
    };
    repo.snapshot_of(newest).holder("data").unwrap().for_each_stored(&mut find).unwrap();
    store.delete(&rekindle_core::repo::names::pack(places[&11])).unwrap();
    let beyond: Vec<u64> =
        places.iter().filter(|(e, p)| **e > 11 && **p == places[&11]).map(|(e, _)| *e).collect();
    assert!(!beyond.is_empty(), "{places:?}");
    let report = back_up(&repo, &mut volume, &options(3, 0)).unwrap();
    assert_eq!(report.volumes[0].how, How::Incremental);
    assert_eq!(right(&store, &report, &volume, &[8, 9, 10, 11]), [8, 9, 10, 11]);
    assert!(right(&store, &report, &volume, &beyond).is_empty(), "what is not read is kept as it is");
}

/// A manifest that is lost where the guest wrote ends no backup: everything is compared, and the next one is incremental.
#[test]
fn an_incremental_whose_parent_lost_its_manifest_compares() {
    let (mut compared, mut kept) = (0, 0);
    each_loss(APART, |store, repo, volume, what| {
        volume.write(7, 2);
        noise(volume, 7, 2);
        let report = back_up(repo, volume, &options(3, 0)).unwrap_or_else(|e| panic!("{what}: {e}"));
        match &report.volumes[0].how {
            How::Compared(why) => {
                assert!(why.contains("manifest is lost"), "{why}");
                whole(store, &report, volume, what);
                compared += 1;
            }
            _ => kept += 1,
        }
        volume.write(8, 2);
        noise(volume, 8, 2);
        let next = back_up(repo, volume, &options(4, 0)).unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(next.volumes[0].how, How::Incremental);
    });
    assert!(compared > 0 && kept > 0, "{compared} {kept}");
}

/// A store that is away has lost nothing: it is not filled anew.
#[test]
fn a_store_that_is_away_is_not_taken_for_one_that_lost_all() {
    let (store, mut volume) = world(PACK);
    let repo = Repository::open(store.clone(), None).unwrap();
    let newest = repo.snapshots(None).unwrap().snapshots.pop().unwrap();
    // From here on its pages are known, and need not be read.
    assert!(read_all(&repo.snapshot_of(newest), "data") == volume.image);
    let names: Vec<String> = store.list_all("").unwrap().into_iter().map(|e| e.name).collect();
    names.iter().filter(|n| n.starts_with("d/") || *n == "config").for_each(|n| store.delete(n).unwrap());
    let compare = BackupOptions { compare: Some("as asked for".into()), ..options(3, 0) };
    let e = back_up(&repo, &mut volume, &compare).unwrap_err();
    assert_eq!(e.kind, Kind::Unavailable, "{e}");
    assert!(store.list_all("d/").unwrap().is_empty());
}
