//! A regular file once more, past the page cache: for bytes that nobody reads again soon. Memory for them would be taken
//! from what is read, and getting it costs more than the medium does (where a hypervisor takes back what a guest has freed,
//! 10 us for each 4 KiB: three quarters of what filling a volume cost the processor).
//!
//! Buffered and direct use of one file may be mixed as long as they never touch the same folio of the cache at the same time:
//! Linux writes back and drops what is cached of a range before a direct write, and again behind it. Who serves a file
//! meanwhile sees to the folios (`block/file/cold`). Before a direct read it writes back what is dirty of the range, and leaves
//! the cache as it is: what is compared with the medium so is not what the cache remembers of it, and stays cached.

use crate::destination::aligned::{ALIGN, Aligned, is_aligned};
use rustix::fs::{Advice, AtFlags, StatxFlags, fadvise, statx};
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result};
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Most bytes put into the page cache at once: more make huge folios, which cost up to ten times the time, then and at every
/// later small write to them.
pub(crate) const CACHED_MAX: usize = 64 << 10;

/// Writes `bytes` through the page cache.
pub(crate) fn write_cached(file: &File, at: u64, bytes: &[u8]) -> Result<()> {
    let mut pieces = bytes.chunks(CACHED_MAX).zip((at..).step_by(CACHED_MAX));
    pieces.try_for_each(|(piece, at)| file.write_all_at(piece, at))
}

/// Pages are no larger anywhere.
const PAGE_MAX: u64 = 64 << 10;

/// Drops what is cached of `len` bytes at `at`, and of what lies around them in the same pages, as far as the system lets go
/// of it: not of what is dirty, mapped or pinned, nor of a folio that reaches further.
fn drop_cached(file: &File, at: u64, len: usize) -> Result<()> {
    let from = at - at % PAGE_MAX;
    let Some(len) = NonZeroU64::new((at + len as u64).next_multiple_of(PAGE_MAX) - from) else {
        return Ok(());
    };
    Ok(fadvise(file, from, Some(len), Advice::DontNeed)?)
}

/// The file system says that direct reads of `file` are that. Some take them and use the cache all the same (btrfs where it
/// compresses, ext4 with data=journal): they say nothing, or no.
fn is_surely_direct(file: &File) -> bool {
    let told = statx(file, c"", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN);
    told.is_ok_and(|s| s.stx_mask & StatxFlags::DIOALIGN.bits() != 0 && s.stx_dio_offset_align != 0)
}

/// What a folio of the cache of `file` holds at least, in bytes: a page (64 KiB on some machines), or a block of a file system
/// that has larger ones.
fn folio_min(file: &File) -> u64 {
    let block = file.metadata().map_or(0, |m| m.blksize());
    let page = rustix::param::page_size() as u64;
    // More is a hint how to read, not a block.
    if block.is_power_of_two() && block <= PAGE_MAX { block.max(page) } else { page }
}

pub(crate) struct PastCache {
    file: Option<File>,
    /// Bytes of the smallest folio.
    folio: u64,
    /// What is read never comes from the cache.
    sure: bool,
    /// The file system opens files so, and refuses to use them so.
    refused: AtomicBool,
}

impl PastCache {
    /// Of the very file `file` is, for reading and writing. Does nothing where that cannot be had (an older tmpfs, no /proc).
    pub(crate) fn of(file: &File) -> PastCache {
        let same = format!("/proc/self/fd/{}", file.as_raw_fd());
        let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(same);
        let sure = opened.as_ref().is_ok_and(is_surely_direct);
        PastCache { file: opened.ok(), folio: folio_min(file), sure, refused: AtomicBool::new(false) }
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
    pub(crate) fn read(&self, at: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let file = self.takes(at, buf)?;
        self.unless_refused(file.read_exact_at(buf, at))
    }
    /// Writes all of `bytes`; `None`: they have to go through the cache, as what shares a folio with its neighbours does.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> Option<Result<()>> {
        let whole = at.is_multiple_of(self.folio) && (bytes.len() as u64).is_multiple_of(self.folio);
        let file = self.takes(at, bytes).filter(|_| whole)?;
        self.unless_refused(file.write_all_at(bytes, at))
    }
    /// Reads from the medium, of whatever place, length and memory, what was written through `file`, which this is; where the
    /// file system does not do that, through its cache, of which what can be dropped is dropped first. Fastest with long pieces
    /// in aligned memory.
    pub(crate) fn read_medium(&self, file: &File, at: u64, buf: &mut [u8]) -> Result<()> {
        if !self.sure {
            drop_cached(file, at, buf.len())?;
        }
        if let Some(done) = self.read(at, buf).or_else(|| self.read_around(at, buf)) {
            return done;
        }
        drop_cached(file, at, buf.len())?;
        file.read_exact_at(buf, at)
    }
    /// As `read`, in whole blocks around the range: the end of the file may lie in the last one.
    fn read_around(&self, at: u64, buf: &mut [u8]) -> Option<Result<()>> {
        let skip = (at % ALIGN as u64) as usize;
        let (from, need) = (at - skip as u64, skip + buf.len());
        let mut blocks = Aligned::new(need.next_multiple_of(ALIGN));
        let file = self.takes(from, &blocks)?;
        let mut got = 0;
        while got < need {
            match file.read_at(&mut blocks[got..], from + got as u64) {
                Ok(0) => return Some(Err(Error::from(ErrorKind::UnexpectedEof))),
                Ok(n) => got += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return self.unless_refused(Err(e)),
            }
        }
        buf.copy_from_slice(&blocks[skip..need]);
        Some(Ok(()))
    }
    fn takes(&self, at: u64, bytes: &[u8]) -> Option<&File> {
        self.file.as_ref().filter(|_| self.works() && is_aligned(at, bytes))
    }
    /// EINVAL is a file system that does not do this; nothing is lost by it, and it is not asked again. Anything else is an
    /// error, never a detour.
    fn unless_refused(&self, done: Result<()>) -> Option<Result<()>> {
        if matches!(&done, Err(e) if e.raw_os_error() == Some(libc::EINVAL)) {
            self.refuse();
            return None;
        }
        Some(done)
    }
    /// As if it had been opened so.
    #[cfg(test)]
    pub(crate) fn through(file: File) -> PastCache {
        PastCache { file: Some(file), folio: ALIGN as u64, sure: true, refused: AtomicBool::new(false) }
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
        let failed = |errno| Err(Error::from_raw_os_error(errno));
        assert!(past.unless_refused(Ok(())).is_some() && past.unless_refused(failed(libc::EIO)).is_some());
        assert!(past.works() && past.write(512, &buf).is_none(), "crooked: it has to go through the cache");
        assert!(past.unless_refused(failed(libc::EINVAL)).is_none() && !past.works());
        assert!(past.write(0, &buf).is_none() && past.read(0, &mut buf).is_none());
    }

    fn file_of(bytes: &[u8]) -> (tempfile::NamedTempFile, PastCache) {
        file_in(&std::env::temp_dir(), bytes)
    }
    fn file_in(folder: &std::path::Path, bytes: &[u8]) -> (tempfile::NamedTempFile, PastCache) {
        let tmp = tempfile::NamedTempFile::new_in(folder).unwrap();
        tmp.as_file().write_all_at(bytes, 0).unwrap();
        let past = PastCache::of(tmp.as_file());
        (tmp, past)
    }
    /// Any of its first MiB.
    fn is_cached(file: &File) -> bool {
        let mut pages = [0; 256];
        // SAFETY: nothing is read through the map, and there is a byte for each of its pages.
        let asked = unsafe {
            let map = memmap2::MmapOptions::new().len(1 << 20).map(file).unwrap();
            libc::mincore(map.as_ptr().cast_mut().cast(), map.len(), pages.as_mut_ptr())
        };
        assert_eq!(asked, 0);
        pages.iter().any(|p| p & 1 != 0)
    }

    /// What was written and never flushed is read too, at whatever place and length, to the last byte and no further.
    #[test]
    fn the_medium_is_read_at_any_place_with_what_was_just_written() {
        any_place(&std::env::temp_dir());
        // A tmpfs says nothing and has no other medium than its pages.
        let shm = std::path::Path::new("/dev/shm");
        if shm.is_dir() { any_place(shm) } else { eprintln!("skipped on tmpfs: there is none") }
    }
    fn any_place(folder: &std::path::Path) {
        let bytes: Vec<u8> = (0..200_000u32 + 512).map(|i| (i / 512 * 7 + i) as u8).collect();
        let (tmp, past) = file_in(folder, &bytes);
        let mut refused = PastCache::of(tmp.as_file());
        refused.refuse();
        let unsure = PastCache { sure: false, ..PastCache::of(tmp.as_file()) };
        for past in [&past, &refused, &unsure] {
            for (at, len) in [(0, 8192), (0, 0), (4096, 512), (512, 1024), (3584, 70_000), (196_608, 3904)] {
                let mut buf = Aligned::new(len);
                past.read_medium(tmp.as_file(), at as u64, &mut buf).unwrap();
                assert!(buf[..] == bytes[at..at + len], "{len} bytes at {at}");
            }
            let beyond = past.read_medium(tmp.as_file(), 196_608, &mut Aligned::new(4096)).unwrap_err();
            assert_eq!(beyond.kind(), ErrorKind::UnexpectedEof);
        }
        refused = PastCache { file: None, ..refused };
        let mut buf = [0; 1000];
        refused.read_medium(tmp.as_file(), 100, &mut buf).unwrap();
        assert!(buf[..] == bytes[100..1100]);
    }

    /// Extents of 16 KiB where pages have 64: one that is filled would share its folio with what the guest writes.
    #[test]
    fn what_shares_a_folio_goes_through_the_cache() {
        let (tmp, past) = file_of(&[7; 1 << 20]);
        assert!(past.folio >= 4096 && past.folio <= PAGE_MAX && past.folio.is_power_of_two());
        let past = PastCache { folio: 64 << 10, ..past };
        let (one, four) = (Aligned::new(16 << 10), Aligned::new(64 << 10));
        for (at, bytes) in [(16 << 10, &one), (64 << 10, &one), (16 << 10, &four)] {
            assert!(past.write(at, bytes).is_none(), "{} bytes at {at}", bytes.len());
        }
        if past.works() {
            past.write(64 << 10, &four).unwrap().unwrap();
            let mut got = Aligned::new(16 << 10);
            past.read(80 << 10, &mut got).unwrap().unwrap();
            assert!(got.iter().all(|b| *b == 0));
        }
        drop(tmp);
    }

    /// The cache is the guest's: it is neither filled nor emptied, unless there is no other way to the medium.
    #[test]
    fn reading_the_medium_leaves_the_cache_alone() {
        let (tmp, past) = file_of(&[7; 1 << 20]);
        tmp.as_file().sync_all().unwrap();
        if !past.sure {
            eprintln!("skipped: the file system does not say that it reads directly");
            return;
        }
        let mut buf = Aligned::new(1 << 20);
        assert!(is_cached(tmp.as_file()));
        past.read_medium(tmp.as_file(), 0, &mut buf).unwrap();
        assert!(is_cached(tmp.as_file()), "what was cached is not any more");
        PastCache { sure: false, ..past }.read_medium(tmp.as_file(), 0, &mut buf).unwrap();
        assert!(!is_cached(tmp.as_file()), "it may have been read from there");
        PastCache::of(tmp.as_file()).read_medium(tmp.as_file(), 512, &mut buf[..8192]).unwrap();
        assert!(!is_cached(tmp.as_file()), "what was not cached is now");
    }

    /// A page that is mapped is not dropped, however one asks; a medium that changed under it is seen all the same.
    #[test]
    fn the_medium_is_read_and_not_what_the_cache_holds_on_to() {
        use std::process::Command;
        let (medium, _) = file_of(&[1; 1 << 20]);
        let made = Command::new("losetup").args(["--show", "-f"]).arg(medium.path()).output();
        let name = made.ok().filter(|o| o.status.success()).and_then(|o| String::from_utf8(o.stdout).ok());
        let Some(name) = name else {
            eprintln!("skipped: no loop device can be set up here");
            return;
        };
        let disk = OpenOptions::new().read(true).write(true).open(name.trim());
        // It goes when the last who has it open does.
        Command::new("losetup").args(["-d", name.trim()]).status().unwrap();
        let disk = disk.unwrap();
        // SAFETY: nobody makes the device shorter, and what changes under the map is read through it once, before.
        let map = unsafe { memmap2::MmapOptions::new().len(1 << 20).map(&disk).unwrap() };
        assert_eq!(map[5000], 1);
        medium.as_file().write_all_at(&[2; 1 << 20], 0).unwrap();
        let mut buf = Aligned::new(8192);
        drop_cached(&disk, 4096, 8192).unwrap();
        disk.read_exact_at(&mut buf, 4096).unwrap();
        assert_eq!(buf[0], 1, "the mapped page went: this shows nothing");
        for past in [PastCache::of(&disk), PastCache { sure: false, ..PastCache::of(&disk) }] {
            past.read_medium(&disk, 4096, &mut buf).unwrap();
            assert!(buf.iter().all(|b| *b == 2), "the cache was read");
            past.read_medium(&disk, 4608, &mut buf[..512]).unwrap();
            assert!(buf[..512].iter().all(|b| *b == 2), "the cache was read");
        }
    }
}
