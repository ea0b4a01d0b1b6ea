//! What the state directory remembers of a set: which disks it has, so that a verb can find them when nobody serves it.
//!
//! `sets/NAME/set.json`, replaced atomically; beside it `restores.json`, where restores of this name keep their state, since
//! its disks may be others by the time one that was interrupted is looked for. Labels and paths only: losing them loses no
//! data, and nothing about data is believed because of them.

use crate::errors::{Failure, Outcome};
use crate::places;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const DISKS: &str = "set.json";
const RESTORES: &str = "restores.json";

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
    places::replace(&dir, DISKS, &text)
        .map_err(|e| Failure::system(format!("cannot write {}", dir.join(DISKS).display()), &e))
}

/// Where restores of this name began to keep their state, the newest last; most are over.
pub fn restores(set: &str) -> Outcome<Vec<PathBuf>> {
    Ok(read(set, RESTORES)?.unwrap_or_default())
}

/// Remembers one more of them, before there is anything of it that could be lost sight of. What lies nowhere any more is
/// forgotten.
pub fn remember_restore(set: &str, state: &Path) -> Outcome {
    let mut places = restores(set)?;
    if places.last().is_some_and(|p| p == state) {
        return Ok(());
    }
    places.retain(|p| p != state && p.is_dir());
    places.push(state.into());
    let text = serde_json::to_vec_pretty(&places).expect("our types are always JSON");
    let dir = folder(set)?;
    let fresh = dir.join(format!("{RESTORES}.new"));
    // Not flushed: the guest waits for this, and after a power cut the state is found by the disks as a rule.
    std::fs::write(&fresh, text)
        .and_then(|()| std::fs::rename(&fresh, dir.join(RESTORES)))
        .map_err(|e| Failure::system(format!("cannot write {}", fresh.display()), &e))
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

/// The disks that were remembered, if any.
pub fn recall(set: &str) -> Outcome<Option<Record>> {
    read(set, DISKS)
}

/// What a file of the set says, if it is there. One that makes no sense is as good as none, and is said to be so.
fn read<T: DeserializeOwned>(set: &str, name: &str) -> Outcome<Option<T>> {
    let path = places::state_path()?.join("sets").join(set).join(name);
    match std::fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice(&text)
            .map_err(|e| tracing::warn!("{} is not used: {e}", path.display()))
            .ok()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Failure::system(format!("cannot read {}", path.display()), &e)),
    }
}
