//! The grammar and its failures, without any engine: goal, a user is told what was wrong and scripts get the promised
//! exit code; method, the real binary.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::Sandbox;
use std::path::Path;

#[test]
fn usage_errors_end_with_2() {
    let s = Sandbox::new();
    for args in [
        &["frobnicate"][..],
        &["restore"],
        &["restore", "shop@latest"],
        &["tune", "shop"],
        &["tune", "shop", "--limit", "fast"],
        &["tune", "shop", "--limit", "5"],
        &["restore", "shop@latest", "--to", "x.raw", "--listen", "unix:./s", "--limit", "1.5"],
        &["tune", "shop", "--first", "nonsense"],
        &["wait", "shop"],
        &["wait", "shop", "--for=nirvana"],
        &["wait", "shop", "--for=live", "--timeout", "5"],
        &["status", "a b"],
        &["pause", "a/b"],
    ] {
        let ran = s.run(args);
        assert_eq!(ran.code, 2, "{args:?}: {}", ran.err);
        assert!(!ran.err.is_empty() && ran.out.is_empty(), "{args:?}");
    }
}

#[test]
fn steering_what_nobody_serves_ends_with_13() {
    let s = Sandbox::new();
    for args in [
        &["status", "shop"][..],
        &["pause", "shop"],
        &["resume", "shop", "-n"],
        &["tune", "shop", "--online-now"],
        &["cutover", "shop"],
    ] {
        let said = s.fails(13, args);
        assert!(said.contains("nobody serves shop"), "{args:?}: {said}");
    }
    let said = s.fails(124, &["wait", "shop", "--for=online", "--timeout", "200ms"]);
    assert!(said.contains("did not become online"), "{said}");
    assert_eq!(s.ok(&["status"]), "nothing is alive here\n");
    assert_eq!(s.json(&["status"]), serde_json::json!([]));
}

#[test]
fn failures_are_json_when_asked() {
    let s = Sandbox::new();
    let (code, messages) = s.messages(&["pause", "shop"]);
    assert_eq!((code, messages.len()), (13, 1));
    assert_eq!(messages[0]["message_type"], "exit_error");
    assert_eq!(messages[0]["code"], 13);
    for part in ["error", "cause", "cure"] {
        assert!(!messages[0][part].as_str().unwrap().is_empty(), "{part}");
    }
}

#[test]
fn completions_and_man_pages_know_every_verb() {
    let s = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = s.ok(&["completion", shell]);
        for verb in ["restore", "cutover", "timeline", "--online-at"] {
            let verb = if shell == "fish" { verb.trim_start_matches("--") } else { verb };
            assert!(script.contains(verb), "{shell}: {verb}");
        }
    }
    s.ok(&["man", "pages"]);
    let page = std::fs::read_to_string(s.path("pages/rekindle-restore.1")).unwrap();
    assert!(page.contains("online") && page.contains("NAME@WHEN"));
}

/// Regenerate with `cargo run -p rekindle -- schema docs/json-schema`.
#[test]
fn the_documented_schemas_are_the_real_ones() {
    let s = Sandbox::new();
    s.ok(&["schema", "schemas"]);
    let documented = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/json-schema");
    let names = |dir: &Path| {
        let mut names: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&s.path("schemas")), names(&documented));
    for name in names(&documented) {
        let real = std::fs::read_to_string(s.path("schemas").join(&name)).unwrap();
        let told = std::fs::read_to_string(documented.join(&name)).unwrap();
        assert!(real == told, "{name:?} changed: rekindle schema docs/json-schema");
    }
}

#[test]
fn a_name_too_long_for_a_socket_is_told_apart() {
    let s = Sandbox::new();
    let long = "x".repeat(65);
    assert!(s.fails(2, &["status", &long]).contains("at most 64"));
}
