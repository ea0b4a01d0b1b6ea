//! What the tests share: a small world of one set whose plain content is known.

use super::super::*;
use crate::backup::VolumeIdentity;
use rekindle_core::volume::{ExtentBytes, ExtentRange, Generation, Geometry};
use rekindle_io::store::{MemStore, Store};

pub const EXTENT: usize = 16 << 10;

/// A volume of 16 KiB extents, the last one short if `size` says so.
pub fn geometry(size: u64) -> Geometry {
    Geometry::new(size, ExtentBytes::new(EXTENT as u64).unwrap(), 512, 4096).unwrap()
}

pub fn identity(name: &str, n: u8) -> VolumeIdentity {
    VolumeIdentity {
        name: name.into(),
        uuid: Uuid([n; 16]),
        tracking: Uuid([9; 16]),
        generation: Generation(1),
    }
}

/// Small packs, no threads: every store operation has its place in one order.
pub fn options() -> WriterOptions {
    WriterOptions { host: "here".into(), pack_bytes: 64 << 10, threads: 0, ..WriterOptions::default() }
}

pub fn key() -> Credential {
    Credential::KeyFile(Secret::new(vec![7; 32]))
}

pub fn init_options(encrypted: bool) -> InitOptions {
    InitOptions::new(encrypted.then(key), 1)
}

pub fn new_repo(encrypted: bool) -> (Arc<MemStore>, Repository) {
    let store = Arc::new(MemStore::new());
    let repo = Repository::init(store.clone(), &init_options(encrypted)).unwrap();
    (store, repo)
}

/// Content of an extent: half of it noise, half of it zeros; no two tags agree.
pub fn content(tag: u32, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&tag.to_le_bytes()).finalize_xof().fill(&mut out[..len / 2]);
    out
}

/// Backs up the extents of `image` that are in `changed`, the rest is kept; without a parent everything is given.
pub fn backup(
    repo: &Repository,
    set: &str,
    parent: Option<&Snapshot>,
    image: &[u8],
    changed: Option<&[u64]>,
    options: WriterOptions,
) -> Result<Snapshot> {
    let g = geometry(image.len() as u64);
    let mut w = repo.begin_snapshot(set, parent, options)?;
    let v = w.volume(identity("data", 1), g);
    let all: Vec<u64> = (0..g.extents()).collect();
    for e in changed.unwrap_or(&all) {
        let r = g.extent_bytes(*e);
        w.put(v, *e, &image[r.start as usize..r.end() as usize])?;
    }
    if changed.is_some() {
        w.keep_rest(v)?;
    }
    let info = w.commit(CommitMeta { time_ns: 5, ..CommitMeta::default() })?;
    Ok(repo.snapshot_of(info))
}

/// Everything a volume reads as, through its holder.
pub fn read_all(snapshot: &Snapshot, volume: &str) -> rekindle_io::Result<Vec<u8>> {
    use rekindle_io::holder::kit::Collected;
    use rekindle_io::holder::{FetchSink, Fetched, Holder, Urgency};
    let holder = snapshot.holder(volume).map_err(rekindle_io::Error::from)?;
    let g = holder.geometry();
    let mut out = vec![0xee; g.size as usize];
    let sink = Collected::new();
    let extents: Vec<u64> = (0..g.extents()).collect();
    holder.clone().fetch(&extents, Urgency::Background, &(sink.clone() as Arc<dyn FetchSink>));
    for (e, what) in sink.wait(extents.len()) {
        let r = g.extent_bytes(e);
        let bytes = &mut out[r.start as usize..r.end() as usize];
        match what? {
            Fetched::Zero => bytes.fill(0),
            Fetched::Sealed(s) => s.open(bytes)?,
        }
    }
    Ok(out)
}

pub fn extents(start: u64, end: u64) -> ExtentRange {
    ExtentRange { start, end }
}

/// Names and sizes of everything under `prefix`.
pub fn names(store: &dyn Store, prefix: &str) -> Vec<String> {
    use rekindle_io::store::StoreExt;
    store.list_all(prefix).unwrap().into_iter().map(|e| e.name).collect()
}
