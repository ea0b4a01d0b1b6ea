//! A regular file once more, past the page cache: for bytes that nobody reads again soon. Memory for them would be taken
//! from what is read, and getting it costs more than the medium does (where a hypervisor takes back what a guest has freed,
//! 10 us for each 4 KiB: three quarters of what filling a volume cost the processor).
//!
//! Buffered and direct use of one file may be mixed as long as they never touch the same folio of the cache at the same time:
//! Linux writes back and drops what is cached of a range before a direct write, and again behind it. Who serves a file
//! meanwhile sees to the folios (`block/file/cold`).

use crate::destination::aligned::is_aligned;
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Most bytes put into the page cache at once: more make huge folios, which cost up to ten times the time, then and at every
/// later small write to them.
pub(crate) const CACHED_MAX: usize = 64 << 10;

/// Writes `bytes` through the page cache.
pub(crate) fn write_cached(file: &File, at: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut pieces = bytes.chunks(CACHED_MAX).zip((at..).step_by(CACHED_MAX));
    pieces.try_for_each(|(piece, at)| file.write_all_at(piece, at))
}

pub(crate) struct PastCache {
    file: Option<File>,
    /// The file system opens files so, and refuses to use them so.
    refused: AtomicBool,
}

impl PastCache {
    /// Of the very file `file` is, for reading and writing. Does nothing where that cannot be had (an older tmpfs, no /proc).
    pub(crate) fn of(file: &File) -> PastCache {
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(same);
        PastCache { file: opened.ok(), refused: AtomicBool::new(false) }
    }
    /// Whether it is any use.
    pub(crate) fn works(&self) -> bool {
        self.file.is_some() && !self.refused.load(Relaxed)
    }
    /// From now on refuses everything.
    pub(crate) fn refuse(&self) {
        self.refused.store(true, Relaxed);
    }
    /// Reads from the medium what was flushed; `None`: it has to go through the cache.
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) -> Option<std::io::Result<()>> {
        let file = self.takes(at, buf)?;
        self.unless_refused(file.read_exact_at(buf, at))
    }
    /// Writes all of `bytes`; `None`: they have to go through the cache.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Option<std::io::Result<()>> {
        let file = self.takes(at, bytes)?;
        self.unless_refused(file.write_all_at(bytes, at))
    }
    fn takes(&self, at: u64, bytes: &[u8]) -> Option<&File> {
        self.file.as_ref().filter(|_| self.works() && is_aligned(at, bytes))
    }
    /// EINVAL is a file system that does not do this; nothing is lost by it, and it is not asked again. Anything else is an
    /// error, never a detour.
    fn unless_refused(&self, done: std::io::Result<()>) -> Option<std::io::Result<()>> {
        if matches!(&done, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            self.refuse();
            return None;
        }
        Some(done)
    }
    /// As if it had been opened so.
    #[cfg(test)]
    pub(crate) fn through(file: File) -> PastCache {
        PastCache { file: Some(file), refused: AtomicBool::new(false) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_once_is_refused_for_ever_and_an_error_is_an_error() {
        let (_reader, pipe) = std::io::pipe().unwrap();
        // Nothing can be written at a place of a pipe.
        let past = PastCache::through(File::from(std::os::fd::OwnedFd::from(pipe)));
        let mut buf = crate::destination::Aligned::new(8192);
        assert!(
            matches!(past.write(0, &buf), Some(Err(_))) && matches!(past.read(0, &mut buf), Some(Err(_)))
        );
        let failed = |errno| Err(std::io::Error::from_raw_os_error(errno));
        assert!(past.unless_refused(Ok(())).is_some() && past.unless_refused(failed(libc::EIO)).is_some());
        assert!(past.works() && past.write(512, &buf).is_none(), "crooked: it has to go through the cache");
        assert!(past.unless_refused(failed(libc::EINVAL)).is_none() && !past.works());
        assert!(past.write(0, &buf).is_none() && past.read(0, &mut buf).is_none());
    }
}
