//! A backup dies, or meets an error, at each of its store operations in turn. Afterwards every snapshot that exists reads
//! right, what was answered with success exists, and the next backup succeeds.

use super::super::*;
use super::kit::*;
use rekindle_io::Kind;
use rekindle_io::store::{Fault, FaultyStore, MemStore};

fn images() -> [Vec<u8>; 2] {
    let one = |tags: &[u32]| {
        let mut out = Vec::new();
        tags.iter().for_each(|t| out.extend_from_slice(&content(*t, EXTENT)));
        out
    };
    let (before, mut after) = ((0..24).collect::<Vec<u32>>(), (0..24).collect::<Vec<u32>>());
    for i in [3, 4, 17] {
        after[i] += 100;
    }
    [one(&before), one(&after)]
}

const CHANGED: [u64; 3] = [3, 4, 17];

struct World {
    base: MemStore,
    images: [Vec<u8>; 2],
}

fn world() -> World {
    let (store, repo) = new_repo(true);
    let images = images();
    backup(&repo, "shop", None, &images[0], None, options()).unwrap();
    World { base: store.copy(), images }
}

/// Runs the second backup on a copy of the world behind a faulty store; gives its result and the store underneath.
fn run(w: &World, plan: impl FnOnce(&FaultyStore)) -> (Result<()>, Arc<MemStore>, u64) {
    let inner = Arc::new(w.base.copy());
    let repo = Repository::open(inner.clone(), Some(&key())).unwrap();
    let parent = repo.snapshot("shop", &Which::Latest).unwrap();
    let faulty = Arc::new(FaultyStore::new(inner.clone()));
    let repo = Repository::open(faulty.clone(), Some(&key())).unwrap();
    let first = faulty.counts().ops;
    plan(&faulty);
    let parent = repo.snapshot_of(parent.info().clone());
    let result = backup(&repo, "shop", Some(&parent), &w.images[1], Some(&CHANGED), options()).map(drop);
    (result, inner, faulty.counts().ops - first)
}

fn first_op(w: &World) -> u64 {
    let faulty = FaultyStore::new(Arc::new(w.base.copy()));
    let faulty = Arc::new(faulty);
    Repository::open(faulty.clone(), Some(&key())).unwrap();
    faulty.counts().ops
}

/// What must hold after anything.
fn check(w: &World, store: &Arc<MemStore>, result: &Result<()>, at: &str) {
    let repo = Repository::open(store.clone(), Some(&key())).unwrap();
    let listing = repo.snapshots(None).unwrap();
    assert!(listing.damaged.is_empty(), "{at}: {:?}", listing.damaged);
    let n = listing.snapshots.len();
    assert!(n == 1 || n == 2, "{at}: {n} snapshots");
    assert!(result.is_err() || n == 2, "{at}: answered with success and not there");
    if let Err(e) = result {
        // A failure that is certain: nothing may have come to be.
        assert!(n == 1 || e.kind() == Kind::Unavailable, "{at}: failed with {e}, and there all the same");
    }
    for (i, info) in listing.snapshots.into_iter().enumerate() {
        assert!(read_all(&repo.snapshot_of(info), "data").unwrap() == w.images[i], "{at}: snapshot {i}");
    }
    let parent = repo.snapshot("shop", &Which::Latest).unwrap();
    let next = backup(&repo, "shop", Some(&parent), &w.images[1], Some(&CHANGED), options()).unwrap();
    assert!(read_all(&next, "data").unwrap() == w.images[1], "{at}: the next backup");
}

fn at_every_operation(fault: Fault, must_succeed: impl Fn(&Result<()>) -> bool) {
    let w = world();
    let first = first_op(&w);
    let (clean, store, ops) = run(&w, |_| ());
    check(&w, &store, &clean, "no fault");
    assert!(ops > 10, "{ops} operations");
    for op in 0..ops {
        let (result, store, _) = run(&w, |f| f.fail_at(first + op, fault));
        assert!(must_succeed(&result), "{fault:?} at {op}: {result:?}");
        check(&w, &store, &result, &format!("{fault:?} at {op}"));
    }
}

#[test]
fn dies_before_each_operation() {
    at_every_operation(Fault::Dies, |_| true);
}

#[test]
fn dies_after_each_operation() {
    at_every_operation(Fault::DiesAfter, |_| true);
}

#[test]
fn an_error_at_each_operation() {
    at_every_operation(Fault::Error(Kind::Failed), |r| r.is_err() || r.is_ok());
    at_every_operation(Fault::Error(Kind::Retry), |_| true);
}

/// A create whose answer is lost is resolved by reading back; only lost reads and lists fail the backup.
#[test]
fn a_lost_answer_at_each_operation() {
    at_every_operation(Fault::AnswerLost, |_| true);
    let w = world();
    let first = first_op(&w);
    let (_, _, ops) = run(&w, |_| ());
    let mut survived = 0;
    for op in 0..ops {
        let (result, store, _) = run(&w, |f| f.fail_at(first + op, Fault::AnswerLost));
        survived += u64::from(result.is_ok());
        let repo = Repository::open(store, Some(&key())).unwrap();
        assert!(repo.snapshots(None).unwrap().snapshots.len() <= 2, "a lost answer made two of one");
    }
    // open, two packs or so, end, commit.
    assert!(survived >= 4, "{survived} of {ops}");
}

#[test]
fn init_that_dies_anywhere_can_be_run_again() {
    for fault in [Fault::Dies, Fault::DiesAfter] {
        for op in 0..4 {
            let inner = Arc::new(MemStore::new());
            let faulty = Arc::new(FaultyStore::new(inner.clone()));
            faulty.fail_at(op, fault);
            let first = Repository::init(faulty, &init_options(true)).map(drop);
            match Repository::init(inner.clone(), &init_options(true)) {
                Ok(_) => assert!(first.is_err(), "{fault:?} at {op}"),
                Err(e) => assert!(matches!(e, RepoError::AlreadyARepository { .. }), "{e}"),
            }
            Repository::open(inner, Some(&key())).unwrap();
        }
    }
}
