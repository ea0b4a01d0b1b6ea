//! The user's own raw file or block device.
//!
//! Regular files are buffered, block devices O_DIRECT.
//! - Reads: cached ones inline (preadv2 RWF_NOWAIT; plain pread where that is refused, as on tmpfs), misses on four
//!   threads. A lone read while nothing else is late is a miss inline: two wake-ups less, and nobody to hold up.
//! - Writes: inline while the disk takes them at once. Two in a row that waited over 2 ms for it (dirty
//!   throttling) put the volume into writer-thread mode for a while, so that reads of the same connection never wait behind it. Overlapping writes keep
//!   their order (`WriteOrder`), whatever runs where. Devices write on four threads unless the write is alone.
//! - Cold writes to a regular file go past its page cache, and so do reads of the medium (`past_cache` says why that may be
//!   mixed).
//! - Flush: one fdatasync for all who wait (`flush`); its failure fails the inode for all users until reopened, and
//!   reopening drops the page cache, because the kernel has marked the lost pages clean.
//! - Nothing is allocated on the inline paths.

mod allocation;
mod change;
mod cold;
mod facts;
mod flush;
mod lock;
mod queue;
mod run;
mod sys;

pub use facts::ImageFacts;

use super::blocking;
use super::{Allocation, Answer, Block, CompletionSink, Info, Request};
use crate::latch;
use crate::{Error, Kind, Result};
use rekindle_core::volume::ByteRange;
use run::Core;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;

/// What a trim does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Discard {
    /// Sparse files get holes; preallocated files stay allocated; devices only where trimmed ranges read as zeros.
    #[default]
    Auto,
    /// Space is given back wherever it can be; a device may return other bytes for trimmed ranges every time.
    Always,
    /// Trims do nothing.
    Never,
}

/// How to open.
#[derive(Clone, Debug)]
pub struct FileOptions {
    /// Refuse writes.
    pub read_only: bool,
    /// For regular files; devices have their own. 512 unless the volume says otherwise.
    pub logical_block: Option<u32>,
    /// What a trim does.
    pub discard: Discard,
    /// Open a device with O_EXCL: fails with `Kind::Busy` while it is mounted or claimed.
    pub exclusive: bool,
    /// Drop the page cache of the file first: after a failed flush, or when it is not known how it was left.
    pub drop_cache: bool,
    /// Lock the image on QEMU's bytes; `Kind::Busy` names who has it. Off only for a second opening of one's own image.
    pub lock: bool,
}

impl Default for FileOptions {
    fn default() -> Self {
        FileOptions {
            read_only: false,
            logical_block: None,
            discard: Discard::Auto,
            exclusive: true,
            drop_cache: false,
            lock: true,
        }
    }
}

/// What was opened, besides `Info`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Medium {
    is_device: bool,
    /// O_DIRECT is in force.
    direct: bool,
    discard: Discard,
    /// Space is reserved up to the end: trims and zeros keep it so.
    thick: bool,
}

/// The file or device, served. Dropping it finishes what is queued; it does not flush.
pub struct FileBlock {
    core: Arc<Core>,
}

impl FileBlock {
    /// Opens a raw file or a block device.
    pub fn open(path: &Path, options: &FileOptions) -> Result<Arc<FileBlock>> {
        let place = path.display().to_string();
        let meta = std::fs::metadata(path).map_err(|e| Error::os(place.as_str(), &e))?;
        let is_device = meta.file_type().is_block_device();
        if !is_device && !meta.is_file() {
            return Err(Error::new(Kind::Invalid, format!("{place} is neither a file nor a block device")));
        }
        let (file, direct) = open_file(path, &place, is_device, options)?;
        if options.lock {
            lock::lock(&file, &place, options.read_only)?;
        }
        let info = info(&file, &place, is_device, options)?;
        let inode = if is_device { (meta.rdev(), u64::MAX) } else { (meta.dev(), meta.ino()) };
        let (latch, after_failure) = latch::open(inode);
        if (after_failure || options.drop_cache) && !direct {
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)
                .map_err(|e| Error::os(place.as_str(), &e.into()))?;
        }
        let thick = !is_device && meta.blocks().saturating_mul(512) >= info.size;
        let medium = Medium { is_device, direct, discard: options.discard, thick };
        Ok(Arc::new(FileBlock { core: Arc::new(Core::new(file, place, info, medium, latch)) }))
    }
    /// The open file, for locks and facts about the inode.
    pub fn file(&self) -> &File {
        &self.core.file
    }
    /// A flush failed: nothing more is written until it is opened again.
    pub fn is_failed(&self) -> bool {
        self.core.latch.is_failed()
    }
    /// It is a block device.
    pub fn is_device(&self) -> bool {
        self.core.medium.is_device
    }
}

fn open_file(path: &Path, place: &str, is_device: bool, o: &FileOptions) -> Result<(File, bool)> {
    let mut flags = OFlags::CLOEXEC | if o.read_only { OFlags::RDONLY } else { OFlags::RDWR };
    if is_device && o.exclusive && !o.read_only {
        flags |= OFlags::EXCL;
    }
    let open = |flags| rustix::fs::open(path, flags, Mode::empty()).map(File::from);
    let opened = if is_device {
        open(flags | OFlags::DIRECT).map(|f| (f, true))
    } else {
        open(flags).map(|f| (f, false))
    };
    opened.map_err(|e| match e {
        rustix::io::Errno::BUSY => Error::new(
            Kind::Busy,
            format!(
                "{place} is in use (mounted, part of an array or volume group, or claimed by another program)"
            ),
        ),
        e => Error::os(place, &e.into()),
    })
}

fn info(file: &File, place: &str, is_device: bool, o: &FileOptions) -> Result<Info> {
    let os = |e: &std::io::Error| Error::os(place, e);
    let size = rustix::fs::seek(file, rustix::fs::SeekFrom::End(0)).map_err(|e| os(&e.into()))?;
    if is_device && !o.read_only && sys::is_read_only(file) {
        return Err(Error::new(Kind::ReadOnly, format!("{place} is set read-only")));
    }
    let (logical_block, physical_block) = if is_device {
        sys::block_sizes(file, place)?
    } else {
        let logical = o.logical_block.unwrap_or(512);
        (logical, logical.max(4096))
    };
    if is_device && o.logical_block.is_some_and(|wanted| wanted < logical_block) {
        let what = format!(
            "{place} has {logical_block}-byte blocks; the volume needs smaller ones: use another device"
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    if size == 0 {
        return Err(Error::new(Kind::Invalid, format!("{place} is empty: no disk has 0 bytes")));
    }
    if !size.is_multiple_of(u64::from(logical_block)) {
        let what = format!(
            "{place} has {size} bytes, which is no whole number of {logical_block}-byte blocks: extend it with `truncate -s %{logical_block}`"
        );
        return Err(Error::new(Kind::Invalid, what));
    }
    Ok(Info {
        size,
        logical_block: o.logical_block.filter(|_| is_device).unwrap_or(logical_block),
        physical_block,
        read_only: o.read_only,
        rotational: is_device && sys::is_rotational(file),
        trim: !o.read_only && o.discard != Discard::Never,
        // Not probed: even a request past the end changes the file's times, by which possession is proven. Where holes
        // are not possible after all, each fast zero is answered `Unsupported`.
        fast_zero: !o.read_only && !is_device,
    })
}

impl Block for FileBlock {
    fn info(&self) -> Info {
        self.core.info
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        self.core.submit(batch, answers, sink);
    }
    fn expect_cold(&self, expected: bool) {
        if !self.core.medium.direct {
            self.core.cold.expect(&self.core.file, expected);
        }
    }
    fn write_cold(&self, offset: u64, data: &[u8]) -> Result<()> {
        blocking::wait_for(|sink| self.core.write_cold(offset, data, sink)).map(drop)
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.core.read_medium(offset, buf)
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.core.allocation(range, out)
    }
}

impl Drop for FileBlock {
    fn drop(&mut self) {
        self.core.close();
    }
}

#[cfg(test)]
mod tests;
