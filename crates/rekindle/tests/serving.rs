//! Serving disks: goal, one process owns a set, says where it is served, can be steered and ends cleanly; method, the
//! real binary and our own NBD client.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Sandbox, data};

const SIGINT: i32 = libc::SIGINT;
const SIGTERM: i32 = libc::SIGTERM;

#[test]
fn a_disk_is_served_until_told_to_stop() {
    let s = Sandbox::new();
    let disk = s.file("disk.raw", data(1 << 20, 1));
    let mut serve = s.start(&["serve", "db", &disk]);
    let socket = s.text("run/db.nbd.sock");
    serve.says(&format!("live      nbd+unix:///db?socket={socket}"));
    let status = s.json(&["status"]);
    assert_eq!(status[0]["name"], "db");
    assert_eq!(status[0]["state"], "live");
    assert_eq!(status[0]["volumes"][0]["size_bytes"], 1 << 20);
    assert!(s.ok(&["status", "db"]).contains(&disk));
    s.ok(&["wait", "db", "--for=live", "--timeout", "1s"]);
    assert!(s.fails(1, &["pause", "db"]).contains("not being restored"));
    serve.signal(SIGTERM);
    assert_eq!(serve.end(), 0);
    assert!(!s.path("run/db.sock").exists() && !std::path::Path::new(&socket).exists());
    assert_eq!(s.json(&["status"]), serde_json::json!([]));
}

#[test]
fn a_second_owner_is_told_who_holds_it() {
    let s = Sandbox::new();
    let disk = s.file("disk.raw", data(1 << 20, 1));
    let mut serve = s.start(&["serve", "db", &disk]);
    serve.says("live");
    let said = s.fails(11, &["serve", "db", &disk]);
    assert!(said.contains(&format!("process {} has it", serve.child.id())), "{said}");
    let said = s.fails(11, &["serve", "other", &disk]);
    assert!(said.contains(&format!("process {} serves it as db", serve.child.id())), "{said}");
    serve.signal(SIGINT);
    assert_eq!(serve.end(), 0);
    // Killed outright, it leaves nothing that stands in the way.
    let mut serve = s.start(&["serve", "db", &disk]);
    serve.says("live");
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
    let mut again = s.start(&["serve", "other", &disk]);
    again.says("live");
}

#[test]
fn a_captive_command_gets_the_uri_and_gives_the_exit_code() {
    let s = Sandbox::new();
    let disk = s.file("disk.raw", data(1 << 20, 1));
    let ran = s.run(&["-q", "serve", "db", &disk, "--run", "echo got $uri; exit 7"]);
    assert_eq!(ran.code, 7, "{}", ran.err);
    assert_eq!(ran.out, format!("got nbd+unix:///db?socket={}\n", s.text("run/db.nbd.sock")));
    let wal = s.file("wal.raw", data(1 << 20, 2));
    let (data, wal) = (format!("data={disk}"), format!("wal={wal}"));
    let ran = s.run(&["-q", "serve", "shop", &data, &wal, "--run", "echo $uri_wal; kill -9 $$"]);
    assert_eq!(ran.code, 137);
    assert!(ran.out.contains("nbd+unix:///shop/wal?"), "{}", ran.out);
    assert_eq!(s.run(&["-q", "serve", "shop", &data, &wal, "--run", "exec sleep 0"]).code, 0);
}

#[test]
fn memory_is_locked_where_it_may_be() {
    let of = |pid: u32, what: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        status.lines().find_map(|l| l.strip_prefix(what)).unwrap().trim().to_string()
    };
    if u64::from_str_radix(&of(std::process::id(), "CapEff:"), 16).unwrap() >> 14 & 1 == 0 {
        return println!("skipped: no CAP_IPC_LOCK here");
    }
    let s = Sandbox::new();
    let disk = s.file("disk.raw", data(1 << 20, 1));
    let mut serve = s.start(&["serve", "db", &disk]);
    serve.says("live");
    assert_ne!(of(serve.child.id(), "VmLck:"), "0 kB");
    // Only what is touched: the stacks of threads are reserved, not filled.
    let kib: u64 = of(serve.child.id(), "VmRSS:").trim_end_matches(" kB").parse().unwrap();
    assert!(kib < 64 << 10, "{kib} KiB");
}

#[test]
fn what_cannot_be_served_is_said() {
    let s = Sandbox::new();
    let none = s.text("none.raw");
    assert!(s.fails(1, &["serve", "db", &none]).contains("cannot open"));
    assert!(s.fails(2, &["serve", "db"]).contains("no disk"));
    assert!(s.fails(2, &["serve"]).contains("rekindle.toml"));
    let disk = s.file("disk.raw", data(1 << 20, 1));
    assert!(s.fails(2, &["serve", "db", &disk, "--listen", "db.sock"]).contains("unix:/PATH"));
    assert!(s.fails(1, &["serve", "db", &disk, "--listen", "unix:/nowhere/at/all"]).contains("--listen"));
    let two = [format!("a={disk}"), disk.clone()];
    assert!(s.fails(2, &["serve", "db", &two[0], &two[1]]).contains("no volume name"));
    let config = s.file("c.toml", "[set.db]\nvolumes = \"x\"\njournal = \"y\"\n");
    assert!(s.fails(2, &["serve", "-c", &config]).contains("c.toml:3"));
}

#[test]
fn a_configuration_is_checked_and_served() {
    let s = Sandbox::new();
    let (a, b) = (s.file("a.raw", data(1 << 20, 1)), s.file("b.raw", data(1 << 20, 2)));
    let text = format!(
        "[set.db]\nvolumes = \"{a}\"\n[set.shop]\nread_only = true\nvolumes = {{ data = \"{b}\" }}\n"
    );
    let config = s.file("c.toml", &text);
    let mut check = s.command(&["serve", "-c", &config, "--check"]);
    let ran = kit::ended(check.env_remove("REKINDLE_REPO").output().unwrap());
    assert_eq!((ran.code, ran.out.as_str()), (0, "db        1 volume\nshop      1 volume\n"), "{}", ran.err);
    let mut serve = s.start(&["serve", "-c", &config]);
    serve.says("nbd+unix:///shop/data?socket=");
    let status = s.json(&["status"]);
    assert_eq!(status.as_array().unwrap().len(), 2);
    assert_eq!(status[1]["volumes"][0]["read_only"], true);
    std::fs::write(&config, text.replace("[set.db]", "[set.db]\nwrong = 1")).unwrap();
    serve.signal(libc::SIGHUP);
    serve.says("was not taken over");
    std::fs::write(&config, &text).unwrap();
    serve.signal(libc::SIGHUP);
    serve.says("configuration read again");
    serve.signal(SIGTERM);
    assert_eq!(serve.end(), 0);
}

#[test]
fn schedules_run_and_systemd_is_told() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let disk = s.file("a.raw", data(1 << 20, 1));
    let notify = std::os::unix::net::UnixDatagram::bind(s.path("notify")).unwrap();
    notify.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let config = format!(
        "repo = \"{}\"\nkey_file = \"{}\"\n[set.db]\nvolumes = \"{disk}\"\nbackup = \"*:*:*\"\n",
        s.text("repo"),
        s.text("key")
    );
    let config = s.file("c.toml", config);
    let mut command = s.command(&["serve", "-c", &config]);
    command
        .env_remove("REKINDLE_REPO")
        .env_remove("REKINDLE_KEY_FILE")
        .env("NOTIFY_SOCKET", s.path("notify"));
    let mut serve = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let mut heard = [0; 512];
    let n = notify.recv(&mut heard).unwrap();
    assert!(String::from_utf8_lossy(&heard[..n]).starts_with("READY=1"));
    let begun = std::time::Instant::now();
    while s.json(&["timeline"])["snapshots"].as_array().unwrap().len() < 2 {
        assert!(begun.elapsed().as_secs() < 20, "no scheduled backup");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let backup = &s.json(&["status"])[0]["backup"];
    assert!(backup["next"].is_string() && backup["last_error"].is_null(), "{backup}");
    // SAFETY: kill takes two integers; the child is ours and not yet reaped.
    unsafe { libc::kill(serve.id() as i32, SIGTERM) };
    assert_eq!(serve.wait().unwrap().code(), Some(0));
    let n = notify.recv(&mut heard).unwrap();
    assert!(String::from_utf8_lossy(&heard[..n]).contains("STOPPING=1"));
}

#[test]
fn tcp_is_served_and_watching_ends_with_a_signal() {
    let s = Sandbox::new();
    let disk = s.file("a.raw", data(1 << 20, 1));
    let mut serve = s.start(&["serve", "db", &disk, "--listen", "tcp:127.0.0.1:0"]);
    serve.says("nbd://127.0.0.1:");
    let mut watch = s.start(&["status", "--watch"]);
    watch.says("db    live");
    watch.signal(SIGINT);
    assert_eq!(watch.end(), 0);
    // Root and the same user only, and only what the protocol knows.
    use std::io::{Read, Write};
    let mut socket = std::os::unix::net::UnixStream::connect(s.path("run/db.sock")).unwrap();
    socket.write_all(b"{\"verb\":\"format\"}\n").unwrap();
    let mut said = String::new();
    socket.read_to_string(&mut said).unwrap();
    assert!(said.contains("exit_error") && said.contains("unknown variant"), "{said}");
    socket = std::os::unix::net::UnixStream::connect(s.path("run/db.sock")).unwrap();
    socket.write_all(b"{\"verb\":\"stop\"}\n").unwrap();
    assert_eq!(serve.end(), 0);
}

#[test]
fn a_repository_that_cannot_be_used_is_said_at_the_start() {
    let s = Sandbox::new();
    let disk = s.file("a.raw", data(1 << 20, 1));
    let mut serve = s.start(&["serve", "db", &disk]);
    serve.says("live");
    serve.says("warning: nothing can be backed up: there is no repository at");
    serve.says("rekindle init -r");
    let trouble = || s.json(&["status", "db"])[0]["backup"]["trouble"].clone();
    assert!(trouble()["cure"].as_str().unwrap().contains("rekindle init -r"));
    for args in [&["status"][..], &["status", "db"]] {
        let said = s.ok(args);
        assert!(said.contains("cannot be made") && said.contains("rekindle init -r"), "{said}");
    }
    // The cure works, and is noticed.
    s.ok(&["init"]);
    serve.says("can be used now");
    assert!(trouble().is_null());
    s.ok(&["backup", "db"]);
    serve.signal(SIGTERM);
    assert_eq!(serve.end(), 0);

    s.file("other-key", [8u8; 32]);
    let mut serve = s.start(&["serve", "db", &disk, "--key-file", "other-key"]);
    serve.says("warning: nothing can be backed up: cannot open the repository");
    assert!(trouble()["cure"].as_str().unwrap().contains("--key-file"), "{}", serve.said());
    // A backup that brings its own key shows that the repository is all right.
    s.ok(&["backup", "db"]);
    assert!(trouble().is_null());
    serve.signal(SIGTERM);
    assert_eq!(serve.end(), 0);
}

#[test]
fn a_password_is_missed_at_the_start_only_by_a_schedule() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let disk = s.file("a.raw", data(1 << 20, 1));
    let config = |more: &str| {
        s.file("c.toml", format!("repo = \"{}\"\n[set.db]\nvolumes = \"{disk}\"\n{more}", s.text("repo")))
    };
    for (more, told) in [("backup = \"02:00\"\n", true), ("", false)] {
        let config = config(more);
        let mut command = s.command(&["serve", "-c", &config, "--run", "sleep 1"]);
        let ran =
            kit::ended(command.env_remove("REKINDLE_REPO").env_remove("REKINDLE_KEY_FILE").output().unwrap());
        assert_eq!((ran.code, ran.err.contains("nothing can be backed up")), (0, told), "{}", ran.err);
    }
}
