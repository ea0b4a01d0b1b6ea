//! `completion SHELL`: completions to stdout.

use crate::cli::Cli;
use crate::errors::Outcome;
use clap::CommandFactory;
use std::io::Write;

/// Writes the completions of a shell.
pub fn run(shell: clap_complete::Shell) -> Outcome<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "rekindle", &mut script);
    // A reader that went away has what it wanted.
    let _ = std::io::stdout().write_all(&script);
    Ok(0)
}
