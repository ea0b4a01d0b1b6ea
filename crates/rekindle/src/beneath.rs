//! What a place on this machine lies on: mounts, partitions, device mapper, loop devices, down to disks, so that a
//! repository or state that lies on a disk we serve ourselves is noticed before it waits for itself.
//!
//! Read from /proc/self/mountinfo and /sys; what cannot be read is as if it were not there: this warns, it proves nothing.

use crate::errors::{Failure, Outcome};
use crate::places;
use crate::serve::owner;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Layers looked through: deeper stacks are left alone.
const DEPTH_MAX: usize = 16;

/// Something a place lies on.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Layer {
    /// A block device, or the file behind a loop device.
    Disk(PathBuf),
    /// A disk that an NBD server serves, in the words of who mounted it.
    Network(String),
}

/// Refuses a place on a disk that is being served; the text is a warning about one on a disk that comes over NBD from we
/// do not know whom. `what` is `repository` or `state`.
pub fn check(what: &str, place: &Path) -> Outcome<Option<String>> {
    let layers = layers(place);
    let served = owner::alive().unwrap_or_default();
    for layer in &layers {
        let Layer::Disk(disk) = layer else { continue };
        let has = |h: &&owner::Holder| h.disks.iter().any(|d| places::same(d, disk));
        if let Some(holder) = served.iter().find(has) {
            return Err(Failure::refused(
                format!("the {what} {} cannot be used", place.display()),
                format!(
                    "it lies on {}, which is served as {}: each would wait for the other",
                    disk.display(),
                    holder.name
                ),
                format!("keep the {what} on another disk"),
            ));
        }
    }
    let network = layers.iter().find_map(|l| if let Layer::Network(n) = l { Some(n) } else { None });
    Ok(network.map(|n| {
        format!(
            "the {what} {} lies on {n}: if that is an export of rekindle on this machine, each will wait for the other; \
             keep it on another disk",
            place.display()
        )
    }))
}

/// Everything `place` (or the nearest folder above it that exists) lies on.
fn layers(place: &Path) -> Vec<Layer> {
    let absolute = std::path::absolute(place).unwrap_or_else(|_| place.into());
    let mut found = Vec::new();
    if let Some(meta) = absolute.ancestors().find_map(|p| p.metadata().ok()) {
        under_files(meta.dev(), &mut found, 0);
    }
    found
}

/// What the file system with this device number lies on.
fn under_files(dev: u64, found: &mut Vec<Layer>, depth: usize) {
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    if Path::new(&format!("/sys/dev/block/{major}:{minor}")).exists() {
        return under_device(major, minor, found, depth);
    }
    // A file system of several devices, or of none: its source says more.
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(mount) = mounts(&table).into_iter().rfind(|m| m.dev == (major, minor)) else { return };
    if mount.kind.starts_with("fuse") && depth > 0 {
        // A disk in a file of FUSE: nbdfuse does not say its name.
        found.push(Layer::Network(format!("a loop device over FUSE at {} (nbdfuse?)", mount.at)));
    } else if let Ok(meta) = std::fs::metadata(&mount.source)
        && meta.file_type().is_block_device()
    {
        under_device(libc::major(meta.rdev()), libc::minor(meta.rdev()), found, depth);
    }
}

fn under_device(major: u32, minor: u32, found: &mut Vec<Layer>, depth: usize) {
    let sys = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let Some(sys) = sys.canonicalize().ok().filter(|_| depth < DEPTH_MAX) else { return };
    let name = sys.file_name().unwrap_or_default().to_string_lossy().into_owned();
    found.push(Layer::Disk(Path::new("/dev").join(name.replace('!', "/"))));
    if name.starts_with("nbd") {
        found.push(Layer::Network(format!("/dev/{name}")));
    }
    let number = |p: PathBuf| {
        let text = std::fs::read_to_string(p.join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    if sys.join("partition").exists() {
        let parent = sys.parent().map(Path::to_path_buf).and_then(number);
        parent.into_iter().for_each(|(a, b)| under_device(a, b, found, depth + 1));
    }
    for slave in std::fs::read_dir(sys.join("slaves")).into_iter().flatten().flatten() {
        number(slave.path()).into_iter().for_each(|(a, b)| under_device(a, b, found, depth + 1));
    }
    if let Ok(file) = std::fs::read_to_string(sys.join("loop/backing_file")) {
        let file = PathBuf::from(file.trim_end_matches('\n'));
        if let Ok(meta) = file.metadata() {
            under_files(meta.dev(), found, depth + 1);
        }
        found.push(Layer::Disk(file));
    }
}

/// A line of mountinfo.
#[derive(PartialEq, Eq, Debug)]
struct Mount {
    dev: (u32, u32),
    at: String,
    kind: String,
    source: String,
}

fn mounts(table: &str) -> Vec<Mount> {
    let line = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let (left, right): (Vec<&str>, Vec<&str>) = (left.split(' ').collect(), right.split(' ').collect());
        let (major, minor) = left.get(2)?.split_once(':')?;
        Some(Mount {
            dev: (major.parse().ok()?, minor.parse().ok()?),
            at: (*left.get(4)?).into(),
            kind: (*right.first()?).into(),
            source: (*right.get(1)?).into(),
        })
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_and_this_place_lies_on_no_disk_of_ours() {
        let table = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue\nbroken\n\
                     41 30 0:44 / /mnt/fuse rw - fuse /dev/fuse rw,user_id=0\n";
        let found = mounts(table);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (found[0].dev, found[0].kind.as_str(), found[0].source.as_str()),
            ((98, 0), "ext3", "/dev/root")
        );
        assert_eq!((found[1].at.as_str(), found[1].source.as_str()), ("/mnt/fuse", "/dev/fuse"));
        let dir = tempfile::tempdir().unwrap();
        assert!(!layers(&dir.path().join("not/yet")).iter().any(|l| matches!(l, Layer::Network(_))));
    }
}
