//! In which order an idle fill of a snapshot copies, and what of the usage each order would have brought by when.

use crate::rig::servers;
use crate::{Result, fail};
use rekindle_core::usage::{Order, Ranker};
use rekindle_core::volume::Uuid;
use rekindle_engine::backup::StoredUsage;
use rekindle_engine::repository::{Credential, Repository, Secret, Snapshot, VolumeRecord, Which};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::RealDir;
use rekindle_io::store::DirStore;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The newest snapshot of `shop`, its first volume, and the extents of it that hold data, ascending.
fn newest(repo: &Path, key: &Path) -> Result<(Repository, Snapshot, VolumeRecord, Vec<u64>)> {
    let credential = Credential::KeyFile(Secret::new(std::fs::read(key)?));
    let repository = Repository::open(DirStore::open(repo)?, Some(&credential))?;
    let snapshot = repository.snapshot("shop", &Which::Latest)?;
    let record = snapshot.volumes().first().ok_or("a set without volumes")?.clone();
    let mut stored = Vec::new();
    snapshot.holder(&record.name)?.for_each_stored(&mut |extent, _| {
        stored.push(extent);
        Ok(())
    })?;
    Ok((repository, snapshot, record, stored))
}

/// The usage map that came with a snapshot, open in a folder of its own.
fn usage(snapshot: &Snapshot, record: &VolumeRecord, folder: &Path) -> Result<Arc<UsageMap>> {
    let files = RealDir::open(folder)?;
    let map = UsageMap::open(&*files, "usage", Uuid([1; 16]), record.geometry)?;
    StoredUsage::new(snapshot, record.uuid).inherit(&map, record.uuid)?;
    Ok(map)
}

/// Extents of the newest cold start's set, then of the one before, ascending: what was touched, not when.
fn touched(map: &UsageMap) -> Result<Vec<u64>> {
    let (mut newest, mut before) = (Vec::new(), Vec::new());
    map.visit(&mut |extent, facts| match (facts.rank(), facts.rank_before()) {
        (Some(_), _) => newest.push(extent),
        (None, Some(_)) => before.push(extent),
        (None, None) => {}
    })?;
    newest.extend(before);
    Ok(newest)
}

/// Prints the extents of `shop@latest` that hold data, first copied first, one a line: no demand reads, no neighbours.
/// `drill`: with what the newest drill of it demanded in front, as a restore does.
pub fn print(repo: &Path, key: &Path, order: &str, drill: bool) -> Result<()> {
    let (repository, snapshot, record, stored) = newest(repo, key)?;
    let folder = tempfile::tempdir()?;
    let map = || usage(&snapshot, &record, folder.path());
    let known = match order.parse::<Order>() {
        Err(_) if order == "set" => touched(&*map()?)?,
        Ok(Order::Linear) => Vec::new(),
        // What the backup ranked, its hints included.
        Ok(Order::Auto) => StoredUsage::new(&snapshot, record.uuid).hot_list()?,
        order => map()?.hot_list(order?, &[], Ranker::LIMIT)?,
    };
    let mut hot = Vec::new();
    if drill {
        let found = StoredUsage::new(&snapshot, record.uuid).newest_drill(&repository, record.uuid)?;
        let (_, drill) = found.ok_or("no drill was kept with the volume")?;
        hot.extend(drill.demanded.in_order().map(|(extent, _)| extent));
    }
    let named: HashSet<u64> = hot.iter().copied().collect();
    hot.extend(known.into_iter().filter(|extent| !named.contains(extent)));
    let all: HashSet<u64> = stored.iter().copied().collect();
    let first: HashSet<u64> = hot.iter().copied().collect();
    let rest = stored.iter().filter(|e| !first.contains(e));
    let lines: Vec<String> =
        hot.iter().filter(|e| all.contains(e)).chain(rest).map(ToString::to_string).collect();
    println!("{}", lines.join("\n"));
    Ok(())
}

/// Of the usage, what share lies in the first extents of a linear copy: `shares[n]` after n of them.
fn linear_shares(repo: &Path, key: &Path) -> Result<Vec<f64>> {
    let (_, snapshot, record, stored) = newest(repo, key)?;
    let folder = tempfile::tempdir()?;
    let mut weights = std::collections::HashMap::new();
    usage(&snapshot, &record, folder.path())?.visit(&mut |extent, facts| {
        weights.insert(extent, facts.weight() as f64);
    })?;
    // What is read of holes is local whatever the order.
    let total: f64 = stored.iter().filter_map(|extent| weights.get(extent)).sum();
    let mut sum = 0.0;
    let mut shares = vec![0.0];
    for extent in &stored {
        sum += weights.get(extent).copied().unwrap_or(0.0);
        shares.push(sum / total.max(1.0));
    }
    Ok(shares)
}

/// Follows the restore of `shop` with a line a second, beside what a linear copy would have brought by then.
pub fn beside(repo: &Path, key: &Path) -> Result<()> {
    let linear = linear_shares(repo, key)?;
    loop {
        let out =
            std::process::Command::new(servers::rekindle()).args(["status", "shop", "--json"]).output()?;
        let status: serde_json::Value = serde_json::from_slice(&out.stdout)?;
        let set = &status[0];
        let restore = &set["restore"];
        let number = |name: &str| restore[name].as_f64();
        let (Some(total), Some(local), Some(share)) =
            (number("total_bytes"), number("local_bytes"), number("local_io_share"))
        else {
            return fail("shop is not restoring");
        };
        let filled = (local / total).clamp(0.0, 1.0);
        let by_now = linear[(filled * (linear.len() - 1) as f64) as usize];
        let left = number("remaining_s").map_or(String::new(), |s| format!(", {s:.0} s left"));
        println!(
            "filled    {:3.0} % of the bytes: {:3.0} % of the I/O is local; a linear copy would have {:3.0} %{left}",
            filled * 100.0,
            share * 100.0,
            by_now * 100.0
        );
        if set["state"] != "online" {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}
