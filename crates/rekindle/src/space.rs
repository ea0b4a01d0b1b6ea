//! Room on the file systems that restores write to.

use rekindle_io::{Error, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What the fill leaves free at most: write log and guest need it more.
const FLOOR_MAX: u64 = 256 << 20;

/// A file system's room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Which file system.
    pub device: u64,
    /// Bytes in all.
    pub size: u64,
    /// Bytes we may still take.
    pub free: u64,
}

impl Space {
    /// Of the file system that holds `path`, or will when it is made.
    pub fn of(path: &Path) -> Result<Space> {
        let here = if path.exists() { path } else { path.parent().unwrap_or(Path::new("/")) };
        let cannot = |e: std::io::Error| Error::os(here.display().to_string(), &e);
        let s = rustix::fs::statvfs(here).map_err(|e| cannot(e.into()))?;
        let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
        let device = here.metadata().map_err(cannot)?.dev();
        Ok(Space { device, size: bytes(s.f_blocks), free: bytes(s.f_bavail) })
    }
    /// The fill stands still below this: a hundredth of a small file system, never more than 256 MiB.
    pub fn floor(&self) -> u64 {
        (self.size / 100).min(FLOOR_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_system_is_not_kept_empty() {
        let floor = |size| Space { device: 0, size, free: 0 }.floor();
        assert_eq!((floor(200 << 20), floor(1 << 40)), (2 << 20, 256 << 20));
        let dir = tempfile::tempdir().unwrap();
        let here = Space::of(dir.path()).unwrap();
        assert!(here.free > 0 && here.free <= here.size);
        assert_eq!(Space::of(&dir.path().join("not-yet")).unwrap().device, here.device);
    }
}
