//! What a fill tells people.

use rekindle_core::hydrate::{Link, Progress, Reason, Source};
use std::time::Duration;

/// The fill stands still.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Away {
    /// Why.
    pub why: String,
    /// For how long.
    pub since: Duration,
}

/// A fill at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct FillStatus {
    /// How far it is.
    pub progress: Progress,
    /// Why it went online, once it did.
    pub online: Option<Reason>,
    /// Extents fetched in the background, by why they came when they did.
    pub fetched: [(Source, u64); 4],
    /// Bytes moved in the background.
    pub fetched_bytes: u64,
    /// Background fetches under way.
    pub in_flight: usize,
    /// What is known of the link to the holder.
    pub link: Link,
    /// The limit in force.
    pub limit: Option<u64>,
    /// The holder does not answer.
    pub stalled: Option<Away>,
    /// The destination has no space for it.
    pub no_space: Option<Away>,
    /// Time to completion at the present pace; `None`: not known.
    pub left: Option<Duration>,
}
