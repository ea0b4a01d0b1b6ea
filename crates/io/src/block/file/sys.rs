//! The few calls that need `unsafe`: block device ioctls without a safe wrapper.

use crate::{Error, Result};
use std::fs::File;
use std::os::fd::AsRawFd;

// <linux/fs.h>; libc does not name them on every target.
const BLKDISCARD: libc::Ioctl = 0x1277;
const BLKROTATIONAL: libc::Ioctl = 0x127e;

/// Discards a range of a block device. What it reads as afterwards is the device's business.
pub(super) fn discard(device: &File, offset: u64, len: u64) -> std::io::Result<()> {
    let range: [u64; 2] = [offset, len];
    // SAFETY: BLKDISCARD reads two u64 through the pointer, which is valid for the call.
    let r = unsafe { libc::ioctl(device.as_raw_fd(), BLKDISCARD, range.as_ptr()) };
    if r == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
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
