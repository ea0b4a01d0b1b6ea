//! What is a hole: SEEK_DATA and SEEK_HOLE, with the last answer kept.
//!
//! A client asks block status piece by piece; on a fragmented file each seek walks the extent tree again. The kept
//! answer is dropped by the next write. A writer looks at `kept` after its write and before its answer; a lookup raises
//! `kept` before it seeks: so either the writer sees the flag and drops the answer, or the seek sees the write.

use crate::block::Allocation;
use crate::{Error, Result};
use rekindle_core::volume::ByteRange;
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Most runs found by one lookup.
const RUNS_MAX: usize = 256;

#[derive(Default)]
pub(super) struct AllocationCache {
    kept: AtomicBool,
    runs: Mutex<Vec<Allocation>>,
}

impl AllocationCache {
    fn lock(&self) -> MutexGuard<'_, Vec<Allocation>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Something was written, zeroed or trimmed. One atomic load when nothing is kept.
    pub(super) fn changed(&self) {
        if self.kept.load(SeqCst) {
            // Under the lock of the lookup: what it found before this write is not kept after it.
            let mut runs = self.lock();
            runs.clear();
            self.kept.store(false, SeqCst);
        }
    }
    /// Appends what is known of `range`; may stop early.
    pub(super) fn look(
        &self,
        file: &File,
        size: u64,
        range: ByteRange,
        out: &mut Vec<Allocation>,
    ) -> Result<()> {
        let mut runs = self.lock();
        if give(&runs, range, out) {
            return Ok(());
        }
        runs.clear();
        self.kept.store(true, SeqCst);
        let mut at = range.start;
        while at < range.end() && runs.len() < RUNS_MAX {
            let run = seek(file, size, at)?;
            at = run.range.end();
            runs.push(run);
        }
        give(&runs, range, out);
        Ok(())
    }
}

/// Appends the kept runs that touch `range` if they know its first byte.
fn give(runs: &[Allocation], range: ByteRange, out: &mut Vec<Allocation>) -> bool {
    let first = runs.partition_point(|r| r.range.end() <= range.start);
    // Runs that begin later say nothing of the first byte: giving them would leave a gap that reads as a hole.
    if runs.get(first).is_none_or(|r| r.range.start > range.start) {
        return false;
    }
    for r in runs[first..].iter() {
        let Some(part) = r.range.intersect(&range) else { break };
        out.push(Allocation { range: part, ..*r });
    }
    true
}

/// The run that begins at `at`.
fn seek(file: &File, size: u64, at: u64) -> Result<Allocation> {
    let found = |r: rustix::io::Result<u64>| match r {
        Ok(p) => Ok(p.min(size)),
        Err(Errno::NXIO) => Ok(size),
        Err(e) => Err(Error::os("looking for holes", &e.into())),
    };
    let data = found(rustix::fs::seek(file, SeekFrom::Data(at)))?;
    let hole = data > at;
    let end = if hole { data } else { found(rustix::fs::seek(file, SeekFrom::Hole(at)))? };
    if end <= at {
        // The file was cut behind our back: say nothing clever.
        return Ok(Allocation { range: ByteRange::new(at, size - at), hole: false, zero: false });
    }
    Ok(Allocation { range: ByteRange::new(at, end - at), hole, zero: hole })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    /// Goal: an answer kept from one place never leaks into a question about an earlier one.
    #[test]
    fn asking_backwards_finds_the_data_there() {
        const PIECE: u64 = 1 << 20;
        let file = tempfile::tempfile_in("/var/tmp").unwrap();
        file.set_len(8 * PIECE).unwrap();
        file.write_all_at(&[7; PIECE as usize], 0).unwrap();
        file.write_all_at(&[7; PIECE as usize], 5 * PIECE).unwrap();
        let cache = AllocationCache::default();
        for at in [6 * PIECE, 0, 5 * PIECE, PIECE / 2, 3 * PIECE, 7 * PIECE, 2 * PIECE] {
            let mut out = Vec::new();
            cache.look(&file, 8 * PIECE, ByteRange::new(at, 8 * PIECE - at), &mut out).unwrap();
            assert_eq!(out[0].range.start, at);
            assert_eq!(out[0].zero, !matches!(at / PIECE, 0 | 5), "{at}");
            let gaps = out.windows(2).filter(|w| w[0].range.end() != w[1].range.start).count();
            assert_eq!(gaps, 0, "{at}: {out:?}");
        }
    }
}
