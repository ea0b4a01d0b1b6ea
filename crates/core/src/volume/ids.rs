//! Identities that stay when names change.

use std::fmt;
use std::str::FromStr;

/// A 128-bit random identity (volume, tracking, snapshot, repository, pack, token). Made outside core; here it is a value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The first 8 hex digits: how people are shown an identity.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_string()
    }
}
impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}
impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for Uuid {
    type Err = crate::bytes::Malformed;
    /// Exactly 32 lower-case hex digits.
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = crate::bytes::Malformed("uuid");
        if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(bad);
        }
        let mut out = [0; 16];
        for (o, pair) in out.iter_mut().zip(s.as_bytes().chunks(2)) {
            let text = std::str::from_utf8(pair).map_err(|_| bad)?;
            *o = u8::from_str_radix(text, 16).map_err(|_| bad)?;
        }
        Ok(Uuid(out))
    }
}

/// A backup instant of one volume under one tracking uuid. Extents keep the generation of their last change;
/// 0 is the moment the tracking began at (a restored snapshot, or nothing known).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub u16);

impl Generation {
    /// The generation after this one; `None` on overflow: then all marks count as changed under a fresh tracking uuid.
    pub fn next(self) -> Option<Self> {
        self.0.checked_add(1).map(Generation)
    }
}
