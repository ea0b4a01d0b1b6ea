//! Random incrementals against a plain image, for one and for several leaves and levels.

use super::super::*;
use super::kit::*;
use proptest::prelude::*;
use rekindle_core::volume::{ExtentBytes, Geometry};
use rekindle_io::holder::Holder;
use rekindle_io::store::MemStore;

#[test]
fn a_full_backup_reads_back_and_passes_the_holders_kit() {
    for encrypted in [true, false] {
        for threads in [0, 2] {
            let (store, repo) = new_repo(encrypted);
            let mut image: Vec<u8> = (0..70u32).flat_map(|i| content(i % 50, EXTENT)).collect();
            image[3 * EXTENT..9 * EXTENT].fill(0);
            image.extend(content(99, 1024));
            let s =
                backup(&repo, "shop", None, &image, None, WriterOptions { threads, ..options() }).unwrap();
            rekindle_io::holder::kit::check(s.holder("data").unwrap(), &image);
            // Opened anew, as another process would.
            let credential = encrypted.then(key);
            let repo = Repository::open(store, credential.as_ref()).unwrap();
            let s = repo.snapshot("shop", &Which::Latest).unwrap();
            assert!(read_all(&s, "data").unwrap() == image);
            let v = s.volume("data").unwrap();
            assert_eq!((v.stored_extents, v.changed_extents), (65, 65));
        }
    }
}

#[test]
fn the_root_is_the_merkle_root_of_the_bytes_whatever_the_extent_size() {
    let (_, repo) = new_repo(true);
    let mut image: Vec<u8> = (0..300u32).flat_map(|i| content(i, EXTENT)).collect();
    image.truncate(image.len() - 512);
    image[EXTENT * 8..EXTENT * 40].fill(0);
    let mut roots = Vec::new();
    for shift in [14, 16, 20] {
        let g = Geometry::new(image.len() as u64, ExtentBytes::new(1 << shift).unwrap(), 512, 512).unwrap();
        let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        // Backwards: the order of puts changes nothing but the order in packs.
        for e in (0..g.extents()).rev() {
            let r = g.extent_bytes(e);
            w.put(v, e, &image[r.start as usize..r.end() as usize]).unwrap();
        }
        let info = w.commit(CommitMeta::default()).unwrap();
        assert!(read_all(&repo.snapshot_of(info.clone()), "data").unwrap() == image);
        roots.push(info.commit.volumes[0].root_id);
    }
    assert!(roots.iter().all(|r| *r == roots[0] && !r.is_zero()), "{roots:?}");
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Change {
    Write(u64, u32),
    Copy(u64, u64),
    Zero(u64, u64),
}

fn changes(extents: u64) -> impl Strategy<Value = Vec<Change>> {
    let e = 0..extents;
    let one = prop_oneof![
        4 => (e.clone(), 1..6u32).prop_map(|(e, t)| Change::Write(e, t)),
        1 => (e.clone(), e.clone()).prop_map(|(a, b)| Change::Copy(a, b)),
        1 => (e.clone(), 1..(extents / 2).max(2)).prop_map(|(e, n)| Change::Zero(e, n)),
    ];
    prop::collection::vec(one, 0..24)
}

/// Content of extents by tag; 0 is zeros. Small enough to hold thousands of extents in a test.
fn bytes_of(tag: u32) -> Vec<u8> {
    if tag == 0 { vec![0; EXTENT] } else { content(tag, EXTENT) }
}

/// Applies a step to the model and gives the extents it touched.
fn apply(model: &mut [u32], change: &Change, fresh: u32) -> std::ops::Range<u64> {
    let n = model.len() as u64;
    match *change {
        Change::Write(e, t) => {
            model[e as usize] = fresh * 8 + t;
            e..e + 1
        }
        Change::Copy(from, to) => {
            model[to as usize] = model[from as usize];
            to..to + 1
        }
        Change::Zero(e, count) => {
            let end = (e + count).min(n);
            model[e as usize..end as usize].fill(0);
            e..end
        }
    }
}

fn check(repo: &Repository, model: &[u32], snapshot: &Snapshot) {
    let holder = snapshot.holder("data").unwrap();
    let ids = holder.ids(0, model.len() as u64).unwrap();
    for (e, (tag, id)) in model.iter().zip(&ids).enumerate() {
        assert_eq!(*id, holder.id_of(&bytes_of(*tag)), "extent {e} of {}", repo.place());
    }
    let stored = model.iter().filter(|t| **t != 0).count() as u64;
    assert_eq!(holder.volume().stored_extents, stored);
    let mut seen = 0;
    holder
        .for_each_stored(&mut |_, _| {
            seen += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, stored);
}

fn history(extents: u64, steps: &[Vec<Change>], shuffle: bool) {
    let store = Arc::new(MemStore::new());
    let repo = Repository::init(store.clone(), &init_options(false)).unwrap();
    let g = geometry(extents * EXTENT as u64);
    let mut model = vec![0u32; extents as usize];
    let mut done: Vec<(Vec<u32>, Snapshot)> = Vec::new();
    for (fresh, step) in steps.iter().enumerate() {
        let parent = done.last().map(|(_, s)| s.clone());
        let mut w = repo.begin_snapshot("shop", parent.as_ref(), options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        assert_eq!(w.has_base(v), parent.is_some());
        let mut touched = std::collections::BTreeSet::new();
        step.iter().for_each(|c| touched.extend(apply(&mut model, c, fresh as u32)));
        let mut order: Vec<u64> = touched.into_iter().collect();
        if shuffle {
            order.sort_by_key(|e| e.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        for e in order {
            match model[e as usize] {
                0 => w.zero(v, extents_of(e)).unwrap(),
                tag => drop(w.put(v, e, &bytes_of(tag)).unwrap()),
            }
        }
        match parent {
            Some(_) => w.keep_rest(v).unwrap(),
            None => zero_untouched(&mut w, v, &model, step),
        }
        let s = repo.snapshot_of(w.commit(CommitMeta::default()).unwrap());
        done.push((model.clone(), s));
    }
    // Every snapshot still reads as it was taken, from a repository opened anew.
    let repo = Repository::open(store, None).unwrap();
    for (i, (model, s)) in done.iter().enumerate() {
        let s = repo.snapshot_of(s.info().clone());
        check(&repo, model, &s);
        let (before, base) = &done[i.saturating_sub(1)];
        let differ: Vec<u64> = (0..extents).filter(|e| before[*e as usize] != model[*e as usize]).collect();
        let found = s.holder("data").unwrap().difference(base.info().commit.snapshot).unwrap();
        assert_eq!(found.extents, differ);
    }
    if let Some((model, s)) = done.last() {
        let mut image = Vec::new();
        model.iter().for_each(|t| image.extend_from_slice(&bytes_of(*t)));
        assert!(read_all(s, "data").unwrap() == image);
    }
}

fn extents_of(e: u64) -> rekindle_core::volume::ExtentRange {
    extents(e, e + 1)
}

/// A first backup must account for what was never touched.
fn zero_untouched(w: &mut SnapshotWriter, v: VolumeSlot, model: &[u32], step: &[Change]) {
    let mut scratch = vec![0; model.len()];
    let mut touched = vec![false; model.len()];
    for c in step {
        apply(&mut scratch, c, 0).for_each(|e| touched[e as usize] = true);
    }
    for e in (0..model.len()).filter(|e| !touched[*e]) {
        w.zero(v, extents_of(e as u64)).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn histories_of_one_leaf(steps in prop::collection::vec(changes(60), 1..6), shuffle: bool) {
        history(60, &steps, shuffle);
    }
    #[test]
    fn histories_of_several_leaves(steps in prop::collection::vec(changes(3000), 1..4), shuffle: bool) {
        history(3000, &steps, shuffle);
    }
}

#[test]
fn a_no_change_incremental_writes_three_small_objects_and_no_pack() {
    let (store, repo) = new_repo(true);
    let image: Vec<u8> = (0..100).flat_map(|i| content(i, EXTENT)).collect();
    let full = backup(&repo, "shop", None, &image, None, options()).unwrap();
    let (before, packs) = (store.bytes(), names(&*store, "d/").len());
    let next = backup(&repo, "shop", Some(&full), &image, Some(&[]), options()).unwrap();
    assert_eq!(names(&*store, "d/").len(), packs);
    assert!(store.bytes() - before < 1500, "{} bytes", store.bytes() - before);
    assert_eq!(next.volumes()[0].root, full.volumes()[0].root);
    // The same if extents are given and turn out equal.
    let again = backup(&repo, "shop", Some(&next), &image, Some(&[0, 5, 99]), options()).unwrap();
    assert_eq!((names(&*store, "d/").len(), again.volumes()[0].changed_extents), (packs, 0));
}

#[test]
fn equal_content_is_stored_once_in_a_session() {
    let (store, repo) = new_repo(true);
    let g = geometry(64 * EXTENT as u64);
    let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    let mut what = Vec::new();
    for e in 0..64 {
        what.push(w.put(v, e, &content(e as u32 % 3, EXTENT)).unwrap());
    }
    assert_eq!(what.iter().filter(|p| **p == Put::Stored).count(), 3);
    let stats = w.stats();
    assert_eq!((stats.stored, stats.deduped), (3, 61));
    let s = repo.snapshot_of(w.commit(CommitMeta::default()).unwrap());
    let image: Vec<u8> = (0..64).flat_map(|i| content(i % 3, EXTENT)).collect();
    assert!(read_all(&s, "data").unwrap() == image);
    assert!(store.bytes() < 4 * EXTENT as u64);
}

/// What is stored again waits behind what is compressed, and much that is known comes meanwhile.
#[test]
fn equal_content_is_found_however_much_that_is_known_comes_between() {
    let (_, repo) = new_repo(true);
    let image = |tags: &[u32]| tags.iter().flat_map(|i| content(*i, EXTENT)).collect::<Vec<u8>>();
    let known: Vec<u32> = (100..160).collect();
    backup(&repo, "other", None, &image(&known), None, options()).unwrap();
    // Without threads: the fifth makes the first be laid down, and nothing behind it; the last goes on.
    let image = image(&[&[1, 2, 1, 3, 4, 5][..], &known, &[6]].concat());
    let s = backup(&repo, "shop", None, &image, None, options()).unwrap();
    assert!(read_all(&s, "data").unwrap() == image);
}

/// A short last extent has the id of a whole one that ends in zeros; their frames are not the same.
#[test]
fn a_short_extent_is_not_taken_for_a_whole_one_with_the_same_id() {
    let (_, repo) = new_repo(true);
    let mut image = content(7, EXTENT);
    image[512..].fill(0);
    image.extend_from_slice(&content(7, EXTENT)[..512]);
    let s = backup(&repo, "shop", None, &image, None, options()).unwrap();
    let ids = s.holder("data").unwrap().ids(0, 2).unwrap();
    assert_eq!(ids[0], ids[1]);
    assert!(read_all(&s, "data").unwrap() == image);
}

#[test]
fn content_of_earlier_sessions_and_other_sets_is_not_stored_again() {
    let (store, repo) = new_repo(true);
    let mut image: Vec<u8> = Vec::new();
    (0..40).for_each(|i| image.extend_from_slice(&content(i, EXTENT)));
    backup(&repo, "shop", None, &image, None, options()).unwrap();
    let before = store.bytes();
    // Another set, everything moved by one extent, no parent.
    image.rotate_right(EXTENT);
    let s = backup(&repo, "other", None, &image, None, options()).unwrap();
    assert!(store.bytes() - before < 8 << 10, "{} bytes", store.bytes() - before);
    assert!(read_all(&s, "data").unwrap() == image);
    // A damaged index, or packs it names that are gone, cost space only.
    let first = names(&*store, "d/").first().cloned().unwrap();
    let damaged = store.copy();
    for name in names(&damaged, "i/") {
        damaged.damage(&name, |b| b[60] ^= 1);
    }
    let gone = store.copy();
    rekindle_io::store::Store::delete(&gone, &first).unwrap();
    let lies = store.copy();
    lies.damage(&first, |b| b.reverse());
    for store in [damaged, gone, lies] {
        let repo = Repository::open(Arc::new(store), Some(&key())).unwrap();
        let s = backup(&repo, "third", None, &image, None, options()).unwrap();
        assert!(read_all(&s, "data").unwrap() == image);
    }
    // After a collection this program cannot know what was condemned: it stores anew.
    rekindle_io::store::Store::put_new(&*store, "e/0000000000000001", &[b"x"]).unwrap();
    let before = store.bytes();
    backup(&repo, "fourth", None, &image, None, options()).unwrap();
    assert!(store.bytes() - before > 100 << 10);
}

#[test]
fn usage_pages_and_hot_list_come_back_and_are_shared() {
    let (store, repo) = new_repo(true);
    let g = geometry(3000 * EXTENT as u64);
    let full = {
        let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        w.zero(v, extents(0, 3000)).unwrap();
        w.usage_page(v, 0, b"zero").unwrap();
        w.usage_page(v, 2, b"two").unwrap();
        w.hot_list(v, &[2999, 5, 7, 0]).unwrap();
        assert!(w.usage_page(v, 3, b"beyond").is_err());
        w.commit(CommitMeta::default()).err().map(|e| assert!(matches!(e, RepoError::Invalid(_)))).unwrap();
        let mut w = repo.begin_snapshot("shop", None, options()).unwrap();
        let v = w.volume(identity("data", 1), g);
        w.zero(v, extents(0, 3000)).unwrap();
        w.usage_page(v, 0, b"zero").unwrap();
        w.usage_page(v, 2, b"two").unwrap();
        w.hot_list(v, &[2999, 5, 7, 0]).unwrap();
        repo.snapshot_of(w.commit(CommitMeta::default()).unwrap())
    };
    let pages = |s: &Snapshot| {
        let mut out = Vec::new();
        s.for_each_usage_page("data", &mut |i, p| out.push((i, p.to_vec()))).unwrap();
        out
    };
    assert_eq!(pages(&full), [(0, b"zero".to_vec()), (2, b"two".to_vec())]);
    assert_eq!(full.usage_page("data", 1).unwrap(), None);
    assert_eq!(full.hot_list("data").unwrap(), [2999, 5, 7, 0]);

    let mut w = repo.begin_snapshot("shop", Some(&full), options()).unwrap();
    let v = w.volume(identity("data", 1), g);
    w.keep_rest(v).unwrap();
    w.usage_page(v, 0, b"zero").unwrap();
    let same = repo.snapshot_of(w.commit(CommitMeta::default()).unwrap());
    assert_eq!(same.volumes()[0].usage, full.volumes()[0].usage);
    assert_eq!(same.hot_list("data").unwrap(), [2999, 5, 7, 0]);
    assert_eq!(names(&*store, "d/").len(), 1);
}

/// Opening reads as much at 16 TiB as at 1 TiB, and pages in memory stay within their bound.
#[test]
fn a_dense_volume_of_any_size_opens_by_the_same_few_reads() {
    use rekindle_io::holder::kit::Collected;
    use rekindle_io::holder::{FetchSink, Fetched, Urgency};
    use rekindle_io::store::FaultyStore;
    let mut reads = Vec::new();
    for tib in [1u64, 4] {
        let store = Arc::new(MemStore::new());
        let repo = Repository::init(store.clone(), &init_options(false)).unwrap();
        let g = Geometry::new(tib << 40, ExtentBytes::DEFAULT, 512, 4096).unwrap();
        let wide = WriterOptions { pack_bytes: 4 << 20, ..options() };
        let info = synthetic::dense(&repo, "big", identity("big", 1), g, wide).unwrap();
        assert_eq!(info.commit.volumes[0].stored_extents, g.extents());
        let faulty = Arc::new(FaultyStore::new(store));
        let repo = Repository::open_with(faulty.clone(), None, 2 << 20).unwrap();
        let holder = repo.snapshot("big", &Which::Latest).unwrap().holder("big").unwrap();
        let fetch = |e: u64| {
            let (sink, before) = (Collected::new(), faulty.counts());
            holder.clone().fetch(&[e], Urgency::Demand, &(sink.clone() as Arc<dyn FetchSink>));
            let Fetched::Sealed(s) = sink.wait(1).pop().unwrap().1.unwrap() else { panic!("zero") };
            let mut out = vec![0; 1 << 16];
            s.open(&mut out).unwrap();
            assert!(out == synthetic::content(e, 1 << 16), "extent {e}");
            let after = faulty.counts();
            (after.gets - before.gets, after.bytes_down - before.bytes_down)
        };
        // Root, inner page, leaf, frame; then only the frame.
        let first = fetch(g.extents() - 1);
        assert_eq!((first.0, fetch(g.extents() - 1).0), (4, 1));
        reads.push(first);
        for i in 0..64 {
            fetch(g.extents() / 64 * i);
        }
        assert!(holder.cached_bytes() <= 2 << 20);
    }
    assert!(reads[1].1 < reads[0].1 + (16 << 10), "{reads:?}");
}

#[test]
fn a_holder_on_a_store_that_answers_later_passes_the_kit() {
    use rekindle_io::store::FaultyStore;
    let store = Arc::new(MemStore::new());
    let repo = Repository::init(store.clone(), &init_options(true)).unwrap();
    let mut image: Vec<u8> = Vec::new();
    (0..30u32).for_each(|i| image.extend_from_slice(&content(i, EXTENT)));
    image[EXTENT..4 * EXTENT].fill(0);
    let info = backup(&repo, "shop", None, &image, None, options()).unwrap().info().clone();
    let faulty = FaultyStore::new(store);
    faulty.set_delay(std::time::Duration::from_millis(1));
    let repo = Repository::open(Arc::new(faulty), Some(&key())).unwrap();
    rekindle_io::holder::kit::check(repo.snapshot_of(info).holder("data").unwrap(), &image);
}

/// On a link each round trip counts: the leaves of a window are on their way together.
#[test]
fn the_leaves_of_a_window_are_asked_for_together() {
    use rekindle_io::store::FaultyStore;
    let store = Arc::new(MemStore::new());
    let repo = Repository::init(store.clone(), &init_options(false)).unwrap();
    let g = Geometry::new(8 << 26, ExtentBytes::DEFAULT, 512, 4096).unwrap();
    synthetic::dense(&repo, "big", identity("big", 1), g, options()).unwrap();
    let faulty = Arc::new(FaultyStore::new(store));
    let repo = Repository::open(faulty.clone(), None).unwrap();
    let holder = repo.snapshot("big", &Which::Latest).unwrap().holder("big").unwrap();
    faulty.hold_reads();
    let looking = std::thread::spawn(move || {
        let mut out = Vec::new();
        holder.presence(0, g.extents(), &mut out).unwrap();
        out.len() as u64
    });
    let mut trips = Vec::new();
    while !looking.is_finished() {
        match faulty.release(usize::MAX) {
            0 => std::thread::sleep(std::time::Duration::from_millis(1)),
            n => trips.push(n),
        }
    }
    assert_eq!(looking.join().unwrap(), g.extents());
    assert_eq!(trips, [1, 8], "the root, then all leaves");
}
