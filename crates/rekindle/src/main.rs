//! rekindle: the one binary. Parses, performs, ends with the exit code scripts rely on.

mod beneath;
mod cli;
mod config;
mod dest;
mod errors;
mod moments;
mod names;
mod out;
mod places;
mod progress;
mod repositories;
mod secret;
mod serve;
mod show;
mod signals;
mod space;
mod units;
mod verbs;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => return misspoken(&e),
    };
    log(cli.verbose);
    let out = out::Out::new(cli.json, cli.quiet, cli.verb.stdout_is_data());
    match verbs::run(cli, out) {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            out.failure(&failure);
            ExitCode::from(failure.exit.code())
        }
    }
}

/// A command line that cannot be understood (2), or help and version (0). Under `--json` a failure like any other.
fn misspoken(e: &clap::Error) -> ExitCode {
    let json = std::env::args_os().skip(1).take_while(|a| a != "--").any(|a| a == "--json");
    if !e.use_stderr() || !json {
        e.exit();
    }
    let text = e.render().to_string();
    // What is wrong stands in the first paragraph; usage and tips follow.
    let cause = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").trim();
    let failure = errors::Failure::usage(
        "cannot understand the command line",
        cause,
        "see `rekindle --help` or `rekindle VERB --help`",
    );
    out::Out::new(true, false, false).failure(&failure);
    ExitCode::from(failure.exit.code())
}

/// Tracing to stderr as `REKINDLE_LOG` says (`info`, `rekindle_engine=debug`); without it warnings only, with `-v` what is
/// being done too. `REKINDLE_LOG_JSON` makes lines of JSON.
fn log(verbose: bool) {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_env("REKINDLE_LOG")
        .unwrap_or_else(|_| EnvFilter::new(if verbose { "info" } else { "warn" }));
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    // Colours are for people: a journal or a file gets plain lines.
    let builder = builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    if std::env::var_os("REKINDLE_LOG_JSON").is_some_and(|v| !v.is_empty()) {
        builder.json().init();
    } else {
        builder.init();
    }
}
