//! `completion SHELL`: completions to stdout.

use crate::cli::Cli;
use crate::errors::{Failure, Outcome};
use clap::CommandFactory;
use std::io::Write;

/// Writes the completions of a shell.
pub fn run(shell: clap_complete::Shell) -> Outcome<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rekindle", &mut script);
    let mut stdout = std::io::stdout();
    match stdout.write_all(&script).and_then(|()| stdout.flush()) {
        // A reader that went away has what it wanted.
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::system("cannot write the completions to stdout", &e))
        }
        _ => Ok(0),
    }
}
