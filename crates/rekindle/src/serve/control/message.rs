//! What an owner answers, and what verbs print under `--json`.

use super::{Damage, SetStatus};
use crate::errors::ExitError;
use crate::show::usage::{UsageReport, UsageRow};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is said. `message_type` names the kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Message {
    /// How a set, or some long work on it, stands now.
    Status(Status),
    /// Something happened once.
    Event(Event),
    /// Usage of one volume.
    Usage(UsageReport),
    /// Facts of some extents of one volume.
    UsageRows(UsageRows),
    /// The end of work that was done.
    Summary(Summary),
    /// The end of work that failed.
    ExitError(ExitError),
}

/// Facts of some extents of one volume.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageRows {
    /// `shop/data`.
    pub volume: String,
    /// Ascending.
    pub rows: Vec<UsageRow>,
}

/// How something stands now.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The set.
    pub name: String,
    /// Long work that is running, when this is about such work.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Everything about the set, when that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set: Option<Box<SetStatus>>,
}

/// Long work that is running.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// `backup`, `copy`, `filling`, `verifying`, `merging`.
    pub activity: String,
    /// Bytes dealt with.
    pub done_bytes: u64,
    /// Bytes in all, once known.
    pub total_bytes: Option<u64>,
    /// Since it began.
    pub elapsed_s: f64,
    /// Forecast of what is left.
    pub remaining_s: Option<f64>,
    /// Bytes per second of late.
    pub bytes_per_s: f64,
    /// More, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Something that happened once.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// RFC 3339, UTC.
    pub time: String,
    /// The set.
    pub name: String,
    /// `opening`, `online`, `complete`, `verified`, `live`, `stalled`, `paused`, `failed`.
    pub event: String,
    /// In words.
    pub text: String,
    /// Seconds since the work began, where that says something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_s: Option<f64>,
    /// Where it can be reached, when it just became reachable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
}

/// The end of work that was done.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Summary {
    /// The verb.
    pub verb: String,
    /// The set.
    pub name: String,
    /// In words, line by line: what is printed without `--json`.
    pub text: Vec<String>,
    /// After a backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupSummary>,
    /// After a cutover.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutover: Option<CutoverSummary>,
    /// After a plain copy or at the end of a restore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreSummary>,
}

/// What a backup did.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackupSummary {
    /// The snapshot, 32 hex digits.
    pub snapshot: String,
    /// The snapshot it is the successor of.
    pub parent: Option<String>,
    /// Bytes of all volumes.
    pub size_bytes: u64,
    /// Bytes read from the volumes.
    pub read_bytes: u64,
    /// Bytes of extents that differ from the parent.
    pub changed_bytes: u64,
    /// Bytes added to the repository.
    pub stored_bytes: u64,
    /// Seconds in all.
    pub elapsed_s: f64,
    /// Volumes that had to be compared whole, and why.
    pub compared: Vec<String>,
    /// Volumes that were read whole because the snapshots have no such disk, and why.
    #[serde(default)]
    pub whole: Vec<String>,
}

/// What a cutover did.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CutoverSummary {
    /// How long requests were held, in milliseconds.
    pub pause_ms: f64,
    /// Bytes of all volumes.
    pub size_bytes: u64,
    /// Bytes of guest writes that were still in the log when requests were held.
    pub log_bytes: u64,
    /// The source was compared before it was let go.
    pub verified: bool,
}

/// What a restore did.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RestoreSummary {
    /// The snapshot.
    pub snapshot: String,
    /// Bytes of all volumes.
    pub size_bytes: u64,
    /// Bytes that were written; the rest are holes.
    pub written_bytes: u64,
    /// Bytes fetched.
    pub fetched_bytes: u64,
    /// Seconds in all.
    pub elapsed_s: f64,
    /// What was written was read back and compared.
    pub verified: bool,
    /// What could not be had because the repository is damaged: it reads as zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Box<Damage>>,
}
