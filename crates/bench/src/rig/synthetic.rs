//! Snapshots of disks far larger than the disk at hand: dense manifests whose extents share the contents of the first
//! 1,024, each leaf with pages of its own, so that whatever grows with the manifest is seen to grow.

use crate::Result;
use crate::nbd::load::Random;
use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};
use rekindle_engine::backup::VolumeIdentity;
use rekindle_engine::repository::{
    CommitMeta, Credential, InitOptions, Repository, Secret, SnapshotWriter, Which, WriterOptions,
};
use rekindle_io::store::DirStore;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// Extents of a leaf of the manifest.
const LEAF: u64 = 1024;

fn credential(key: &Path) -> Result<Credential> {
    Ok(Credential::KeyFile(Secret::new(std::fs::read(key)?)))
}

fn now_ns() -> Result<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?)
}

/// Makes a repository in the folder `repo` with a snapshot `shop@latest` of a dense disk of `size` bytes.
pub fn make(repo: &Path, key: &Path, size: u64) -> Result<()> {
    let store = DirStore::create(repo)?;
    let repository = Repository::init(store, &InitOptions::new(Some(credential(key)?), now_ns()?))?;
    let mut writer = repository.begin_snapshot("shop", None, WriterOptions::default())?;
    let identity = VolumeIdentity {
        name: "shop".into(),
        uuid: Uuid([0x11; 16]),
        tracking: Uuid([0x22; 16]),
        generation: Generation(1),
    };
    fill(&mut writer, identity, Geometry::new(size, ExtentBytes::DEFAULT, 512, 4096)?)?;
    writer.commit(CommitMeta { time_ns: now_ns()?, ..CommitMeta::default() })?;
    Ok(())
}

/// Makes `shop@latest` dense: a new snapshot of the same volumes at the same generations, all of whose extents hold data.
/// Whoever backs up such a volume next finds this parent proven and nothing changed since.
pub fn densify(repo: &Path, key: &Path) -> Result<()> {
    let repository = Repository::open(DirStore::open(repo)?, Some(&credential(key)?))?;
    let parent = repository.snapshot("shop", &Which::Latest)?;
    let mut writer = repository.begin_snapshot("shop", Some(&parent), WriterOptions::default())?;
    for record in parent.volumes() {
        let identity = VolumeIdentity {
            name: record.name.clone(),
            uuid: record.uuid,
            tracking: record.tracking,
            generation: record.generation,
        };
        fill(&mut writer, identity, record.geometry)?;
    }
    writer.commit(CommitMeta { time_ns: now_ns()?, ..CommitMeta::default() })?;
    Ok(())
}

/// Gives every extent of a volume: the first leaf random bytes, the others its copies. Sizes are multiples of 64 MiB here.
fn fill(writer: &mut SnapshotWriter, identity: VolumeIdentity, geometry: Geometry) -> Result<()> {
    let volume = writer.volume(identity, geometry);
    let mut random = Random::new(9);
    let mut bytes = vec![0; usize::try_from(geometry.extent.get())?];
    for extent in 0..LEAF.min(geometry.extents()) {
        for word in bytes.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        writer.put(volume, extent, &bytes)?;
    }
    for leaf in 1..geometry.extents().div_ceil(LEAF) {
        writer.copy_leaf(volume, leaf, 0)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_io::holder::Holder;

    #[test]
    fn a_synthetic_snapshot_is_whole_and_dense() {
        let dir = tempfile::tempdir().unwrap();
        let (repo, key) = (dir.path().join("repo"), dir.path().join("key"));
        std::fs::write(&key, [1; 32]).unwrap();
        make(&repo, &key, 256 << 20).unwrap();
        let repository =
            Repository::open(DirStore::open(&repo).unwrap(), Some(&credential(&key).unwrap())).unwrap();
        let snapshot = repository.snapshot("shop", &Which::Latest).unwrap();
        assert_eq!(snapshot.volumes()[0].stored_extents, 4096);
        let holder = snapshot.holder("shop").unwrap();
        assert_eq!(holder.ids(5, 1).unwrap(), holder.ids(3 * 1024 + 5, 1).unwrap());
        let _: &dyn Holder = &*holder;
    }
}
