//! How a set that is alive stands: one vocabulary in `status`, JSON and messages.

use super::{BackupSummary, Progress};
use crate::errors::ExitError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The states of a set or restore: one vocabulary in status, JSON and metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Served from its own disks; usage counted, changes tracked.
    Live,
    /// A restore before its threshold: the export is absent.
    Opening,
    /// Served while filling.
    Online,
    /// All bytes are local; verifying.
    Complete,
    /// Verified; may be cut over.
    Verified,
    /// A cutover is under way.
    Merging,
    /// Online, and the holder cannot be reached.
    Stalled,
    /// Online, and filling is paused.
    Paused,
    /// A disk failed: nothing more is written until it is served anew; `failure` says why.
    Failed,
    /// A restore that was begun and not settled, which no process serves; `interrupted` says how to go on.
    Interrupted,
}

impl State {
    /// As people and JSON read it.
    pub fn word(self) -> &'static str {
        match self {
            State::Live => "live",
            State::Opening => "opening",
            State::Online => "online",
            State::Complete => "complete",
            State::Verified => "verified",
            State::Merging => "merging",
            State::Stalled => "stalled",
            State::Paused => "paused",
            State::Failed => "failed",
            State::Interrupted => "interrupted",
        }
    }
}

/// Everything about one set that is alive, or about a restore that was interrupted.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SetStatus {
    /// The set.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Why it failed and what to do; the code is that of a `wait`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<ExitError>,
    /// The process that serves it; null if it was interrupted.
    pub pid: Option<u32>,
    /// When that process opened it; RFC 3339, UTC.
    pub since: Option<String>,
    /// Its volumes, in the set's order.
    pub volumes: Vec<VolumeStatus>,
    /// While restoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// What lies there of a restore that was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<Interrupted>,
    /// Backups, when a repository is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
}

/// One volume that is alive.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct VolumeStatus {
    /// The volume inside its set.
    pub name: String,
    /// The disk below.
    pub path: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Unit of usage and tracking, in bytes.
    pub extent_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Where it is served; absent before a restore is online.
    pub uri: Option<String>,
    /// Clients connected now.
    pub connections: u64,
}

/// A restore that is running.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RestoreStatus {
    /// The moment that was opened.
    pub moment: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes local, zeros included.
    pub local_bytes: u64,
    /// Share of the expected I/O whose extents are local, 0 to 1.
    pub local_io_share: f64,
    /// Forecast of completion, in seconds.
    pub remaining_s: Option<f64>,
    /// Bytes fetched in the background by this process.
    pub fetched_bytes: u64,
    /// Bytes of guest writes in the write log.
    pub log_bytes: u64,
    /// The log's bound.
    pub log_limit_bytes: u64,
    /// Of those, bytes that cannot be freed as long as small writes into damaged bytes lie before them.
    #[serde(default)]
    pub log_held_bytes: u64,
    /// Seconds from start to online, once online.
    pub online_after_s: Option<f64>,
    /// What was asked of it besides the usual (threshold, order, limit), in words; empty when nothing was.
    #[serde(default)]
    pub asked: String,
    /// What is being waited for, in words; empty when nothing is.
    pub waiting: String,
    /// Why the restore stands still, if it does until somebody helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// What the repository cannot give because it is damaged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<Damage>,
    /// What verification could not compare, because the repository is damaged; it was right when it was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompared: Option<Damage>,
    /// It is not to be verified, as asked.
    #[serde(default)]
    pub no_verify: bool,
    /// Where the write log and the state lie; part of the volume until settled.
    pub state_place: String,
}

/// A restore that was begun and not settled, and that no process serves.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Interrupted {
    /// The moment that was opened.
    pub moment: String,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Bytes that need not be fetched again, at least; null if the state cannot be read, or has over 2^24 extents (a TiB of
    /// 64 KiB) and is not counted for a look: `go_on` with `-n` says it.
    pub local_bytes: Option<u64>,
    /// What was asked of it besides the usual (threshold, order, limit), in words; it still holds.
    pub asked: String,
    /// Where the write log and the state lie; part of the volume until settled.
    pub state_place: String,
    /// The command that goes on with it.
    pub go_on: String,
    /// The command that throws it away, with what was written to it.
    pub throw_away: String,
    /// Why it cannot go on as it lies there, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
}

/// Something that stands in the way until somebody helps.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Trouble {
    /// What it is.
    pub cause: String,
    /// What helps.
    pub cure: String,
}

/// What of a moment cannot be had because the repository is damaged.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Damage {
    /// Bytes in all, those of ranges that are not listed included.
    pub bytes: u64,
    /// The same in extents.
    pub extents: u64,
    /// Everything else is there: waiting longer brings nothing.
    pub rest_complete: bool,
    /// Which bytes, in the order of the volumes.
    pub ranges: Vec<DamagedRange>,
    /// Ranges that are not listed because there are too many.
    pub more_ranges: u64,
}

/// Neighbouring bytes that cannot be had.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DamagedRange {
    /// The volume inside its set.
    pub volume: String,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
    /// The object of the repository that is damaged or missing, if known.
    pub object: Option<String>,
    /// What was found.
    pub why: String,
}

/// Backups of a set.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BackupStatus {
    /// The repository.
    pub repository: String,
    /// The newest snapshot this process made.
    pub last: Option<BackupSummary>,
    /// When; RFC 3339, UTC.
    pub last_time: Option<String>,
    /// Why the last one failed, if it did.
    pub last_error: Option<String>,
    /// Why nothing can be backed up to that repository, as it was found when the process started and since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<Trouble>,
    /// When the schedule fires next; RFC 3339, UTC.
    pub next: Option<String>,
    /// The one that is running.
    pub running: Option<Progress>,
}
