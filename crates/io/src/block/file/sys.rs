//! The few calls that need `unsafe`: block device ioctls without a safe wrapper.

use crate::{Error, Result};
use std::fs::File;
use std::os::fd::AsRawFd;

// <linux/fs.h>; libc does not name them on every target.
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKROGET: libc::Ioctl = 0x125e;
const BLKROTATIONAL: libc::Ioctl = 0x127e;

/// Discards a range of a block device. What it reads as afterwards is the device's business.
pub(super) fn discard(device: &File, offset: u64, len: u64) -> std::io::Result<()> {
    let range: [u64; 2] = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 through the pointer, which is valid for the call.
    let r = unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Whether a block device is set read-only. root may open such a one for writing; the writes fail.
pub(super) fn is_read_only(device: &File) -> bool {
    let mut value: libc::c_int = 0;
    // SAFETY: BLKROGET writes one int through the pointer, which is valid for the call.
    let r = unsafe { libc::ioctl(device.as_raw_fd(), BLKROGET, &raw mut value) };
    r == 0 && value != 0
}

/// Whether a block device says it is a spinning disk.
pub(super) fn is_rotational(device: &File) -> bool {
    let mut value: libc::c_ushort = 0;
    // SAFETY: BLKROTATIONAL writes one unsigned short through the pointer, which is valid for the call.
    let r = unsafe { libc::ioctl(device.as_raw_fd(), BLKROTATIONAL, &raw mut value) };
    r == 0 && value != 0
}

/// Logical and physical block size of a block device, in bytes.
pub(super) fn block_sizes(device: &File, place: &str) -> Result<(u32, u32)> {
    let os = |e: rustix::io::Errno| Error::os(place, &e.into());
    let logical = rustix::fs::ioctl_blksszget(device).map_err(os)?;
    let physical = rustix::fs::ioctl_blkpbszget(device).map_err(os)?;
    Ok((logical, physical.max(logical)))
}

fn byte_lock(kind: libc::c_int, byte: u64) -> libc::flock {
    // SAFETY: `flock` is plain integers; zero is a valid value for each (l_pid must be 0 for OFD locks).
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock.l_whence = libc::SEEK_SET as libc::c_short;
    lock.l_start = byte as libc::off_t;
    lock.l_len = 1;
    lock
}

/// Takes a shared lock of the open file description on one byte, without waiting.
pub(super) fn lock_byte(file: &File, byte: u64) -> std::io::Result<()> {
    let lock = byte_lock(libc::F_RDLCK, byte);
    // SAFETY: F_OFD_SETLK reads one `flock` through the pointer, which is valid for the call.
    let r = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Whether another open file description holds any lock on this byte.
pub(super) fn is_locked_by_others(file: &File, byte: u64) -> std::io::Result<bool> {
    let mut lock = byte_lock(libc::F_WRLCK, byte);
    // SAFETY: F_OFD_GETLK reads and writes one `flock` through the pointer, which is valid for the call.
    let r = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    if r == 0 {
        Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// How often this thread gave up its processor to wait for something. Being preempted does not count.
pub(super) fn waits_of_this_thread() -> u64 {
    // SAFETY: `rusage` is plain integers; zero is a valid value for each.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: getrusage writes one `rusage` through the pointer, which is valid for the call.
    let r = unsafe { libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage) };
    if r == 0 { usage.ru_nvcsw as u64 } else { 0 }
}
