//! What can be seen of an image from outside: whether it is the one we left, as we left it.

use super::FileBlock;
use crate::{Error, Result};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

/// Identity and times of an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ImageFacts {
    /// A block device: nothing below tells whether somebody wrote to it.
    pub is_device: bool,
    /// Device the file lies on; for a block device its own number.
    pub device: u64,
    /// Inode of the file; for a block device 0.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of its bytes, nanoseconds since 1970 (0 for a device).
    pub modified_ns: u64,
    /// Last change of its inode, nanoseconds since 1970 (0 for a device).
    pub changed_ns: u64,
}

impl ImageFacts {
    /// The facts of an open file or block device, now.
    pub fn of(file: &File) -> Result<ImageFacts> {
        let m = file.metadata().map_err(|e| Error::os("image", &e))?;
        if m.file_type().is_block_device() {
            let end = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0));
            let size = end.map_err(|e| Error::os("image", &e.into()))?;
            return Ok(ImageFacts { is_device: true, device: m.rdev(), size, ..ImageFacts::default() });
        }
        let ns = |s: i64, ns: i64| {
            (s.max(0) as u64).saturating_mul(1_000_000_000).saturating_add(ns.max(0) as u64)
        };
        Ok(ImageFacts {
            is_device: false,
            device: m.dev(),
            inode: m.ino(),
            size: m.size(),
            modified_ns: ns(m.mtime(), m.mtime_nsec()),
            changed_ns: ns(m.ctime(), m.ctime_nsec()),
        })
    }
}

impl FileBlock {
    /// The facts now.
    pub fn facts(&self) -> Result<ImageFacts> {
        ImageFacts::of(&self.core.file)
    }
}
