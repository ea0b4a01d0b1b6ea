//! Where words go: results to stdout, remarks and failures to stderr, documents and messages as JSON when asked.
//!
//! A reader that goes away (`| head`) silences output and stops nothing: the exit code tells how the work went, and a
//! process that serves disks must not end because nobody listens.

use crate::errors::Failure;
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// How to speak.
#[derive(Clone, Copy, Debug)]
pub struct Out {
    /// JSON instead of text.
    pub json: bool,
    /// No remarks and no progress.
    pub quiet: bool,
    /// stderr is a terminal: progress may redraw its line.
    pub live: bool,
    /// stdout is a terminal.
    pub terminal: bool,
    /// stdout carries a disk or a script: JSON goes to stderr, so that it does not get between the bytes.
    stdout_is_data: bool,
}

impl Out {
    /// From the command line and what stdout and stderr are.
    pub fn new(json: bool, quiet: bool, stdout_is_data: bool) -> Out {
        let (live, terminal) = (std::io::stderr().is_terminal(), std::io::stdout().is_terminal());
        Out { json, quiet, live, terminal, stdout_is_data }
    }
    /// A result in words; nothing under `--json`.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            print(std::io::stdout(), text.as_ref());
        }
    }
    /// A result in words unless `-q`: announcements of a process that goes on.
    pub fn announce(&self, text: impl AsRef<str>) {
        if !self.quiet {
            self.line(text);
        }
    }
    /// A remark, to stderr.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.quiet {
            print(std::io::stderr(), text.as_ref());
        }
    }
    /// A warning, to stderr, said even with `-q`.
    pub fn warn(&self, text: impl AsRef<str>) {
        print(std::io::stderr(), &format!("warning: {}", text.as_ref()));
    }
    /// One JSON document, readable, under `--json`; nothing otherwise.
    pub fn document<T: Serialize>(&self, doc: &T) {
        if self.json {
            self.say(&serde_json::to_string_pretty(doc).expect("our types are always JSON"));
        }
    }
    /// One JSON line under `--json`; nothing otherwise.
    pub fn message<T: Serialize>(&self, message: &T) {
        if self.json {
            self.say(&serde_json::to_string(message).expect("our types are always JSON"));
        }
    }
    fn say(&self, json: &str) {
        if self.stdout_is_data { print(std::io::stderr(), json) } else { print(std::io::stdout(), json) }
    }
    /// The end of a verb that failed.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            self.message(&crate::serve::control::Message::ExitError(failure.to_json()));
        } else {
            print(std::io::stderr(), &format!("rekindle: {failure}"));
        }
    }
}

/// Writes a line; a reader that went away is no failure of the work.
fn print(mut to: impl Write, line: &str) {
    let _ = to.write_all(format!("{line}\n").as_bytes()).and_then(|()| to.flush());
}
