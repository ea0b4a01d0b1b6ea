//! Backup: the instant (the cut), the fleece (what was there), collecting, the commit.

mod source;
pub use source::{Changed, InstantVolume, SetInstant, VolumeIdentity};
