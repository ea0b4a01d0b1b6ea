//! A folder that fails on purpose: asks the shared plan before every operation.

use super::{LogDir, LogFile};
use crate::fault::{FaultOp, FaultPlan, Verdict};
use crate::latch::Latch;
use crate::{Kind, Result};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Wraps any folder. A failed sync latches the file failed for all its handles until it is opened again.
pub struct FaultyDir {
    inner: Arc<dyn LogDir>,
    plan: Arc<FaultPlan>,
    latches: Mutex<BTreeMap<String, Arc<Latch>>>,
}

impl FaultyDir {
    /// `inner`, going wrong as `plan` says.
    pub fn new(inner: Arc<dyn LogDir>, plan: Arc<FaultPlan>) -> Arc<Self> {
        Arc::new(FaultyDir { inner, plan, latches: Mutex::default() })
    }
    fn file(&self, name: &str, inner: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        let mut latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        let latch = latches.entry(name.to_string()).or_default();
        if latch.is_failed() {
            *latch = Arc::default();
        }
        Arc::new(FaultyFile { name: name.into(), inner, plan: self.plan.clone(), latch: latch.clone() })
    }
}

struct FaultyFile {
    name: String,
    inner: Arc<dyn LogFile>,
    plan: Arc<FaultPlan>,
    latch: Arc<Latch>,
}

impl FaultyFile {
    fn check(&self, op: FaultOp) -> Result<()> {
        self.plan.check(op, &|| self.name.clone())
    }
    /// The first `bytes` of `parts`, whole sectors: what a dying machine got through.
    fn write_torn(&self, offset: u64, parts: &[&[u8]], bytes: usize) -> Result<()> {
        let all = parts.concat();
        let cut = bytes / 512 * 512;
        self.inner.write_at(offset, &[&all[..cut.min(all.len())]])
    }
}

impl LogFile for FaultyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(FaultOp::Read)?;
        self.inner.read_at(offset, buf)
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(FaultOp::Read)?;
        self.inner.read_medium(offset, buf)
    }
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<()> {
        self.latch.check(&self.name)?;
        let len: usize = parts.iter().map(|p| p.len()).sum();
        match self.plan.ask(FaultOp::Write, &|| format!("{} at {offset}, {len} bytes", self.name)) {
            Verdict::Go => self.inner.write_at(offset, parts),
            Verdict::Fail(e) => Err(e),
            Verdict::Torn(thousandths, e) => {
                self.write_torn(offset, parts, len * thousandths as usize / 1000)?;
                Err(e)
            }
        }
    }
    fn write_out(&self, offset: u64, len: u64) {
        self.inner.write_out(offset, len);
    }
    fn sync(&self) -> Result<()> {
        self.latch.check(&self.name)?;
        self.check(FaultOp::Sync).and_then(|()| self.inner.sync()).inspect_err(|e| {
            // A machine that died is no device that failed.
            if e.kind != Kind::Cancelled {
                self.latch.fail();
            }
        })
    }
    fn len(&self) -> Result<u64> {
        self.check(FaultOp::Read)?;
        self.inner.len()
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.inner.next_data(offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.latch.check(&self.name)?;
        self.check(FaultOp::SetLen)?;
        self.inner.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.latch.check(&self.name)?;
        self.check(FaultOp::Punch)?;
        self.inner.punch(offset, len)
    }
}

impl LogDir for FaultyDir {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str) -> Result<Arc<dyn LogFile>> {
        self.plan.check(FaultOp::Create, &|| name.into())?;
        let f = self.inner.create(name)?;
        self.latches.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(self.file(name, f))
    }
    fn open(&self, name: &str) -> Result<Option<Arc<dyn LogFile>>> {
        self.plan.check(FaultOp::Read, &|| name.into())?;
        Ok(self.inner.open(name)?.map(|f| self.file(name, f)))
    }
    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.plan.check(FaultOp::Replace, &|| format!("{from} over {to}"))?;
        self.inner.replace(from, to)?;
        let mut latches = self.latches.lock().unwrap_or_else(PoisonError::into_inner);
        match latches.remove(from) {
            Some(l) => latches.insert(to.into(), l),
            None => latches.remove(to),
        };
        Ok(())
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.plan.check(FaultOp::Remove, &|| name.into())?;
        self.inner.remove(name)?;
        self.latches.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(())
    }
    fn names(&self) -> Result<Vec<String>> {
        self.plan.check(FaultOp::Read, &|| "names".into())?;
        self.inner.names()
    }
    fn sync_names(&self) -> Result<()> {
        self.plan.check(FaultOp::SyncNames, &String::new)?;
        self.inner.sync_names()
    }
    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemDir;
    use super::*;
    use crate::Kind;
    use crate::fault::Crash;

    #[test]
    fn conforms_while_nothing_is_planned() {
        super::super::kit::check(|| FaultyDir::new(MemDir::new(), Arc::default()));
    }

    #[test]
    fn a_failed_sync_fails_every_handle_until_reopened() {
        let plan = Arc::new(FaultPlan::new());
        let d = FaultyDir::new(MemDir::new(), plan.clone());
        let (a, b) = (d.create("f").unwrap(), d.open("f").unwrap().unwrap());
        plan.fail_next(FaultOp::Sync, Kind::Failed);
        assert!(a.sync().is_err());
        assert_eq!(b.sync().unwrap_err().kind, Kind::Failed);
        assert_eq!(b.write_at(0, &[b"x"]).unwrap_err().kind, Kind::Failed);
        assert!(d.open("f").unwrap().unwrap().sync().is_ok() && a.sync().is_err());
    }

    #[test]
    fn one_counter_names_every_operation_and_death_is_final() {
        let run = |plan: &Arc<FaultPlan>| -> (Arc<MemDir>, Result<()>) {
            let mem = MemDir::new();
            let d = FaultyDir::new(mem.clone(), plan.clone());
            let r = (|| {
                let f = d.create("f")?;
                f.write_at(0, &[&[1; 1024], &[2; 1024]])?;
                f.sync()?;
                d.sync_names()
            })();
            (mem, r)
        };
        let plan = Arc::default();
        assert!(run(&plan).1.is_ok());
        assert_eq!(plan.count(), 4);
        for n in 0..4 {
            let plan = Arc::new(FaultPlan::new());
            plan.die_within(n, 500);
            let (mem, r) = run(&plan);
            assert_eq!(r.unwrap_err().kind, Kind::Cancelled);
            assert!(plan.is_dead());
            let after = mem.crash(Crash::Kill);
            if n == 1 {
                assert_eq!(after.open("f").unwrap().unwrap().len().unwrap(), 1024, "torn in the middle");
            }
            assert_eq!(after.names().unwrap().len(), usize::from(n > 0));
        }
    }
}
