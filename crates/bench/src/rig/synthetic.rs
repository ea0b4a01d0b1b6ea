//! Snapshots of disks far larger than the disk at hand: dense manifests with a true tree over them, whose leaves share what
//! they hold.

use crate::Result;
use rekindle_core::volume::{ExtentBytes, Generation, Geometry, Uuid};
use rekindle_engine::backup::VolumeIdentity;
use rekindle_engine::repository::{
    Credential, InitOptions, Repository, Secret, Which, WriterOptions, synthetic::dense,
};
use rekindle_io::store::DirStore;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

fn credential(key: &Path) -> Result<Credential> {
    Ok(Credential::KeyFile(Secret::new(std::fs::read(key)?)))
}

/// Makes a repository in the folder `repo` with a snapshot `shop@latest` of a dense disk of `size` bytes, a multiple of
/// 64 KiB.
pub fn make(repo: &Path, key: &Path, size: u64) -> Result<()> {
    let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())?;
    let repository =
        Repository::init(DirStore::create(repo)?, &InitOptions::new(Some(credential(key)?), now))?;
    let identity = VolumeIdentity {
        name: "shop".into(),
        uuid: Uuid([0x11; 16]),
        tracking: Uuid([0x22; 16]),
        generation: Generation(1),
    };
    let geometry = Geometry::new(size, ExtentBytes::DEFAULT, 512, 4096)?;
    dense(&repository, "shop", identity, geometry, WriterOptions::default())?;
    Ok(())
}

/// Makes `shop@latest` dense: a new snapshot of the same volume at the same generation, all of whose extents hold data.
/// Whoever backs up such a volume next finds this parent proven and nothing changed since.
pub fn densify(repo: &Path, key: &Path) -> Result<()> {
    let repository = Repository::open(DirStore::open(repo)?, Some(&credential(key)?))?;
    let parent = repository.snapshot("shop", &Which::Latest)?;
    for record in parent.volumes() {
        let identity = VolumeIdentity {
            name: record.name.clone(),
            uuid: record.uuid,
            tracking: record.tracking,
            generation: record.generation,
        };
        dense(&repository, "shop", identity, record.geometry, WriterOptions::default())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(holder.ids(5, 1).unwrap(), holder.ids(5 + 16, 1).unwrap());
        densify(&repo, &key).unwrap();
        let again = repository.snapshot("shop", &Which::Latest).unwrap();
        assert_eq!(again.volumes()[0].root_id, snapshot.volumes()[0].root_id);
        assert_ne!(again.info().commit.snapshot, snapshot.info().commit.snapshot);
    }
}
