//! What a damaged repository cannot give, for people.

use super::words;
use crate::errors::{Exit, Failure};
use crate::serve::control::{Damage, DamagedRange};
use rekindle_engine::Damage as Lost;

/// Ranges a status line or a cause names; `--json` names more.
const NAMED: usize = 5;

impl Damage {
    /// Adds what a volume has lost.
    pub fn add(&mut self, volume: &str, lost: &Lost) {
        self.bytes += lost.bytes;
        self.extents += lost.extents;
        self.more_ranges += lost.more_ranges;
        self.ranges.extend(lost.ranges.iter().map(|r| DamagedRange {
            volume: volume.into(),
            start: r.range.start,
            bytes: r.range.len,
            object: r.object.clone(),
            why: r.why.clone(),
        }));
    }
    /// A line for each range, `named` of them at most.
    pub fn lines(&self, named: usize) -> Vec<String> {
        let line = |r: &DamagedRange| {
            format!("damaged   {} of {} at byte {}: {}", words::bytes(r.bytes), r.volume, r.start, r.why)
        };
        let mut lines: Vec<String> = self.ranges.iter().take(named).map(line).collect();
        let more = (self.ranges.len() - lines.len()) as u64 + self.more_ranges;
        if more > 0 {
            lines.push(format!("damaged   and {}: {} in all", words::count(more, "more range"), self.size()));
        }
        lines
    }
    /// The lines of a status.
    pub fn status(&self, name: &str) -> Vec<String> {
        let mut lines = self.lines(NAMED);
        let rest = if self.rest_complete { "everything else is there" } else { "everything else goes on" };
        lines.push(format!("          {rest}; {}", cure(name)));
        lines
    }
    /// The failure of waiting for, or doing, what the damage stands in the way of.
    pub fn failure(&self, exit: Exit, error: String, name: &str) -> Failure {
        let ranges: Vec<String> =
            self.lines(NAMED).iter().map(|l| l["damaged".len()..].trim_start().into()).collect();
        let cause = format!("{} cannot be read from the repository: {}", self.size(), ranges.join("; "));
        Failure::new(exit, error, cause, cure(name))
    }
    /// The lines of a status about what could not be compared.
    pub fn status_uncompared(&self, name: &str) -> Vec<String> {
        let mut lines = self.lines(NAMED);
        lines.push(format!("          could not be compared; {}", cure_uncompared(name)));
        lines
    }
    /// The failure of waiting for a verification that cannot compare all, or of settling after it.
    pub fn failure_uncompared(&self, exit: Exit, name: &str) -> Failure {
        let Failure { cause, .. } = self.failure(exit, String::new(), name);
        let cause = format!("all else was compared and is right; {cause}");
        let error = format!("{name} is complete, and cannot be verified in whole");
        Failure::new(exit, error, cause, cure_uncompared(name))
    }
    fn size(&self) -> String {
        words::bytes(self.bytes)
    }
}

fn cure_uncompared(name: &str) -> String {
    format!(
        "bring the object back, it is looked at every ten seconds; or let the source go without comparing: \
         rekindle cutover {name} --no-verify"
    )
}

fn cure(name: &str) -> String {
    format!(
        "bring the object back and run `rekindle resume {name}`, or let the guest overwrite those bytes whole, from \
         another snapshot say"
    )
}
