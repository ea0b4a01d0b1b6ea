//! What the state directory remembers of a set: which disks it has, so that a verb can find them when nobody serves it.
//!
//! `sets/NAME/set.json`, replaced atomically. Labels and paths only: losing it loses no data, and nothing about data is
//! believed because of it.

use crate::errors::{Failure, Outcome};
use crate::places;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// The disks of a set.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// In the set's order.
    pub volumes: Vec<RecordedVolume>,
}

/// One disk.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RecordedVolume {
    /// The volume inside its set.
    pub name: String,
    /// Absolute.
    pub path: PathBuf,
}

/// The folder of everything that is kept of a set; made if absent.
pub fn folder(set: &str) -> Outcome<PathBuf> {
    let dir = places::state_dir()?.join("sets").join(set);
    places::make_private(&dir)?;
    Ok(dir)
}

/// The folder of one volume's state; made if absent.
pub fn volume_folder(set: &str, volume: &str) -> Outcome<PathBuf> {
    let dir = folder(set)?.join("volumes").join(volume);
    places::make_private(&dir)?;
    Ok(dir)
}

/// Remembers the disks of a set.
pub fn remember(set: &str, volumes: &[(String, PathBuf)]) -> Outcome {
    let dir = folder(set)?;
    let absolute = |p: &Path| std::path::absolute(p).unwrap_or_else(|_| p.to_path_buf());
    let volumes =
        volumes.iter().map(|(n, p)| RecordedVolume { name: n.clone(), path: absolute(p) }).collect();
    let record = Record { volumes };
    if recall(set)?.as_ref() == Some(&record) {
        return Ok(());
    }
    let text = serde_json::to_vec_pretty(&record).expect("our types are always JSON");
    places::replace(&dir, "set.json", &text)
        .map_err(|e| Failure::system(format!("cannot write {}", dir.join("set.json").display()), &e))
}

/// The names of all sets something is remembered of, sorted; those of restores to devices too.
pub fn names() -> Outcome<Vec<String>> {
    let state = places::state_path()?;
    let entries = ["sets", "restores"].map(|dir| std::fs::read_dir(state.join(dir)));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// Every disk that is remembered, of whatever set.
pub fn disks() -> Outcome<Vec<PathBuf>> {
    let sets = places::state_path()?.join("sets");
    let names = std::fs::read_dir(sets).into_iter().flatten().flatten();
    let records = names.filter_map(|e| recall(e.file_name().to_str()?).ok().flatten());
    Ok(records.flat_map(|r| r.volumes).map(|v| v.path).collect())
}

/// What was remembered, if anything. A record that cannot be read is as good as none, and is said to be so.
pub fn recall(set: &str) -> Outcome<Option<Record>> {
    let path = places::state_path()?.join("sets").join(set).join("set.json");
    match std::fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice(&text)
            .map_err(|e| tracing::warn!("{} is not used: {e}", path.display()))
            .ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::system(format!("cannot read {}", path.display()), &e)),
    }
}
