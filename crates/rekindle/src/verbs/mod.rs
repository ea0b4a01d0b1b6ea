//! One verb, one file.

mod backup;
mod completion;
mod cutover;
mod diff;
mod discard;
mod docs;
mod init;
mod moment;
mod pause;
mod restore;
mod resume;
mod serve;
mod show;
mod status;
mod steer;
mod timeline;
mod tune;
mod usage;
pub mod wait;

pub use steer::not_restoring;
pub use usage::done as usage_done;

use crate::cli::{Cli, Verb};
use crate::errors::Outcome;
use crate::out::Out;

/// Performs what was asked; the number is the process's exit code.
pub fn run(cli: Cli, out: Out) -> Outcome<u8> {
    match cli.verb {
        Verb::Init(args) => init::run(&args, out),
        Verb::Timeline(args) => timeline::run(&args, out),
        Verb::Show(args) => show::run(&args, out),
        Verb::Diff(args) => diff::run(&args, out),
        Verb::Restore(args) => restore::run(&args, out),
        Verb::Backup(args) => backup::run(&args, out),
        Verb::Usage(args) => usage::run(&args, out),
        Verb::Serve(args) => serve::run(&args, out),
        Verb::Status(args) => status::run(&args, out),
        Verb::Wait(args) => wait::run(&args, out),
        Verb::Pause(args) => pause::run(&args, out),
        Verb::Resume(args) => resume::run(&args, out),
        Verb::Tune(args) => tune::run(&args, out),
        Verb::Cutover(args) => cutover::run(&args, out),
        Verb::Discard(args) => discard::run(&args, out),
        Verb::Completion { shell } => completion::run(shell),
        Verb::Man { dir } => docs::man(&dir, out),
        Verb::Schema { dir } => docs::schema(&dir, out),
    }
}
