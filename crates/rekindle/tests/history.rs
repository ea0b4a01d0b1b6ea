//! Keeping and reading history: goal, what went in comes out, and each thing that can be wrong has its exit code, cause
//! and cure; method, the real binary on image files.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Sandbox, data, ended, read};
use std::os::unix::fs::MetadataExt;

/// A disk of 2 MiB: data, holes, data.
fn disk(s: &Sandbox, name: &str, seed: u64) -> (String, Vec<u8>) {
    let mut bytes = data(2 << 20, seed);
    bytes[300_000..1_500_000].fill(0);
    (s.file(name, &bytes), bytes)
}

fn change(path: &str, at: usize, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let f = std::fs::File::options().write(true).open(path).unwrap();
    f.write_all_at(bytes, at as u64).unwrap();
}

#[test]
fn what_went_in_comes_out() {
    let s = Sandbox::new();
    assert!(s.ok(&["init"]).contains("good for several writers"));
    let (path, first) = disk(&s, "db.raw", 1);
    assert!(s.ok(&["backup", "./db.raw"]).contains("backup    db@"));
    // Nobody but us has looked at it: that is no use.
    assert_eq!(s.json(&["usage", "db@latest"])[0]["used_bytes"], 0);
    change(&path, 70_000, b"changed");
    let done = s.messages(&["backup", &path, "--tag", "nightly"]).1.pop().unwrap();
    assert_eq!((done["message_type"].as_str(), done["name"].as_str()), (Some("summary"), Some("db")));
    assert_eq!(done["backup"]["changed_bytes"], 65536);
    let timeline = s.json(&["timeline", "db"]);
    let ids: Vec<String> =
        timeline["snapshots"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().into()).collect();
    assert_eq!(ids.len(), 2);
    assert_eq!(timeline["snapshots"][1]["tags"][0], "nightly");
    assert_eq!(timeline["snapshots"][1]["parent"].as_str(), Some(ids[0].as_str()));
    assert_eq!(s.ok(&["snapshots"]).lines().count(), 3);
    assert!(s.ok(&["show", "db"]).contains(&ids[1]));
    let (older, newer) = (format!("db@{}", &ids[0][..8]), format!("db@{}", &ids[1][..8]));
    assert_eq!(s.ok(&["-q", "diff", &older, &newer]), "db\t65536\t65536\n");
    assert_eq!(s.json(&["diff", &older, "db", "--summary"])["volumes"][0]["differing_bytes"], 65536);
    assert_eq!(s.ok(&["-q", "diff", &older, &older]), "");

    assert!(s.ok(&["restore", &older, "--to", "old.raw"]).contains("verified"));
    assert!(read(s.path("old.raw")) == first);
    let meta = std::fs::metadata(s.path("old.raw")).unwrap();
    assert!(meta.blocks() * 512 < 1_200_000, "holes stay holes: {}", meta.blocks());
    assert!(s.partials("old.raw").is_empty());
    s.ok(&["restore", "db@latest", "--to", "new.raw", "--no-verify"]);
    assert!(read(s.path("new.raw")) == read(&path));
    let piped = s.command(&["restore", &older, "--to", "-"]).output().unwrap();
    assert_eq!(piped.status.code(), Some(0));
    assert!(piped.stdout == first, "stdout is the disk and nothing else");
    // To the second, as people type it: before the first there is nothing, and the error says what is nearest.
    assert!(s.fails(1, &["show", "db@-1h"]).contains(&format!("open that one: db@{}", &ids[0][..8])));
}

#[test]
fn nothing_is_lost_unasked() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let (path, bytes) = disk(&s, "db.raw", 1);
    s.ok(&["backup", &path]);
    let there = s.file("there.raw", b"precious");
    let said = s.fails(14, &["restore", "db", "--to", &there]);
    assert!(said.contains("there.raw of 8 B") && said.contains("--yes db"), "{said}");
    assert!(s.fails(14, &["restore", "db", "--to", &there, "--yes", "dc"]).contains("not db"));
    let plan = s.ok(&["restore", "db", "--to", &there, "-n"]);
    assert!(plan.contains("losing the file") && plan.contains("forecast  at "), "{plan}");
    let plan = s.json(&["restore", "db", "--to", &there, "-n", "--bandwidth", "1MB/s"]);
    assert_eq!(plan["bytes_per_s"], 1e6);
    assert_eq!(read(&there), b"precious");
    // Consent to lose it is not consent to pull it from under somebody who uses it.
    let options = rekindle_io::block::FileOptions::default();
    let user =
        rekindle_io::block::FileBlock::open(std::path::Path::new(&s.file("used.raw", &bytes)), &options)
            .unwrap();
    for more in [&[][..], &["--listen", "unix:./x.sock"]] {
        let said = s.fails(11, &[&["restore", "db", "--to", "used.raw", "--yes", "db"], more].concat());
        assert!(said.contains("in use"), "{said}");
    }
    assert!(read(s.path("used.raw")) == bytes && !s.path("used.raw.rekindle").exists());
    drop(user);
    s.ok(&["restore", "db", "--to", &there, "--yes", "db"]);
    assert!(read(&there) == bytes);
    // What appears while a copy is made was in nobody's mind when consent was given, or not needed.
    let slow = s.start(&["restore", "db", "--to", "late.raw", "--limit", "1MB/s"]);
    let begun = std::time::Instant::now();
    while s.partials("late.raw").is_empty() {
        assert!(begun.elapsed().as_secs() < 30, "{}", slow.said());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let late = s.file("late.raw", b"precious");
    let mut slow = slow;
    assert_eq!(slow.end(), 14, "{}", slow.said());
    assert!(read(&late) == b"precious" && read(&s.partials("late.raw")[0]) == bytes, "{}", slow.said());
    // A copy that is not whole leaves what was there.
    let pack = std::process::Command::new("sh")
        .args(["-c", "find repo -type f -size +64k | head -1"])
        .current_dir(s.dir.path())
        .output()
        .unwrap();
    let pack = s.path(String::from_utf8(pack.stdout).unwrap().trim());
    let mut damaged = read(&pack);
    let middle = damaged.len() / 4;
    damaged[middle] ^= 1;
    std::fs::write(&pack, damaged).unwrap();
    let ran = s.run(&["restore", "db", "--to", &there, "--yes", "db"]);
    assert!(ran.code == 3 && ran.out.contains(".partial: not whole"), "{}{}", ran.out, ran.err);
    assert!(read(&there) == bytes && s.partials("there.raw").len() == 1);
}

/// A copy that was interrupted is gone on with by the same command alone: what it saved may be all there is of that moment.
#[test]
fn an_unfinished_copy_of_another_moment_is_left_alone() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let (path, older) = disk(&s, "db.raw", 1);
    s.ok(&["backup", &path]);
    let id = s.json(&["timeline", "db"])["snapshots"][0]["id"].as_str().unwrap()[..8].to_string();
    let mut slow = s.start(&["restore", "db", "--to", "copy.raw", "--limit", "1MB/s"]);
    let begun = std::time::Instant::now();
    while s.partials("copy.raw").first().is_none_or(|p| p.metadata().unwrap().blocks() == 0) {
        assert!(begun.elapsed().as_secs() < 30, "{}", slow.said());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    slow.signal(libc::SIGINT);
    assert_eq!(slow.end(), 130, "{}", slow.said());
    let partial = s.partials("copy.raw").remove(0);
    assert!(partial.to_str().unwrap().contains(&id), "{partial:?}");
    let saved = read(&partial);
    let plan = ["restore", "db", "--to", "copy.raw", "-n"];
    assert_eq!(s.json(&plan)["goes_on"], true);
    assert!(s.ok(&plan).contains(&format!("goes on   with {}", partial.display())));
    change(&path, 0, &data(2 << 20, 9));
    s.ok(&["backup", &path]);
    assert_eq!(s.json(&plan)["goes_on"], false);
    assert!(s.ok(&plan).contains(&format!("beside    {}", partial.display())));
    let ran = s.run(&["restore", "db", "--to", "copy.raw"]);
    assert!(ran.code == 0 && ran.err.contains("unfinished copy of another moment"), "{}{}", ran.out, ran.err);
    assert!(read(s.path("copy.raw")) == read(&path) && read(&partial) == saved);
    s.ok(&["restore", &format!("db@{id}"), "--to", "copy.raw", "--yes", "db"]);
    assert!(read(s.path("copy.raw")) == older && s.partials("copy.raw").is_empty());
}

#[test]
fn a_served_set_is_backed_up_by_its_owner() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let (data_path, data_bytes) = disk(&s, "data.raw", 1);
    let (wal_path, wal_bytes) = disk(&s, "wal.raw", 2);
    let (data_arg, wal_arg) = (format!("data={data_path}"), format!("wal={wal_path}"));
    let mut serve = s.start(&["serve", "shop", &data_arg, &wal_arg]);
    serve.says("shop/wal");
    assert!(s.ok(&["backup", "shop", "-n"]).contains("which process"));
    let (pre, post) = (s.text("pre"), s.text("post"));
    let hooks = [format!("touch {pre}"), format!("test -e {pre} && touch {post}")];
    s.ok(&["backup", "shop", "--pre-hook", &hooks[0], "--post-hook", &hooks[1]]);
    assert!(s.path("post").exists());
    assert!(s.fails(1, &["backup", "shop", "--pre-hook", "exit 9"]).contains("exit status: 9"));
    let second = s.messages(&["backup", "shop"]).1.pop().unwrap();
    assert_eq!(second["backup"]["read_bytes"], 0, "nothing changed, nothing is read: {second}");
    let status = s.json(&["status"]);
    assert!(status[0]["backup"]["last"]["snapshot"].is_string(), "{status}");
    serve.signal(libc::SIGTERM);
    assert_eq!(serve.end(), 0, "{}", serve.said());
    // At rest the set is remembered, and still nothing has to be read.
    let third = s.messages(&["backup", "shop"]).1.pop().unwrap();
    assert_eq!(third["backup"]["read_bytes"], 0, "{third}");
    let both = ["restore", "shop", "--to", "data=d.raw", "--to", "wal=w.raw"];
    s.ok(&both);
    assert!(read(s.path("d.raw")) == data_bytes && read(s.path("w.raw")) == wal_bytes);
    s.ok(&["restore", "shop/wal@latest", "--to", "alone.raw"]);
    assert!(read(s.path("alone.raw")) == wal_bytes);
    assert!(s.fails(2, &both[..4]).contains("wal has no destination"));
    assert!(s.fails(2, &["restore", "shop", "--to", "x.raw"]).contains("which volume"));
    assert!(s.fails(2, &["restore", "shop", "--to", "-"]).contains("stdout holds one"));
    assert!(s.fails(2, &["restore", "shop", "--to", "data=x", "--to", "log=y"]).contains("no volume log"));
    assert!(s.fails(2, &["restore", "shop", "--to", "data=x", "--to", "wal=x"]).contains("two volumes"));
    assert!(s.fails(1, &["restore", "shop/log", "--to", "x.raw"]).contains("log"));
}

#[test]
fn repositories_that_cannot_be_used() {
    let s = Sandbox::new();
    let (path, _) = disk(&s, "db.raw", 1);
    assert!(s.fails(10, &["timeline"]).contains("rekindle init"));
    std::fs::create_dir(s.path("empty")).unwrap();
    assert!(s.fails(10, &["timeline", "-r", "empty"]).contains("not a repository"));
    assert!(s.fails(2, &["timeline", "-r", "s3://b/p"]).contains("directories"));
    let plan = s.json(&["init", "-n"]);
    assert_eq!((&plan["id"], &plan["several_writers"]), (&serde_json::Value::Null, &true.into()));
    assert!(!s.path("repo").exists(), "-n leaves nothing");
    s.ok(&["init"]);
    assert!(s.fails(1, &["init"]).contains("there is one already"));
    s.file("other", [9u8; 32]);
    assert!(s.fails(12, &["timeline", "--key-file", "other"]).contains("wrong password or key file"));
    s.file("short", [9u8; 5]);
    assert!(s.fails(2, &["timeline", "--key-file", "short"]).contains("32 bytes"));
    let mut none = s.command(&["timeline"]);
    let ran = ended(none.env_remove("REKINDLE_KEY_FILE").output().unwrap());
    assert_eq!(ran.code, 2, "{}", ran.err);
    let mut wrong = s.command(&["backup", &path]);
    let ran =
        ended(wrong.env_remove("REKINDLE_KEY_FILE").env("REKINDLE_PASSWORD", "guess").output().unwrap());
    assert_eq!(ran.code, 12, "{}", ran.err);
    let mut open = s.command(&["init", "--no-encryption", "-r", "plain"]);
    assert_eq!(ended(open.output().unwrap()).code, 0);
    let mut listed = s.command(&["timeline", "-r", "plain"]);
    assert_eq!(ended(listed.env_remove("REKINDLE_KEY_FILE").output().unwrap()).code, 0);
    let files = s.path("files");
    std::fs::create_dir(&files).unwrap();
    std::fs::write(files.join("x"), "x").unwrap();
    assert!(s.fails(1, &["init", "-r", "files"]).contains("not empty"));
}

#[test]
fn a_password_opens_what_it_made() {
    let s = Sandbox::new();
    s.file("password", "open sesame\n");
    let run = |args: &[&str], name: &str, value: &str| {
        let mut c = s.command(args);
        ended(c.env_remove("REKINDLE_KEY_FILE").env(name, value).output().unwrap()).code
    };
    assert_eq!(run(&["init"], "REKINDLE_PASSWORD_FILE", "password"), 0);
    assert_eq!(run(&["timeline"], "REKINDLE_PASSWORD_COMMAND", "echo open sesame"), 0);
    assert_eq!(run(&["timeline"], "REKINDLE_PASSWORD", "open sesame"), 0);
    assert_eq!(run(&["timeline"], "REKINDLE_PASSWORD", "open"), 12);
}

#[test]
fn an_interrupted_backup_ends_with_130_and_leaves_no_snapshot() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let path = s.file("big.raw", data(96 << 20, 5));
    let mut backup = s.start(&["-v", "backup", &path]);
    let begun = std::time::Instant::now();
    // To ask by a verb takes longer than to look, and the backup may be over by then.
    while !s.path("state/sets/big").exists() && s.json(&["status"]).as_array().unwrap().is_empty() {
        assert!(begun.elapsed().as_secs() < 20);
    }
    backup.signal(libc::SIGINT);
    let code = backup.end();
    assert_eq!(code, 130, "{}", backup.said());
    assert!(backup.said().contains("interrupted"));
    assert_eq!(s.json(&["timeline"])["snapshots"], serde_json::json!([]));
    s.ok(&["backup", &path]);
    assert!(s.fails(1, &["backup", "nobody"]).contains("not known here"));
}

#[test]
fn a_disk_that_may_only_be_read_is_backed_up_too() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let (path, bytes) = disk(&s, "ro.raw", 3);
    let mut serve = s.start(&["serve", "ro", &path, "--read-only"]);
    serve.says("live");
    s.ok(&["backup", "ro"]);
    assert_eq!(s.json(&["status"])[0]["volumes"][0]["read_only"], true);
    s.ok(&["restore", "ro", "--to", "out.raw"]);
    assert!(read(s.path("out.raw")) == bytes);
}
