//! Backup: what an instant gives, reading what changed, the choice of the parent, the commit.

mod parent;
mod report;
mod run;
mod source;
#[cfg(test)]
mod tests;
mod usage;

pub use report::{BackupReport, How, VolumeReport};
pub use run::{BackupOptions, Failed, run};
pub use source::{Changed, InstantVolume, SetInstant, VolumeIdentity};
pub use usage::Stored as StoredUsage;
