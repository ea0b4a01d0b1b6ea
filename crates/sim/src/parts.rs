//! What a world is built of: the guest's ear, disks, the truth of a moment.

use crate::world::Shape;
use rekindle_core::volume::Geometry;
use rekindle_io::block::{BlockExt, Completion, CompletionSink, MemBlock};
use rekindle_io::holder::MemHolder;
use std::sync::{Arc, Mutex, PoisonError};

/// Where late answers come in.
#[derive(Default)]
pub(crate) struct Sink {
    pub came: Mutex<Vec<Completion>>,
}
impl CompletionSink for Sink {
    fn complete(&self, c: Completion) {
        self.came.lock().unwrap_or_else(PoisonError::into_inner).push(c);
    }
    fn abandoned(&self) -> bool {
        false
    }
}

/// A destination, maybe with other contents before.
pub(crate) fn disk(shape: Shape) -> Arc<MemBlock> {
    let disk = MemBlock::new(shape.size);
    if shape.used {
        let old = vec![0xee; shape.size as usize];
        disk.write_at(0, &old).and_then(|()| disk.flush()).expect("a disk in memory");
    }
    disk
}

/// Every byte of the moment.
pub(crate) fn moment(holder: &MemHolder, g: &Geometry) -> Vec<u8> {
    let mut out = vec![0; g.size as usize];
    for (e, part) in out.chunks_mut(g.extent.get() as usize).enumerate() {
        holder.truth(e as u64, part);
    }
    out
}
