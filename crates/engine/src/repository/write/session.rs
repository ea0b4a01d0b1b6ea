//! A writer's session, W0 to W5 (core::repo::session has the protocol and why each step stands where it stands).

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::history::SnapshotInfo;
use super::super::objects::{Created, create_sealed, open_sealed};
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::session::{SessionEnd, SessionOpen};
use rekindle_core::repo::{Commit, names};
use rekindle_core::volume::Uuid;
use rekindle_io::store::StoreExt;
use rekindle_io::{Error, Kind, random};
use std::sync::Arc;

/// How often a session is begun anew because a collector began an epoch meanwhile.
const TRIES: u32 = 16;

/// An open session.
pub(super) struct Session {
    core: Arc<Core>,
    epoch: u64,
    sid: Uuid,
    tag: String,
    /// The highest number taken in the set's history when the session began.
    base_seq: u64,
    checkpoint: Option<u64>,
    /// A collector has been here: what lies outside the parent may be condemned, and this program cannot read verdicts.
    pub collected: bool,
    ended: bool,
}

impl Core {
    /// The newest collector's epoch, 0 if there was none.
    fn epoch(&self) -> Result<u64> {
        let list = self.store.list_all(names::EPOCHS)?;
        Ok(list.iter().filter_map(|e| names::parse_number(&e.name, names::EPOCHS)).max().unwrap_or(0))
    }
}

impl Session {
    /// W0 to W2.
    pub(super) fn begin(
        core: Arc<Core>,
        tag: &str,
        parent: Option<&SnapshotInfo>,
        host: &str,
        time_ns: u64,
    ) -> Result<Self> {
        if !core.config.writable() {
            return Err(RepoError::ReadOnly);
        }
        for _ in 0..TRIES {
            let epoch = core.epoch()?;
            let open = SessionOpen {
                set_tag: tag.to_string(),
                host: host.to_string(),
                time_ns,
                parents: parent.iter().map(|p| p.commit.snapshot).collect(),
                token: random::uuid(),
            };
            let sid = random::uuid();
            let name = names::session_open(epoch, sid);
            let meta = &core.keys.meta;
            match create_sealed(
                &*core.store,
                &core.keys,
                meta,
                ObjectKind::SessionOpen,
                &name,
                &open.encode(),
            )? {
                Created::Won => (),
                Created::Lost(_) => {
                    return Err(RepoError::Invalid(format!("the fresh name {name} was taken")));
                }
            }
            let numbers = core.numbers(tag)?;
            let mut session = Session {
                core: core.clone(),
                epoch,
                sid,
                tag: tag.to_string(),
                base_seq: numbers.last,
                checkpoint: numbers.checkpoint,
                collected: epoch > 0,
                ended: false,
            };
            // Both looks are needed, and after the record is there: without them a collector that began in between would
            // not see this session, and would take away what it is about to name.
            if core.epoch()? != epoch {
                session.end(&SessionEnd::Aborted(random::uuid()))?;
                continue;
            }
            if let Some(parent) = parent
                && !core.exists(parent)?
            {
                session.end(&SessionEnd::Aborted(random::uuid()))?;
                return Err(RepoError::NoSnapshot { wanted: parent.commit.snapshot.short() });
            }
            return Ok(session);
        }
        Err(RepoError::Fenced)
    }
    fn end(&mut self, end: &SessionEnd) -> Result<()> {
        let name = names::session_end(self.epoch, self.sid);
        let core = &self.core;
        self.ended = true;
        match create_sealed(
            &*core.store,
            &core.keys,
            &core.keys.meta,
            ObjectKind::SessionEnd,
            &name,
            &end.encode(),
        )? {
            Created::Won => Ok(()),
            Created::Lost(theirs) => {
                // Whatever it is, it is not ours. Read it all the same: damage is another error than a fence.
                open_sealed(&core.keys, &core.keys.meta, ObjectKind::SessionEnd, &name, &theirs)?;
                Err(RepoError::Fenced)
            }
        }
    }
    /// Whether `seq`, which this session has just taken, was forgotten before.
    fn forgotten(&self, seq: u64) -> Result<bool> {
        let head = self.core.store.head(&(names::forgotten(&self.tag) + &names::number(seq)));
        // The commit is there already, so this failure leaves open whether the snapshot exists: say so by its kind.
        head.map(|found| found.is_some()).map_err(|e| {
            Error::new(Kind::Unavailable, format!("the commit was written, but not confirmed: {e}")).into()
        })
    }
    /// W4 and W5: everything the commit names is durable.
    pub(super) fn commit(mut self, commit: Commit) -> Result<SnapshotInfo> {
        let token = random::uuid();
        let end = SessionEnd::Commit { token, set_tag: self.tag.clone(), commit: Box::new(commit.clone()) };
        self.end(&end)?;
        let core = self.core.clone();
        let mut seq = self.base_seq + 1;
        loop {
            let name = names::commits(&self.tag) + &names::number(seq);
            let sealer = &core.keys.commits;
            match create_sealed(
                &*core.store,
                &core.keys,
                sealer,
                ObjectKind::Commit,
                &name,
                &commit.encode(),
            )? {
                // A tombstone means that the number was taken, forgotten and deleted meanwhile: what lies under it now
                // counts as forgotten, so the commit goes on to the next number.
                Created::Won if !self.forgotten(seq)? => break,
                Created::Won => (),
                Created::Lost(theirs) => {
                    // Somebody who found our end may have finished for us. A damaged one is another's.
                    let same = |info: SnapshotInfo| info.commit.snapshot == commit.snapshot;
                    if core.open_commit(&self.tag, seq, &theirs).is_ok_and(same) {
                        break;
                    }
                }
            }
            seq += 1;
        }
        core.checkpoint_if_due(&self.tag, seq, self.checkpoint);
        Ok(SnapshotInfo { seq, set_tag: self.tag.clone(), commit })
    }
}

impl Drop for Session {
    /// Gives up. If the store cannot be told, a collector's fence ends the session later.
    fn drop(&mut self) {
        if !self.ended
            && let Err(e) = self.end(&SessionEnd::Aborted(random::uuid()))
        {
            tracing::debug!(error = %e, "session not ended; a collection will");
        }
    }
}
