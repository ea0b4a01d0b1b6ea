//! An object on its way: a file under `tmp/` that grows, then gets its name.
//!
//! What was written goes to the medium at once, a little at a time, and the writer waits for it: so the flush at the end
//! has little left to do, and what others want of the same disk meanwhile, above all a guest's write that waits for the
//! file system's journal, stands behind two pieces and not behind a whole pack.

use super::super::{Draft, Put};
use super::{DirStore, Step, TMP, folder_of};
use crate::Result;
use crate::paced::Paced;
use rustix::fs;
use rustix::io::Errno;
use std::io::IoSlice;
use std::os::fd::OwnedFd;

/// Parts per system call (UIO_MAXIOV).
const IOV_MAX: usize = 1024;

pub(super) struct DirDraft<'a> {
    store: &'a DirStore,
    name: String,
    /// Its place until then; `None` once it has a name or is gone.
    tmp: Option<String>,
    file: OwnedFd,
    paced: Paced,
}

impl DirStore {
    pub(super) fn draft(&self, name: &str) -> Result<DirDraft<'_>> {
        self.check_failed()?;
        let (tmp, file) = self.new_tmp().map_err(|e| self.error(TMP, e).at("cannot create objects"))?;
        Ok(DirDraft { store: self, name: name.into(), tmp: Some(tmp), file, paced: Paced::default() })
    }
}

impl DirDraft<'_> {
    pub(super) fn append(&mut self, parts: &[&[u8]]) -> Result<()> {
        let written = self.write_all(parts);
        written.map_err(|e| self.store.error(self.tmp.as_deref().unwrap_or(TMP), e))
    }
    fn write_all(&mut self, parts: &[&[u8]]) -> Result<(), Errno> {
        self.store.step(Step::WriteTmp)?;
        let mut slices: Vec<IoSlice<'_>> = parts.iter().map(|p| IoSlice::new(p)).collect();
        let mut left = &mut slices[..];
        IoSlice::advance_slices(&mut left, 0); // Drops empty parts in front.
        while !left.is_empty() {
            match rustix::io::writev(&self.file, &left[..left.len().min(IOV_MAX)]) {
                Ok(0) => return Err(Errno::NOSPC),
                Ok(n) => IoSlice::advance_slices(&mut left, n),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e),
            }
        }
        self.paced.wrote(&self.file, parts.iter().map(|p| p.len() as u64).sum())
    }
    pub(super) fn give_name(mut self) -> Result<Put> {
        let Some(tmp) = self.tmp.clone() else { unreachable!("a draft is named once") };
        let flushed = self.store.step(Step::FlushTmp).and_then(|()| fs::fdatasync(&self.file));
        flushed.map_err(|e| self.store.error(&tmp, e))?;
        self.store.make_folders(folder_of(&self.name))?;
        let put = self.store.give_name(&tmp, &self.file, &self.name)?;
        if put == Put::Exists {
            self.remove();
            return self.store.exists(&self.name);
        }
        self.tmp = None;
        self.store.flush_folder(folder_of(&self.name)).map(|()| Put::Created)
    }
    fn remove(&mut self) {
        if let Some(tmp) = self.tmp.take() {
            self.store.remove_tmp(&tmp);
        }
    }
}

impl Draft for DirDraft<'_> {
    fn write(&mut self, parts: &[&[u8]]) -> Result<()> {
        self.append(parts)
    }
    fn finish(self: Box<Self>) -> Result<Put> {
        self.give_name()
    }
}

impl Drop for DirDraft<'_> {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;
    use crate::store::StoreExt;

    /// A pipe takes bytes and refuses to be flushed.
    #[test]
    fn what_could_not_be_flushed_gets_no_name() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        let (_from, to) = std::io::pipe().unwrap();
        let mut draft = store.draft("x").unwrap();
        draft.append(&[b"bytes"]).unwrap();
        draft.file = to.into();
        draft.give_name().unwrap_err();
        assert_eq!(store.list_all("").unwrap(), []);
        assert_eq!(std::fs::read_dir(dir.path().join(TMP)).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_store_that_failed_begins_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        store.failed.store(true, std::sync::atomic::Ordering::SeqCst);
        assert_eq!(store.draft("x").map(drop).unwrap_err().kind, Kind::Failed);
    }
}
