//! Where a plain copy goes: a fresh file (its holes stay), a file that exists, a block device. Not served to anybody
//! meanwhile, so simpler and a little faster than the block port.

pub(crate) mod aligned;
#[cfg(test)]
mod tests;

pub use aligned::{ALIGN, Aligned};

use crate::block::{Block, BlockExt, FileBlock, FileOptions};
use crate::past_cache::{CACHED_MAX, PastCache, write_cached};
use crate::{Error, Kind, Result};
use rekindle_core::volume::{ByteRange, Geometry};
use rustix::fs::{self, FallocateFlags, FlockOperation};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Smallest piece written past the page cache. Smaller ones lie scattered: the kernel sorts them, which a disk that seeks
/// needs.
const DIRECT_MIN: usize = 128 << 10;
/// Bytes of zeros written at once where the file system cannot make them.
static ZEROS: [u8; CACHED_MAX] = [0; CACHED_MAX];

/// A place that takes a volume. Safe from several threads on ranges that do not overlap.
pub trait Destination: Send + Sync {
    /// For people.
    fn place(&self) -> String;
    /// It reads as zeros everywhere: zeros need not be written.
    fn is_fresh(&self) -> bool;
    /// It has a name of its own until it is whole: nobody takes it for a volume, and what an earlier copy left there may be
    /// all there is.
    fn is_apart(&self) -> bool {
        false
    }
    /// Fills `buf`. Fastest with long pieces in [`Aligned`] memory.
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()>;
    /// Writes all of `bytes`. Fastest with long pieces in [`Aligned`] memory.
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()>;
    /// Makes `range` read as zeros.
    fn zero(&self, range: ByteRange) -> Result<()>;
    /// A stretch was written and will not be touched soon: begin to write it back.
    fn settle(&self, _range: ByteRange) {}
    /// Everything written is durable, name included.
    fn flush(&self) -> Result<()>;
    /// Aligned reads of what was flushed come from the medium, whatever the system remembers of it.
    fn reads_medium(&self) -> bool {
        false
    }
    /// What was flushed is read from the medium from now on, not from what the system remembers of it.
    fn uncache(&self) -> Result<()> {
        Ok(())
    }
    /// All of `range` is known to be a hole: it reads as zeros and nothing of it is on the medium.
    fn is_hole(&self, _range: ByteRange) -> bool {
        false
    }
}

/// Opens `path` for a volume of this shape: makes a file where there is nothing, takes an existing file of the same size
/// or a device that is large enough and has no larger blocks. What exists is going to be overwritten: asking is the
/// caller's business.
pub fn open_destination(path: &Path, geometry: &Geometry) -> Result<Box<dyn Destination>> {
    match std::fs::metadata(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Ok(Box::new(FileDestination::create(path, geometry.size)?))
        }
        Err(e) => Err(Error::os(path.display().to_string(), &e)),
        Ok(meta) if meta.is_file() => Ok(Box::new(FileDestination::open(path, geometry.size)?)),
        Ok(meta) if meta.file_type().is_block_device() => {
            let device = FileBlock::open(path, &FileOptions::default())?;
            Ok(Box::new(BlockDestination::new(device, path.display().to_string(), geometry)?))
        }
        Ok(_) => {
            Err(Error::new(Kind::Invalid, format!("{} is neither a file nor a block device", path.display())))
        }
    }
}

/// A regular file. What is long and aligned goes past the page cache: a copy is not read again soon. The rest, and everything
/// on file systems that refuse this, is buffered. The two never touch the same block at the same time.
pub struct FileDestination {
    path: PathBuf,
    file: File,
    past_cache: PastCache,
    fresh: bool,
    apart: bool,
}

impl FileDestination {
    /// It is called otherwise once it is whole (see [`Destination::is_apart`]).
    #[must_use]
    pub fn apart(self) -> Self {
        FileDestination { apart: true, ..self }
    }
    /// A new sparse file; `Kind::Exists` if there is one.
    pub fn create(path: &Path, size: u64) -> Result<Self> {
        let error = |e: &std::io::Error| Error::os(path.display().to_string(), e);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(|e| error(&e))?;
        Self::of(path, file, true, size)
    }
    /// A file that exists and has exactly this size, or none yet.
    pub fn open(path: &Path, size: u64) -> Result<Self> {
        let error = |e: &std::io::Error| Error::os(path.display().to_string(), e);
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| error(&e))?;
        let has = file.metadata().map_err(|e| error(&e))?.len();
        if has != size && has != 0 {
            let what = format!(
                "{} has {has} bytes, the volume has {size}: give another name, or remove it",
                path.display()
            );
            return Err(Error::new(Kind::Invalid, what));
        }
        Self::of(path, file, has == 0, size)
    }
    fn of(path: &Path, file: File, fresh: bool, size: u64) -> Result<Self> {
        let past_cache = PastCache::of(&file);
        let opened = FileDestination { path: path.into(), file, past_cache, fresh, apart: false };
        opened.lock()?;
        opened.file.set_len(size).map_err(|e| opened.error(&e))?;
        Ok(opened)
    }
    /// Two copies to one file would mix.
    fn lock(&self) -> Result<()> {
        fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive).map_err(|e| match e {
            rustix::io::Errno::AGAIN => {
                Error::new(Kind::Busy, format!("{} is being written by another program", self.path.display()))
            }
            e => self.error(&e.into()),
        })
    }
    fn error(&self, e: &std::io::Error) -> Error {
        Error::os(self.path.display().to_string(), e)
    }
}

impl Destination for FileDestination {
    fn place(&self) -> String {
        self.path.display().to_string()
    }
    fn is_fresh(&self) -> bool {
        self.fresh
    }
    fn is_apart(&self) -> bool {
        self.apart
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        let past = self.past_cache.read(at, buf);
        past.unwrap_or_else(|| self.file.read_exact_at(buf, at)).map_err(|e| self.error(&e))
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= DIRECT_MIN
            && let Some(done) = self.past_cache.write(at, bytes)
        {
            return done.map_err(|e| self.error(&e));
        }
        write_cached(&self.file, at, bytes).map_err(|e| self.error(&e))
    }
    fn zero(&self, range: ByteRange) -> Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if range.len == 0 || fs::fallocate(&self.file, hole, range.start, range.len).is_ok() {
            return Ok(());
        }
        write_zeros(range, |at, zeros| self.write(at, zeros))
    }
    fn settle(&self, range: ByteRange) {
        // SAFETY: a plain system call on a descriptor that is open as long as `self`; no memory is passed. Only a hint,
        // so its answer does not matter.
        unsafe {
            let (fd, flags) = (self.file.as_raw_fd(), libc::SYNC_FILE_RANGE_WRITE);
            libc::sync_file_range(fd, range.start as i64, range.len as i64, flags);
        }
    }
    fn reads_medium(&self) -> bool {
        self.past_cache.works()
    }
    fn uncache(&self) -> Result<()> {
        fs::fadvise(&self.file, 0, None, fs::Advice::DontNeed).map_err(|e| self.error(&e.into()))
    }
    fn is_hole(&self, range: ByteRange) -> bool {
        match fs::seek(&self.file, fs::SeekFrom::Data(range.start)) {
            Ok(data) => data >= range.end(),
            // Behind the last data.
            Err(e) => e == rustix::io::Errno::NXIO,
        }
    }
    fn flush(&self) -> Result<()> {
        self.file.sync_all().map_err(|e| self.error(&e))?;
        let folder = match self.path.parent() {
            Some(p) if !p.as_os_str().is_empty() => p,
            _ => Path::new("."),
        };
        File::open(folder).and_then(|d| d.sync_all()).map_err(|e| Error::os(folder.display().to_string(), &e))
    }
}

/// Any device.
pub struct BlockDestination {
    device: Arc<dyn Block>,
    place: String,
}

impl BlockDestination {
    /// `device` must be as large as the volume and have no larger blocks.
    pub fn new(device: Arc<dyn Block>, place: String, geometry: &Geometry) -> Result<Self> {
        let info = device.info();
        let refuse = |what: String| Err(Error::new(Kind::Invalid, format!("{place}: {what}")));
        if info.size < geometry.size {
            return refuse(format!("has {} bytes, the volume has {}", info.size, geometry.size));
        }
        if info.logical_block > geometry.logical_block {
            return refuse(format!(
                "has {}-byte blocks, the volume {}-byte ones: its guest would write what this device cannot",
                info.logical_block, geometry.logical_block
            ));
        }
        Ok(BlockDestination { device, place })
    }
}

impl Destination for BlockDestination {
    fn place(&self) -> String {
        self.place.clone()
    }
    fn is_fresh(&self) -> bool {
        false
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        self.device.read_at(at, buf)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        self.device.write_at(at, bytes)
    }
    fn zero(&self, range: ByteRange) -> Result<()> {
        self.device.zero_at(range.start, range.len)
    }
    fn reads_medium(&self) -> bool {
        // Devices are opened so that nothing is cached.
        true
    }
    fn flush(&self) -> Result<()> {
        self.device.flush()
    }
}

fn write_zeros(range: ByteRange, write: impl Fn(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut at = range.start;
    while at < range.end() {
        let n = (range.end() - at).min(CACHED_MAX as u64);
        write(at, &ZEROS[..n as usize])?;
        at += n;
    }
    Ok(())
}
