//! Time and formats that are not as they should be: goal, history keeps its order whatever the clock did, and a repository
//! of a newer program is told as that; method, snapshots and configs made by the libraries, read by the real binary.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Sandbox, data, read};
use rekindle_core::bytes::crc32c;
use rekindle_core::volume::{ExtentBytes, ExtentRange, Generation, Geometry, Uuid};
use rekindle_engine::backup::VolumeIdentity;
use rekindle_engine::repository::{CommitMeta, Repository, WriterOptions};
use rekindle_io::store::DirStore;
use std::path::Path;

const MINUTE_NS: u64 = 60_000_000_000;

/// A snapshot of `db` taken when the clock said `time_ns`: one extent, filled with `fill`.
fn snapshot(repository: &Repository, time_ns: u64, fill: u8) -> String {
    let parent = repository.snapshots(Some("db")).unwrap().snapshots.pop().map(|i| repository.snapshot_of(i));
    let options = WriterOptions { time_ns, ..WriterOptions::default() };
    let mut w = repository.begin_snapshot("db", parent.as_ref(), options).unwrap();
    let geometry = Geometry::new(2 << 16, ExtentBytes::DEFAULT, 512, 4096).unwrap();
    let identity = VolumeIdentity {
        name: "db".into(),
        uuid: Uuid([1; 16]),
        tracking: Uuid([2; 16]),
        generation: Generation(1),
    };
    let v = w.volume(identity, geometry);
    w.put(v, 0, &[fill; 1 << 16]).unwrap();
    w.zero(v, ExtentRange { start: 1, end: 2 }).unwrap();
    w.commit(CommitMeta { time_ns, ..CommitMeta::default() }).unwrap().commit.snapshot.to_string()
}

#[test]
fn a_clock_set_back_turns_no_history_round() {
    let s = Sandbox::new();
    s.ok(&["init", "--no-encryption"]);
    let plain = |args: &[&str]| {
        let mut c = s.command(args);
        let ran = kit::ended(c.env_remove("REKINDLE_KEY_FILE").output().unwrap());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let repository = Repository::open(DirStore::open(&s.path("repo")).unwrap(), None).unwrap();
    // The clock goes back by an hour between the second and the third.
    let minutes = [30, 20, 80, 70];
    let ids: Vec<String> =
        (1..).zip(minutes).map(|(n, m)| snapshot(&repository, now - m * MINUTE_NS, n)).collect();
    let timeline: serde_json::Value = serde_json::from_str(&plain(&["timeline", "db", "--json"])).unwrap();
    let shown: Vec<_> = timeline["snapshots"].as_array().unwrap().iter().map(|t| t["id"].clone()).collect();
    assert_eq!(shown, ids, "in the order they were made");
    assert_eq!(timeline["snapshots"][2]["parent"], ids[1].as_str());
    // The newest is the one made last; a time means the clock.
    for (moment, n) in [("db@latest", 4), ("db@-15m", 2), ("db@-25m", 1), ("db@-75m", 3), ("db@-40m", 4)] {
        let _ = std::fs::remove_file(s.path("out.raw"));
        plain(&["restore", moment, "--to", "out.raw"]);
        assert_eq!(read(s.path("out.raw"))[0], n, "{moment}");
    }
    let mut c = s.command(&["show", "db@-2h"]);
    let ran = kit::ended(c.env_remove("REKINDLE_KEY_FILE").output().unwrap());
    assert!(ran.code == 1 && ran.err.contains(&format!("open that one: db@{}", &ids[2][..8])), "{}", ran.err);
}

/// Changes bytes of a config and makes its checksum right.
fn changed(path: &Path, at: usize, byte: u8) -> Vec<u8> {
    let whole = read(path);
    let mut bytes = whole.clone();
    bytes[at] = byte;
    let body = bytes.len() - 4;
    let crc = crc32c(&bytes[..body]).to_le_bytes();
    bytes[body..].copy_from_slice(&crc);
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
    whole
}

#[test]
fn a_newer_repository_is_told_from_a_damaged_one() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let disk = s.file("disk.raw", data(1 << 20, 1));
    s.ok(&["backup", &disk, "--as", "db"]);
    let config = s.path("repo/config");
    // The format, then a feature that readers must know.
    for at in [8, 32] {
        let whole = changed(&config, at, 0x77);
        for args in [
            &["timeline"][..],
            &["backup", &disk, "--as", "db"],
            &["restore", "db", "--to", "new.raw"],
            &["show", "db"],
        ] {
            let said = s.fails(1, args);
            assert!(said.contains("newer"), "{args:?}: {said}");
            assert!(!said.contains("damaged"), "{args:?}: {said}");
        }
        assert!(!s.path("new.raw").exists());
        std::fs::write(&config, whole).unwrap();
    }
    s.ok(&["timeline"]);
    // A feature that only writers must know: read, not written.
    let plain = |code: i32, args: &[&str]| {
        let mut c = s.command(&[args, &["-r", "plain"]].concat());
        let ran = kit::ended(c.env_remove("REKINDLE_KEY_FILE").output().unwrap());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        ran.err
    };
    plain(0, &["init", "--no-encryption"]);
    plain(0, &["backup", &disk, "--as", "db"]);
    changed(&s.path("plain/config"), 24, 0x77);
    plain(0, &["restore", "db", "--to", "new.raw"]);
    assert!(read(s.path("new.raw")) == read(&disk));
    assert!(plain(1, &["backup", &disk, "--as", "db"]).contains("newer"));
    assert!(plain(1, &["restore", "db", "--to", "x.raw", "--listen", "unix:./x.sock"]).contains("newer"));
    assert!(!s.path("x.raw").exists() && !s.path("x.raw.rekindle").exists(), "something is left");
}
