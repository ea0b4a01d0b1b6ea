//! The directory store against the kit, step by step with faults at every step, and beside others in one directory.

use super::super::{StoreExt, kit, probe};
use super::*;
use rekindle_core::volume::ByteRange;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

type Decide = Box<dyn Fn(usize, Step) -> Result<(), Errno> + Send + Sync>;

/// Records steps and decides how they go.
#[derive(Default)]
pub(super) struct Hook {
    steps: Mutex<Vec<Step>>,
    decide: Mutex<Option<Decide>>,
}

impl Hook {
    pub fn step(&self, step: Step) -> Result<(), Errno> {
        let number = {
            let mut steps = self.steps.lock().unwrap();
            steps.push(step);
            steps.len() - 1
        };
        self.decide.lock().unwrap().as_ref().map_or(Ok(()), |d| d(number, step))
    }
    fn take(&self) -> Vec<Step> {
        std::mem::take(&mut self.steps.lock().unwrap())
    }
    fn decide(&self, d: impl Fn(usize, Step) -> Result<(), Errno> + Send + Sync + 'static) {
        self.take();
        *self.decide.lock().unwrap() = Some(Box::new(d));
    }
}

/// Stores in folders of their own that vanish at the end.
fn fresh(by_link: bool) -> (tempfile::TempDir, impl Fn() -> Arc<dyn Store>) {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().to_path_buf();
    let next = std::sync::atomic::AtomicU32::new(0);
    (dir, move || {
        let s = DirStore::create(&base.join(next.fetch_add(1, Ordering::Relaxed).to_string())).unwrap();
        s.by_link.store(by_link, Ordering::Relaxed);
        s
    })
}

fn tmp_files(path: &Path) -> usize {
    std::fs::read_dir(path.join(TMP)).map_or(0, |d| d.count())
}

#[test]
fn conforms_by_rename_and_by_link() {
    for by_link in [false, true] {
        let (_dir, fresh) = fresh(by_link);
        kit::check(&fresh);
    }
}

#[test]
fn two_stores_on_one_directory_are_one_store() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (DirStore::open(dir.path()).unwrap(), DirStore::open(dir.path()).unwrap());
    a.put_new("x/1", &[b"a"]).unwrap();
    assert_eq!(b.put_new("x/1", &[b"b"]).unwrap(), Put::Exists);
    assert_eq!(b.get("x/1", Part::All).unwrap(), b"a");
    a.delete("x/1").unwrap();
    assert_eq!((b.head("x/1").unwrap(), b.list_all("").unwrap().len()), (None, 0));
    let p = probe(&*a).unwrap();
    assert!(p.several_writers && p.faults.is_empty() && p.took < Duration::from_secs(5), "{p:?}");
    assert_eq!(a.list_all("").unwrap(), []);
}

#[test]
fn durable_before_named_named_before_answered() {
    use Step::*;
    let dir = tempfile::tempdir().unwrap();
    let s = DirStore::open(dir.path()).unwrap();
    s.put_new("a/b/x", &[b"1"]).unwrap();
    let first = [
        CreateTmp,
        LockTmp,
        WriteTmp,
        FlushTmp,
        MakeFolder,
        FlushFolder,
        MakeFolder,
        FlushFolder,
        Name,
        FlushFolder,
    ];
    assert_eq!(s.hook.take(), first);
    s.put_new("a/b/y", &[b"1"]).unwrap();
    assert_eq!(s.hook.take(), [CreateTmp, LockTmp, WriteTmp, FlushTmp, Name, FlushFolder]);
    s.put_new("a/b/y", &[b"2"]).unwrap();
    assert_eq!(s.hook.take(), [FlushFolder], "a name found taken is durable before it is told");
    let draft = s.begin("a/b/z").unwrap().unwrap();
    s.put_new("a/b/z", &[b"1"]).unwrap();
    s.hook.take();
    assert_eq!(draft.finish().unwrap(), Put::Exists);
    assert_eq!(s.hook.take(), [FlushTmp, Name, RemoveTmp, FlushFolder], "the same of a draft");
    s.delete("a/b/y").unwrap();
    assert_eq!(s.hook.take(), [Remove, FlushFolder]);
}

/// The process dies before step n, for every n: the object is whole or absent, the next process goes on, and what was
/// left is removed.
#[test]
fn dying_at_every_step() {
    for by_link in [false, true] {
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let s = DirStore::open(dir.path()).unwrap();
            s.by_link.store(by_link, Ordering::Relaxed);
            s.put_new("old", &[b"0"]).unwrap();
            s.hook.decide(move |at, _| if at >= n { Err(Errno::IO) } else { Ok(()) });
            let answer = s.put_new("a/b/x", &[&[7; 70_000], b"tail"]);
            let steps = s.hook.take().len();
            drop(s);
            let s = DirStore::open(dir.path()).unwrap();
            s.remove_leftovers(Duration::ZERO);
            assert_eq!(tmp_files(dir.path()), 0, "step {n}");
            let whole = [&[7; 70_000][..], b"tail"].concat();
            match s.get("a/b/x", Part::All) {
                Ok(bytes) => assert_eq!(bytes, whole, "step {n}"),
                Err(e) => assert!(e.kind == Kind::Gone && answer.is_err(), "step {n}: {e}"),
            }
            s.put_new("a/b/x", &[&whole]).unwrap();
            assert_eq!(s.get("a/b/x", Part::All).unwrap(), whole);
            assert_eq!(s.list_all("").unwrap().len(), 2);
            if steps <= n {
                assert_eq!(answer.unwrap(), Put::Created);
                break;
            }
        }
    }
}

/// One step fails, for every step and reason: the error names the next move, nothing is visible, nothing is left.
#[test]
fn failing_at_every_step() {
    for (errno, kind) in [
        (Errno::NOSPC, Kind::Full),
        (Errno::DQUOT, Kind::Full),
        (Errno::IO, Kind::Failed),
        (Errno::ROFS, Kind::ReadOnly),
        (Errno::ACCESS, Kind::ReadOnly),
    ] {
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let s = DirStore::open(dir.path()).unwrap();
            s.hook.decide(move |at, _| if at == n { Err(errno) } else { Ok(()) });
            let answer = s.put_new("a/x", &[b"1"]);
            let steps = s.hook.take();
            s.hook.decide(|_, _| Ok(()));
            if steps.len() <= n {
                assert_eq!(answer.unwrap(), Put::Created);
                break;
            }
            let e = answer.unwrap_err();
            assert_eq!(e.kind, kind, "step {n} {:?}: {e}", steps[n]);
            assert!(e.what.contains(&*dir.path().to_string_lossy()), "{e}");
            assert_eq!(tmp_files(dir.path()), 0);
            let named = steps[n] == Step::FlushFolder && steps[n - 1] == Step::Name;
            assert_eq!(s.head("a/x").unwrap().is_some(), named, "step {n}");
            let next = s.put_new("a/x", &[b"1"]);
            match steps[n] {
                Step::FlushFolder => assert_eq!(next.unwrap_err().kind, Kind::Failed, "fails until reopened"),
                _ => assert_eq!(next.unwrap(), Put::Created),
            }
            let reopened = DirStore::open(dir.path()).unwrap();
            assert_eq!(reopened.put_new("a/y", &[b"1"]).unwrap(), Put::Created);
        }
    }
}

#[test]
fn a_lost_answer_over_the_network_is_recognised() {
    for by_link in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let s = DirStore::open(dir.path()).unwrap();
        let base = dir.path().to_path_buf();
        s.hook.decide(move |_, step| {
            if step != Step::Name {
                return Ok(());
            }
            // The server does it; the answer is lost; the client asks again and is told that the name is taken.
            let tmp = std::fs::read_dir(base.join(TMP)).unwrap().next().unwrap().unwrap().path();
            match by_link {
                true => std::fs::hard_link(tmp, base.join("x")).unwrap(),
                false => std::fs::rename(tmp, base.join("x")).unwrap(),
            }
            Err(Errno::EXIST)
        });
        assert_eq!(s.put_new("x", &[b"ours"]).unwrap(), Put::Created);
        assert_eq!((s.get("x", Part::All).unwrap(), tmp_files(dir.path())), (b"ours".to_vec(), 0));
    }
}

#[test]
fn leftovers_go_live_writers_stay() {
    let dir = tempfile::tempdir().unwrap();
    let s = DirStore::open(dir.path()).unwrap();
    std::fs::create_dir(dir.path().join(TMP)).unwrap();
    let left = dir.path().join(TMP).join("left");
    let write = |age: Duration| {
        std::fs::write(&left, b"half").unwrap();
        let old = std::time::SystemTime::now() - age;
        std::fs::File::options().write(true).open(&left).unwrap().set_modified(old).unwrap();
    };
    write(Duration::from_secs(60));
    drop(DirStore::open(dir.path()).unwrap());
    assert!(left.exists(), "young: perhaps a writer on another machine");
    write(Duration::from_secs(7200));
    let held = std::fs::File::open(&left).unwrap();
    fs::flock(&held, fs::FlockOperation::LockExclusive).unwrap();
    drop(DirStore::open(dir.path()).unwrap());
    assert!(left.exists(), "old, but its writer lives");
    drop(held);
    drop(DirStore::open(dir.path()).unwrap());
    assert!(!left.exists());
    // Removal that goes on beside writers (age 0 is worse than reality) costs them another file at most: the lock decides.
    let stop = AtomicBool::new(false);
    std::thread::scope(|t| {
        t.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                s.remove_leftovers(Duration::ZERO);
            }
        });
        let answers: Vec<_> = (0..30).map(|i| s.put_new(&format!("n/{i}"), &[b"1"])).collect();
        stop.store(true, Ordering::SeqCst);
        assert!(answers.iter().all(|a| matches!(a, Ok(Put::Created))), "{answers:?}");
    });
}

#[test]
fn a_file_taken_away_before_its_lock_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let s = DirStore::open(dir.path()).unwrap();
    let base = dir.path().join(TMP);
    s.hook.decide(move |at, step| {
        if step == Step::LockTmp && at < 4 {
            std::fs::read_dir(&base).unwrap().flatten().for_each(|f| std::fs::remove_file(f.path()).unwrap());
        }
        Ok(())
    });
    assert_eq!(s.put_new("x", &[b"1"]).unwrap(), Put::Created);
    assert_eq!(s.get("x", Part::All).unwrap(), b"1");
    assert_eq!(s.hook.take().iter().filter(|s| **s == Step::CreateTmp).count(), 3);
}

#[test]
fn what_others_put_there_is_not_ours() {
    let dir = tempfile::tempdir().unwrap();
    let s = DirStore::open(dir.path()).unwrap();
    s.put_new("a/x", &[b"1"]).unwrap();
    for name in ["README", "a/.nfs0001", "a/Upper", ".hidden", "lost+found"] {
        std::fs::write(dir.path().join(name), b"theirs").unwrap();
    }
    std::os::unix::fs::symlink("nowhere", dir.path().join("a/link")).unwrap();
    std::os::unix::fs::symlink("loop", dir.path().join("a/loop")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, dir.path().join("a/fifo"), FileType::Fifo, FILE, 0).unwrap();
    assert_eq!(s.list_all("").unwrap(), [Entry { name: "a/x".into(), size: 1 }]);
    for name in ["a/link", "a/loop", "a/fifo"] {
        assert_eq!(s.get(name, Part::All).unwrap_err().kind, Kind::Gone, "{name}");
        assert_eq!(s.head(name).unwrap(), None, "{name}");
    }
    assert_eq!(s.put_new("a", &[]).unwrap_err().kind, Kind::Invalid);
    assert_eq!(s.put_new("a/x/y", &[]).unwrap_err().kind, Kind::Invalid);
    assert_eq!(tmp_files(dir.path()), 0);
}

const FILE: Mode = Mode::from_raw_mode(0o600);

#[test]
fn opening() {
    let dir = tempfile::tempdir().unwrap();
    let refused = |p: &Path| DirStore::open(p).err().map(|e| e.kind);
    assert_eq!(refused(&dir.path().join("none")), Some(Kind::Gone));
    std::fs::write(dir.path().join("file"), b"").unwrap();
    assert_eq!(refused(&dir.path().join("file")), Some(Kind::Invalid));
    let deep = dir.path().join("p/q/r");
    DirStore::create(&deep).unwrap().put_new("x", &[]).unwrap();
    DirStore::create(&deep).unwrap();
    // Root may write where it must not; the message is checked where the rule holds.
    std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o555)).unwrap();
    std::fs::set_permissions(deep.join(TMP), std::fs::Permissions::from_mode(0o555)).unwrap();
    let s = DirStore::open(&deep).unwrap();
    if let Err(e) = s.put_new("y", &[]) {
        assert!(e.kind == Kind::ReadOnly && e.what.contains("cannot create objects"), "{e}");
    }
    assert_eq!(s.get("x", Part::All).unwrap(), b"");
    std::fs::set_permissions(&deep, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn descriptors_are_bounded_and_deleted_objects_give_their_space_back() {
    let dir = tempfile::tempdir().unwrap();
    let (s, other) = (DirStore::open(dir.path()).unwrap(), DirStore::open(dir.path()).unwrap());
    let prefix = dir.path().to_string_lossy().into_owned();
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .flatten()
            .filter_map(|f| std::fs::read_link(f.path()).ok())
            .filter(|f| f.to_string_lossy().starts_with(&prefix))
            .count()
    };
    for i in 0..200 {
        std::fs::write(dir.path().join(format!("o{i}")), b"abc").unwrap();
        assert_eq!(s.get(&format!("o{i}"), Part::Tail(2)).unwrap(), b"bc");
    }
    assert_eq!(open(), 64 + 2);
    (100..200).for_each(|i| other.delete(&format!("o{i}")).unwrap());
    s.list("", "", 1).unwrap();
    assert_eq!(open(), 2);
}

#[test]
fn an_object_cut_short_behind_our_back_is_corrupt() {
    let dir = tempfile::tempdir().unwrap();
    let s = DirStore::open(dir.path()).unwrap();
    s.put_new("x", &[&[1; 5000]]).unwrap();
    s.get("x", Part::All).unwrap();
    std::fs::File::options().write(true).open(dir.path().join("x")).unwrap().set_len(100).unwrap();
    let e = s.get("x", Part::Range(ByteRange::new(50, 100))).unwrap_err();
    assert!(e.kind == Kind::Corrupt && e.what.contains('x'), "{e}");
    assert_eq!(s.get("x", Part::Range(ByteRange::new(50, 50))).unwrap(), [1; 50]);
}
