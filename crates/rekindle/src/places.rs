//! Where this process keeps things: sockets and locks in the runtime directory, what must survive in the state directory.
//!
//! The runtime directory is `/run/rekindle` for root, `$XDG_RUNTIME_DIR/rekindle` for others; the state directory is
//! `/var/lib/rekindle` or `$XDG_STATE_HOME/rekindle`. `REKINDLE_RUNTIME_DIR` and `REKINDLE_STATE_DIR` override them.
//! State in memory would be lost with the power while disks refer to it, so a tmpfs is refused there.

use crate::errors::{Failure, Outcome};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// `linux/magic.h`.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const RAMFS_MAGIC: i64 = 0x8584_58f6;
/// Lets tests keep state in memory; says what it costs in its name.
pub const ALLOW_VOLATILE: &str = "REKINDLE_ALLOW_VOLATILE_STATE";

/// The directory of locks and sockets; made if absent, private to the user.
pub fn runtime_dir() -> Outcome<PathBuf> {
    let dir = runtime_path()?;
    make_private(&dir)?;
    Ok(dir)
}

/// Where the runtime directory is, without making it.
pub fn runtime_path() -> Outcome<PathBuf> {
    if let Some(dir) = variable("REKINDLE_RUNTIME_DIR") {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/run/rekindle".into());
    }
    variable("XDG_RUNTIME_DIR").map(|d| d.join("rekindle")).ok_or_else(|| {
        Failure::usage(
            "there is no runtime directory",
            "XDG_RUNTIME_DIR is not set",
            "set REKINDLE_RUNTIME_DIR to a directory of yours, or run as root",
        )
    })
}

/// The directory of state that must survive; made if absent, private to the user, not in memory.
pub fn state_dir() -> Outcome<PathBuf> {
    let dir = state_path()?;
    make_private(&dir)?;
    refuse_volatile(&dir)?;
    Ok(dir)
}

/// Where the state directory is, without making it.
pub fn state_path() -> Outcome<PathBuf> {
    if let Some(dir) = variable("REKINDLE_STATE_DIR") {
        return Ok(dir);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/rekindle".into());
    }
    variable("XDG_STATE_HOME")
        .or_else(|| variable("HOME").map(|h| h.join(".local/state")))
        .map(|d| d.join("rekindle"))
        .ok_or_else(|| {
            Failure::usage(
                "there is no state directory",
                "neither XDG_STATE_HOME nor HOME is set",
                "set REKINDLE_STATE_DIR to a directory on a disk",
            )
        })
}

/// Makes a directory and its parents, mode 700.
pub fn make_private(dir: &Path) -> Outcome {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|e| Failure::system(format!("cannot make the directory {}", dir.display()), &e))?;
    let meta = std::fs::metadata(dir)
        .map_err(|e| Failure::system(format!("cannot look at the directory {}", dir.display()), &e))?;
    let ours = rustix::process::geteuid().as_raw();
    // Whoever owns this folder could swap our locks and sockets.
    if meta.uid() != ours && meta.uid() != 0 {
        return Err(Failure::refused(
            format!("the directory {} is not trusted", dir.display()),
            format!("it belongs to user {}, this process runs as user {ours}", meta.uid()),
            "name another directory, or change its owner",
        ));
    }
    Ok(())
}

/// Fails if `dir` lies in memory.
pub fn refuse_volatile(dir: &Path) -> Outcome {
    if variable(ALLOW_VOLATILE).is_some() {
        return Ok(());
    }
    let fs = rustix::fs::statfs(dir).map_err(|e| {
        Failure::system(format!("cannot look at the file system of {}", dir.display()), &e.into())
    })?;
    if [TMPFS_MAGIC, RAMFS_MAGIC].contains(&(fs.f_type as i64)) {
        return Err(Failure::refused(
            format!("state cannot be kept in {}", dir.display()),
            "that file system lives in memory; a power cut would take acknowledged writes with it",
            "keep it on a disk: REKINDLE_STATE_DIR names the place for sets, the destination that of a restore to a file",
        ));
    }
    Ok(())
}

/// Whether two names are one file or device, whatever links lead there. Of what does not exist, whether the names are.
pub fn same(a: &Path, b: &Path) -> bool {
    match (identity(a), identity(b)) {
        (Some(x), Some(y)) => x == y,
        (None, None) => real(a) == real(b),
        _ => false,
    }
}

/// Device and inode; of a block device its number.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let m = std::fs::metadata(path).ok()?;
    Some(if m.file_type().is_block_device() { (m.rdev(), u64::MAX) } else { (m.dev(), m.ino()) })
}

/// A file or a block device is there.
pub fn is_disk(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|m| m.is_file() || m.file_type().is_block_device())
}

/// Absolute, links resolved as far as something exists.
pub fn real(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    if let Ok(found) = absolute.canonicalize() {
        return found;
    }
    match (absolute.parent().and_then(|p| p.canonicalize().ok()), absolute.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => absolute,
    }
}

/// Replaces a small file of ours atomically and durably.
pub fn replace(dir: &Path, name: &str, text: &[u8]) -> std::io::Result<()> {
    let fresh = dir.join(format!("{name}.new"));
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text)?;
    file.sync_data()?;
    std::fs::rename(&fresh, dir.join(name))?;
    std::fs::File::open(dir)?.sync_all()
}

/// A path from the environment; empty counts as absent.
fn variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from)
}
