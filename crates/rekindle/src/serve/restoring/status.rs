//! How a restore stands, for status, progress and waiting.

use super::Restoring;
use crate::serve::control::{Damage, Progress, RestoreStatus, State, Trouble};
use crate::show::words;
use rekindle_engine::restore::{FillStatus, RestoreDamage, RestoreState};
use std::sync::atomic::Ordering::Relaxed;

/// Damaged ranges a status lists: a line of the control protocol is bounded.
const RANGES_MAX: usize = 1000;

impl Restoring {
    /// The state word.
    pub fn state(&self) -> State {
        match self.set.status().state {
            RestoreState::Opening => State::Opening,
            RestoreState::Online => State::Online,
            RestoreState::Complete => State::Complete,
            RestoreState::Verified => State::Verified,
            RestoreState::Stalled => State::Stalled,
            RestoreState::Paused => State::Paused,
            RestoreState::Failed => State::Failed,
            RestoreState::Live => State::Live,
        }
    }
    /// (local, total) bytes of all volumes.
    pub fn local(&self) -> (u64, u64) {
        let volumes = self.set.volumes();
        let total: u64 = volumes.iter().map(|v| v.geometry().size).sum();
        let status = self.set.status();
        let missing: u64 = status
            .volumes
            .iter()
            .zip(volumes)
            .map(|(s, v)| ((s.absent + s.zero) * v.geometry().extent.get()).min(v.geometry().size))
            .sum();
        (total - missing, total)
    }
    /// Everything about it.
    pub fn status(&self) -> RestoreStatus {
        let s = self.set.status();
        let (local, total) = self.local();
        let fill = self.fill.get().map(|f| f.status());
        let share = fill.as_ref().map_or_else(
            || if total == 0 { 1.0 } else { local as f64 / total as f64 },
            |f| f.progress.usage_share(),
        );
        RestoreStatus {
            moment: self.moment.clone(),
            total_bytes: total,
            local_bytes: local,
            local_io_share: share,
            remaining_s: fill.as_ref().and_then(|f| f.left).map(|d| d.as_secs_f64()),
            fetched_bytes: fill.as_ref().map_or(0, |f| f.fetched_bytes),
            log_bytes: s.log_bytes.0,
            log_limit_bytes: s.log_bytes.1,
            log_held_bytes: self.set.held_by_damage(),
            online_after_s: self.online_after.get().map(|d| d.as_secs_f64()),
            asked: self.wishes().words(),
            waiting: self.waiting(&s, fill.as_ref()),
            trouble: trouble(fill.as_ref()),
            damage: self.damage(),
            uncompared: self.uncompared(),
            no_verify: self.wishes().no_verify,
            state_place: self.state.path.display().to_string(),
        }
    }
    /// What the repository cannot give, if anything.
    pub fn damage(&self) -> Option<Damage> {
        told(&self.set.damage(RANGES_MAX / self.volumes.len().max(1)))
    }
    /// What verification could not compare, if anything.
    pub fn uncompared(&self) -> Option<Damage> {
        told(&self.set.uncompared(RANGES_MAX / self.volumes.len().max(1)))
    }
    fn waiting(&self, s: &rekindle_engine::restore::RestoreStatus, fill: Option<&FillStatus>) -> String {
        let mut all = Vec::new();
        all.extend(s.failed.iter().map(|f| format!("failed: {f}")));
        if let Some(away) = s.away {
            all.push(format!("the repository has not answered for {}", words::duration(away)));
        }
        if s.reads_waiting > 0 {
            all.push(format!("{} for the repository", words::count(s.reads_waiting as u64, "read")));
        }
        if s.writes_waiting > 0 {
            all.push(format!("{} for room in the log", words::count(s.writes_waiting as u64, "write")));
        }
        all.extend(s.trouble.iter().map(|t| format!("trouble: {t}")));
        all.extend(trouble(fill).map(|t| t.cause));
        if s.lost_after_failed_flush {
            all.push("an earlier run lost unflushed writes because a flush of the log failed".into());
        }
        all.join("; ")
    }
    /// What is shown while it goes on; `None` when nothing moves any more.
    pub fn progress(&self) -> Option<Progress> {
        let (local, total) = self.local();
        let progress = |activity: &str, done: u64| Progress {
            activity: activity.into(),
            done_bytes: done,
            total_bytes: Some(total),
            elapsed_s: self.begun.elapsed().as_secs_f64(),
            ..Progress::default()
        };
        match self.state() {
            State::Live | State::Verified => None,
            State::Complete if self.wishes().no_verify => None,
            State::Complete => Some(progress("verifying", self.verified_bytes.load(Relaxed))),
            _ => {
                let status = self.status();
                let mut detail = format!("{} of I/O local", words::percent(status.local_io_share));
                if let Some(damage) = &status.damage {
                    detail = format!("{detail}, {} damaged in the repository", words::bytes(damage.bytes));
                }
                if !status.waiting.is_empty() {
                    detail = format!("{detail}, {}", status.waiting);
                }
                Some(Progress { remaining_s: status.remaining_s, detail, ..progress("filling", local) })
            }
        }
    }
}

fn told(found: &RestoreDamage) -> Option<Damage> {
    let mut damage = Damage { rest_complete: found.only_damage_left, ..Damage::default() };
    found.volumes.iter().for_each(|(volume, lost)| damage.add(volume, lost));
    (damage.extents > 0).then_some(damage)
}

/// What holds the fill up until somebody helps.
fn trouble(fill: Option<&FillStatus>) -> Option<Trouble> {
    let full = fill?.no_space.as_ref()?;
    Some(Trouble {
        cause: format!("no space to fill, for {}: {}", words::duration(full.since), full.why),
        cure: "free some space there, it goes on by itself; the guest is served meanwhile".into(),
    })
}
