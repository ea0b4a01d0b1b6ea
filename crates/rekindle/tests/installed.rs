//! `make install`: goal, everything is where its readers look for it and is read without complaint; method, an installation of
//! the binary under test into a folder of its own, and man, bash and systemd-analyze of this machine where they are there.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::Sandbox;
use std::path::Path;
use std::process::{Command, Output};

fn make(target: &str, destdir: &str, prefix: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let (destdir, prefix) = (format!("DESTDIR={destdir}"), format!("PREFIX={prefix}"));
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "-C", root.to_str().unwrap(), target, &destdir, &prefix]);
    let out = make.env("REKINDLE_BIN", env!("CARGO_BIN_EXE_rekindle")).output().unwrap();
    assert!(out.status.success(), "make {target}: {}", String::from_utf8_lossy(&out.stderr));
}

/// Runs a program of the distribution; `None`, said aloud, where it is not installed.
fn other(program: &str, args: &[&str]) -> Option<Output> {
    match Command::new(program).args(args).env("LC_ALL", "C.UTF-8").output() {
        Ok(out) => Some(out),
        Err(_) => {
            println!("skipped: {program} is not installed");
            None
        }
    }
}

fn silent(program: &str, args: &[&str]) {
    let Some(out) = other(program, args) else { return };
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.is_empty(), "{program} {args:?}: {said}");
}

fn files(at: &Path) -> Vec<String> {
    let mut all = Vec::new();
    let mut folders = vec![at.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for e in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap()) {
            match e.file_type().unwrap().is_dir() {
                true => folders.push(e.path()),
                false => all.push(e.path().strip_prefix(at).unwrap().to_str().unwrap().to_string()),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn make_install_puts_everything_where_it_is_looked_for() {
    let s = Sandbox::new();
    make("install", &s.text("stage"), "/usr");
    let stage = s.path("stage");
    let there = files(&stage);
    for wanted in [
        "usr/bin/rekindle",
        "usr/lib/systemd/system/rekindle.service",
        "usr/share/bash-completion/completions/rekindle",
        "usr/share/doc/rekindle/rekindle.toml",
        "usr/share/fish/vendor_completions.d/rekindle.fish",
        "usr/share/man/man1/rekindle-restore.1",
        "usr/share/man/man1/rekindle.1",
        "usr/share/zsh/site-functions/_rekindle",
    ] {
        assert!(there.iter().any(|f| f == wanted), "no {wanted} in {there:#?}");
    }
    assert!(there.iter().all(|f| f.starts_with("usr/")), "something is outside of PREFIX: {there:#?}");
    let unit = std::fs::read_to_string(stage.join("usr/lib/systemd/system/rekindle.service")).unwrap();
    assert!(
        unit.contains("ExecStart=/usr/bin/rekindle serve\n"),
        "where it will be, not where it was staged"
    );
    assert!(unit.contains("Type=notify\n") && !unit.contains("@BINDIR@"));
    let run = Command::new(stage.join("usr/bin/rekindle")).arg("--version").output().unwrap();
    assert!(run.status.success());
    silent("bash", &["-n", &s.text("stage/usr/share/bash-completion/completions/rekindle")]);
    for page in there.iter().filter(|f| f.starts_with("usr/share/man/")) {
        let page = stage.join(page);
        let page = page.to_str().unwrap();
        silent("groff", &["-man", "-ww", "-z", "-Tutf8", page]);
        silent("man", &["--warnings", "-l", page]);
    }
    make("uninstall", &s.text("stage"), "/usr");
    assert!(files(&stage).is_empty(), "{:#?}", files(&stage));
}

#[test]
fn systemd_understands_the_unit() {
    let s = Sandbox::new();
    // systemd looks for the program the unit names, so this one is installed where it says.
    make("install", "", &s.text("usr"));
    let unit = s.text("usr/lib/systemd/system/rekindle.service");
    let Some(out) = other("systemd-analyze", &["verify", "--man=no", &unit]) else { return };
    let said = String::from_utf8_lossy(&out.stderr);
    // Other units of the machine may be complained about; ours is not.
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("rekindle")).collect();
    assert!(ours.is_empty(), "{said}");
}

/// The example can be used as it is, once its disk and its repository are there.
#[test]
fn the_example_of_a_configuration_is_one() {
    let s = Sandbox::new();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dist/rekindle.toml");
    let text = std::fs::read_to_string(example).unwrap();
    let text = text.replace("/srv/vm/shop.raw", &s.file("shop.raw", [0; 4096]));
    let text = text.replace("/etc/rekindle/password", &s.file("password", "secret"));
    let text = text.replace("/srv/backup", &s.text("repo"));
    let config = s.file("rekindle.toml", &text);
    let plain = |args: &[&str]| {
        let mut c = s.command(args);
        c.env_remove("REKINDLE_KEY_FILE")
            .env_remove("REKINDLE_REPO")
            .env("REKINDLE_PASSWORD_FILE", s.path("password"));
        let ran = kit::ended(c.output().unwrap());
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.err);
        ran.out
    };
    plain(&["init", "-r", &s.text("repo")]);
    assert!(plain(&["serve", "-c", &config, "--check"]).contains("next backup"));
}
