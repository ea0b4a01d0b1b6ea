//! What a change of bytes does to the file or device.

use super::run::Core;
use super::{Discard, sys};
use crate::destination::Aligned;
use crate::past_cache::{CACHED_MAX, write_cached};
use crate::{Error, Kind, Result};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use std::os::unix::fs::FileExt;

/// A change of bytes; a queued one owns its data.
pub(super) enum Change<D> {
    Write(D),
    Zero { len: u64, no_hole: bool, fast: bool },
    Trim { len: u64 },
}

impl Change<&[u8]> {
    pub(super) fn len(&self) -> u64 {
        match self {
            Change::Write(d) => d.len() as u64,
            Change::Zero { len, .. } | Change::Trim { len } => *len,
        }
    }
    pub(super) fn to_owned(&self) -> Change<Vec<u8>> {
        match self {
            Change::Write(d) => Change::Write(d.to_vec()),
            Change::Zero { len, no_hole, fast } => Change::Zero { len: *len, no_hole: *no_hole, fast: *fast },
            Change::Trim { len } => Change::Trim { len: *len },
        }
    }
}

impl Core {
    pub(super) fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let write = |data: &[u8]| self.file.write_all_at(data, offset).map_err(|e| self.os(&e));
        if self.medium.direct && !is_aligned(data, self.info.logical_block) {
            let mut bounce = Aligned::new(data.len());
            bounce.copy_from_slice(data);
            return write(&bounce);
        }
        write(data)
    }
    pub(super) fn zero(&self, offset: u64, len: u64, no_hole: bool, fast: bool) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // On a device PUNCH_HOLE zeroes by offload or refuses; ZERO_RANGE would fall back to writing by itself.
        let ways: &[_] = match (self.medium.is_device, no_hole || self.medium.thick, fast) {
            (true, _, true) if no_hole => &[],
            (true, _, true) => &[punch],
            (true, true, false) => &[keep],
            (true, false, false) => &[punch, keep],
            (false, true, _) => &[keep],
            (false, false, _) => &[punch, keep],
        };
        for way in ways {
            match rustix::fs::fallocate(&self.file, *way, offset, len) {
                Ok(()) => return Ok(()),
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(e) => return Err(self.os(&e.into())),
            }
        }
        if fast {
            return Err(Error::new(
                Kind::Unsupported,
                format!("{}: zeroing would have to write", self.place),
            ));
        }
        self.write_zeros(offset, len)
    }
    /// As `write`, where nobody is expected to read `data` soon.
    pub(super) fn write_past_cache(&self, offset: u64, data: &[u8]) -> Result<()> {
        if self.medium.direct {
            return self.write(offset, data);
        }
        let cold = self.cold.write(&self.file, offset, data);
        cold.unwrap_or_else(|| write_cached(&self.file, offset, data)).map_err(|e| self.os(&e))
    }
    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        let zeros = Aligned::new(len.min(CACHED_MAX as u64) as usize);
        let mut at = offset;
        while at < offset + len {
            let n = (offset + len - at).min(zeros.len() as u64);
            self.write(at, &zeros[..n as usize])?;
            at += n;
        }
        Ok(())
    }
    pub(super) fn trim(&self, offset: u64, len: u64) -> Result<()> {
        let m = &self.medium;
        if len == 0 || m.discard == Discard::Never || (m.discard == Discard::Auto && m.thick) {
            return Ok(());
        }
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, punch, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                if m.is_device && m.discard == Discard::Always {
                    // A trim is a hint: a device that refuses it keeps the bytes.
                    sys::discard(&self.file, offset, len).ok();
                }
                Ok(())
            }
            Err(e) => Err(self.os(&e.into())),
        }
    }
}

/// Whether O_DIRECT takes this memory.
pub(super) fn is_aligned(buf: &[u8], block: u32) -> bool {
    let block = (block as usize).max(512);
    (buf.as_ptr() as usize).is_multiple_of(block) && buf.len().is_multiple_of(block)
}
