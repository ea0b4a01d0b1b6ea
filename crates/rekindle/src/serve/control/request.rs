//! What a verb asks of an owner.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    /// A `usage` message for each volume, `usage_rows` before it where asked for.
    Usage {
        /// One volume; without it, all.
        volume: Option<String>,
        /// `trace`, `count`, `rate` or `score`.
        by: String,
        /// Every extent's facts too.
        rows: bool,
    },
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
    /// A password in hex, if that opens it.
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
    /// It is verified, though it was begun with `--no-verify`.
    #[serde(default)]
    pub verify: bool,
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
