//! The beginning: the window doubles each round trip until a queue stands or nothing more comes of it.

use std::time::Duration;

/// A round trip in which the window grew less than by this share found the link's end.
const GREW: f64 = 1.25;
/// So many in a row end the beginning: one alone may be a page of metadata that everybody waited for.
const ROUNDS: u32 = 2;

/// The slow start of one throttle.
#[derive(Clone, Debug)]
pub(super) struct Start {
    /// The round trip under way began then; what is asked from then on belongs to the next.
    round: Duration,
    /// The window then.
    from: f64,
    /// Round trips in a row that brought little.
    held: u32,
}

impl Start {
    pub(super) fn new(now: Duration) -> Start {
        Start { round: now, from: 0.0, held: 0 }
    }
    /// An answer of `bytes` that took `latency` came; `full`: the window was made use of; `late`: as late as behind a
    /// queue. Widens the window; `true` when the beginning is over.
    pub(super) fn came(&mut self, now: Duration, bytes: f64, latency: Duration, look: Look<'_>) -> bool {
        if look.full && !look.late {
            *look.window += bytes;
        }
        if now.saturating_sub(latency) >= self.round {
            let held = look.full && *look.window < GREW * self.from;
            self.held = if held { self.held + 1 } else { 0 };
            (self.round, self.from) = (now, *look.window);
        }
        self.held >= ROUNDS
    }
}

/// What an answer is judged by.
pub(super) struct Look<'a> {
    pub(super) window: &'a mut f64,
    pub(super) full: bool,
    pub(super) late: bool,
}
