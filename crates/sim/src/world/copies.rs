//! Copies of state and destinations, put back in each other's place.

use super::{End, World};
use crate::rng::Rng;
use rekindle_io::Kind;
use rekindle_io::block::{BlockExt, MemBlock};
use rekindle_io::fault::Crash;
use rekindle_io::logfile::{LogDir, MemDir};
use std::sync::Arc;

/// Copies of both halves of a restore.
pub struct Copies {
    dir: Arc<MemDir>,
    disks: Vec<Arc<MemBlock>>,
}

impl World {
    /// State and destinations as they are now, as a file manager would copy them.
    pub fn copy(&self) -> Copies {
        let disks = self.disks.iter().map(|d| d.crash(Crash::Kill)).collect();
        Copies { dir: self.dir.crash(Crash::Kill), disks }
    }
    /// Puts the state of `from` in the place of this one; of a world that is down. Returns what was there.
    pub fn swap_state(&mut self, from: &Copies) -> Copies {
        let was = self.copy();
        self.dir = from.dir.crash(Crash::Kill);
        was
    }
    /// Puts one destination of `from` in the place of `v`.
    pub fn swap_disk(&mut self, v: usize, from: &Copies, which: usize) -> Copies {
        let was = self.copy();
        self.disks[v] = from.disks[which].crash(Crash::Kill);
        was
    }
    /// Puts a disk that was never restored to in the place of `v`.
    pub fn strange_disk(&mut self, v: usize, byte: u8) {
        self.disks[v] = MemBlock::new(self.shape.size);
        let all = vec![byte; self.shape.size as usize];
        self.disks[v].write_at(0, &all).expect("a disk in memory");
    }
    /// Why this pair of state and destinations is refused; `None` if it is not. Nothing may change when it is.
    pub fn refusal(&self) -> Option<String> {
        let before = self.bytes();
        let e = self.try_open().err().filter(|e| e.kind == Kind::Invalid)?;
        assert!(self.bytes() == before, "a refused opening changed something");
        Some(e.what)
    }
    /// All bytes of all disks and of all files of the state.
    fn bytes(&self) -> Vec<Vec<u8>> {
        let file = |name: String| {
            let f = self.dir.open(&name).expect("in memory").expect("listed");
            let mut out = vec![0; f.len().expect("in memory") as usize];
            f.read_at(0, &mut out).expect("in memory");
            out
        };
        let files = self.dir.names().expect("in memory").into_iter().map(file);
        files.chain(self.disks.iter().map(|d| d.bytes())).collect()
    }
    /// Starts the process without comparing anything: the model belongs to another history.
    pub fn reopen_unchecked(&mut self) {
        self.set = Some(self.try_open().expect("a pair that fits"));
    }
    /// The guest writes to both volumes.
    pub fn write(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        for v in 0..2 {
            self.guest_write(rng, v)?;
        }
        self.collect()
    }
    /// The guest writes to both volumes and flushes.
    pub fn write_and_flush(&mut self, rng: &mut Rng) -> std::result::Result<(), End> {
        self.write(rng)?;
        self.guest_flush(0)
    }
}
