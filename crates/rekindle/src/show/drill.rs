//! What is known of a volume's next start from the last drill.

use super::words;
use rekindle_engine::repository::Drill;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The newest drill of a volume, which the usage map of the moment does not have yet.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct DrillReport {
    /// The volume.
    pub volume: String,
    /// The id of the snapshot that was drilled.
    pub snapshot: String,
    /// When it was thrown away: RFC 3339, UTC.
    pub time: String,
    /// Where it ran.
    pub host: String,
    /// Bytes that the start of its guest read: a restore brings them first.
    pub bytes: u64,
}

impl DrillReport {
    /// Of a drill of `volume`.
    pub fn new(volume: &str, drill: &Drill) -> DrillReport {
        DrillReport {
            volume: volume.into(),
            snapshot: drill.snapshot.to_string(),
            time: words::rfc3339(drill.time_ns),
            host: drill.host.clone(),
            bytes: drill.demanded.extents() * drill.extent.get(),
        }
    }
    /// In words.
    pub fn line(&self) -> String {
        let id: String = self.snapshot.chars().take(8).collect();
        format!(
            "drill     of {id}, {}: what its guest's start read of {} comes first, {}",
            self.time,
            self.volume,
            words::bytes(self.bytes)
        )
    }
}
