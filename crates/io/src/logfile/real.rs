//! A folder of the real file system. All names are resolved relative to its descriptor, so a folder that is renamed
//! while open stays the same folder.

use super::{LogDir, LogFile, check_name};
use crate::latch::{self, Latch};
use crate::paced;
use crate::past_cache::PastCache;
use crate::{Error, Kind, Result};
use rustix::fs::{self, FallocateFlags, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io::IoSlice;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The folder.
pub struct RealDir {
    path: PathBuf,
    fd: rustix::fd::OwnedFd,
}

fn os(what: impl std::fmt::Display, e: Errno) -> Error {
    Error::os(what.to_string(), &e.into())
}

impl RealDir {
    /// Opens the folder, making it and its parents (mode 0700) if absent; the new names are made durable.
    pub fn open(path: &Path) -> Result<Arc<RealDir>> {
        let shown = path.display();
        if !path.is_dir() {
            make_durably(path)?;
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = fs::open(path, flags, Mode::empty()).map_err(|e| os(shown, e))?;
        Ok(Arc::new(RealDir { path: path.to_path_buf(), fd }))
    }
    fn shown(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
    fn file(&self, name: &str, flags: OFlags) -> Result<Option<Arc<dyn LogFile>>> {
        check_name(name)?;
        let place = self.shown(name);
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match fs::openat(&self.fd, name, flags, Mode::from_raw_mode(0o600)) {
            Ok(fd) => Ok(Some(RealFile::open(place, File::from(fd))?)),
            Err(Errno::NOENT) => Ok(None),
            Err(e) => Err(os(place, e)),
        }
    }
}

/// Makes `path` and every missing parent, each one's name durable before the next is made.
fn make_durably(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let parent = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if !parent.is_dir() {
        make_durably(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => {}
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => return Ok(()),
        Err(e) => return Err(Error::os(path.display().to_string(), &e)),
    }
    File::open(parent).and_then(|d| d.sync_all()).map_err(|e| Error::os(parent.display().to_string(), &e))
}

struct RealFile {
    place: String,
    file: File,
    latch: Arc<Latch>,
}

impl RealFile {
    fn open(place: String, file: File) -> Result<Arc<dyn LogFile>> {
        let stat = fs::fstat(&file).map_err(|e| os(&place, e))?;
        let (latch, after_failure) = latch::open((stat.st_dev, stat.st_ino));
        if after_failure {
            // The failed pages are marked clean in the cache though the medium never got them: forget them.
            fs::fadvise(&file, 0, None, fs::Advice::DontNeed).map_err(|e| os(&place, e))?;
        }
        Ok(Arc::new(RealFile { place, file, latch }))
    }
    fn os(&self, e: &std::io::Error) -> Error {
        Error::os(self.place.as_str(), e)
    }
}

impl LogFile for RealFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(self.os(&e)),
            }
        }
        buf[done..].fill(0);
        Ok(())
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let inside = self.len()?.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, behind) = buf.split_at_mut(inside);
        behind.fill(0);
        // Asked for a few times in the life of a file: it is opened anew each time.
        PastCache::of(&self.file).read_medium(&self.file, offset, inside).map_err(|e| self.os(&e))
    }
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<()> {
        self.latch.check(&self.place)?;
        if let [one] = parts {
            return self.file.write_all_at(one, offset).map_err(|e| self.os(&e));
        }
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let (mut rest, mut at) = (&mut slices[..], offset);
        IoSlice::advance_slices(&mut rest, 0);
        while !rest.is_empty() {
            let few = rest.len().min(1024);
            match rustix::io::pwritev(&self.file, &rest[..few], at) {
                Ok(0) => return Err(Error::new(Kind::Full, format!("{}: nothing was written", self.place))),
                Ok(n) => {
                    at += n as u64;
                    IoSlice::advance_slices(&mut rest, n);
                }
                Err(Errno::INTR) => {}
                Err(e) => return Err(self.os(&e.into())),
            }
        }
        Ok(())
    }
    fn write_out(&self, offset: u64, len: u64) {
        // Starting alone consumes no error of the file: the sync behind it hears of what was lost.
        let _ = paced::start(&self.file, offset, len);
    }
    fn sync(&self) -> Result<()> {
        self.latch.check(&self.place)?;
        // Never retried: after a failure the kernel may call lost pages clean.
        fs::fdatasync(&self.file).map_err(|e| {
            self.latch.fail();
            self.os(&e.into())
        })
    }
    fn len(&self) -> Result<u64> {
        self.file.metadata().map(|m| m.len()).map_err(|e| self.os(&e))
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        // The position that this moves is used by nobody.
        match fs::seek(&self.file, fs::SeekFrom::Data(offset)) {
            Ok(at) => Ok(Some(at)),
            Err(Errno::NXIO) => Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok((offset < self.len()?).then_some(offset)),
            Err(e) => Err(self.os(&e.into())),
        }
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.latch.check(&self.place)?;
        self.file.set_len(len).map_err(|e| self.os(&e))
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.latch.check(&self.place)?;
        let end = offset.saturating_add(len).min(self.len()?);
        if end <= offset {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match fs::fallocate(&self.file, flags, offset, end - offset) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.fill_zeros(offset, end),
            Err(e) => Err(self.os(&e.into())),
        }
    }
}

impl RealFile {
    /// Where holes are not possible the range must still read as zeros.
    fn fill_zeros(&self, offset: u64, end: u64) -> Result<()> {
        let zeros = [0; 64 << 10];
        let mut at = offset;
        while at < end {
            let n = (end - at).min(zeros.len() as u64);
            self.write_at(at, &[&zeros[..n as usize]])?;
            at += n;
        }
        Ok(())
    }
}

impl LogDir for RealDir {
    fn place(&self) -> String {
        self.path.display().to_string()
    }
    fn create(&self, name: &str) -> Result<Arc<dyn LogFile>> {
        self.file(name, OFlags::CREATE | OFlags::EXCL)?
            .ok_or_else(|| Error::new(Kind::Gone, format!("{}: the folder was removed", self.place())))
    }
    fn open(&self, name: &str) -> Result<Option<Arc<dyn LogFile>>> {
        self.file(name, OFlags::empty())
    }
    fn replace(&self, from: &str, to: &str) -> Result<()> {
        check_name(from)?;
        check_name(to)?;
        fs::renameat(&self.fd, from, &self.fd, to).map_err(|e| os(self.shown(from), e))
    }
    fn remove(&self, name: &str) -> Result<()> {
        check_name(name)?;
        match fs::unlinkat(&self.fd, name, fs::AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(e) => Err(os(self.shown(name), e)),
        }
    }
    fn names(&self) -> Result<Vec<String>> {
        let dir = fs::Dir::read_from(&self.fd).map_err(|e| os(self.place(), e))?;
        let mut names = Vec::new();
        for entry in dir {
            let entry = entry.map_err(|e| os(self.place(), e))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type() != fs::FileType::Directory && check_name(&name).is_ok() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }
    fn sync_names(&self) -> Result<()> {
        fs::fsync(&self.fd).map_err(|e| os(self.place(), e))
    }
    fn free_bytes(&self) -> Result<u64> {
        let s = fs::fstatvfs(&self.fd).map_err(|e| os(self.place(), e))?;
        Ok(s.f_bavail.saturating_mul(s.f_frsize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        let tmp = tempfile::tempdir().unwrap();
        let n = std::cell::Cell::new(0);
        super::super::kit::check(|| {
            n.set(n.get() + 1);
            RealDir::open(&tmp.path().join(format!("a/b/{}", n.get()))).unwrap()
        });
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let tmp = tempfile::tempdir().unwrap();
        let d = RealDir::open(tmp.path()).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", tmp.path().join("f")).unwrap();
        assert!(d.open("f").is_err());
    }

    #[test]
    fn the_medium_has_what_was_written_and_zeros_behind_it() {
        let tmp = tempfile::tempdir().unwrap();
        let f = RealDir::open(tmp.path()).unwrap().create("f").unwrap();
        f.write_at(0, &[&[7; 10_000]]).unwrap();
        for (at, len, sevens) in [(0, 8192, 8192), (0, 12_288, 10_000), (9_999, 3, 1), (10_000, 512, 0)] {
            let mut got = vec![1; len];
            f.read_medium(at, &mut got).unwrap();
            let (there, behind) = got.split_at(sevens);
            assert!(there.iter().all(|b| *b == 7) && behind.iter().all(|b| *b == 0), "{len} bytes at {at}");
        }
        f.read_medium(1 << 40, &mut [1; 512]).unwrap();
    }
}
