//! Reading back while the rest is still copied, so that verifying takes the disk's time but hardly any more of ours: what
//! was written is flushed, then read from the medium and compared, round by round, by threads of its own.
//!
//! What is compared here, `verify` need not read again; it goes through everything else. So nothing here has to be complete:
//! what comes too fast, or has lost its ids, is left to it.

use super::verify::Checker;
use super::{Compare, Shared, plan};
use rekindle_core::volume::ExtentRange;
use rekindle_io::Result;
use rekindle_io::destination::Destination;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

/// Threads: one reads while another compares.
pub(super) const READERS: usize = 2;
/// Bytes flushed and read back together: several extents of any size. Tests copy little and are to see many rounds.
const ROUND_BYTES: u64 = if cfg!(test) { 1 << 20 } else { 64 << 20 };
/// Stretches that wait to be read back: 256 KiB of memory.
const BACKLOG: usize = 16 << 10;

/// What was written.
pub(super) type Written = SyncSender<ExtentRange>;

pub(super) struct ReadBack<'a> {
    compare: &'a dyn Compare,
    to: &'a dyn Destination,
    shared: &'a Shared<'a>,
    written: Mutex<Receiver<ExtentRange>>,
}

impl<'a> ReadBack<'a> {
    /// Ends when all clones of the sender are gone and all they sent was compared.
    pub fn new(
        compare: &'a dyn Compare,
        to: &'a dyn Destination,
        shared: &'a Shared<'a>,
    ) -> (Written, ReadBack<'a>) {
        let (tx, rx) = sync_channel(BACKLOG);
        (tx, ReadBack { compare, to, shared, written: Mutex::new(rx) })
    }

    /// Reads back until nothing comes any more.
    pub fn run(&self) -> Result<()> {
        let mut checker = Checker::new(self.compare, self.to, self.shared);
        loop {
            let extents = self.round();
            if extents.is_empty() {
                return Ok(());
            }
            // Only from here on the medium is to have it.
            self.to.flush()?;
            for leaf in extents.chunk_by(|a, b| a / plan::LEAF == b / plan::LEAF) {
                match checker.check(leaf) {
                    Ok(wrong) => self.shared.checked(leaf, wrong),
                    // Its ids are lost: what that means is for `verify` to say.
                    Err(e) if e.is_loss() => {}
                    Err(e) => return Err(e),
                }
            }
        }
    }

    /// The next round, ascending; empty: that was all.
    fn round(&self) -> Vec<u64> {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let most = ROUND_BYTES / self.shared.geometry.extent.get();
        let mut extents = Vec::new();
        // A copy that is stopped ends its workers, and these end this.
        while (extents.len() as u64) < most.max(1)
            && let Ok(stretch) = written.recv()
        {
            extents.extend(stretch.iter());
        }
        drop(written);
        extents.sort_unstable();
        extents
    }
}
