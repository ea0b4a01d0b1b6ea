//! A folder in memory that can lose power.
//!
//! Names follow the model of a journalling file system that may commit name operations in any order that respects
//! dependence: two operations are dependent when they share a name. A power cut keeps some of the unsynced operations,
//! never one whose predecessor on the same name it dropped; `replace` is one operation, so it is never half done.

use super::{LogDir, LogFile};
use crate::fault::{Crash, mix};
use crate::image::Image;
use crate::latch::Latch;
use crate::{Error, Kind, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Clone, Default)]
struct Content {
    image: Image,
    len: u64,
    synced_len: u64,
    /// Bytes that were read from the medium.
    from_medium: u64,
}

#[derive(Default)]
struct Inode {
    content: Mutex<Content>,
    latch: Mutex<Arc<Latch>>,
}

impl Inode {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn after(&self, crash: Crash, tears: bool) -> Inode {
        let old = self.content();
        let mut new = Content { image: old.image.crash(crash, tears), ..*old };
        if let Crash::Power { seed } = crash {
            if mix(seed, old.len) & 1 == 0 {
                new.len = old.synced_len;
            }
            new.synced_len = new.len;
            // What lies past the end is never seen again, even when the file grows.
            new.image.zero(new.len, u64::MAX / 2 - new.len, false);
            new.image.sync();
        }
        Inode { content: Mutex::new(new), latch: Mutex::default() }
    }
}

#[derive(Clone)]
enum NameOp {
    Set(String, Arc<Inode>),
    Move(String, String),
    Remove(String),
}

type Names = BTreeMap<String, Arc<Inode>>;

impl NameOp {
    fn apply(&self, names: &mut Names) {
        match self {
            NameOp::Set(n, i) => drop(names.insert(n.clone(), i.clone())),
            NameOp::Remove(n) => drop(names.remove(n)),
            NameOp::Move(from, to) => {
                if let Some(i) = names.remove(from) {
                    names.insert(to.clone(), i);
                }
            }
        }
    }
    fn names(&self) -> Vec<&String> {
        match self {
            NameOp::Set(n, _) | NameOp::Remove(n) => vec![n],
            NameOp::Move(a, b) => vec![a, b],
        }
    }
}

#[derive(Default)]
struct Folder {
    now: Names,
    synced: Names,
    unsynced: Vec<NameOp>,
}

impl Folder {
    fn perform(&mut self, op: NameOp) {
        op.apply(&mut self.now);
        self.unsynced.push(op);
    }
}

/// The folder. Clones of the `Arc` are the same machine; `crash` gives the machine after it came back.
pub struct MemDir {
    folder: Mutex<Folder>,
    free: AtomicU64,
}

impl Default for MemDir {
    fn default() -> Self {
        MemDir { folder: Mutex::default(), free: AtomicU64::new(1 << 40) }
    }
}

impl MemDir {
    /// An empty folder.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }
    fn folder(&self) -> MutexGuard<'_, Folder> {
        self.folder.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// What is found after the machine went down now. Handles of this folder stay with this folder.
    pub fn crash(&self, crash: Crash) -> Arc<MemDir> {
        self.crash_tearing(crash, &|_| false)
    }
    /// As `crash`. Of the files that `tears` names, a power cut may also take physical blocks of 4 KiB that were being
    /// written, whole: with the sectors of them that had been synced.
    pub fn crash_tearing(&self, crash: Crash, tears: &dyn Fn(&str) -> bool) -> Arc<MemDir> {
        let folder = self.folder();
        let names = match crash {
            Crash::Kill => folder.now.clone(),
            Crash::Power { seed } => surviving(&folder, seed),
        };
        // One inode may have two names for a moment of the model; it stays one.
        let mut copies: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
        let mut now = Names::new();
        for (n, i) in names {
            let salt = n.bytes().fold(0, |h, b| mix(h, u64::from(b)));
            let crash = match crash {
                Crash::Kill => crash,
                Crash::Power { seed } => Crash::Power { seed: mix(seed, salt) },
            };
            let copy =
                copies.entry(Arc::as_ptr(&i)).or_insert_with(|| Arc::new(i.after(crash, tears(&n)))).clone();
            now.insert(n, copy);
        }
        let (synced, unsynced) = match crash {
            Crash::Power { .. } => (now.clone(), Vec::new()),
            Crash::Kill => (remap(&folder.synced, &mut copies), remap_ops(&folder.unsynced, &mut copies)),
        };
        let free = AtomicU64::new(self.free.load(SeqCst));
        Arc::new(MemDir { folder: Mutex::new(Folder { now, synced, unsynced }), free })
    }
    /// What `free_bytes` answers.
    pub fn set_free_bytes(&self, bytes: u64) {
        self.free.store(bytes, SeqCst);
    }
    /// Bytes of the file `name` that were read from the medium so far.
    pub fn read_from_medium(&self, name: &str) -> u64 {
        self.folder().now.get(name).map_or(0, |i| i.content().from_medium)
    }
    /// Bytes allocated by all files, for tests of punching.
    pub fn allocated_bytes(&self) -> u64 {
        self.folder().now.values().map(|i| i.content().image.allocated()).sum()
    }
}

type Copies = BTreeMap<*const Inode, Arc<Inode>>;

fn copy_of(i: &Arc<Inode>, copies: &mut Copies) -> Arc<Inode> {
    copies.entry(Arc::as_ptr(i)).or_insert_with(|| Arc::new(i.after(Crash::Kill, false))).clone()
}
fn remap(names: &Names, copies: &mut Copies) -> Names {
    names.iter().map(|(n, i)| (n.clone(), copy_of(i, copies))).collect()
}
fn remap_ops(ops: &[NameOp], copies: &mut Copies) -> Vec<NameOp> {
    ops.iter()
        .map(|op| match op {
            NameOp::Set(n, i) => NameOp::Set(n.clone(), copy_of(i, copies)),
            other => other.clone(),
        })
        .collect()
}

fn surviving(folder: &Folder, seed: u64) -> Names {
    let mut names = folder.synced.clone();
    let mut dropped = BTreeSet::new();
    for (n, op) in folder.unsynced.iter().enumerate() {
        if op.names().iter().any(|n| dropped.contains(*n)) || mix(seed, n as u64) & 1 == 0 {
            dropped.extend(op.names());
        } else {
            op.apply(&mut names);
        }
    }
    names
}

struct MemFile {
    name: String,
    inode: Arc<Inode>,
    latch: Arc<Latch>,
}

impl MemFile {
    fn open(name: &str, inode: &Arc<Inode>) -> Arc<dyn LogFile> {
        let mut current = inode.latch.lock().unwrap_or_else(PoisonError::into_inner);
        if current.is_failed() {
            *current = Arc::default();
        }
        Arc::new(MemFile { name: name.to_string(), inode: inode.clone(), latch: current.clone() })
    }
}

impl LogFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let c = self.inode.content();
        let inside = c.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        c.image.read(offset, &mut buf[..inside]);
        buf[inside..].fill(0);
        Ok(())
    }
    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inode.content().from_medium += buf.len() as u64;
        self.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, parts: &[&[u8]]) -> Result<()> {
        self.latch.check(&self.name)?;
        let mut c = self.inode.content();
        let mut at = offset;
        for part in parts.iter().filter(|p| !p.is_empty()) {
            c.image.write(at, part);
            at += part.len() as u64;
            c.len = c.len.max(at);
        }
        Ok(())
    }
    fn sync(&self) -> Result<()> {
        self.latch.check(&self.name)?;
        let mut c = self.inode.content();
        c.image.sync();
        c.synced_len = c.len;
        Ok(())
    }
    fn len(&self) -> Result<u64> {
        Ok(self.inode.content().len)
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.latch.check(&self.name)?;
        let mut c = self.inode.content();
        if len < c.len {
            let cut = c.len - len;
            c.image.zero(len, cut, false);
        }
        c.len = len;
        Ok(())
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.latch.check(&self.name)?;
        let mut c = self.inode.content();
        let end = offset.saturating_add(len).min(c.len);
        c.image.zero(offset, end.saturating_sub(offset), false);
        Ok(())
    }
}

impl LogDir for MemDir {
    fn place(&self) -> String {
        "memory".into()
    }
    fn create(&self, name: &str) -> Result<Arc<dyn LogFile>> {
        super::check_name(name)?;
        let mut f = self.folder();
        if f.now.contains_key(name) {
            return Err(Error::new(Kind::Exists, format!("{name} exists")));
        }
        let inode = Arc::new(Inode::default());
        f.perform(NameOp::Set(name.into(), inode.clone()));
        Ok(MemFile::open(name, &inode))
    }
    fn open(&self, name: &str) -> Result<Option<Arc<dyn LogFile>>> {
        super::check_name(name)?;
        Ok(self.folder().now.get(name).map(|i| MemFile::open(name, i)))
    }
    fn replace(&self, from: &str, to: &str) -> Result<()> {
        let mut f = self.folder();
        if !f.now.contains_key(from) {
            return Err(Error::new(Kind::Gone, format!("{from} does not exist")));
        }
        if from != to {
            f.perform(NameOp::Move(from.into(), to.into()));
        }
        Ok(())
    }
    fn remove(&self, name: &str) -> Result<()> {
        let mut f = self.folder();
        if f.now.contains_key(name) {
            f.perform(NameOp::Remove(name.into()));
        }
        Ok(())
    }
    fn names(&self) -> Result<Vec<String>> {
        Ok(self.folder().now.keys().cloned().collect())
    }
    fn sync_names(&self) -> Result<()> {
        let mut f = self.folder();
        f.synced = f.now.clone();
        f.unsynced.clear();
        Ok(())
    }
    fn free_bytes(&self) -> Result<u64> {
        Ok(self.free.load(SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        super::super::kit::check(MemDir::new);
    }

    #[test]
    fn power_cut_keeps_synced_bytes_and_decides_each_other_sector() {
        let d = MemDir::new();
        let f = d.create("f").unwrap();
        d.sync_names().unwrap();
        f.write_at(0, &[&[1; 4096]]).unwrap();
        f.sync().unwrap();
        f.write_at(512, &[&[2; 1024]]).unwrap();
        f.write_at(1024, &[&[3; 512]]).unwrap();
        let mut seen = BTreeSet::new();
        for seed in 0..200 {
            let after = d.crash(Crash::Power { seed });
            let mut b = [0; 4096];
            after.open("f").unwrap().unwrap().read_at(0, &mut b).unwrap();
            assert!(b[..512].iter().chain(&b[1536..]).all(|x| *x == 1), "a synced byte changed");
            assert!(b[512..1024].iter().all(|x| *x == b[512]) && b[1024..1536].iter().all(|x| *x == b[1024]));
            seen.insert((b[512], b[1024]));
        }
        // Every combination, the version between included.
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)].into());
        let killed = d.crash(Crash::Kill);
        let mut b = [0; 4096];
        killed.open("f").unwrap().unwrap().read_at(0, &mut b).unwrap();
        assert_eq!((b[512], b[1024]), (2, 3));
        // What a kill left unsynced a later power cut may still lose.
        let lost = (0..50).any(|seed| {
            let after = killed.crash(Crash::Power { seed });
            after.open("f").unwrap().unwrap().read_at(0, &mut b).unwrap();
            b[512] == 1
        });
        assert!(lost);
    }

    #[test]
    fn names_are_lost_whole_and_replace_is_never_half_done() {
        let d = MemDir::new();
        let put = |name: &str, v: u8| {
            let f = d.create(name).unwrap();
            f.write_at(0, &[&[v]]).unwrap();
            f.sync().unwrap();
        };
        put("a", 1);
        d.sync_names().unwrap();
        put("a.new", 2);
        d.replace("a.new", "a").unwrap();
        put("b", 3);
        let mut seen = BTreeSet::new();
        for seed in 0..100 {
            let after = d.crash(Crash::Power { seed });
            let mut v = [0];
            after.open("a").unwrap().expect("never neither").read_at(0, &mut v).unwrap();
            seen.insert((v[0], after.names().unwrap().len()));
        }
        assert_eq!(seen, [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)].into());
    }
}
