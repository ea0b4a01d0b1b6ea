//! Packs that go up in pieces while they fill: onto stores that take drafts and stores that do not, and with every kind
//! of failure on the way. What was committed reads right; what failed is not there; a lost answer is neither.

use super::super::*;
use super::kit::*;
use rekindle_core::volume::{ExtentBytes, Geometry};
use rekindle_io::store::{DirStore, Draft, Entry, GetDone, MemStore, Part, Put, Store, StoreExt};
use rekindle_io::{Error, Kind};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

/// What happens to one draft of a store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Well,
    /// Its second piece cannot be written.
    Breaks,
    /// It lands, but the answer is lost.
    AnswerLost,
    /// It does not land, and nobody says so.
    Vanishes,
    /// Somebody else has the name.
    Taken,
}

/// A store in memory that takes drafts; the one with number `at` meets its fate.
struct Drafts {
    inner: MemStore,
    at: usize,
    fate: Fate,
    begun: AtomicUsize,
}

struct MemDraft<'a>(&'a Drafts, String, Vec<u8>, Fate, usize);

impl Draft for MemDraft<'_> {
    fn write(&mut self, parts: &[&[u8]]) -> rekindle_io::Result<()> {
        self.4 += 1;
        if self.3 == Fate::Breaks && self.4 == 2 {
            return Err(Error::new(Kind::Full, "no room"));
        }
        parts.iter().for_each(|p| self.2.extend_from_slice(p));
        Ok(())
    }
    fn finish(self: Box<Self>) -> rekindle_io::Result<Put> {
        assert!(self.4 > 1 || self.2.len() < 2 << 20, "a large pack came in one piece");
        let lost = || Err(Error::new(Kind::Unavailable, "no answer"));
        match self.3 {
            Fate::Vanishes => return lost(),
            Fate::Taken => drop(self.0.inner.put_new(&self.1, &[b"of somebody else"])?),
            _ => {}
        }
        let put = self.0.inner.put_new(&self.1, &[&self.2])?;
        if self.3 == Fate::AnswerLost { lost() } else { Ok(put) }
    }
}

impl Store for Drafts {
    fn place(&self) -> String {
        self.inner.place()
    }
    fn put_new(&self, name: &str, parts: &[&[u8]]) -> rekindle_io::Result<Put> {
        assert!(!name.starts_with("d/"), "a pack was given whole");
        self.inner.put_new(name, parts)
    }
    fn begin(&self, name: &str) -> rekindle_io::Result<Option<Box<dyn Draft + '_>>> {
        let fate = if self.begun.fetch_add(1, SeqCst) == self.at { self.fate } else { Fate::Well };
        Ok(Some(Box::new(MemDraft(self, name.into(), Vec::new(), fate, 0))))
    }
    fn start_get(&self, name: &str, part: Part, done: GetDone) {
        self.inner.start_get(name, part, done);
    }
    fn head(&self, name: &str) -> rekindle_io::Result<Option<u64>> {
        self.inner.head(name)
    }
    fn list(&self, prefix: &str, after: &str, limit: usize) -> rekindle_io::Result<Vec<Entry>> {
        self.inner.list(prefix, after, limit)
    }
    fn delete(&self, name: &str) -> rekindle_io::Result<()> {
        self.inner.delete(name)
    }
    fn answers_inline(&self) -> bool {
        true
    }
}

/// Extents so large that no leaf of the manifest is written before the end: that would cut the packs short.
const LARGE: usize = 256 << 10;

fn image() -> Vec<u8> {
    (0..60).flat_map(|i| content(i, LARGE)).collect()
}

fn backup(repo: &Repository, image: &[u8]) -> Result<Snapshot> {
    let options = WriterOptions { pack_bytes: 3 << 20, threads: 2, ..options() };
    let g = Geometry::new(image.len() as u64, ExtentBytes::new(LARGE as u64).unwrap(), 512, 4096).unwrap();
    let mut w = repo.begin_snapshot("shop", None, options)?;
    let v = w.volume(identity("data", 1), g);
    for (e, bytes) in image.chunks(LARGE).enumerate() {
        w.put(v, e as u64, bytes)?;
    }
    Ok(repo.snapshot_of(w.commit(CommitMeta::default())?))
}

#[test]
fn packs_go_up_in_pieces_and_read_as_they_were_put() {
    let (dir, image) = (tempfile::tempdir().unwrap(), image());
    let drafts = Drafts { inner: MemStore::new(), at: 0, fate: Fate::Well, begun: AtomicUsize::new(0) };
    let stores: [Arc<dyn Store>; 3] =
        [Arc::new(drafts), DirStore::create(dir.path()).unwrap(), Arc::new(MemStore::new())];
    for store in stores {
        let repo = Repository::init(store.clone(), &init_options(true)).unwrap();
        let full = backup(&repo, &image).unwrap();
        let packs = store.list_all("d/").unwrap();
        assert!(packs.len() >= 3 && packs.iter().all(|p| p.size <= 3 << 20), "{packs:?}");
        assert!(read_all(&full, "data").unwrap() == image);
    }
}

#[test]
fn a_pack_that_fails_on_its_way_fails_the_backup() {
    let image = image();
    for fate in [Fate::Breaks, Fate::AnswerLost, Fate::Vanishes, Fate::Taken] {
        // The third one is the last: nothing but the end of the backup asks for it. It comes in one piece.
        for at in 0..if fate == Fate::Breaks { 2 } else { 3 } {
            let drafts = Arc::new(Drafts { inner: MemStore::new(), at, fate, begun: AtomicUsize::new(0) });
            let repo = Repository::init(drafts, &init_options(true)).unwrap();
            let made = backup(&repo, &image);
            let found = repo.snapshots(None).unwrap().snapshots.len();
            match fate {
                Fate::AnswerLost => assert!(read_all(&made.unwrap(), "data").unwrap() == image),
                _ => assert!(made.is_err() && found == 0, "{fate:?} of pack {at}"),
            }
            let next = backup(&repo, &image).unwrap();
            assert!(read_all(&next, "data").unwrap() == image, "{fate:?} of pack {at}");
        }
    }
}
