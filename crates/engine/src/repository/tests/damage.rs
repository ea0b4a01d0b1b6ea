//! Every byte of every object of a small repository is flipped, and every object cut: each read gives the right bytes or an
//! error that names what is damaged. Never wrong bytes, never a panic.

use super::super::*;
use super::kit::*;
use rekindle_io::Kind;
use rekindle_io::store::{MemStore, Part, StoreExt};

/// Mostly zeros inside: frames of a few dozen bytes, so that each byte can be tried.
fn small(tag: u8) -> Vec<u8> {
    let mut out = vec![0; EXTENT];
    blake3::Hasher::new().update(&[tag]).finalize_xof().fill(&mut out[..48]);
    out
}

fn image(tags: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    tags.iter().for_each(|t| out.extend_from_slice(&if *t == 0 { vec![0; EXTENT] } else { small(*t) }));
    out
}

struct World {
    store: MemStore,
    encrypted: bool,
    truth: Vec<Vec<u8>>,
}

/// A full backup and an incremental that is stored as a patch, with usage and hot list.
fn world(encrypted: bool) -> World {
    let (store, repo) = new_repo(encrypted);
    let tags = [1, 2, 0, 3, 4, 5, 6, 7];
    let mut changed = tags;
    changed[1] = 9;
    let truth = vec![image(&tags), image(&changed)];
    let full = backup(&repo, "shop", None, &truth[0], None, options()).unwrap();
    let mut w = repo.begin_snapshot("shop", Some(&full), options()).unwrap();
    let v = w.volume(identity("data", 1), geometry(truth[1].len() as u64));
    w.put(v, 1, &small(9)).unwrap();
    w.keep_rest(v).unwrap();
    w.usage_page(v, 0, b"usage").unwrap();
    w.hot_list(v, &[1, 0]).unwrap();
    w.commit(CommitMeta::default()).unwrap();
    World { store: store.copy(), encrypted, truth }
}

/// Reads everything a reader can; panics on wrong data.
fn read(w: &World, store: MemStore) -> Result<()> {
    let credential = w.encrypted.then(key);
    let repo = Repository::open(Arc::new(store), credential.as_ref())?;
    let listing = repo.snapshots(None)?;
    let mut first = listing.damaged.first().cloned();
    for info in listing.snapshots {
        let s = repo.snapshot_of(info);
        let index = s.info().seq as usize - 1;
        let one = || -> Result<()> {
            let got = read_all(&s, "data")?;
            assert!(got == w.truth[index], "wrong data of snapshot {index}");
            let holder = s.holder("data")?;
            for (e, id) in holder.ids(0, 8)?.into_iter().enumerate() {
                assert_eq!(id, holder.id_of(&w.truth[index][e * EXTENT..(e + 1) * EXTENT]));
            }
            if index == 1 {
                assert_eq!(s.usage_page("data", 0)?.unwrap(), b"usage");
                assert_eq!(s.hot_list("data")?, [1, 0]);
            }
            Ok(())
        };
        first = first.or(one().err());
    }
    first.map_or(Ok(()), Err)
}

#[test]
fn every_flipped_byte_is_found_or_harmless() {
    for encrypted in [true, false] {
        let w = world(encrypted);
        read(&w, w.store.copy()).unwrap();
        let mut harmless = 0;
        for name in names(&w.store, "") {
            let len = w.store.get(&name, Part::All).unwrap().len();
            for at in 0..len {
                let store = w.store.copy();
                assert!(store.damage(&name, |b| b[at] ^= 1 << (at % 8)));
                match read(&w, store) {
                    Ok(()) => harmless += 1,
                    Err(e) => found(&name, at as u64, &e),
                }
            }
        }
        // Not read on this way: sessions, and headers, directories and footers of the two packs.
        assert!(harmless < 2500, "{harmless} flips went unnoticed");
    }
}

/// The error names the object; for a frame, a byte at or before the damage.
fn found(name: &str, at: u64, e: &RepoError) {
    let text = e.to_string();
    if name == "config" {
        return assert!(
            matches!(
                e,
                RepoError::Damaged { .. } | RepoError::NotARepository { .. } | RepoError::NewerFormat { .. }
            ),
            "{text}"
        );
    }
    assert_eq!(e.kind(), Kind::Corrupt, "{name} at {at}: {text}");
    assert!(text.starts_with(name), "{name} at {at}: {text}");
    let offset: u64 = text.split("at byte ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    assert!(offset <= at, "{name} at {at}: {text}");
}

#[test]
fn every_cut_and_missing_object_is_an_error_or_harmless() {
    for encrypted in [true, false] {
        let w = world(encrypted);
        for name in names(&w.store, "") {
            let len = w.store.get(&name, Part::All).unwrap().len();
            for keep in (0..len).step_by(7) {
                let store = w.store.copy();
                store.damage(&name, |b| b.truncate(keep));
                let result = read(&w, store);
                assert!(result.is_err() || !name.starts_with("sets/"), "{name} cut at {keep}");
            }
            let store = w.store.copy();
            rekindle_io::store::Store::delete(&store, &name).unwrap();
            if name.starts_with("d/") || name == "config" || name.starts_with("k/") {
                assert!(read(&w, store).is_err(), "{name} gone");
            }
        }
    }
}

#[test]
fn the_newest_being_damaged_is_not_answered_with_an_older_one() {
    let w = world(true);
    let commits = names(&w.store, "sets/");
    w.store.damage(&commits[1], |b| b[40] ^= 1);
    let repo = Repository::open(Arc::new(w.store), Some(&key())).unwrap();
    assert!(matches!(repo.snapshot("shop", &Which::Latest), Err(RepoError::Damaged { .. })));
    let listing = repo.snapshots(Some("shop")).unwrap();
    assert_eq!((listing.snapshots.len(), listing.damaged.len()), (1, 1));
}

/// Frames of one place, presented at another, are refused although each is authentic.
#[test]
fn swapped_packs_are_refused() {
    let w = world(true);
    let packs = names(&w.store, "d/");
    let other = w.store.get(&packs[1], Part::All).unwrap();
    w.store.damage(&packs[0], |b| *b = other.clone());
    assert!(read(&w, w.store.copy()).is_err());
    let commits = names(&w.store, "sets/");
    let w = world(true);
    let old = w.store.get(&commits[0], Part::All).unwrap_or_default();
    // A rolled-back commit under a newer name does not open: the seal knows its name.
    for name in names(&w.store, "sets/").iter().skip(1) {
        let first = w.store.get(&names(&w.store, "sets/")[0], Part::All).unwrap();
        w.store.damage(name, |b| *b = first.clone());
    }
    drop(old);
    assert!(read(&w, w.store.copy()).is_err());
}

#[test]
fn a_damaged_usage_map_does_not_stop_the_next_backup() {
    let w = world(true);
    let commit = names(&w.store, "sets/").len();
    assert_eq!(commit, 2);
    let store = Arc::new(w.store);
    let repo = Repository::open(store.clone(), Some(&key())).unwrap();
    let parent = repo.snapshot("shop", &Which::Latest).unwrap();
    let page = parent.volumes()[0].usage.unwrap().place;
    let pack = rekindle_core::repo::names::pack(page.pack.held_in);
    store.damage(&pack, |b| b[page.offset as usize + 30] ^= 1);
    assert!(parent.usage_page("data", 0).is_err());
    let repo = Repository::open(store.clone(), Some(&key())).unwrap();
    let mut writer = repo.begin_snapshot("shop", Some(&parent), options()).unwrap();
    let v = writer.volume(identity("data", 1), geometry(w.truth[1].len() as u64));
    writer.keep_rest(v).unwrap();
    writer.usage_page(v, 0, b"new").unwrap();
    let s = repo.snapshot_of(writer.commit(CommitMeta::default()).unwrap());
    assert_eq!(s.usage_page("data", 0).unwrap().unwrap(), b"new");
    assert!(read_all(&s, "data").unwrap() == w.truth[1]);
}
