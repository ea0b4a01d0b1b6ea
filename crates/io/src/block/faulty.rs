//! A device that fails on purpose: asks the shared plan before every operation.

use super::{Allocation, Answer, Block, CompletionSink, Info, Op, Request};
use crate::fault::{FaultOp, FaultPlan, Verdict};
use crate::latch::{self, Latch};
use crate::{Kind, Result};
use rekindle_core::volume::ByteRange;
use std::sync::{Arc, Mutex, PoisonError};

/// Wraps any device. After a failed flush every write and flush fails until `reopen`.
pub struct FaultyBlock {
    inner: Arc<dyn Block>,
    plan: Arc<FaultPlan>,
    latch: Mutex<Arc<Latch>>,
}

impl FaultyBlock {
    /// `inner`, going wrong as `plan` says.
    pub fn new(inner: Arc<dyn Block>, plan: Arc<FaultPlan>) -> Arc<Self> {
        Arc::new(FaultyBlock { inner, plan, latch: Mutex::default() })
    }
    /// As if closed and opened again.
    pub fn reopen(&self) {
        *self.latch.lock().unwrap_or_else(PoisonError::into_inner) = Arc::default();
    }
    /// A flush failed and it was not reopened since.
    pub fn is_failed(&self) -> bool {
        self.latch().is_failed()
    }
    fn latch(&self) -> Arc<Latch> {
        self.latch.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    fn verdict(&self, r: &Request<'_>) -> Verdict {
        let (op, fua) = match &r.op {
            Op::Read(_) | Op::Cache { .. } => (FaultOp::Read, false),
            Op::Write { fua, .. } => (FaultOp::Write, *fua),
            Op::Zero { fua, .. } => (FaultOp::Zero, *fua),
            Op::Trim { fua, .. } => (FaultOp::Trim, *fua),
            Op::Flush => (FaultOp::Sync, true),
        };
        if op != FaultOp::Read && self.latch().is_failed() {
            return Verdict::Fail(latch::failed("device"));
        }
        let range = r.range();
        let verdict = self.plan.ask(op, &|| format!("device at {}, {} bytes", range.start, range.len));
        if let Verdict::Fail(e) = &verdict
            && fua
            && e.kind != Kind::Cancelled
        {
            self.latch().fail();
        }
        verdict
    }
}

impl Block for FaultyBlock {
    fn info(&self) -> Info {
        self.inner.info()
    }
    fn submit(&self, batch: &mut [Request<'_>], answers: &mut Vec<Answer>, sink: &Arc<dyn CompletionSink>) {
        for r in batch {
            match self.verdict(r) {
                Verdict::Go => self.inner.submit(std::slice::from_mut(r), answers, sink),
                Verdict::Fail(e) => answers.push(Answer::Done(Err(e))),
                Verdict::Torn(thousandths, e) => {
                    if let Op::Write { data, .. } = &r.op {
                        let cut = data.len() * thousandths as usize / 1000 / 512 * 512;
                        let op = Op::Write { data: &data[..cut], fua: false };
                        let mut torn = [Request { token: r.token, offset: r.offset, op }];
                        self.inner.submit(&mut torn, answers, sink);
                        // Answered late or not, the asker is dead.
                        answers.pop();
                    }
                    answers.push(Answer::Done(Err(e)));
                }
            }
        }
    }
    fn expect_cold(&self, expected: bool) {
        self.inner.expect_cold(expected);
    }
    fn allocation(&self, range: ByteRange, out: &mut Vec<Allocation>) -> Result<()> {
        self.plan.check(FaultOp::Read, &|| "allocation".into())?;
        self.inner.allocation(range, out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{BlockExt, MemBlock, kit};
    use super::*;

    #[test]
    fn conforms_while_nothing_is_planned() {
        kit::check(|| FaultyBlock::new(MemBlock::new(kit::SIZE), Arc::default()));
    }

    #[test]
    fn a_failed_flush_or_fua_lasts_until_reopened() {
        for fua in [false, true] {
            let plan = Arc::new(FaultPlan::new());
            let b = FaultyBlock::new(MemBlock::new(1 << 20), plan.clone());
            let write = |fua| b.run(0, Op::Write { data: &[1; 512], fua }).map(drop);
            plan.fail_next(if fua { FaultOp::Write } else { FaultOp::Sync }, Kind::Failed);
            assert!(if fua { write(true) } else { b.flush() }.is_err());
            for r in [write(false), b.flush(), b.zero_at(0, 512), b.trim_at(0, 512)] {
                assert_eq!(r.unwrap_err().kind, Kind::Failed);
            }
            b.read_at(0, &mut [0; 512]).unwrap();
            b.reopen();
            assert!(write(true).is_ok() && b.flush().is_ok());
        }
    }
}
