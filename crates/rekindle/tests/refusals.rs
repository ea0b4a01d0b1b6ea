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
