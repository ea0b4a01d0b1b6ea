//! Writer sessions: hazard records that make a collector safe that this program does not have yet.
//!
//! W0 read the newest epoch; W1 create `s/<epoch>-<sid>.open` naming the parent; W2 read the epoch again (moved: end this
//! session, begin another) and look whether the parent still exists; W3 upload; W4 create `.end`: this is where a commit
//! wins or loses against a collector's fence; W5 create the commit. A collector reads commits first, sessions second, and
//! fences (creates `.end` as FENCED) every older session before it deletes. The order of these steps was model-checked;
//! each step left out loses data in at most 18 steps.
//!
//! ```text
//! open: string set tag, string host, u64 time ns, u16 n parents of uuid 16, token 16
//! end:  u8 outcome (1 commit, 2 aborted, 3 fenced), token 16, for a commit: string set tag, u32 length, commit body
//! ```

use super::commit::{Commit, NAME_MAX};
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::Uuid;

/// The most parents a session may depend on.
pub const PARENTS_MAX: usize = 64;

/// A writer at work.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionOpen {
    /// Which set.
    pub set_tag: String,
    /// Who; for people.
    pub host: String,
    /// Since when; for people.
    pub time_ns: u64,
    /// Snapshots whose frames the session may name: nothing of them is collected while it is open.
    pub parents: Vec<Uuid>,
    /// Random, for reading back.
    pub token: Uuid,
}

impl SessionOpen {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.string(&self.set_tag).string(&self.host).u64(self.time_ns).u16(self.parents.len() as u16);
        for p in &self.parents {
            w.raw(&p.0);
        }
        w.raw(&self.token.0);
        w.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let (set_tag, host) = (r.string(NAME_MAX, "session")?, r.string(NAME_MAX, "session")?);
        let time_ns = r.u64("session")?;
        let n = r.u16("session")? as usize;
        if n > PARENTS_MAX {
            return Err(Malformed("session parents"));
        }
        let parents = (0..n).map(|_| r.array("session").map(Uuid)).collect::<Result<_, _>>()?;
        let token = Uuid(r.array("session")?);
        r.end("session")?;
        Ok(SessionOpen { set_tag, host, time_ns, parents, token })
    }
}

/// How a session ended; written once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionEnd {
    /// Everything is durable; the commit may be made visible by anyone.
    Commit {
        /// Random, for reading back.
        token: Uuid,
        /// The set whose history the commit enters.
        set_tag: String,
        /// The commit.
        commit: Box<Commit>,
    },
    /// The writer gave up.
    Aborted(Uuid),
    /// A collector went on without the writer, who must not commit.
    Fenced(Uuid),
}

impl SessionEnd {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        match self {
            SessionEnd::Commit { token, set_tag, commit } => {
                let body = commit.encode();
                w.u8(1).raw(&token.0).string(set_tag).u32(body.len() as u32).raw(&body);
            }
            SessionEnd::Aborted(token) => {
                w.u8(2).raw(&token.0);
            }
            SessionEnd::Fenced(token) => {
                w.u8(3).raw(&token.0);
            }
        }
        w.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let outcome = r.u8("session end")?;
        let token = Uuid(r.array("session end")?);
        let end = match outcome {
            1 => {
                let set_tag = r.string(NAME_MAX, "session end")?;
                let len = r.u32("session end")? as usize;
                let commit = Box::new(Commit::decode(r.take(len, "session end")?)?);
                SessionEnd::Commit { token, set_tag, commit }
            }
            2 => SessionEnd::Aborted(token),
            3 => SessionEnd::Fenced(token),
            _ => return Err(Malformed("session end")),
        };
        r.end("session end")?;
        Ok(end)
    }
}
