//! `--json`: goal, whatever a verb says on stdout is JSON as docs/json-schema tells it, when it works and when it fails;
//! method, every verb of the real binary, each answer held against its schema.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
#[path = "kit/schema.rs"]
mod schema;
use kit::{Sandbox, data, ended};
use serde_json::Value;

fn documented(name: &str) -> Value {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json-schema");
    serde_json::from_slice(&std::fs::read(path.join(format!("{name}.json"))).unwrap()).unwrap()
}

fn hold(name: &str, value: &Value, said: &str) {
    let schema = documented(name);
    let faults = schema::faults(&schema, &schema, value, "$");
    assert!(faults.is_empty(), "{said}: {faults:#?}\n{value:#}");
}

struct Verbs<'a>(&'a Sandbox);

impl Verbs<'_> {
    fn ran(&self, code: i32, args: &[&str]) -> String {
        let all = [args, &["--json"]].concat();
        let ran = ended(self.0.command(&all).output().unwrap());
        assert_eq!(ran.code, code, "{args:?}\nstdout: {}\nstderr: {}", ran.out, ran.err);
        ran.out
    }
    /// It answers with one document.
    fn document(&self, name: &str, args: &[&str]) -> Value {
        let value = serde_json::from_str(&self.ran(0, args)).unwrap();
        hold(name, &value, &format!("{args:?}"));
        value
    }
    /// It answers with lines, the last of which is this.
    fn lines(&self, code: i32, last: &str, args: &[&str]) -> Value {
        let out = self.ran(code, args);
        let lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        lines.iter().for_each(|l| hold("message", l, &format!("{args:?}")));
        let end = lines.last().unwrap_or_else(|| panic!("{args:?} says nothing")).clone();
        assert_eq!(end["message_type"], last, "{args:?}: {out}");
        end
    }
    fn fails(&self, code: i32, args: &[&str]) {
        let end = self.lines(code, "exit_error", args);
        assert_eq!(end["code"], code, "{args:?}");
        for part in ["error", "cause", "cure"] {
            assert!(!end[part].as_str().unwrap().is_empty(), "{args:?}: no {part}");
        }
    }
}

const ALL: [&str; 16] = [
    "init",
    "serve",
    "backup",
    "status",
    "timeline",
    "show",
    "usage",
    "diff",
    "restore",
    "pause",
    "resume",
    "tune",
    "wait",
    "cutover",
    "discard",
    "completion",
];

#[test]
fn a_command_line_that_cannot_be_is_an_exit_error_too() {
    let s = Sandbox::new();
    let v = Verbs(&s);
    v.fails(2, &[]);
    v.fails(2, &["frobnicate"]);
    for verb in ALL {
        v.fails(2, &[verb, "--no-such-flag"]);
    }
    for verb in ALL.iter().filter(|v| !["init", "serve", "status", "timeline"].contains(v)) {
        v.fails(2, &[verb]);
    }
    // Help and version are no failures, and for people.
    for args in [&["--help", "--json"][..], &["--version", "--json"]] {
        assert_eq!(s.run(args).code, 0);
    }
    // What follows `--` is no flag.
    let ran = s.run(&["frobnicate", "--", "--json"]);
    assert!(ran.code == 2 && ran.out.is_empty() && ran.err.contains("unrecognized"), "{}", ran.err);
}

#[test]
fn everything_that_is_said_is_as_documented() {
    let s = Sandbox::new();
    let v = Verbs(&s);
    // Nothing is there yet.
    for args in [
        &["timeline"][..],
        &["show", "db"],
        &["diff", "db@-1h", "db"],
        &["restore", "db", "--to", "x.raw"],
        &["usage", "db@latest"],
    ] {
        v.fails(10, args);
    }
    for args in [
        &["status", "db"][..],
        &["pause", "db"],
        &["resume", "db"],
        &["tune", "db", "--online-now"],
        &["cutover", "db"],
    ] {
        v.fails(13, args);
    }
    v.fails(1, &["discard", "db", "--yes", "db"]);
    v.fails(1, &["backup", "db"]);
    v.fails(2, &["serve", "db"]);
    v.fails(124, &["wait", "db", "--for=live", "--timeout", "1ms"]);
    assert_eq!(v.document("status", &["status"]), Value::Array(Vec::new()));

    v.document("init", &["init", "-n"]);
    v.document("init", &["init"]);
    v.fails(1, &["init"]);
    let disk = s.file("disk.raw", data(1 << 20, 1));
    v.lines(0, "summary", &["backup", &disk, "--as", "db", "-n"]);
    v.lines(0, "summary", &["backup", &disk, "--as", "db", "--tag", "a"]);
    let config = s.file(
        "c.toml",
        format!(
            "repo = \"{}\"\nkey_file = \"{}\"\n[set.db]\nvolumes = \"{disk}\"\nbackup = \"02:00\"\n",
            s.text("repo"),
            s.text("key")
        ),
    );
    let checked = v.document("check", &["serve", "-c", &config, "--check"]);
    assert!(checked["sets"][0]["next_backup"].is_string() && checked["repository"].is_string(), "{checked}");

    let mut serve = s.start(&["--json", "serve", "db", &disk]);
    serve.says("\"event\":\"live\"");
    v.document("status", &["status"]);
    v.document("status", &["status", "db"]);
    v.document("usage", &["usage", "db"]);
    v.lines(0, "summary", &["backup", "db", "-n"]);
    v.lines(0, "summary", &["backup", "db"]);
    v.lines(0, "summary", &["wait", "db", "--for=live"]);
    for verb in ["pause", "resume", "cutover", "discard"] {
        v.fails(1, &[verb, "db"]);
    }
    v.fails(11, &["serve", "db", &disk]);
    serve.signal(libc::SIGTERM);
    assert_eq!(serve.end(), 0);
    for line in serve.said().lines() {
        hold("message", &serde_json::from_str(line).unwrap(), "serve");
    }

    v.document("timeline", &["timeline", "db", "--since", "-1d"]);
    v.document("show", &["show", "db"]);
    v.document("usage", &["usage", "db@latest"]);
    v.document("diff", &["diff", "db@latest", "db@latest"]);
    v.document("diff", &["diff", "db@latest", "db@latest", "--summary"]);
    v.document("restore-plan", &["restore", "db", "--to", "new.raw", "-n"]);
    v.document("restore-plan", &["restore", "db", "--to", "-", "-n"]);
    v.lines(0, "summary", &["restore", "db", "--to", "copy.raw"]);
    v.fails(14, &["restore", "db", "--to", "copy.raw"]);
    let listen = format!("unix:{}", s.text("n.sock"));
    let online = ["restore", "db", "--to", "new.raw", "--listen", &listen];
    v.document("restore-plan", &[&online[..], &["-n"]].concat());
    let mut restore = s.start(&[&["--json"], &online[..], &["--limit", "1kB/s"]].concat());
    restore.says("\"event\":\"online\"");
    v.document("status", &["status", "db"]);
    restore.signal(libc::SIGINT);
    assert_eq!(restore.end(), 130);
    for args in [&["status"][..], &["status", "db"]] {
        assert_eq!(v.document("status", args)[0]["state"], "interrupted");
    }
    let mut restore = s.start(&[&["--json", "-q"], &online[..], &["--limit", "1kB/s"]].concat());
    restore.says("\"event\":\"online\"");
    for verb in ["pause", "resume"] {
        v.lines(0, "summary", &[verb, "db", "-n"]);
        v.lines(0, "summary", &[verb, "db"]);
    }
    v.fails(14, &["discard", "db"]);
    v.lines(0, "summary", &["discard", "db", "-n"]);
    v.lines(0, "summary", &["cutover", "db", "-n"]);
    v.lines(0, "summary", &["tune", "db", "--limit", "none", "-n"]);
    v.lines(0, "summary", &["tune", "db", "--limit", "none"]);
    v.lines(0, "summary", &["wait", "db", "--for=verified", "--timeout", "60s"]);
    let end = v.lines(0, "summary", &["cutover", "db"]);
    assert_eq!(end["cutover"]["verified"], true);
    restore.signal(libc::SIGTERM);
    assert_eq!(restore.end(), 0);
    for line in restore.said().lines() {
        hold("message", &serde_json::from_str(line).unwrap(), "restore");
    }
    v.lines(0, "summary", &["man", "pages"]);
    v.lines(0, "summary", &["schema", "schemas"]);
}

#[test]
fn a_disk_on_stdout_is_nothing_but_the_disk() {
    let s = Sandbox::new();
    s.ok(&["init"]);
    let bytes = data(2 << 20, 3);
    let disk = s.file("disk.raw", &bytes);
    s.ok(&["backup", &disk, "--as", "db"]);
    // Slow enough for progress to be told meanwhile.
    let done = s.command(&["restore", "db", "--to", "-", "--json", "--limit", "1MiB/s"]).output().unwrap();
    assert_eq!(done.status.code(), Some(0));
    assert!(done.stdout == bytes, "something else stands between the bytes");
    let said = String::from_utf8(done.stderr).unwrap();
    let lines: Vec<Value> = said.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    lines.iter().for_each(|l| hold("message", l, "restore to stdout"));
    assert_eq!(lines.first().unwrap()["message_type"], "status", "{said}");
    assert_eq!(lines.last().unwrap()["restore"]["size_bytes"], bytes.len());
}
