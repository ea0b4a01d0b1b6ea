//! What cannot be done: goal, a disk that somebody else has is left alone, and each refusal names what is really in the way
//! and a cure that works; method, the real binary, a lock held by this test as QEMU would hold it, a damaged repository.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Sandbox, data, read};
use rekindle_io::block::{FileBlock, FileOptions};
use std::path::Path;

/// A repository with one snapshot of `db`, and its disk.
fn kept(s: &Sandbox) -> (String, Vec<u8>) {
    s.ok(&["init"]);
    let bytes = data(1 << 20, 7);
    let path = s.file("db.raw", &bytes);
    s.ok(&["backup", &path]);
    (path, bytes)
}

#[test]
fn a_disk_that_another_program_has_is_left_alone() {
    let s = Sandbox::new();
    let (path, bytes) = kept(&s);
    let held = FileBlock::open(Path::new(&path), &FileOptions::default()).unwrap();
    let me = format!("process {}", std::process::id());
    for args in [
        &["restore", "db", "--to", &path, "--yes", "db"][..],
        &["restore", "db", "--to", &path, "--yes", "db", "--as", "new", "--listen", "unix:./n.sock"],
        &["serve", "db", &path, "--run", "true"],
        &["backup", &path],
    ] {
        let said = s.fails(11, args);
        assert!(said.contains("is in use"), "{args:?}: {said}");
        assert!(!said.contains("serves it as"), "{args:?} blames itself: {said}");
        assert!(said.contains(&me) || said.contains("fuser"), "{args:?}: {said}");
    }
    assert!(read(&path) == bytes);
    drop(held);
    s.ok(&["restore", "db", "--to", &path, "--yes", "db"]);
    assert!(read(&path) == bytes);
}

#[test]
fn cures_that_work() {
    let s = Sandbox::new();
    let (path, _) = kept(&s);
    assert!(s.fails(10, &["timeline", "-r", &path]).contains("a repository is a directory"));
    assert!(s.fails(1, &["show", "db/wal@latest"]).contains("no volume wal"));
    let resize = |len| std::fs::File::options().write(true).open(&path).unwrap().set_len(len).unwrap();
    resize(1 << 19);
    let said = s.fails(1, &["backup", &path]);
    assert!(said.contains("cut short") && said.contains("another name"), "{said}");
    s.ok(&["backup", &path, "--as", "smaller"]);
    std::fs::remove_dir_all(s.path("state")).unwrap();
    s.ok(&["backup", &path, "--as", "smaller"]);
    let ids = s.json(&["timeline", "smaller"])["snapshots"].as_array().unwrap().clone();
    let first = format!("smaller@{}", &ids[0]["id"].as_str().unwrap()[..8]);
    assert!(s.fails(2, &["diff", &first, "smaller@latest"]).contains("share no history"));
    resize(0);
    assert!(s.fails(1, &["backup", &path]).contains("is empty"));
    for pack in std::fs::read_dir(s.path("repo/d")).unwrap() {
        std::fs::remove_dir_all(pack.unwrap().path()).unwrap();
    }
    let ran = s.run(&["restore", "db", "--to", "new.raw"]);
    assert!(ran.code == 3 && ran.out.contains("it is missing"), "{}{}", ran.out, ran.err);
    assert!(!s.path("new.raw").exists(), "nothing of it is taken for a disk");
}

#[test]
fn other_names_of_a_disk_are_that_disk() {
    let s = Sandbox::new();
    let (path, bytes) = kept(&s);
    let to = s.text("new.raw");
    let (listen, other) = (format!("unix:{}", s.text("n.sock")), format!("unix:{}", s.text("o.sock")));
    let mut r = s.start(&["restore", "db", "--to", &to, "--listen", &listen, "--limit", "1kB/s"]);
    r.says("nbd+unix");
    std::fs::create_dir(s.path("far")).unwrap();
    let (soft, hard) = (s.text("far/soft.raw"), s.text("far/hard.raw"));
    std::os::unix::fs::symlink(&to, &soft).unwrap();
    std::fs::hard_link(&to, &hard).unwrap();
    let refused = |codes: &[i32], words: &[&str]| {
        for alias in [&soft, &hard] {
            for args in [
                &["serve", "two", alias, "--listen", &other][..],
                &["backup", alias, "--as", "two"],
                &["restore", "db", "--as", "two", "--to", alias, "--yes", "two", "--listen", &other],
                &["restore", "db", "--to", alias, "--yes", "db"],
            ] {
                let ran = s.run(args);
                assert!(codes.contains(&ran.code), "{args:?}: {}", ran.err);
                assert!(words.iter().any(|w| ran.err.contains(w)), "{args:?}: {}", ran.err);
            }
        }
    };
    refused(&[11, 14], &["serves it as db", "half-restored"]);
    r.signal(libc::SIGINT);
    assert_eq!(r.end(), 130);
    refused(&[14], &["half-restored"]);
    // It is taken up by whatever name.
    let mut r = s.start(&["serve", "db", &hard, "--listen", &listen]);
    r.says("nbd+unix");
    assert!(r.said().contains("going on with the restore"));
    s.ok(&["tune", "db", "--limit", "none"]);
    s.ok(&["cutover", "db"]);
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0, "{}", r.said());
    assert!(read(&hard) == bytes);
    // Two volumes on one file would overwrite each other.
    let wal = s.file("wal.raw", data(1 << 20, 8));
    let (a, b) = (format!("a={path}"), format!("b={wal}"));
    let mut serve = s.start(&["serve", "shop", &a, &b]);
    serve.says("shop/b");
    s.ok(&["backup", "shop"]);
    let (x, y) = (format!("a={soft}"), format!("b={hard}"));
    assert!(
        s.fails(2, &["restore", "shop", "--to", &x, "--to", &y, "--yes", "shop"]).contains("two volumes")
    );
}

#[test]
fn nothing_is_left_of_a_restore_that_was_refused() {
    let memory = Path::new("/dev/shm");
    let fs = rustix::fs::statfs(memory).map(|f| f.f_type);
    if fs != Ok(0x0102_1994) {
        return println!("skipped: /dev/shm is no tmpfs");
    }
    let s = Sandbox::new();
    kept(&s);
    let folder = tempfile::tempdir_in(memory).unwrap();
    let to = folder.path().join("new.raw");
    let listen = format!("unix:{}", s.text("n.sock"));
    let mut c = s.command(&["restore", "db", "--to", to.to_str().unwrap(), "--listen", &listen]);
    let ran = kit::ended(c.env_remove("REKINDLE_ALLOW_VOLATILE_STATE").output().unwrap());
    assert!(ran.code == 14 && ran.err.contains("lives in memory"), "{}", ran.err);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "something is left");
}

#[test]
fn what_cannot_be_opened_is_not_blamed_on_the_password() {
    let s = Sandbox::new();
    kept(&s);
    let config = s.path("repo/config");
    let whole = read(&config);
    let check = |word: &str| {
        let said = s.fails(1, &["timeline"]);
        assert!(said.contains(word) && said.contains("put it back from a copy"), "{said}");
        assert!(!said.contains("wrong password"), "{said}");
    };
    for at in [0, 8, 20, whole.len() - 1] {
        let mut damaged = whole.clone();
        damaged[at] ^= 1;
        std::fs::remove_file(&config).unwrap();
        std::fs::write(&config, damaged).unwrap();
        check("config is damaged");
    }
    std::fs::remove_file(&config).unwrap();
    check("it is missing");
    std::fs::write(&config, whole).unwrap();
    let slot = std::fs::read_dir(s.path("repo/k")).unwrap().next().unwrap().unwrap().path();
    let whole = read(&slot);
    std::fs::remove_file(&slot).unwrap();
    check("no key slot");
    std::fs::write(&slot, &whole[1..]).unwrap();
    check("is damaged");
    std::fs::write(&slot, whole).unwrap();
    s.ok(&["timeline"]);
}

#[test]
fn latest_is_a_moment_and_times_are_said_as_typed() {
    let s = Sandbox::new();
    let (path, _) = kept(&s);
    for args in [
        &["serve", "latest", &path][..],
        &["backup", &path, "--as", "latest"],
        &["restore", "db", "--to", "x", "--as", "latest", "--listen", "unix:./n.sock"],
        &["show", "latest"],
    ] {
        assert!(s.fails(2, args).contains("`latest` is no name"), "{args:?}");
    }
    assert!(s.fails(1, &["show", "db@-5m"]).contains("db@-5m"));
}

/// What is asked wrongly is told with what to ask instead, and leaves nothing behind.
#[test]
fn wrong_places_are_told_with_their_cure() {
    let s = Sandbox::new();
    let (path, _) = kept(&s);
    let folder = s.text("repo");
    for (code, args, words) in [
        (1, &["init", "-r", &format!("{path}/repo")][..], "check the path"),
        (2, &["init", "-r", "tcp://host:1"], "name a directory"),
        (1, &["serve", "x", &folder], "name a raw image or a block device"),
        (1, &["timeline", "--key-file", &folder], "check the path"),
    ] {
        let said = s.fails(code, args);
        assert!(said.contains(words) && !said.contains("dmesg"), "{args:?}: {said}");
    }
    assert!(!s.path("tcp:").exists());
    let said = s.fails(1, &["backup", "db", "--pre-hook", "false"]);
    assert!(said.contains("sh -c false"), "{said}");
    // Nobody can listen there: nothing was begun, the name and the destination are free.
    for listen in ["unix:/nowhere/at/all", &format!("unix:{path}")] {
        s.fails(1, &["restore", "db", "--to", "new.raw", "--listen", listen]);
        assert!(!s.path("new.raw").exists() && !s.path("new.raw.rekindle").exists(), "{listen}");
    }
    s.ok(&["restore", "db", "--to", "new.raw"]);
}
