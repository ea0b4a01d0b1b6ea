//! What a cold start of a restore demanded that was thrown away afterwards: a drill is a start on this very data, and
//! nothing else would remember it. A hint: the next restore of the volume fills in its order, the next backup takes it into
//! the volume's usage map. Nothing of it is ever data, and it names no frame, so it keeps nothing alive.
//!
//! Named by volume and number; a number is one more than the highest there is and than the one the volume's map has taken
//! in, so that a map that backs up to several repositories takes in what is newer only.
//!
//! ```text
//! snapshot 16, string host, u64 time ns, u8 log2 of the extent, 15 ranks, token 16
//! rank: u32 ms from the start to its last extent, u32 n, n extents as varint: how many lie between it and the one before
//! ```

use super::commit::NAME_MAX;
use super::varint;
use crate::bytes::{Malformed, Reader, Writer};
use crate::usage::Demanded;
use crate::volume::{ExtentBytes, Uuid};

/// Extents of one drill at most: 64 GiB in 64 KiB extents.
pub const EXTENTS_MAX: u64 = 1 << 20;

/// The start of a drill.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drill {
    /// What was restored.
    pub snapshot: Uuid,
    /// Where it ran; for people.
    pub host: String,
    /// When it was thrown away, nanoseconds since 1970; for people.
    pub time_ns: u64,
    /// The unit of what it demanded.
    pub extent: ExtentBytes,
    /// What it demanded.
    pub demanded: Demanded,
    /// Random, for reading back.
    pub token: Uuid,
}

impl Drill {
    /// The body.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(&self.snapshot.0).string(&self.host).u64(self.time_ns).u8(self.extent.shift() as u8);
        for (ms, extents) in &self.demanded.ranks {
            w.u32(*ms).u32(extents.len() as u32);
            let mut next = 0;
            for e in extents {
                varint::put(&mut w, e - next);
                next = e + 1;
            }
        }
        w.raw(&self.token.0);
        w.finish()
    }
    /// Reads a body.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        let (snapshot, host) = (Uuid(r.array("drill")?), r.string(NAME_MAX, "drill")?);
        let (time_ns, shift) = (r.u64("drill")?, r.u8("drill")?);
        let bytes = 1u64.checked_shl(shift.into()).ok_or(Malformed("drill"))?;
        let extent = ExtentBytes::new(bytes).map_err(|_| Malformed("drill"))?;
        let mut demanded = Demanded::default();
        let mut left = EXTENTS_MAX;
        for (ms, extents) in &mut demanded.ranks {
            *ms = r.u32("drill")?;
            let n = u64::from(r.u32("drill")?);
            left = left.checked_sub(n).ok_or(Malformed("drill"))?;
            let mut next = 0u64;
            for _ in 0..n {
                let e = next.checked_add(varint::get(&mut r, "drill")?).ok_or(Malformed("drill"))?;
                next = e.checked_add(1).ok_or(Malformed("drill"))?;
                extents.push(e);
            }
        }
        let token = Uuid(r.array("drill")?);
        r.end("drill")?;
        Ok(Drill { snapshot, host, time_ns, extent, demanded, token })
    }
}
