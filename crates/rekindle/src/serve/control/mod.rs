//! The control protocol: what a verb says to the process that serves a set, and what it hears back.
//!
//! JSON lines over the Unix socket `NAME.sock` in the runtime directory. The client sends one [`Request`] line and reads
//! [`Message`] lines until a `summary` or an `exit_error` ends the answer; closing the connection early takes the
//! request back where that is possible (a `wait` ends, a backup stops). A line is at most [`LINE_MAX`] bytes; the
//! server answers the same user (and root) only, which the kernel vouches for.
//!
//! The same messages are what verbs print under `--json`: one vocabulary for people's programs and for our own.

mod client;
mod server;

pub use client::{ask, follow};
pub use server::{ControlServer, Handler, Reply};

use crate::errors::ExitError;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Longest line either side accepts, in bytes: a status of a set with hundreds of volumes fits.
pub const LINE_MAX: usize = 1 << 20;

/// What is asked. `name` is a set's name; every verb of the S column of the commands is here.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// One `status` message with everything about the set.
    Status,
    /// Ends when the state is reached, or with exit code 124 after the time.
    Wait {
        /// `online`, `usage=90%`, `complete`, `verified` or `live`.
        r#for: String,
        /// Milliseconds; without it, for ever.
        timeout_ms: Option<u64>,
    },
    /// Changes a running restore. What is absent stays.
    Tune(Tune),
    /// Background filling stops; what the guest needs still comes.
    Pause,
    /// Background filling goes on.
    Resume,
    /// Snapshot of the set at one instant.
    Backup(BackupRequest),
    /// Settles a restore: the set is live on its new disks and goes on being served.
    Cutover {
        /// Do not wait for verification.
        no_verify: bool,
    },
    /// Throws a restore away.
    Discard,
    /// Ends serving as SIGTERM would.
    Stop,
}

/// A backup by the owner.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BackupRequest {
    /// Where to; without it, the repository the owner was configured with.
    pub repository: Option<RepositoryAccess>,
    /// Kept with the snapshot.
    pub tags: Vec<String>,
    /// Run by the owner with `/bin/sh -c` just before the instant; if it fails there is no backup.
    pub pre_hook: Option<String>,
    /// Run just after the instant, whatever became of it.
    pub post_hook: Option<String>,
}

/// A repository and how to open it. A secret may cross this socket: its folder is private, and the kernel vouches for
/// both ends.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RepositoryAccess {
    /// An absolute path.
    pub place: String,
    /// A password, if that opens it.
    pub password: Option<String>,
    /// A key in hex, if that opens it.
    pub key: Option<String>,
}

impl std::fmt::Debug for RepositoryAccess {
    /// Without the secrets: requests are logged.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RepositoryAccess").field("place", &self.place).finish_non_exhaustive()
    }
}

/// The changes of a `tune`.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tune {
    /// Bytes per second for background work; 0 lifts the limit.
    pub limit: Option<u64>,
    /// Share among restores of this process that compete for one link.
    pub weight: Option<u32>,
    /// Byte ranges to fill next.
    pub first: Vec<First>,
    /// The export appears now, whatever the threshold.
    pub online_now: bool,
}

/// A range of one volume that is wanted next.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct First {
    /// The volume; absent for a lone disk.
    pub volume: Option<String>,
    /// First byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// What is said. `message_type` names the kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "message_type", rename_all = "snake_case")]
pub enum Message {
    /// How a set, or some long work on it, stands now.
    Status(Status),
    /// Something happened once.
    Event(Event),
    /// The end of work that was done.
    Summary(Summary),
    /// The end of work that failed.
    ExitError(ExitError),
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
    /// `opening`, `online`, `complete`, `verified`, `live`, `stalled`, `paused`, `resumed`, `warning`, `stopping`.
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
    /// Longest time the guest's requests were held at the instant, in milliseconds; absent for a backup of files at rest.
    pub pause_ms: Option<f64>,
    /// Volumes that had to be compared whole, and why.
    pub compared: Vec<String>,
}

/// What a cutover did.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CutoverSummary {
    /// How long requests were held, in milliseconds.
    pub pause_ms: f64,
    /// Bytes of all volumes.
    pub size_bytes: u64,
    /// Bytes the guest wrote since the moment was opened.
    pub written_bytes: u64,
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
}

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
    /// A device failed; see the events.
    Failed,
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
        }
    }
}

/// Everything about one set that is alive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SetStatus {
    /// The set.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// The process that serves it.
    pub pid: u32,
    /// When that process opened it; RFC 3339, UTC.
    pub since: String,
    /// Its volumes, in the set's order.
    pub volumes: Vec<VolumeStatus>,
    /// While restoring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<RestoreStatus>,
    /// Backups, when a repository is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backup: Option<BackupStatus>,
}

/// One volume that is alive.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// Bytes per second fetched of late.
    pub bytes_per_s: f64,
    /// Guest reads that had to wait for the holder.
    pub misses: u64,
    /// Bytes of guest writes in the write log.
    pub log_bytes: u64,
    /// The log's bound.
    pub log_limit_bytes: u64,
    /// Seconds from start to online, once online.
    pub online_after_s: Option<f64>,
    /// What is being waited for, in words; empty when nothing is.
    pub waiting: String,
    /// Where the write log and the state lie; part of the volume until settled.
    pub state_place: String,
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
    /// When the schedule fires next; RFC 3339, UTC.
    pub next: Option<String>,
    /// The one that is running.
    pub running: Option<Progress>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let check = |text: &str, want: Request| {
            let got: Request = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got, want);
            let back = serde_json::to_string(&want).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&back).unwrap(), want);
        };
        check(r#"{"verb":"status"}"#, Request::Status);
        check(
            r#"{"verb":"wait","for":"usage=90%","timeout_ms":500}"#,
            Request::Wait { r#for: "usage=90%".into(), timeout_ms: Some(500) },
        );
        check(
            r#"{"verb":"tune","limit":1000,"weight":null,"first":[],"online_now":false}"#,
            Request::Tune(Tune { limit: Some(1000), ..Tune::default() }),
        );
        check(
            r#"{"verb":"backup","repository":null,"tags":["a"],"pre_hook":null,"post_hook":null}"#,
            Request::Backup(BackupRequest { tags: vec!["a".into()], ..BackupRequest::default() }),
        );
        for bad in [r#"{"verb":"format_disk"}"#, r#"{"verb":"wait"}"#, r#"{"verb":"stop"} x"#, ""] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_flat_lines() {
        let m = Message::Event(Event { name: "shop".into(), event: "online".into(), ..Event::default() });
        assert_eq!(
            serde_json::to_string(&m).unwrap(),
            r#"{"message_type":"event","time":"","name":"shop","event":"online","text":""}"#
        );
        let e = Message::ExitError(crate::errors::Failure::interrupted("backup").to_json());
        let back: Message = serde_json::from_str(&serde_json::to_string(&e).unwrap()).unwrap();
        assert_eq!(back, e);
    }

    #[test]
    fn states_read_alike_everywhere() {
        for s in [State::Live, State::Opening, State::Verified, State::Failed] {
            assert_eq!(serde_json::to_string(&s).unwrap(), format!("\"{}\"", s.word()));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod over_a_socket;
