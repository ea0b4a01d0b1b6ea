//! What the tests of the binary share: a sandbox with its own runtime and state directories, and how to run rekindle in it.

#![allow(dead_code, clippy::unwrap_used)] // tests: not each uses all, and to fail is the point

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A place where rekindle keeps everything; gone when dropped.
pub struct Sandbox {
    pub dir: tempfile::TempDir,
}

/// How a run ended.
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Sandbox {
    pub fn new() -> Sandbox {
        // Short: socket paths hold 107 bytes.
        Sandbox { dir: tempfile::Builder::new().prefix("rk").tempdir().unwrap() }
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    /// The unfinished copies to `name`, as they are called until they are whole.
    #[allow(dead_code)] // not every test makes copies
    pub fn partials(&self, name: &str) -> Vec<PathBuf> {
        let is_one = |p: &PathBuf| {
            let file = p.file_name().unwrap().to_str().unwrap();
            file.starts_with(&format!("{name}.")) && file.ends_with(".partial")
        };
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().path());
        entries.filter(is_one).collect()
    }
    pub fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_string()
    }
    /// A file with these bytes.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.text(name)
    }
    /// rekindle with an environment of this sandbox only.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_rekindle"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("REKINDLE_") {
                c.env_remove(name);
            }
        }
        c.args(args)
            .env("REKINDLE_RUNTIME_DIR", self.path("run"))
            .env("REKINDLE_STATE_DIR", self.path("state"))
            .env("REKINDLE_ALLOW_VOLATILE_STATE", "1")
            .env("REKINDLE_REPO", self.path("repo"))
            .env("REKINDLE_KEY_FILE", self.key_file())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        c
    }
    fn key_file(&self) -> PathBuf {
        let path = self.path("key");
        if !path.exists() {
            std::fs::write(&path, [7u8; 32]).unwrap();
        }
        path
    }
    /// Runs to the end.
    pub fn run(&self, args: &[&str]) -> Ran {
        ended(self.command(args).output().unwrap())
    }
    /// Runs to the end; anything but 0 fails the test.
    pub fn ok(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "rekindle {args:?}\nstdout: {}\nstderr: {}", ran.out, ran.err);
        ran.out
    }
    /// Runs with `--json`; the document on stdout.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let text = self.ok(&all);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}\n{text}"))
    }
    /// Runs with `--json`; the messages on stdout, line by line.
    pub fn messages(&self, args: &[&str]) -> (i32, Vec<Value>) {
        let mut all = vec!["--json"];
        all.extend(args);
        let ran = self.run(&all);
        let line = |l: &str| serde_json::from_str(l).unwrap_or_else(|e| panic!("{args:?}: {e}\n{l}"));
        (ran.code, ran.out.lines().map(line).collect())
    }
    /// Fails with this exit code; what it said, cause and cure included.
    pub fn fails(&self, code: i32, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, code, "rekindle {args:?}\nstdout: {}\nstderr: {}", ran.out, ran.err);
        ran.err
    }
    /// The status of what is served here, once its owner answers: on a busy machine that takes it a while.
    pub fn answers(&self) -> Value {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.json(&["status"]).as_array().unwrap().first() {
                return status.clone();
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "nobody answers");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    /// Starts a process that goes on.
    pub fn start(&self, args: &[&str]) -> Running {
        let mut c = self.command(args);
        let log = std::fs::File::create(self.path(&format!("log-{}", args[0]))).unwrap();
        let child = c.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        Running { child, log: self.path(&format!("log-{}", args[0])) }
    }
}

pub fn ended(output: Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A process that goes on; killed when dropped.
pub struct Running {
    pub child: Child,
    pub log: PathBuf,
}

impl Running {
    pub fn signal(&self, signal: i32) {
        // SAFETY: kill takes two integers; the child is ours and not yet reaped.
        let failed = unsafe { libc::kill(self.child.id() as i32, signal) };
        assert_eq!(failed, 0);
    }
    /// Waits for the end; the exit code.
    pub fn end(&mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code().unwrap_or(-1);
            }
            assert!(begun.elapsed() < Duration::from_secs(30), "does not end: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    /// What it has printed so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
    /// Waits until it printed `text`.
    pub fn says(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.said().contains(text) {
            let ended = self.child.try_wait().unwrap();
            assert!(
                ended.is_none() && begun.elapsed() < Duration::from_secs(30),
                "never said {text:?} ({ended:?}):\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Bytes that look like data: compress a little, differ everywhere.
pub fn data(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}

pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path).unwrap()
}
