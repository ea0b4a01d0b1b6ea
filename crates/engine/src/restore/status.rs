//! What a restore says of itself.

use super::lock;
use super::parts::Volume;
use super::plan::Phase;
use super::set::RestoreSet;
use std::sync::atomic::Ordering::*;
use std::time::Duration;

/// The state word of a status line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoreState {
    /// The threshold for going online is not reached.
    Opening,
    /// Served, filling.
    Online,
    /// Everything is here, not yet verified.
    Complete,
    /// Read back and right.
    Verified,
    /// The holder is away and somebody waits for it.
    Stalled,
    /// Filling stands still because it was told to.
    Paused,
    /// Nothing goes on until it is opened again.
    Failed,
    /// Handed over.
    Live,
}

impl RestoreState {
    /// The word users meet.
    pub fn word(self) -> &'static str {
        match self {
            RestoreState::Opening => "opening",
            RestoreState::Online => "online",
            RestoreState::Complete => "complete",
            RestoreState::Verified => "verified",
            RestoreState::Stalled => "stalled",
            RestoreState::Paused => "paused",
            RestoreState::Failed => "failed",
            RestoreState::Live => "live",
        }
    }
}

/// One volume of a status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeStatus {
    /// Label.
    pub name: String,
    /// Extents in all.
    pub extents: u64,
    /// Only the holder has these.
    pub absent: u64,
    /// Zero by state, not yet in the destination.
    pub zero: u64,
}

/// What is going on.
#[derive(Clone, Debug)]
pub struct RestoreStatus {
    /// In one word.
    pub state: RestoreState,
    /// In the set's order.
    pub volumes: Vec<VolumeStatus>,
    /// Bytes of the log in use, and the bound.
    pub log_bytes: (u64, u64),
    /// Pieces of its index, and the bound.
    pub log_pieces: (u64, u64),
    /// Reads that wait for the holder.
    pub reads_waiting: usize,
    /// Writes that wait for room in the log.
    pub writes_waiting: usize,
    /// How long the holder has been away.
    pub away: Option<Duration>,
    /// Met by background work that tries again.
    pub trouble: Option<String>,
    /// Why it failed.
    pub failed: Option<String>,
    /// The last verification found and mended this many extents.
    pub mended: u64,
    /// An earlier run lost unflushed writes because a flush of the log failed.
    pub lost_after_failed_flush: bool,
}

impl RestoreSet {
    /// What is going on.
    pub fn status(&self) -> RestoreStatus {
        let p = &self.parts;
        let failed = p.failed().map(|e| e.to_string());
        let away = lock(&p.health.away_since).map(|since| p.clock.now().saturating_sub(since));
        let (reads, writes) = (p.reads_waiting(), p.waiting.len());
        let plan = lock(&self.parts.plan);
        let state = match () {
            () if plan.1.phase == Phase::Live => RestoreState::Live,
            () if failed.is_some() => RestoreState::Failed,
            () if plan.1.verified => RestoreState::Verified,
            () if self.is_complete() => RestoreState::Complete,
            () if away.is_some() => RestoreState::Stalled,
            () if !self.is_online() => RestoreState::Opening,
            () if self.is_paused() => RestoreState::Paused,
            () => RestoreState::Online,
        };
        let volume = |v: &Volume| VolumeStatus {
            name: v.name.clone(),
            extents: v.claims.extents(),
            absent: v.claims.absent(),
            zero: v.claims.zero(),
        };
        RestoreStatus {
            state,
            volumes: p.volumes.iter().map(volume).collect(),
            log_bytes: (p.log.used(), p.log.limits().bytes_max),
            log_pieces: (p.log.pieces() as u64, p.log.limits().pieces_max as u64),
            reads_waiting: reads,
            writes_waiting: writes,
            away,
            trouble: lock(&p.health.trouble).as_ref().map(|e| e.to_string()),
            failed,
            mended: self.mended.load(Relaxed),
            lost_after_failed_flush: self.report.lost_after_failed_flush,
        }
    }
}
