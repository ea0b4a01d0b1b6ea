//! The house rules that a compiler does not check. Goal: a forbidden dependency cannot slip in. Method: ask cargo for the
//! declared dependencies and read the sources as text.
//!
//! - core depends on nothing of ours and on a short list of pure crates; no clock, I/O, thread, lock or async in it.
//! - io knows core; engine and export know core and io, never each other; only rekindle and bench know all.
//! - A file has one noun: over 400 lines it is listed, over 700 (a test: 1,000) it fails.
//! - Every test that docs/semantics.md names exists.
//! - Nothing tracked names a machine's own paths.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_path_buf()
}

/// Package name to the names of its declared dependencies; `dev` and build dependencies are not part of the product.
fn declared() -> BTreeMap<String, BTreeSet<String>> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(out.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&out.stderr));
    let metadata: Value = serde_json::from_slice(&out.stdout).unwrap();
    let normal = |p: &Value| {
        let all = p["dependencies"].as_array().unwrap().iter();
        all.filter(|d| d["kind"].is_null()).map(|d| d["name"].as_str().unwrap().to_owned()).collect()
    };
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages.map(|p| (p["name"].as_str().unwrap().to_owned(), normal(p))).collect()
}

fn ours(dependencies: &BTreeSet<String>) -> BTreeSet<&str> {
    dependencies.iter().map(String::as_str).filter(|d| d.starts_with("rekindle")).collect()
}

/// Every file under `dir` whose name ends in `.rs`, but build output.
fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

#[test]
fn crates_know_only_what_they_may() {
    let allowed: &[(&str, &[&str])] = &[
        ("rekindle-core", &[]),
        ("rekindle-io", &["rekindle-core"]),
        ("rekindle-engine", &["rekindle-core", "rekindle-io"]),
        ("rekindle-export", &["rekindle-core", "rekindle-io"]),
        ("rekindle", &["rekindle-core", "rekindle-io", "rekindle-engine", "rekindle-export"]),
        ("rekindle-sim", &["rekindle-core", "rekindle-io", "rekindle-engine"]),
        ("rekindle-bench", &["rekindle-core", "rekindle-io", "rekindle-engine", "rekindle-export"]),
    ];
    for (package, dependencies) in declared() {
        let Some((_, may)) = allowed.iter().find(|(name, _)| *name == package) else {
            panic!(
                "{package} is new: say in this test what it may know, and in ARCHITECTURE.md what it must not"
            );
        };
        let may: BTreeSet<&str> = may.iter().copied().collect();
        let extra: Vec<_> = ours(&dependencies).difference(&may).copied().collect();
        assert!(extra.is_empty(), "{package} must not know {extra:?}");
    }
}

#[test]
fn core_depends_on_pure_crates_alone() {
    let pure = ["blake3", "crc-fast", "serde", "thiserror"];
    let core = &declared()["rekindle-core"];
    let extra: Vec<_> = core.iter().filter(|d| !pure.contains(&d.as_str())).collect();
    assert!(extra.is_empty(), "core decides and touches nothing: {extra:?} needs a reason, in this list");
}

#[test]
fn only_io_may_become_async_and_only_rekindle_parses_arguments() {
    for (package, dependencies) in declared() {
        for banned in ["tokio", "async-std", "smol", "futures"] {
            assert!(
                package == "rekindle-io" || !dependencies.contains(banned),
                "{package} depends on {banned}"
            );
        }
        let front = ["rekindle", "rekindle-bench"].contains(&package.as_str());
        for front_only in ["clap", "indicatif", "tracing-subscriber"] {
            assert!(front || !dependencies.contains(front_only), "{package} depends on {front_only}");
        }
    }
}

/// The file's code: comments and everything from the first test module on are left out.
fn code_of(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap();
    let before_tests = text.split("#[cfg(test)]").next().unwrap();
    let lines = before_tests.lines().map(|l| if l.trim_start().starts_with("//") { "" } else { l });
    lines.collect::<Vec<_>>().join("\n")
}

/// Forbidden word in core, and its cure.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "pass bytes, or return an effect"),
    ("std::net", "pass bytes, or return an effect"),
    ("std::process", "return an effect"),
    ("std::env", "pass the value"),
    ("std::thread", "engine owns threads"),
    ("std::time::Instant", "pass `now` as a Duration since the start"),
    ("SystemTime", "pass `now`"),
    ("Mutex", "one mutable owner: take &mut self"),
    ("RwLock", "one mutable owner: take &mut self"),
    ("Condvar", "return an effect; engine waits"),
    ("async fn", "decisions are not async"),
    ("println!", "return it; rekindle/show prints"),
    ("getrandom", "pass the random bytes"),
];

fn impurities(code: &str) -> Vec<(usize, &'static str, &'static str)> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        for (word, cure) in IMPURE.iter().filter(|(word, _)| line.contains(word)) {
            found.push((number + 1, *word, *cure));
        }
    }
    found
}

#[test]
fn core_has_no_clock_io_thread_lock_or_async() {
    let src = root().join("crates/core/src");
    let in_tests = |p: &Path| {
        p.strip_prefix(&src).unwrap().components().any(|c| {
            let name = c.as_os_str().to_string_lossy();
            name == "tests.rs" || name == "tests" || name.ends_with("_test.rs") || name.ends_with("_tests.rs")
        })
    };
    for path in sources(&src).into_iter().filter(|p| !in_tests(p)) {
        let found = impurities(&code_of(&path));
        assert!(found.is_empty(), "{}: (line, word, cure) {found:?}", path.display());
    }
    // The scan can fail.
    assert_eq!(impurities("fn f() {}\nlet t = std::time::Instant::now();")[0].0, 2);
}

#[test]
fn export_speaks_nbd_and_engine_does_not() {
    for path in sources(&root().join("crates/engine/src")) {
        assert!(!code_of(&path).contains("rekindle_core::nbd"), "{}: the wire is export's", path.display());
    }
    for path in sources(&root().join("crates/export/src")) {
        let code = code_of(&path);
        for word in
            ["rekindle_core::repo", "rekindle_core::hydrate", "rekindle_io::store", "rekindle_io::holder"]
        {
            assert!(
                !code.contains(word),
                "{}: `{word}`: an export knows nothing of repositories",
                path.display()
            );
        }
    }
}

#[test]
fn files_have_one_noun() {
    let mut long = Vec::new();
    for path in sources(&root().join("crates")) {
        let lines = std::fs::read_to_string(&path).unwrap().lines().count();
        if lines > 400 {
            long.push((lines, path.strip_prefix(root()).unwrap().display().to_string()));
        }
    }
    long.sort();
    for (lines, path) in &long {
        println!("{lines:5} {path}");
    }
    // A model that is read as one argument may be longer.
    let most = |path: &str| if path.contains("/tests/") { 1000 } else { 700 };
    let over: Vec<_> = long.iter().filter(|(lines, path)| *lines > most(path)).collect();
    assert!(over.is_empty(), "split: {over:?}");
}

/// Text of all tests: Rust sources and stories.
fn all_tests() -> String {
    let mut text = String::new();
    for path in sources(&root().join("crates")) {
        text += &std::fs::read_to_string(path).unwrap();
    }
    for entry in std::fs::read_dir(root().join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "py") {
            text += &format!("fn {}(\n", path.file_stem().unwrap().to_string_lossy());
            text += &std::fs::read_to_string(path).unwrap().replace("def ", "fn ");
        }
    }
    text
}

#[test]
fn every_test_that_the_promises_name_exists() {
    let promises = std::fs::read_to_string(root().join("docs/semantics.md")).unwrap();
    let tests = all_tests();
    let mut named = 0;
    for piece in promises.split("test:`").skip(1) {
        let name = piece.split('`').next().unwrap();
        let function = name.rsplit("::").next().unwrap();
        assert!(
            tests.contains(&format!("fn {function}(")),
            "docs/semantics.md names {name}, which does not exist"
        );
        named += 1;
    }
    assert!(named > 0, "docs/semantics.md names no test");
}

#[test]
fn the_project_speaks_of_the_project_alone() {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Ok(listed) = listed else { return println!("skipped: no git here") };
    if !listed.status.success() {
        return println!("skipped: not a git checkout");
    }
    let forbidden = [concat!("/wor", "k/"), concat!("/roo", "t/")];
    for name in String::from_utf8(listed.stdout).unwrap().split('\0').filter(|n| !n.is_empty()) {
        let Ok(text) = std::fs::read_to_string(root().join(name)) else { continue };
        for word in forbidden {
            assert!(!text.contains(word), "{name} names a machine's own path: {word}");
        }
    }
}
