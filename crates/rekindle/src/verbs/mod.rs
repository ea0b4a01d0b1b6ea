//! One verb, one file.

mod completion;
mod docs;

use crate::cli::{Cli, Verb};
use crate::errors::{Failure, Outcome};
use crate::out::Out;

/// Performs what was asked; the number is the process's exit code.
pub fn run(cli: Cli, out: Out) -> Outcome<u8> {
    match cli.verb {
        Verb::Completion { shell } => completion::run(shell),
        Verb::Man { dir } => docs::man(&dir, out),
        Verb::Schema { dir } => docs::schema(&dir, out),
        other => Err(Failure::usage(
            format!("`{other:?}` cannot be done"),
            "its part of the engine has not landed",
            "wait for it",
        )),
    }
}
