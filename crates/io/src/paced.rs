//! Writing a file without letting dirty pages pile up.
//!
//! The kernel keeps what was written for seconds and then writes it all: whoever shares the disk waits behind it, and past
//! a limit it stops everybody who writes, the guest too. So a large writer starts writing out what it wrote at once and
//! waits for what came before it: two pieces are under way at most. What is written out leaves the cache, where it would
//! take the place of what the guest needs.

use rustix::io::Errno;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes between two waits.
const PIECE: u64 = 1 << 20;

/// How far a file that is written from its beginning to its end has gone.
#[derive(Default)]
pub(crate) struct Paced {
    written: u64,
    /// Being written out.
    started: u64,
    /// Written out.
    waited: u64,
}

impl Paced {
    /// `n` more bytes were written at the end. An error means that bytes may be lost, and is told only once: the file
    /// must not be trusted any more.
    pub(crate) fn wrote(&mut self, file: impl AsFd, n: u64) -> Result<(), Errno> {
        self.written += n;
        if self.written - self.started < PIECE {
            return Ok(());
        }
        start(&file, self.started, self.written - self.started)?;
        if self.started > self.waited {
            wait(&file, self.waited, self.started - self.waited)?;
            forget(&file, self.waited, self.started - self.waited);
        }
        (self.waited, self.started) = (self.started, self.written);
        Ok(())
    }
}

/// Drops what is written out from the cache: a hint.
fn forget(file: impl AsFd, offset: u64, len: u64) {
    rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), rustix::fs::Advice::DontNeed).ok();
}

/// Begins to write a range out.
pub(crate) fn start(file: impl AsFd, offset: u64, len: u64) -> Result<(), Errno> {
    range(file, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Waits until a range is written out. This is not a flush: the device may still have it in its cache.
fn wait(file: impl AsFd, offset: u64, len: u64) -> Result<(), Errno> {
    let all =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    range(file, offset, len, all)
}

fn range(file: impl AsFd, offset: u64, len: u64, how: libc::c_uint) -> Result<(), Errno> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the call; no memory is passed.
    let r = unsafe { libc::sync_file_range(fd, offset as i64, len as i64, how) };
    if r == 0 {
        return Ok(());
    }
    match Errno::from_io_error(&std::io::Error::last_os_error()) {
        // Where it is not known the flush does all the work.
        Some(Errno::NOSYS | Errno::INVAL | Errno::SPIPE | Errno::OPNOTSUPP | Errno::INTR) => Ok(()),
        e => Err(e.unwrap_or(Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn at_most_two_pieces_are_under_way() {
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        let mut paced = Paced::default();
        for i in 0..40u64 {
            file.write_all_at(&[7; 200_000], i * 200_000).unwrap();
            paced.wrote(&file, 200_000).unwrap();
            assert!(paced.written - paced.started < PIECE + 200_000);
            assert!(paced.written - paced.waited < 2 * (PIECE + 200_000));
        }
        assert!(paced.waited > 0);
        let (none, _end) = std::io::pipe().unwrap();
        assert_eq!(wait(&none, 0, 1), Ok(()), "what cannot be told is left to the flush");
        let flags = rustix::fs::OFlags::PATH;
        let bad = rustix::fs::open("/", flags, rustix::fs::Mode::empty()).unwrap();
        assert_eq!(Paced::default().wrote(&bad, PIECE), Err(Errno::BADF), "what fails is told");
    }
}
