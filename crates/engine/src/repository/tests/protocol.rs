//! Sessions, races for a number, tombstones, fences, holds, keys, checkpoints: the protocol around the bytes.

use super::super::*;
use super::kit::*;
use rekindle_core::repo::names as object;
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::session::{SessionEnd, SessionOpen};
use rekindle_io::random;
use rekindle_io::store::{FaultyStore, MemStore, Part, Store, StoreExt, StoreOp};

fn image(n: u32) -> Vec<u8> {
    let mut out = Vec::new();
    (0..8).for_each(|i| out.extend_from_slice(&content(n * 100 + i, EXTENT)));
    out
}

/// A repository whose store runs `hook` after or before operations, as another process would.
fn hooked(hook: impl Fn(&MemStore, StoreOp, &str) + Send + Sync + 'static) -> (Arc<MemStore>, Repository) {
    let inner = Arc::new(MemStore::new());
    Repository::init(inner.clone(), &init_options(true)).unwrap();
    let faulty = FaultyStore::new(inner.clone());
    let seen = inner.clone();
    faulty.set_hook(move |_, op, name| hook(&seen, op, name));
    let repo = Repository::open(Arc::new(faulty), Some(&key())).unwrap();
    (inner, repo)
}

#[test]
fn racing_writers_of_a_set_are_ordered_and_none_is_lost() {
    let (store, repo) = new_repo(true);
    let all: Vec<SnapshotInfo> = std::thread::scope(|s| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let repo = repo.clone();
                s.spawn(move || {
                    backup(&repo, "shop", None, &image(i), None, options()).unwrap().info().clone()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let mut seqs: Vec<u64> = all.iter().map(|s| s.seq).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=8).collect::<Vec<u64>>());
    let repo = Repository::open(store, Some(&key())).unwrap();
    let listed = repo.snapshots(Some("shop")).unwrap().snapshots;
    assert_eq!(listed.len(), 8);
    assert!(all.iter().all(|s| listed.contains(s)));
}

/// The commit name of `seq` in set `shop`.
fn commit_name(repo: &Repository, seq: u64) -> String {
    object::commits(&repo.core.keys.ids.set_tag("shop")) + &object::number(seq)
}

#[test]
fn whoever_finds_the_end_may_finish_and_nothing_is_there_twice() {
    // Another process makes the commit visible between W4 and W5, from the session's end.
    let finisher: Arc<std::sync::OnceLock<Repository>> = Arc::default();
    let with = finisher.clone();
    let (store, repo) = hooked(move |inner, op, name| {
        let Some(repo) = with.get() else { return };
        if op != StoreOp::Put || !name.contains("/c/") || inner.head(name).unwrap().is_some() {
            return;
        }
        let end = names(inner, "s/").into_iter().find(|n| n.ends_with(".end")).unwrap();
        let keys = &repo.core.keys;
        let stored = inner.get(&end, Part::All).unwrap();
        let plain = keys.meta.open_object(keys.repository, ObjectKind::SessionEnd, &end, &stored).unwrap();
        let SessionEnd::Commit { commit, .. } = SessionEnd::decode(&plain).unwrap() else {
            panic!("not a commit")
        };
        let sealed = keys.commits.seal_object(keys.repository, ObjectKind::Commit, name, &commit.encode());
        inner.put_new(name, &[&sealed]).unwrap();
    });
    finisher.set(repo.clone()).ok().unwrap();
    let s = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    assert_eq!(s.info().seq, 1);
    let repo = Repository::open(store, Some(&key())).unwrap();
    assert_eq!(repo.snapshots(None).unwrap().snapshots, [s.info().clone()]);
}

#[test]
fn a_number_that_was_forgotten_is_never_taken_again() {
    // Forgotten before the session began.
    let (store, repo) = new_repo(true);
    let first = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    let tag = first.info().set_tag.clone();
    store.put_new(&(object::forgotten(&tag) + &object::number(1)), &[b"x"]).unwrap();
    store.delete(&commit_name(&repo, 1)).unwrap();
    assert!(repo.snapshots(None).unwrap().snapshots.is_empty());
    assert_eq!(backup(&repo, "shop", None, &image(2), None, options()).unwrap().info().seq, 2);
    // Taken, forgotten and deleted while a session runs: the tombstone appears right before its own create.
    let tag_later: Arc<std::sync::OnceLock<String>> = Arc::default();
    let with = tag_later.clone();
    let (store, repo) = hooked(move |inner, op, name| {
        if let (StoreOp::Put, Some(tag), true) = (op, with.get(), name.ends_with("/c/0000000000000001")) {
            let _ = inner.put_new(&(object::forgotten(tag) + &object::number(1)), &[b"x"]).unwrap();
        }
    });
    tag_later.set(repo.core.keys.ids.set_tag("shop")).unwrap();
    let s = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    assert_eq!(s.info().seq, 2);
    let repo = Repository::open(store, Some(&key())).unwrap();
    assert_eq!(repo.snapshots(None).unwrap().snapshots, [s.info().clone()]);
}

#[test]
fn a_fenced_session_commits_nothing() {
    let (store, repo) = new_repo(true);
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), geometry(8 * EXTENT as u64));
    for (e, bytes) in image(1).chunks(EXTENT).enumerate() {
        w.put(v, e as u64, bytes).unwrap();
    }
    let open = names(&*store, "s/").pop().unwrap();
    let end = open.replace(".open", ".end");
    let keys = &repo.core.keys;
    let fence = SessionEnd::Fenced(random::uuid()).encode();
    let sealed = keys.meta.seal_object(keys.repository, ObjectKind::SessionEnd, &end, &fence);
    store.put_new(&end, &[&sealed]).unwrap();
    assert!(matches!(w.commit(CommitMeta::default()), Err(RepoError::Fenced)));
    assert!(repo.snapshots(None).unwrap().snapshots.is_empty());
}

#[test]
fn a_session_names_its_parent_before_it_looks_for_it_again() {
    let (store, repo) = new_repo(true);
    let parent = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    let w = repo.begin_snapshot("shop", Some(&parent), options()).unwrap();
    let open = names(&*store, "s/")
        .into_iter()
        .find(|n| n.ends_with(".open") && !names(&*store, "s/").contains(&n.replace(".open", ".end")));
    let open = open.unwrap();
    let keys = &repo.core.keys;
    let stored = store.get(&open, Part::All).unwrap();
    let plain = keys.meta.open_object(keys.repository, ObjectKind::SessionOpen, &open, &stored).unwrap();
    assert_eq!(SessionOpen::decode(&plain).unwrap().parents, [parent.info().commit.snapshot]);
    drop(w);
    let end = store.get(&open.replace(".open", ".end"), Part::All).unwrap();
    let name = open.replace(".open", ".end");
    let plain = keys.meta.open_object(keys.repository, ObjectKind::SessionEnd, &name, &end).unwrap();
    assert!(matches!(SessionEnd::decode(&plain).unwrap(), SessionEnd::Aborted(_)), "given up, and said so");
    // Gone meanwhile: the session ends and the caller is told.
    store.delete(&commit_name(&repo, 1)).unwrap();
    assert!(matches!(
        repo.begin_snapshot("shop", Some(&parent), options()),
        Err(RepoError::NoSnapshot { .. })
    ));
}

#[test]
fn an_epoch_that_begins_meanwhile_makes_the_session_begin_anew() {
    let (store, repo) = hooked(|inner, op, name| {
        // A collector begins right after the session's record is there: before W2's second look.
        if op == StoreOp::List
            && name == "e/"
            && !names(inner, "s/").is_empty()
            && names(inner, "e/").is_empty()
        {
            inner.put_new(&format!("e/{}", object::number(1)), &[b"condemned"]).unwrap();
        }
    });
    let s = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    assert!(read_all(&s, "data").unwrap() == image(1));
    let sessions = names(&*store, "s/");
    let of = |epoch: u64, end: &str| {
        let begins = format!("s/{}", object::number(epoch));
        sessions.iter().filter(|n| n.starts_with(&begins) && n.ends_with(end)).count()
    };
    assert_eq!((of(0, ".open"), of(0, ".end"), of(1, ".open"), of(1, ".end")), (1, 1, 1, 1), "{sessions:?}");
}

#[test]
fn holds_stand_until_released() {
    let (store, repo) = new_repo(true);
    let s = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    let owner = HoldOwner {
        host: "here".into(),
        restore: "shop".into(),
        restore_uuid: Uuid([5; 16]),
        pid: 7,
        time_ns: 8,
    };
    let hold = repo.hold(s.info(), owner.clone()).unwrap();
    assert_eq!(repo.holds().unwrap(), std::slice::from_ref(&hold));
    repo.release_hold(hold.uuid, ReleaseReason::Operator, 9).unwrap();
    repo.release_hold(hold.uuid, ReleaseReason::Done, 9).unwrap();
    assert!(repo.holds().unwrap().is_empty());
    // The snapshot went away before the hold stood: an error, and no hold is left behind.
    store.delete(&commit_name(&repo, 1)).unwrap();
    assert!(matches!(repo.hold(s.info(), owner), Err(RepoError::NoSnapshot { .. })));
    assert!(repo.holds().unwrap().is_empty());
}

#[test]
fn credentials_come_and_go_without_touching_data() {
    let (store, repo) = new_repo(true);
    let s = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    let cheap = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
    let password = Credential::Passphrase(Secret::new(b"correct horse".to_vec()));
    let open = |c: Option<&Credential>| Repository::open(store.clone(), c).map(drop);
    assert!(matches!(open(Some(&password)), Err(RepoError::WrongKey)));
    assert!(matches!(open(None), Err(RepoError::KeyNeeded)));
    let added = repo.add_key(&password, cheap, 2, "desk").unwrap();
    let slots = repo.keys().unwrap();
    assert_eq!(slots.len(), 2);
    let again = Repository::open(store.clone(), Some(&password)).unwrap();
    assert!(read_all(&again.snapshot_of(s.info().clone()), "data").unwrap() == image(1));
    let first = slots.iter().find(|k| k.slot != added).unwrap().slot;
    again.remove_key(first).unwrap();
    assert!(matches!(open(Some(&key())), Err(RepoError::WrongKey)));
    assert!(matches!(again.remove_key(added), Err(RepoError::LastKey)));
    open(Some(&password)).unwrap();
}

#[test]
fn what_is_not_ours_newer_or_not_encrypted_is_said_precisely() {
    let empty = Arc::new(MemStore::new());
    assert!(matches!(Repository::open(empty.clone(), None), Err(RepoError::NotARepository { .. })));
    let plain = new_repo(false).0;
    assert!(matches!(Repository::open(plain.clone(), Some(&key())), Err(RepoError::NotEncrypted)));
    assert!(matches!(
        Repository::init(plain.clone(), &init_options(true)),
        Err(RepoError::AlreadyARepository { .. })
    ));
    plain.damage("config", |b| {
        b[8] = 2;
        let n = b.len();
        let crc = rekindle_core::bytes::crc32c(&b[..n - 4]);
        b[n - 4..].copy_from_slice(&crc.to_le_bytes());
    });
    assert!(matches!(Repository::open(plain, None), Err(RepoError::NewerFormat { found: 2, known: 1, .. })));
}

#[test]
fn snapshots_are_found_by_prefix_time_and_identity() {
    let (_, repo) = new_repo(true);
    let mut all = Vec::new();
    for time_ns in [10, 20, 30] {
        let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
        let v = w.volume(identity("shop", 1), geometry(EXTENT as u64));
        w.zero(v, extents(0, 1)).unwrap();
        all.push(w.commit(CommitMeta { time_ns, tags: vec!["t".into()], origin: None }).unwrap());
    }
    let at = |t| repo.snapshot("shop", &Which::At(t)).map(|s| s.info().clone());
    assert_eq!((at(10).unwrap(), at(29).unwrap()), (all[0].clone(), all[1].clone()));
    assert!(matches!(at(9), Err(RepoError::NoSnapshot { .. })));
    let hex = all[1].commit.snapshot.to_string();
    assert_eq!(repo.snapshot("shop", &Which::Prefix(hex[..12].into())).unwrap().info(), &all[1]);
    assert!(matches!(repo.snapshot("shop", &Which::Prefix(String::new())), Err(RepoError::Ambiguous { .. })));
    assert_eq!(repo.snapshot_by_uuid(all[2].commit.snapshot).unwrap().info(), &all[2]);
    assert!(repo.snapshot("other", &Which::Latest).is_err());
    assert_eq!(repo.snapshots(None).unwrap().snapshots, all);
}

#[test]
fn listing_is_a_few_reads_whatever_the_number_of_snapshots() {
    let (store, repo) = new_repo(true);
    let mut last = None;
    for _ in 0..600 {
        let mut w = repo.begin_snapshot("shop", last.as_ref(), options()).unwrap();
        let v = w.volume(identity("shop", 1), geometry(EXTENT as u64));
        match last {
            None => w.put(v, 0, &content(1, EXTENT)).map(drop).unwrap(),
            Some(_) => w.keep_rest(v).unwrap(),
        }
        last = Some(repo.snapshot_of(w.commit(CommitMeta::default()).unwrap()));
    }
    let tag = last.unwrap().info().set_tag.clone();
    assert_eq!(names(&*store, &object::checkpoints(&tag)).len(), 2);
    let faulty = Arc::new(FaultyStore::new(store.clone()));
    let repo = Repository::open(faulty.clone(), Some(&key())).unwrap();
    let before = faulty.counts();
    assert_eq!(repo.snapshots(None).unwrap().snapshots.len(), 600);
    let after = faulty.counts();
    assert!(after.gets - before.gets <= 256, "{} reads", after.gets - before.gets);
    // Existence is the commit's own: one that a checkpoint still lists is gone when its object is.
    store.delete(&commit_name(&repo, 7)).unwrap();
    assert_eq!(repo.snapshots(None).unwrap().snapshots.len(), 599);
    // A damaged checkpoint costs reads only.
    for name in names(&*store, &object::checkpoints(&tag)) {
        store.damage(&name, |b| b[50] ^= 1);
    }
    assert_eq!(repo.snapshots(None).unwrap().snapshots.len(), 599);
}

#[test]
fn a_parent_of_another_repository_is_refused() {
    let (_, one) = new_repo(true);
    let (_, other) = new_repo(true);
    let parent = backup(&one, "shop", None, &image(1), None, options()).unwrap();
    assert!(matches!(other.begin_snapshot("shop", Some(&parent), options()), Err(RepoError::Invalid(_))));
}

#[test]
fn a_forgotten_parent_is_no_parent_and_cannot_be_held() {
    // A tombstone stands and the commit is not deleted yet: it counts as forgotten.
    let (store, repo) = new_repo(true);
    let parent = backup(&repo, "shop", None, &image(1), None, options()).unwrap();
    let tombstone = object::forgotten(&parent.info().set_tag) + &object::number(1);
    store.put_new(&tombstone, &[b"x"]).unwrap();
    assert!(matches!(
        repo.begin_snapshot("shop", Some(&parent), options()),
        Err(RepoError::NoSnapshot { .. })
    ));
    let owner = HoldOwner {
        host: String::new(),
        restore: String::new(),
        restore_uuid: Uuid([1; 16]),
        pid: 1,
        time_ns: 1,
    };
    assert!(matches!(repo.hold(parent.info(), owner), Err(RepoError::NoSnapshot { .. })));
}

#[test]
fn a_commit_must_account_for_every_extent() {
    let (_, repo) = new_repo(true);
    let g = geometry(8 * EXTENT as u64);
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    assert!(!w.has_base(v));
    w.put(v, 0, &content(1, EXTENT)).unwrap();
    assert!(
        matches!(w.commit(CommitMeta::default()), Err(RepoError::Invalid(_))),
        "seven extents were not given"
    );
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    assert!(w.keep_rest(v).is_err(), "nothing to keep");
    assert!(w.zero(v, extents(0, 8)).is_err(), "a failed writer stays failed");
    for wrong in [EXTENT - 1, EXTENT + 1, 0] {
        let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        assert!(w.put(v, 0, &vec![1; wrong]).is_err());
    }
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    w.zero(v, extents(0, 8)).unwrap();
    assert!(w.put(v, 0, &content(1, EXTENT)).is_err(), "given twice");
    // One given twice and one forgotten is not complete.
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    w.zero(v, extents(0, 7)).unwrap();
    let e = w.zero(v, extents(5, 6)).unwrap_err();
    assert!(e.to_string().contains("extent 5 was given twice"), "{e}");
}

/// A comparing backup does without a page that is lost when it first looks; one that is lost after something of it was
/// named is an error, or what was named would be zeros.
#[test]
fn what_is_lost_after_it_was_named_fails_the_backup() {
    let (store, repo) = new_repo(false);
    let leaf = rekindle_core::repo::manifest::FAN;
    let g = geometry((leaf + 2) * EXTENT as u64);
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    for e in [0, 1, leaf, leaf + 1] {
        w.put(v, e, &content(e as u32, EXTENT)).unwrap();
    }
    w.zero(v, extents(2, leaf)).unwrap();
    let info = w.commit(CommitMeta::default()).unwrap();
    // No page is kept in memory.
    let repo = Repository::open_with(store.clone(), None, 0).unwrap();
    let parent = repo.snapshot_of(info);
    for lost_first in [false, true] {
        let store = Arc::new(store.copy());
        let repo = Repository::open_with(store.clone(), None, 0).unwrap();
        let packs = names(&*store, "d/");
        let lose = || packs.iter().for_each(|p| store.delete(p).unwrap());
        let mut w = repo.begin_snapshot("shop", Some(&parent), options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        w.compare(v);
        assert!(w.keep(v, extents(0, 1)).is_err(), "nothing of a volume that is compared is kept");
        let mut w = repo.begin_snapshot("shop", Some(&parent), options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        w.compare(v);
        if lost_first {
            lose();
        }
        let first = w.put(v, 0, &content(0, EXTENT)).unwrap();
        assert_eq!(first, if lost_first { Put::Stored } else { Put::Unchanged });
        if !lost_first {
            w.put(v, leaf, &content(leaf as u32, EXTENT)).unwrap();
            lose();
            let e = w.put(v, 1, &content(77, EXTENT)).unwrap_err();
            assert_eq!(e.kind(), rekindle_io::Kind::Corrupt, "{e}");
            continue;
        }
        w.zero(v, extents(2, leaf)).unwrap();
        for e in [1, leaf, leaf + 1] {
            w.put(v, e, &content(e as u32, EXTENT)).unwrap();
        }
        let repo = Repository::open(store.clone(), None).unwrap();
        let whole = read_all(&repo.snapshot_of(w.commit(CommitMeta::default()).unwrap()), "data").unwrap();
        for e in [0, 1, leaf, leaf + 1] {
            let at = e as usize * EXTENT;
            assert!(whole[at..at + EXTENT] == content(e as u32, EXTENT), "{e}");
        }
    }
}

/// Pages that this very session wrote are not in the list that it asked for, and are there all the same.
#[test]
fn a_comparing_backup_goes_back_to_leaves_of_its_own() {
    let (_store, repo) = new_repo(false);
    let leaf = rekindle_core::repo::manifest::FAN;
    let g = geometry(2 * leaf * EXTENT as u64);
    let write = |parent: Option<&Snapshot>, tag: u32| {
        let mut w = repo.begin_snapshot("shop", parent, options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        w.compare(v);
        // More than wait at once, in both leaves by turns.
        for e in (0..80).flat_map(|e| [e, leaf + e]) {
            w.put(v, e, &content(e as u32 + tag, EXTENT)).unwrap();
        }
        w.zero(v, extents(80, leaf)).unwrap();
        w.zero(v, extents(leaf + 80, 2 * leaf)).unwrap();
        repo.snapshot_of(w.commit(CommitMeta::default()).unwrap())
    };
    let parent = write(None, 0);
    let whole = read_all(&write(Some(&parent), 10_000), "data").unwrap();
    for e in (0..80).flat_map(|e| [e, leaf + e]) {
        let at = e as usize * EXTENT;
        assert!(whole[at..at + EXTENT] == content(e as u32 + 10_000, EXTENT), "{e}");
    }
}

#[test]
fn a_volume_that_became_zeros_names_nothing_of_a_lost_parent() {
    let (store, repo) = new_repo(false);
    let parent = backup(&repo, "shop", None, &content(1, 3 * EXTENT), None, options()).unwrap();
    names(&*store, "d/").iter().for_each(|p| store.delete(p).unwrap());
    let repo = Repository::open(store, None).unwrap();
    let mut w = repo.begin_snapshot("shop", Some(&parent), options()).unwrap();
    let v = w.volume(identity("data", 1), geometry(3 * EXTENT as u64));
    w.compare(v);
    w.zero(v, extents(0, 2)).unwrap();
    w.put(v, 2, &vec![0; EXTENT]).unwrap();
    let snapshot = repo.snapshot_of(w.commit(CommitMeta::default()).unwrap());
    assert!(read_all(&snapshot, "data").unwrap().iter().all(|b| *b == 0));
}
