//! Holds: a restore depends on a snapshot until it says otherwise. No silence ends a hold, however long: a partition that
//! lasts a month must not cost a production volume its data. It ends by `.released`, written by the restore or by an
//! operator who was shown its owner and age.
//!
//! A hold is created first and the snapshot looked for second. A collector reads commits first and holds second, before it
//! condemns and again before its verdict: so it either sees the snapshot or the hold.
//!
//! ```text
//! hold:     string set tag, snapshot 16, string host, string restore, restore uuid 16, u32 pid, u64 time ns, token 16
//! released: u8 reason (1 done, 2 by an operator), u64 time ns, token 16
//! ```

use super::commit::NAME_MAX;
use crate::bytes::{Malformed, Reader, Writer};
use crate::volume::Uuid;

/// Who depends on a snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldOwner {
    /// Host it runs on.
    pub host: String,
    /// The restore's name.
    pub restore: String,
    /// The restore's identity.
    pub restore_uuid: Uuid,
    /// Process that took it.
    pub pid: u32,
    /// When, nanoseconds since 1970.
    pub time_ns: u64,
}

/// A hold as stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hold {
    /// The set of the snapshot.
    pub set_tag: String,
    /// The snapshot.
    pub snapshot: Uuid,
    /// Who.
    pub owner: HoldOwner,
    /// Random, for reading back.
    pub token: Uuid,
}

impl Hold {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let (mut w, o) = (Writer::new(), &self.owner);
        w.string(&self.set_tag).raw(&self.snapshot.0).string(&o.host).string(&o.restore);
        w.raw(&o.restore_uuid.0).u32(o.pid).u64(o.time_ns).raw(&self.token.0);
        w.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let (set_tag, snapshot) = (r.string(NAME_MAX, "hold")?, Uuid(r.array("hold")?));
        let owner = HoldOwner {
            host: r.string(NAME_MAX, "hold")?,
            restore: r.string(NAME_MAX, "hold")?,
            restore_uuid: Uuid(r.array("hold")?),
            pid: r.u32("hold")?,
            time_ns: r.u64("hold")?,
        };
        let hold = Hold { set_tag, snapshot, owner, token: Uuid(r.array("hold")?) };
        r.end("hold")?;
        Ok(hold)
    }
}

/// Why a hold ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReleaseReason {
    /// The restore no longer needs it.
    Done = 1,
    /// An operator decided so.
    Operator = 2,
}

/// A hold's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// Why.
    pub reason: ReleaseReason,
    /// When.
    pub time_ns: u64,
    /// Random, for reading back.
    pub token: Uuid,
}

impl Released {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.u8(self.reason as u8).u64(self.time_ns).raw(&self.token.0);
        w.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let reason = match r.u8("release")? {
            1 => ReleaseReason::Done,
            2 => ReleaseReason::Operator,
            _ => return Err(Malformed("release")),
        };
        let released = Released { reason, time_ns: r.u64("release")?, token: Uuid(r.array("release")?) };
        r.end("release")?;
        Ok(released)
    }
}
