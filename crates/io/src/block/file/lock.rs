//! The image is locked while it is open: OFD locks on the bytes that QEMU locks, so that QEMU, qemu-img and a second
//! rekindle refuse an image we serve, and we refuse one they use.
//!
//! QEMU's rule: for each permission held, a shared lock on byte 100 + its number; for each permission that others may
//! not hold, a shared lock on byte 200 + its number. First lock, then look whether anybody holds what we deny or denies
//! what we hold: of two who come together at least one sees the other.

use super::sys;
use crate::{Error, Kind, Result};
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

const HELD: u64 = 100;
const DENIED: u64 = 200;
/// Permissions by number: consistent read 0, write 1, write unchanged 2, resize 3.
const READ: &[u64] = &[0];
const ALL: &[u64] = &[0, 1, 2, 3];
const CHANGING: &[u64] = &[1, 3];

/// Locks `file`; the locks go with its last descriptor.
pub(super) fn lock(file: &File, place: &str, read_only: bool) -> Result<()> {
    let holds = if read_only { READ } else { ALL };
    let locks = holds.iter().map(|p| HELD + p).chain(CHANGING.iter().map(|p| DENIED + p));
    for byte in locks {
        match sys::lock_byte(file, byte) {
            Ok(()) => {}
            // A file system without locks (some network file systems): nobody else could lock there either.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOLCK | libc::EINVAL | libc::EOPNOTSUPP)) => {
                return Ok(());
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => {
                return Err(in_use(file, place));
            }
            Err(e) => return Err(Error::os(place, &e)),
        }
    }
    let conflicts = CHANGING.iter().map(|p| HELD + p).chain(holds.iter().map(|p| DENIED + p));
    for byte in conflicts {
        if sys::is_locked_by_others(file, byte).map_err(|e| Error::os(place, &e))? {
            return Err(in_use(file, place));
        }
    }
    Ok(())
}

fn in_use(file: &File, place: &str) -> Error {
    let users = users(file);
    let by = if users.is_empty() { "another program".to_string() } else { users.join(", ") };
    Error::new(Kind::Busy, format!("{place} is in use by {by}: stop it first"))
}

/// Other processes that have the file open, as far as we may look.
fn users(file: &File) -> Vec<String> {
    let Ok(own) = file.metadata() else { return Vec::new() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|p| p.file_name().to_str()?.parse::<u32>().ok());
    let has_it = |pid: &u32| {
        let Ok(fds) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        fds.flatten().any(|fd| {
            let link = std::fs::metadata(fd.path());
            link.is_ok_and(|m| m.ino() == own.ino() && m.dev() == own.dev())
        })
    };
    let shown = |pid: u32| {
        let name = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("comm"));
        format!("{} (process {pid})", name.unwrap_or_default().trim())
    };
    let mine = std::process::id();
    pids.filter(|pid| *pid != mine).filter(has_it).take(4).map(shown).collect()
}
