//! The hidden verbs that write what packages ship: man pages and the JSON schemas of `--json` and the control protocol.

use super::diff::Diff;
use super::init::Init;
use super::restore::Plan;
use super::serve::Check;
use super::timeline::Timeline;
use crate::cli::Cli;
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::serve::control::{Message, Request, SetStatus, Summary};
use crate::show::snapshot::Snapshot;
use crate::show::usage::UsageReport;
use clap::CommandFactory;
use std::path::Path;

/// A man page for the program and one for each verb.
pub fn man(dir: &Path, out: Out) -> Outcome<u8> {
    make(dir)?;
    let command = Cli::command();
    clap_mangen::generate_to(command, dir).map_err(|e| cannot(dir, &e))?;
    Ok(written("man", format!("man pages written to {}", dir.display()), out))
}

/// One file a document.
pub fn schema(dir: &Path, out: Out) -> Outcome<u8> {
    make(dir)?;
    let all = [
        ("message", schemars::schema_for!(Message)),
        ("control-request", schemars::schema_for!(Request)),
        ("status", schemars::schema_for!(Vec<SetStatus>)),
        ("check", schemars::schema_for!(Check)),
        ("init", schemars::schema_for!(Init)),
        ("timeline", schemars::schema_for!(Timeline)),
        ("show", schemars::schema_for!(Snapshot)),
        ("usage", schemars::schema_for!(Vec<UsageReport>)),
        ("diff", schemars::schema_for!(Diff)),
        ("restore-plan", schemars::schema_for!(Plan)),
    ];
    for (name, schema) in all {
        let path = dir.join(format!("{name}.json"));
        let mut text = serde_json::to_string_pretty(&schema).expect("a schema is always JSON");
        text.push('\n');
        std::fs::write(&path, text).map_err(|e| cannot(&path, &e))?;
    }
    Ok(written("schema", format!("schemas written to {}", dir.display()), out))
}

fn written(verb: &str, text: String, out: Out) -> u8 {
    out.note(&text);
    out.message(&Message::Summary(Summary { verb: verb.into(), text: vec![text], ..Summary::default() }));
    0
}

fn make(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).map_err(|e| cannot(dir, &e))
}

fn cannot(path: &Path, e: &std::io::Error) -> Failure {
    Failure::system(format!("cannot write {}", path.display()), e)
}
