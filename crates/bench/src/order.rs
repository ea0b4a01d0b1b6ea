//! In which order an idle fill of a snapshot copies: no demand reads, no neighbours. For judging the usage map against what
//! an application asked for.

use crate::Result;
use rekindle_core::usage::{Order, Ranker};
use rekindle_core::volume::Uuid;
use rekindle_engine::backup::StoredUsage;
use rekindle_engine::repository::{Credential, Repository, Secret, Which};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::RealDir;
use rekindle_io::store::DirStore;
use std::collections::HashSet;
use std::path::Path;

/// Prints the extents of `shop@latest` that hold data, first copied first, one a line.
pub fn print(repo: &Path, key: &Path, order: &str) -> Result<()> {
    let credential = Credential::KeyFile(Secret::new(std::fs::read(key)?));
    let repository = Repository::open(DirStore::open(repo)?, Some(&credential))?;
    let snapshot = repository.snapshot("shop", &Which::Latest)?;
    let record = snapshot.volumes().first().ok_or("a set without volumes")?.clone();
    let mut stored = Vec::new();
    snapshot.holder(&record.name)?.for_each_stored(&mut |extent, _| {
        stored.push(extent);
        Ok(())
    })?;
    let usage = StoredUsage::new(&snapshot, record.uuid);
    let hot = match order.parse::<Order>()? {
        Order::Linear => Vec::new(),
        // What the backup ranked, its hints included.
        Order::Auto => usage.hot_list()?,
        order => {
            let dir = tempfile::tempdir()?;
            let files = RealDir::open(dir.path())?;
            let map = UsageMap::open(&*files, "usage", Uuid([1; 16]), record.geometry)?;
            usage.inherit(&map, record.uuid)?;
            map.hot_list(order, &[], Ranker::LIMIT)?
        }
    };
    let all: HashSet<u64> = stored.iter().copied().collect();
    let first: HashSet<u64> = hot.iter().copied().collect();
    let mut out = String::new();
    let rest = stored.iter().filter(|e| !first.contains(e));
    for extent in hot.iter().filter(|e| all.contains(e)).chain(rest) {
        out += &format!("{extent}\n");
    }
    print!("{out}");
    Ok(())
}
