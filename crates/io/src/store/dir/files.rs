//! Descriptors of objects that were read lately. Objects never change, so a descriptor stays right as long as it is
//! open; one whose object was deleted keeps its space, so those are looked for now and then.

use rekindle_core::volume::ByteRange;
use rustix::buffer::spare_capacity;
use rustix::fs::{self, FileType, Mode, OFlags};
use rustix::io::{Errno, pread};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most descriptors kept. A restore reads few packs at a time; 64 leave room under the usual limit of 1,024.
const KEPT: usize = 64;
/// Reads between two looks for deleted objects.
const READS_PER_SWEEP: u64 = 256;

/// An open object.
pub(super) struct File {
    fd: OwnedFd,
    /// Bytes; an object never changes.
    pub size: u64,
}

/// Why a read failed.
pub(super) enum ReadError {
    /// The file ends here although it was longer when opened.
    Ended(u64),
    /// The system said so.
    System(Errno),
}

impl File {
    /// Exactly the bytes of `range`, which lies inside `size`.
    pub fn read(&self, range: ByteRange) -> Result<Vec<u8>, ReadError> {
        let len = range.len as usize;
        let mut out: Vec<u8> = Vec::with_capacity(len);
        while out.len() < len {
            let at = range.start + out.len() as u64;
            match pread(&self.fd, spare_capacity(&mut out), at) {
                Ok(0) => return Err(ReadError::Ended(at)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(e) => return Err(ReadError::System(e)),
            }
        }
        // The allocator may give more room than asked for, and pread fills all of it.
        out.truncate(len);
        Ok(out)
    }
}

struct Kept {
    file: Arc<File>,
    used: u64,
}

#[derive(Default)]
struct State {
    kept: HashMap<String, Kept>,
    clock: u64,
}

/// At most [`KEPT`] open objects, the longest unused one closed first.
#[derive(Default)]
pub(super) struct Files {
    state: Mutex<State>,
}

impl Files {
    /// The open object `name` below `root`.
    pub fn get(&self, root: &OwnedFd, name: &str) -> Result<Arc<File>, Errno> {
        {
            let mut s = self.lock();
            s.clock += 1;
            let now = s.clock;
            if now.is_multiple_of(READS_PER_SWEEP) {
                s.drop_deleted();
            }
            if let Some(kept) = s.kept.get_mut(name) {
                kept.used = now;
                return Ok(kept.file.clone());
            }
        }
        // Opened without the lock: on a slow file system other reads go on. Two may open the same; one is kept.
        let file = Arc::new(open(root, name)?);
        let mut s = self.lock();
        if s.kept.len() >= KEPT {
            let oldest = s.kept.iter().min_by_key(|(_, k)| k.used).map(|(name, _)| name.clone());
            oldest.and_then(|name| s.kept.remove(&name));
        }
        let used = s.clock;
        s.kept.insert(name.to_string(), Kept { file: file.clone(), used });
        Ok(file)
    }
    /// The next read of `name` opens it again.
    pub fn forget(&self, name: &str) {
        self.lock().kept.remove(name);
    }
    /// Gives back the space of objects that were deleted (by this process or another) while kept open.
    pub fn drop_deleted(&self) {
        self.lock().drop_deleted();
    }
    // Every step leaves the map whole, so a panic elsewhere under the lock harms nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn drop_deleted(&mut self) {
        self.kept.retain(|_, k| fs::fstat(&k.file.fd).is_ok_and(|s| s.st_nlink > 0));
    }
}

fn open(root: &OwnedFd, name: &str) -> Result<File, Errno> {
    // NONBLOCK: somebody's fifo under an object's name must not hold a thread; regular files ignore it.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = fs::openat(root, name, flags, Mode::empty())?;
    let stat = fs::fstat(&fd)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(File { fd, size: stat.st_size as u64 }),
        _ => Err(Errno::ISDIR),
    }
}
