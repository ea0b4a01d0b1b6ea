//! Bringing a disk back: goal, it is served at once while it fills, survives what a process survives, and turns into a live
//! disk whose next backup is incremental; method, the real binary and our own NBD client.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Running, Sandbox, data, read};
use rekindle_export::nbd::Listen;
use rekindle_export::nbd::client::{Client, ClientOptions};
use std::time::{Duration, Instant};

const SIZE: usize = 6 << 20;

/// A repository with one snapshot of `db`, and the bytes of it.
fn lost(s: &Sandbox) -> Vec<u8> {
    s.ok(&["init"]);
    let mut bytes = data(SIZE, 1);
    bytes[1 << 20..3 << 20].fill(0);
    let path = s.file("lost.raw", &bytes);
    s.ok(&["backup", &path, "--as", "db"]);
    std::fs::remove_file(path).unwrap();
    bytes
}

fn client(s: &Sandbox, export: &str) -> Client {
    let options = ClientOptions { export: export.into(), ..ClientOptions::default() };
    Client::connect(&Listen::Unix(s.path("n.sock")), &options).unwrap()
}

fn restore(s: &Sandbox, more: &[&str]) -> Running {
    let listen = format!("unix:{}", s.text("n.sock"));
    let mut args = vec!["restore", "db@latest", "--to", "new.raw", "--listen", &listen];
    args.extend(more);
    s.start(&args)
}

/// So slow that it cannot be complete; online.
fn restoring(s: &Sandbox) -> Running {
    let mut r = restore(s, &["--limit", "1kB/s"]);
    r.says("nbd+unix");
    r
}

/// `text` at the beginning of a sector of zeros.
fn sector(text: &str) -> Vec<u8> {
    let mut sector = text.as_bytes().to_vec();
    sector.resize(512, 0);
    sector
}

fn put(c: &mut Client, bytes: &mut [u8], at: usize, text: &str) {
    c.write(at as u64, &sector(text)).unwrap();
    bytes[at..at + 512].copy_from_slice(&sector(text));
}

fn whole(c: &mut Client) -> Vec<u8> {
    (0..SIZE as u64).step_by(1 << 20).flat_map(|at| c.read(at, 1 << 20).unwrap()).collect()
}

/// The socket is there before anything begins; a script that waits for it connects at once.
#[test]
fn whoever_comes_as_soon_as_the_socket_is_there_finds_the_export() {
    let s = Sandbox::new();
    let bytes = lost(&s);
    let _r = restore(&s, &[]);
    let began = Instant::now();
    while !s.path("n.sock").exists() {
        assert!(began.elapsed() < Duration::from_secs(30));
    }
    assert!(whole(&mut client(&s, "db")) == bytes);
}

#[test]
fn online_at_once_then_filled_verified_and_settled() {
    let s = Sandbox::new();
    let mut bytes = lost(&s);
    let mut r = restore(&s, &[]);
    r.says("nbd+unix:///db?socket=");
    let mut c = client(&s, "db");
    assert!(whole(&mut c) == bytes);
    put(&mut c, &mut bytes, 4 << 20, "written while restoring");
    c.flush().unwrap();
    let usage = s.json(&["usage", "db", "--by", "count"]);
    assert!(usage[0]["used_bytes"].as_u64().unwrap() > 0, "counted from the first request: {usage}");
    s.ok(&["wait", "db", "--for=online"]);
    s.ok(&["wait", "db", "--for=verified", "--timeout", "60s"]);
    let status = s.json(&["status", "db"]);
    assert_eq!(status[0]["state"], "verified");
    assert_eq!(status[0]["restore"]["local_bytes"], SIZE);
    assert!(s.ok(&["status", "db"]).contains("part of the volume until settled"));
    assert!(s.ok(&["cutover", "db", "-n"]).contains("switch"));
    assert!(s.path("new.raw.rekindle").is_dir());
    let (code, messages) = s.messages(&["cutover", "db"]);
    let done = messages.last().unwrap();
    assert_eq!((code, &done["cutover"]["verified"]), (0, &true.into()), "{messages:?}\n{}", r.said());
    assert!(!s.path("new.raw.rekindle").exists(), "nothing of the restore is left");
    // The same connection goes on, on a live disk.
    put(&mut c, &mut bytes, 5 << 20, "live");
    assert!(whole(&mut c) == bytes);
    assert_eq!(s.json(&["status"])[0]["state"], "live");
    let backup = s.messages(&["backup", "db"]).1.pop().unwrap();
    assert_eq!(backup["backup"]["read_bytes"], 2 * 65536, "incremental to the restored moment: {backup}");
    c.close().unwrap();
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0, "{}", r.said());
    assert!(read(s.path("new.raw")) == bytes);
    let kept = s.json(&["usage", "db@latest"]);
    assert_eq!(kept[0]["used_bytes"], SIZE, "kept with the snapshot: {kept}");
    assert!(s.ok(&["usage", "db@latest", "--by", "trace"]).contains("100 % of the volume"));
    let csv = s.ok(&["usage", "db@latest", "--csv"]);
    assert_eq!((csv.lines().count(), csv.starts_with("volume,start,")), (1 + SIZE / 65536, true));
    for args in [&["usage", "db@latest", "--csv"][..], &["completion", "bash"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let cut = kit::ended(s.command(args).stdout(full).output().unwrap());
        assert!(cut.code == 1 && cut.err.contains("No space left"), "half of it passes for all: {}", cut.err);
    }
    s.ok(&["usage", "db@latest", "--svg", "u.svg"]);
    assert!(s.path("u.svg").exists());
    let again = s.messages(&["backup", "db"]).1.pop().unwrap();
    assert_eq!(again["backup"]["read_bytes"], 0, "{again}");
}

#[test]
fn killed_and_interrupted_it_goes_on_where_it_was() {
    let s = Sandbox::new();
    let mut bytes = lost(&s);
    let mut r = restoring(&s);
    let mut c = client(&s, "");
    put(&mut c, &mut bytes, 4096, "first");
    c.flush().unwrap();
    put(&mut c, &mut bytes, 3 << 20, "second, answered and not flushed");
    r.child.kill().unwrap();
    r.child.wait().unwrap();
    // What is half restored is not taken for a volume.
    assert!(s.fails(14, &["serve", "other", "./new.raw"]).contains("half-restored"));
    assert!(s.fails(14, &["backup", "./new.raw"]).contains("half-restored"));
    let elsewhere = ["restore", "db", "--to", "new.raw", "--as", "copy", "--listen", "unix:./x.sock"];
    assert!(s.fails(14, &elsewhere).contains("half-restored"));

    let mut r = restore(&s, &["--limit", "1kB/s"]);
    r.says("going on with the restore");
    r.says("nbd+unix");
    let mut c = client(&s, "db");
    assert!(whole(&mut c) == bytes);
    put(&mut c, &mut bytes, 5 << 20, "third");
    drop(c);
    r.signal(libc::SIGINT);
    assert_eq!(r.end(), 130, "{}", r.said());
    assert!(r.said().contains("the same command goes on"));

    let mut r = restore(&s, &["--limit", "none"]);
    r.says("nbd+unix");
    s.ok(&["cutover", "db"]);
    assert!(whole(&mut client(&s, "db")) == bytes);
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0);
    assert!(read(s.path("new.raw")) == bytes);
}

/// Every file of a folder, with what it holds.
fn folder(path: &std::path::Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), read(&f))).collect()
}

#[test]
fn status_tells_of_an_interrupted_restore_and_how_to_go_on() {
    let s = Sandbox::new();
    let mut bytes = lost(&s);
    let mut r = restore(&s, &["--as", "copy", "--limit", "1kB/s"]);
    r.says("nbd+unix");
    let mut c = client(&s, "copy");
    put(&mut c, &mut bytes, 4096, "written");
    c.flush().unwrap();
    r.child.kill().unwrap();
    r.child.wait().unwrap();

    let before = folder(&s.path("new.raw.rekindle"));
    let (table, full) = (s.ok(&["status"]), s.ok(&["status", "copy"]));
    let told = s.json(&["status"]);
    assert_eq!(folder(&s.path("new.raw.rekindle")), before, "looking changes nothing");
    assert_eq!(told, s.json(&["status", "copy"]));
    assert_eq!(told.as_array().unwrap().len(), 1);
    assert_eq!((&told[0]["state"], &told[0]["pid"]), (&"interrupted".into(), &serde_json::Value::Null));
    let i = &told[0]["interrupted"];
    assert_eq!((&i["total_bytes"], &i["asked"]), (&SIZE.into(), &"at most 1 kB/s".into()));
    assert!(i["local_bytes"].as_u64().unwrap() < SIZE as u64, "{i}");
    let go_on = i["go_on"].as_str().unwrap();
    assert!(
        table.contains(go_on) && full.contains(go_on) && table.contains("rekindle discard copy"),
        "{table}"
    );
    assert!(table.contains("copy  interrupted") && full.contains("copy  interrupted"), "{table}{full}");
    assert!(s.fails(13, &["pause", "copy"]).contains(go_on));

    // The very command goes on, and then the set is there once, alive.
    let c = s.command(&[]);
    let shell = format!("exec {} 2>&1", go_on.replacen("rekindle", env!("CARGO_BIN_EXE_rekindle"), 1));
    let mut again = std::process::Command::new("sh");
    again
        .args(["-c", &shell])
        .current_dir(s.dir.path())
        .stdout(std::fs::File::create(s.path("again")).unwrap());
    again.envs(c.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut again = Running { child: again.spawn().unwrap(), log: s.path("again") };
    again.says("going on with the restore of copy");
    again.says("nbd+unix");
    assert!(client(&s, "copy").read(0, 65536).unwrap() == bytes[..65536]);
    let told = s.json(&["status"]);
    assert_eq!((told.as_array().unwrap().len(), &told[0]["state"]), (1, &"online".into()), "{told}");
    again.signal(libc::SIGINT);
    assert_eq!(again.end(), 130, "{}", again.said());

    std::fs::rename(s.path("new.raw"), s.path("away.raw")).unwrap();
    assert!(s.ok(&["status"]).contains("new.raw is gone"));
    std::fs::rename(s.path("away.raw"), s.path("new.raw")).unwrap();
    s.ok(&["discard", "copy", "--yes", "copy"]);
    assert_eq!(s.ok(&["status"]), "nothing is alive here\n");
}

/// What has begun lies there, whatever kept it from being served.
#[test]
fn a_restore_that_could_not_be_served_is_known() {
    let s = Sandbox::new();
    lost(&s);
    let listen = format!("unix:{}", s.text("n.sock"));
    let mut c = s.command(&["restore", "db", "--to", "new.raw", "--listen", &listen]);
    // Too long for the control socket, which is made when there is something to steer.
    let ran = kit::ended(c.env("REKINDLE_RUNTIME_DIR", s.path(&"x".repeat(100))).output().unwrap());
    assert!(ran.code == 2 && ran.err.contains("REKINDLE_RUNTIME_DIR"), "{}", ran.err);
    assert_eq!(s.json(&["status"])[0]["state"], "interrupted");
    s.ok(&["discard", "db", "--yes", "db"]);
    assert!(!s.path("new.raw").exists());
}

/// What took the place of a destination is somebody's: then nothing is thrown away, and the guest goes on with its disk.
#[test]
fn a_discard_that_is_refused_changes_nothing() {
    let s = Sandbox::new();
    let mut bytes = lost(&s);
    let mut r = restoring(&s);
    let mut c = client(&s, "db");
    std::fs::rename(s.path("new.raw"), s.path("away.raw")).unwrap();
    let other = s.file("new.raw", data(SIZE, 3));
    assert!(s.fails(14, &["discard", "db", "--yes", "db"]).contains("another file has that name now"));
    put(&mut c, &mut bytes, 4096, "the connection goes on");
    assert!(whole(&mut client(&s, "db")) == bytes, "and others are let in");
    let backup = s.messages(&["backup", "db"]).1.pop().unwrap();
    assert_eq!(backup["backup"]["read_bytes"], 65536, "{backup}");
    assert!(s.json(&["status", "db"])[0]["volumes"][0]["uri"].is_string());
    assert!(read(&other) == data(SIZE, 3));
    std::fs::rename(s.path("away.raw"), &other).unwrap();
    c.close().unwrap();
    s.ok(&["discard", "db", "--yes", "db"]);
    assert!(!s.path("new.raw").exists());
    r.end();
}

/// A name that is used for another disk hides neither the restore nor how to be rid of it; nor does a process that died
/// before the disks were remembered.
#[test]
fn an_interrupted_restore_is_found_when_its_name_has_another_disk() {
    let s = Sandbox::new();
    lost(&s);
    let mut r = restoring(&s);
    r.child.kill().unwrap();
    r.child.wait().unwrap();
    let interrupted = |args: &[&str]| {
        let told = s.json(args);
        let sets = told.as_array().unwrap();
        let found = sets.iter().find(|set| set["state"] == "interrupted").cloned();
        (sets.len(), found.map(|set| set["volumes"][0]["path"].as_str().unwrap().to_string()))
    };
    std::fs::remove_file(s.path("state/sets/db/set.json")).unwrap();
    assert_eq!(interrupted(&["status"]), (1, Some(s.text("new.raw"))));

    let other = s.file("other.raw", data(SIZE, 2));
    let mut serve = s.start(&["serve", "db", &other]);
    serve.says("live");
    for args in [&["status"][..], &["status", "db"]] {
        assert_eq!(interrupted(args), (2, Some(s.text("new.raw"))));
        assert!(s.ok(args).contains("rekindle discard db"));
    }
    assert!(s.fails(11, &["discard", "db", "--yes", "db"]).contains("stop it first"));
    serve.signal(libc::SIGTERM);
    assert_eq!(serve.end(), 0);
    assert_eq!(interrupted(&["status"]), (1, Some(s.text("new.raw"))));
    s.ok(&["discard", "db", "--yes", "db"]);
    assert!(!s.path("new.raw").exists() && read(&other) == data(SIZE, 2));
    assert_eq!(s.ok(&["status"]), "nothing is alive here\n");
    assert!(s.fails(1, &["discard", "db", "--yes", "db"]).contains("no restore db"));
}

/// The state of 16 TiB is a GiB.
#[test]
fn a_look_at_a_large_interrupted_restore_counts_nothing() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let path = s.file("lost.raw", data(1 << 20, 1));
    std::fs::File::options().write(true).open(&path).unwrap().set_len((1 << 40) + (64 << 10)).unwrap();
    s.ok(&["backup", &path, "--as", "db"]);
    let mut r = restoring(&s);
    r.child.kill().unwrap();
    r.child.wait().unwrap();
    let told = s.json(&["status"]);
    assert!(told[0]["interrupted"]["local_bytes"].is_null(), "{told}");
    assert!(s.ok(&["status", "db"]).contains("with -n the command says how far it came"));
    let go_on = told[0]["interrupted"]["go_on"].as_str().unwrap();
    let words: Vec<&str> = go_on.split_whitespace().skip(1).chain(["-n"]).collect();
    assert!(s.ok(&words).contains("left      at most"));
}

/// Which extents of a half-restored file hold data: what the fill brought, both ends aside.
fn brought(s: &Sandbox) -> Vec<usize> {
    let bytes = read(s.path("new.raw"));
    let inner = 16..bytes.len() / 65536 - 16;
    inner.filter(|e| bytes[e * 65536..(e + 1) * 65536].iter().any(|b| *b != 0)).collect()
}

#[test]
fn what_a_drill_read_comes_first_in_the_next_restore() {
    let s = Sandbox::new();
    let bytes = lost(&s);
    let drill = |reads: &[u64]| {
        let mut r = restore(&s, &["--as", "drill", "--limit", "1kB/s"]);
        r.says("nbd+unix:///drill");
        let mut c = client(&s, "drill");
        reads.iter().for_each(|at| assert!(c.read(*at, 4096).unwrap() == bytes[*at as usize..][..4096]));
        c.close().unwrap();
        r
    };
    let first_brought = || {
        let mut r = restore(&s, &["--limit", "400kB/s"]);
        r.says("nbd+unix");
        let begun = std::time::Instant::now();
        while brought(&s).is_empty() {
            assert!(begun.elapsed().as_secs() < 30, "nothing is brought");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let found = brought(&s);
        s.ok(&["discard", "db", "--yes", "db"]);
        r.end();
        found
    };
    let planned = || s.json(&["restore", "db", "--to", "x.raw", "--listen", "unix:x.sock", "-n"]);
    assert_eq!(planned()["online"]["drills"], serde_json::json!([]));
    // Nobody came: there is nothing to keep.
    let mut r = drill(&[]);
    assert!(!s.ok(&["discard", "drill", "--yes", "drill"]).contains("kept"));
    r.end();
    let mut r = drill(&[70 << 16, (65 << 16) + 8192]);
    let said = s.ok(&["discard", "drill", "--yes", "drill"]);
    assert!(said.contains("kept      what its guest's start read (128 KiB)"), "{said}");
    r.end();
    let plan = planned();
    assert_eq!(plan["online"]["drills"][0]["bytes"], 2 << 16, "{plan}");
    let said = s.ok(&["restore", "db", "--to", "x.raw", "--listen", "unix:x.sock", "-n"]);
    assert!(said.contains("what its guest's start read of db comes first, 128 KiB"), "{said}");
    let first = first_brought();
    assert!(first.iter().all(|e| [65, 70].contains(e)), "{first:?}");

    // The newest counts, of an interrupted drill too.
    let mut r = drill(&[60 << 16]);
    r.signal(libc::SIGTERM);
    r.end();
    let said = s.ok(&["discard", "drill", "--yes", "drill"]);
    assert!(said.contains("start read (64 KiB)"), "{said}");
    assert_eq!(first_brought(), [60]);
    // One that cannot be kept is thrown away all the same.
    for (at_rest, part) in [(false, "repo/t"), (true, "repo")] {
        let mut r = drill(&[61 << 16]);
        if at_rest {
            r.child.kill().unwrap();
            r.child.wait().unwrap();
        }
        std::fs::rename(s.path(part), s.path("away")).unwrap();
        std::fs::write(s.path(part), "in the way").unwrap();
        let said = s.ok(&["discard", "drill", "--yes", "drill"]);
        assert!(said.contains("not kept") && said.contains("removed"), "{said}");
        assert_eq!(said.contains("stays in the repository"), at_rest, "{said}");
        std::fs::remove_file(s.path(part)).unwrap();
        std::fs::rename(s.path("away"), s.path(part)).unwrap();
        r.end();
        assert!(!s.path("new.raw").exists());
    }
    assert_eq!(planned()["online"]["drills"][0]["bytes"], 1 << 16);
    // Damage costs the order, nothing else.
    let folder = std::fs::read_dir(s.path("repo/t")).unwrap().next().unwrap().unwrap().path();
    for entry in std::fs::read_dir(folder).unwrap() {
        std::fs::write(entry.unwrap().path(), "junk").unwrap();
    }
    assert_eq!(planned()["online"]["drills"], serde_json::json!([]));
    let mut r = restore(&s, &[]);
    r.says("nbd+unix");
    s.ok(&["wait", "db", "--for=verified", "--timeout", "60s"]);
    assert!(whole(&mut client(&s, "db")) == bytes);
    r.signal(libc::SIGTERM);
    r.end();
}

#[test]
fn serve_goes_on_with_an_interrupted_restore() {
    let s = Sandbox::new();
    let bytes = lost(&s);
    let mut r = restoring(&s);
    r.child.kill().unwrap();
    r.child.wait().unwrap();
    let mut serve = s.start(&["serve", "db", "./new.raw", "--listen", &format!("unix:{}", s.text("n.sock"))]);
    serve.says("nbd+unix");
    assert!(whole(&mut client(&s, "db")) == bytes);
    s.ok(&["tune", "db", "--limit", "none"]);
    s.ok(&["cutover", "db"]);
    serve.signal(libc::SIGTERM);
    assert_eq!(serve.end(), 0, "{}", serve.said());
    assert!(read(s.path("new.raw")) == bytes);
}

/// Goal: a restore killed before its record is there begins again by the same command, which loses nothing, and asks where
/// something could be lost; method, kills as soon as each trace of a beginning is seen, then such traces made by hand.
#[test]
fn killed_while_it_begins_the_same_command_begins_again() {
    let s = Sandbox::new();
    let bytes = lost(&s);
    let (to, state) = (s.path("new.raw"), s.path("new.raw.rekindle"));
    let labelled = || std::fs::read(&to).is_ok_and(|b| b.starts_with(LABEL));
    const LABEL: &[u8] = b"rekindle: this is not a volume yet";
    let begins_again = || {
        let mut r = restoring(&s);
        assert!(whole(&mut client(&s, "db")) == bytes);
        s.ok(&["discard", "db", "--yes", "db"]);
        assert_eq!((r.end(), to.exists(), state.exists()), (0, false, false), "{}", r.said());
    };
    let seen: [&dyn Fn() -> bool; 4] = [
        &|| to.exists(),
        &|| to.metadata().is_ok_and(|m| m.len() > 0),
        &|| state.join("restore").exists(),
        &labelled,
    ];
    for seen in seen {
        let mut r = restore(&s, &["--limit", "1kB/s"]);
        while !seen() {
            assert!(r.child.try_wait().unwrap().is_none(), "{}", r.said());
        }
        killed(r);
        begins_again();
    }
    let left = |also: &[u8], at: u64| {
        std::fs::write(&to, LABEL).unwrap();
        let file = std::fs::File::options().write(true).open(&to).unwrap();
        file.set_len(SIZE as u64).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, also, at).unwrap();
    };
    let asks = || {
        let args = ["restore", "db", "--to", "new.raw", "--listen", "unix:./n.sock"];
        assert!(s.fails(14, &args).contains("would lose the file"));
    };
    left(&[], 0);
    asks(); // There is no beginning beside it.
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("restore"), []).unwrap();
    left(b"x", 2 << 20);
    asks(); // Something is behind the label.
    left(b"x", 0);
    asks(); // It is no label.
    left(&[], 0);
    begins_again();
}

/// Goal: what is announced can be steered: its control socket is there before its address is printed.
#[test]
fn verbs_are_heard_before_anything_is_announced() {
    let s = Sandbox::new();
    let disk = s.file("a.raw", data(1 << 20, 3));
    for _ in 0..20 {
        let mut serve = s.start(&["serve", "db", &disk]);
        while !serve.said().contains("nbd+unix") {
            assert!(serve.child.try_wait().unwrap().is_none(), "{}", serve.said());
        }
        // No verb: to start one takes longer than what is looked for.
        assert!(std::os::unix::net::UnixStream::connect(s.path("run/db.sock")).is_ok());
        killed(serve);
    }
}

/// Goes away as in a crash.
fn killed(mut r: Running) {
    r.child.kill().unwrap();
    r.child.wait().unwrap();
}

#[test]
fn what_was_asked_first_is_asked_by_whoever_goes_on() {
    let s = Sandbox::new();
    let bytes = lost(&s);
    let asked = |r: &mut Running, what: &str| {
        r.says(&format!("that was interrupted ({what})"));
        // It answers a moment after it has said so.
        let status = s.answers();
        assert_eq!(status["restore"]["asked"], what);
        status["state"].as_str().unwrap().to_string()
    };
    let r = restore(&s, &["--online-at", "usage=100%", "--order", "linear", "--limit", "1kB/s"]);
    s.answers();
    s.fails(124, &["wait", "db", "--for=online", "--timeout", "300ms"]);
    // Another restore of that name is refused, planned or not.
    let other = ["restore", "db", "--to", "other.raw", "--listen", "unix:./o.sock"];
    for dry in [&[][..], &["-n"]] {
        assert!(s.fails(11, &[&other[..], dry].concat()).contains("served already"));
    }
    killed(r);
    let all = "online at usage=100%, order linear, at most 1 kB/s";
    for dry in [&[][..], &["-n"]] {
        let said = s.fails(14, &[&["backup", "./new.raw", "--as", "db"], dry].concat());
        assert!(said.contains("half-restored"), "{said}");
    }
    let plan = ["restore", "db", "--to", "new.raw", "--listen", "unix:./n.sock", "-n"];
    let said = s.ok(&plan);
    assert!(said.contains(&format!("asked     {all}\nforecast  at 1 kB/s: complete ")), "{said}");
    assert_eq!(s.json(&plan)["bytes_per_s"], 1e3);
    let mut r = restore(&s, &[]);
    assert_eq!(asked(&mut r, all), "opening");
    killed(r);
    let mut r = s.start(&["serve", "db", "./new.raw", "--listen", &format!("unix:{}", s.text("n.sock"))]);
    assert_eq!(asked(&mut r, all), "opening");
    // Steered, it is remembered too; once it was online it comes back at once.
    s.ok(&["tune", "db", "--online-now", "--limit", "2kB/s"]);
    r.says("nbd+unix");
    let kept = s.path("new.raw.rekindle/wishes.json");
    let begun = std::time::Instant::now();
    while String::from_utf8(read(&kept)).unwrap().contains("usage=100%") {
        assert!(begun.elapsed().as_secs() < 20, "the threshold is not forgotten");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    killed(r);
    let mut r = restore(&s, &["--order", "score"]);
    assert_eq!(asked(&mut r, "order score, at most 2 kB/s"), "online");
    s.ok(&["tune", "db", "--limit", "none"]);
    s.ok(&["cutover", "db"]);
    assert!(!s.path("new.raw.rekindle").exists(), "nothing of the restore is left");
    assert!(whole(&mut client(&s, "db")) == bytes);
}

#[test]
fn steered_while_it_runs() {
    let s = Sandbox::new();
    lost(&s);
    let mut r = restore(&s, &["--online-at", "usage=100%", "--limit", "1kB/s"]);
    s.answers();
    s.fails(124, &["wait", "db", "--for=online", "--timeout", "300ms"]);
    assert_eq!(s.json(&["status"])[0]["state"], "opening");
    assert!(!r.said().contains("nbd+unix"), "absent until online");
    s.ok(&["tune", "db", "--online-now"]);
    r.says("nbd+unix");
    s.ok(&["pause", "db"]);
    assert_eq!(s.json(&["status"])[0]["state"], "paused");
    s.ok(&["resume", "db"]);
    assert!(s.fails(2, &["tune", "db", "--first", "1TiB+1MiB"]).contains("ends at"));
    assert!(s.fails(2, &["tune", "db", "--first", "wal:0+1MiB"]).contains("which volume"));
    assert!(
        s.ok(&["tune", "db", "--limit", "none", "--weight", "3", "--first", "5MiB+64KiB"])
            .contains("not limited")
    );
    s.ok(&["wait", "db", "--for=complete", "--timeout", "60s"]);
    let said = s.fails(11, &["restore", "db", "--to", "other.raw", "--listen", "unix:./x.sock"]);
    assert!(said.contains("served already"), "{said}");
    assert!(s.fails(11, &["restore", "db", "--to", "new.raw"]).contains("in use"));
}

#[test]
fn thrown_away_only_by_name() {
    let s = Sandbox::new();
    lost(&s);
    let plan =
        ["restore", "db", "--to", "new.raw", "--listen", "unix:./n.sock", "-n", "--bandwidth", "1MB/s"];
    let said = s.ok(&plan);
    assert!(said.contains("new.raw.rekindle") && said.contains("50 % of I/O local"), "{said}");
    let planned = s.json(&plan);
    assert_eq!(planned["online"]["online_s"], 0.0);
    let fetched = planned["fetch_bytes"].as_u64().unwrap();
    assert_eq!(planned["write_bytes"], 4 << 20, "a third of the disk is zeros");
    assert!((4 << 20..5 << 20).contains(&fetched), "what does not compress is fetched as it is: {fetched}");
    assert!(!s.path("new.raw").exists() && !s.path("new.raw.rekindle").exists(), "-n makes nothing");
    let mut r = restoring(&s);
    assert!(s.fails(14, &["discard", "db"]).contains("--yes db"));
    assert!(s.ok(&["discard", "db", "-n"]).contains("would lose"));
    assert!(s.ok(&["discard", "db", "--yes", "db"]).contains("new.raw"));
    assert_eq!(r.end(), 0, "{}", r.said());
    assert!(!s.path("new.raw").exists() && !s.path("new.raw.rekindle").exists());
    // The name is free, the snapshot is there. Interrupted, it can be thrown away without being served again.
    let mut r = restoring(&s);
    r.signal(libc::SIGINT);
    assert_eq!(r.end(), 130);
    assert!(s.fails(14, &["discard", "db"]).contains("half-restored"));
    assert!(s.fails(1, &["discard", "other", "--yes", "other"]).contains("no restore other"));
    assert!(s.ok(&["discard", "db", "--yes", "db"]).contains("removed"));
    assert!(!s.path("new.raw").exists() && !s.path("new.raw.rekindle").exists());
    let mut r = restore(&s, &[]);
    r.says("nbd+unix");
    s.ok(&["wait", "db", "--for=verified", "--timeout", "60s"]);
}

#[test]
fn halves_that_do_not_fit_are_refused_and_strange_files_are_left_alone() {
    let s = Sandbox::new();
    lost(&s);
    let interrupted = || {
        let mut r = restoring(&s);
        r.signal(libc::SIGINT);
        assert_eq!(r.end(), 130);
    };
    let again = ["restore", "db", "--to", "new.raw", "--listen", "unix:./n.sock"];
    interrupted();
    let (state, old) = (s.path("new.raw.rekindle"), s.path("old"));
    std::fs::create_dir(&old).unwrap();
    for f in std::fs::read_dir(&state).unwrap().map(|f| f.unwrap()) {
        std::fs::copy(f.path(), old.join(f.file_name())).unwrap();
    }
    interrupted();
    let said = s.ok(&[&again[..], &["-n", "--bandwidth", "1MB/s"]].concat());
    assert!(said.contains("go on with") && said.contains("left      at most"), "{said}");
    assert_eq!(s.json(&[&again[..], &["-n", "--bandwidth", "1MB/s"]].concat())["goes_on"], true);
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(&old, &state).unwrap();
    let dry = [&again[..], &["-n", "--bandwidth", "1MB/s"]].concat();
    for args in [&again[..], &dry] {
        let said = s.fails(14, args);
        assert!(said.contains("older copy") && said.contains("rekindle discard db"), "{said}");
    }
    // Something else under the destination's name.
    std::fs::rename(s.path("new.raw"), s.path("kept.raw")).unwrap();
    std::fs::write(s.path("new.raw"), data(SIZE, 9)).unwrap();
    let said = s.fails(14, &again);
    assert!(said.contains("does not carry the label of this restore"), "{said}");
    let said = s.fails(14, &["discard", "db", "--yes", "db"]);
    assert!(said.contains("new.raw would be removed") && said.contains("does not carry the label"), "{said}");
    assert!(read(s.path("new.raw")) == data(SIZE, 9) && state.exists());
    // And nothing at all.
    std::fs::remove_file(s.path("new.raw")).unwrap();
    for args in [&again[..], &again[..4], &dry] {
        let said = s.fails(14, args);
        let names = ["new.raw is gone", "new.raw.rekindle", "rekindle discard db"];
        assert!(names.iter().all(|n| said.contains(n)), "{said}");
    }
    s.ok(&["discard", "db", "--yes", "db"]);
    assert!(!state.exists());
    let mut r = restore(&s, &[]);
    r.says("nbd+unix");
    s.ok(&["wait", "db", "--for=verified", "--timeout", "60s"]);
    // Also while it is served: another file under its name stays.
    std::fs::rename(s.path("new.raw"), s.path("moved.raw")).unwrap();
    std::fs::write(s.path("new.raw"), b"mine").unwrap();
    assert!(s.fails(14, &["discard", "db", "--yes", "db"]).contains("another file has that name"));
    assert_eq!(read(s.path("new.raw")), b"mine");
    assert_eq!(s.json(&["status"])[0]["state"], "verified", "it goes on");
    std::fs::rename(s.path("moved.raw"), s.path("new.raw")).unwrap();
    s.ok(&["discard", "db", "--yes", "db"]);
    assert!(!s.path("new.raw").exists());
}

#[test]
fn a_set_comes_back_as_one_under_another_name() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let (a, b) = (data(SIZE, 7), data(SIZE, 8));
    let disks = [format!("data={}", s.file("a.raw", &a)), format!("wal={}", s.file("b.raw", &b))];
    let mut serve = s.start(&["serve", "shop", &disks[0], &disks[1]]);
    serve.says("shop/wal");
    s.ok(&["backup", "shop"]);
    let listen = format!("unix:{}", s.text("n.sock"));
    let to = ["--to", "data=na.raw", "--to", "wal=nb.raw"];
    let mut args = vec!["restore", "shop", "--as", "copy", "--listen", &listen];
    args.extend(to);
    let mut r = s.start(&args);
    r.says("nbd+unix:///copy/wal");
    assert!(whole(&mut client(&s, "copy/data")) == a && whole(&mut client(&s, "copy/wal")) == b);
    assert_eq!(s.json(&["status"]).as_array().unwrap().len(), 2);
    // A backup of what is still being restored.
    client(&s, "copy/wal").write(1 << 20, &sector("new")).unwrap();
    s.ok(&["backup", "copy"]);
    s.ok(&["cutover", "copy"]);
    s.ok(&["restore", "copy/wal@latest", "--to", "check.raw"]);
    assert_eq!(&read(s.path("check.raw"))[1 << 20..][..512], sector("new"));
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0, "{}", r.said());
}
