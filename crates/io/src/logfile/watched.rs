//! A log folder that is listened to: for tests that ask what a part does with its files, or that hold it up.

use super::{LogDir, LogFile};
use crate::Result;
use std::sync::Arc;

/// What a file is asked for; positions and lengths in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Asked {
    /// `write_at`: where, and how much.
    Write(u64, u64),
    /// `write_out`: where, and how much.
    Out(u64, u64),
    /// `sync`.
    Sync,
}

/// Called with a file's name before it does what it is asked for; as long as this takes, that waits.
type Before = Arc<dyn Fn(&str, Asked) + Send + Sync>;

/// A folder over another.
pub struct WatchedDir {
    inner: Arc<dyn LogDir>,
    before: Before,
}

struct WatchedFile {
    inner: Arc<dyn LogFile>,
    name: String,
    before: Before,
}

impl WatchedDir {
    /// Over `inner`; `before` hears of what every file is asked for.
    pub fn new(inner: Arc<dyn LogDir>, before: impl Fn(&str, Asked) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(WatchedDir { inner, before: Arc::new(before) })
    }
    fn watched(&self, name: &str, inner: Arc<dyn LogFile>) -> Arc<dyn LogFile> {
        Arc::new(WatchedFile { inner, name: name.into(), before: self.before.clone() })
    }
}

impl LogDir for WatchedDir {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn create(&self, name: &str) -> Result<Arc<dyn LogFile>> {
        Ok(self.watched(name, self.inner.create(name)?))
    }
    fn open(&self, name: &str) -> Result<Option<Arc<dyn LogFile>>> {
        Ok(self.inner.open(name)?.map(|f| self.watched(name, f)))
    }
    fn replace(&self, from: &str, to: &str) -> Result<()> {
        self.inner.replace(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }
    fn names(&self) -> Result<Vec<String>> {
        self.inner.names()
    }
    fn sync_names(&self) -> Result<()> {
        self.inner.sync_names()
    }
    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }
}

impl LogFile for WatchedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_medium(offset, buf)
    }
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<()> {
        let len = parts.iter().map(|p| p.len() as u64).sum();
        (self.before)(&self.name, Asked::Write(offset, len));
        self.inner.write_at(offset, parts)
    }
    fn write_out(&self, offset: u64, len: u64) {
        (self.before)(&self.name, Asked::Out(offset, len));
        self.inner.write_out(offset, len);
    }
    fn sync(&self) -> Result<()> {
        (self.before)(&self.name, Asked::Sync);
        self.inner.sync()
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn next_data(&self, offset: u64) -> Result<Option<u64>> {
        self.inner.next_data(offset)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.inner.set_len(len)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.inner.punch(offset, len)
    }
}

#[cfg(test)]
mod tests {
    use super::super::MemDir;
    use super::*;

    #[test]
    fn conforms() {
        super::super::kit::check(|| WatchedDir::new(MemDir::new(), |_, _| ()));
    }
}
