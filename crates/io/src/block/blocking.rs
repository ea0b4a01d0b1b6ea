//! One request at a time, waiting for the answer: for our own background work and for tests.

use super::{Answer, Block, Completion, CompletionSink, Op, Request};
use crate::Result;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

#[derive(Default)]
struct Waiter {
    slot: Mutex<Option<Result<Vec<u8>>>>,
    came: Condvar,
}

impl CompletionSink for Waiter {
    fn complete(&self, completion: Completion) {
        *self.slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(completion.result);
        self.came.notify_one();
    }
    fn abandoned(&self) -> bool {
        false
    }
}

/// Starts something, and waits for its late answer unless it has one at once.
pub(super) fn wait_for(
    start: impl FnOnce(&Arc<dyn CompletionSink>) -> Option<Result<()>>,
) -> Result<Option<Vec<u8>>> {
    let waiter = Arc::new(Waiter::default());
    let sink: Arc<dyn CompletionSink> = waiter.clone();
    if let Some(done) = start(&sink) {
        return done.map(|()| None);
    }
    let mut slot = waiter.slot.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if let Some(r) = slot.take() {
            return r.map(Some);
        }
        slot = waiter.came.wait(slot).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Blocking calls on any device.
pub trait BlockExt: Block {
    /// Runs one request to its end; for a read that was answered late the bytes are returned.
    fn run(&self, offset: u64, op: Op<'_>) -> Result<Option<Vec<u8>>> {
        wait_for(|sink| {
            let mut answers = Vec::with_capacity(1);
            self.submit(&mut [Request { token: 0, offset, op }], &mut answers, sink);
            match answers.pop().expect("a device answers every request of a batch") {
                Answer::Done(r) => Some(r),
                Answer::Later => None,
            }
        })
    }
    /// Reads into `buf`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if let Some(bytes) = self.run(offset, Op::Read(buf))? {
            buf.copy_from_slice(&bytes);
        }
        Ok(())
    }
    /// Writes `data`.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.run(offset, Op::Write { data, fua: false }).map(drop)
    }
    /// Makes a range read as zeros; it may become a hole.
    fn zero_at(&self, offset: u64, len: u64) -> Result<()> {
        self.run(offset, Op::Zero { len, fua: false, no_hole: false, fast: false }).map(drop)
    }
    /// Gives a range up.
    fn trim_at(&self, offset: u64, len: u64) -> Result<()> {
        self.run(offset, Op::Trim { len, fua: false }).map(drop)
    }
    /// Makes everything answered durable.
    fn flush(&self) -> Result<()> {
        self.run(0, Op::Flush).map(drop)
    }
}

impl<T: Block + ?Sized> BlockExt for T {}
