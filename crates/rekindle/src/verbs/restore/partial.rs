//! Unfinished plain copies: what they are called, and which lie at the destinations of a restore.

use super::plan::Opened;
use crate::dest::Dest;
use rekindle_core::volume::Uuid;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Those that a plain copy would meet.
#[derive(Default)]
pub struct Unfinished {
    /// It goes on with these.
    pub own: Vec<PathBuf>,
    /// Of something else: left alone.
    pub others: Vec<PathBuf>,
}

impl Unfinished {
    /// Looks beside the files that `opened` is to be copied to.
    pub fn of(opened: &Opened) -> Unfinished {
        let snapshot = opened.snapshot.info().commit.snapshot;
        let mut found = Unfinished::default();
        for (dest, volume) in opened.dests.iter().zip(&opened.volumes).filter(|(d, _)| !d.is_device()) {
            let own = partial(&dest.path, snapshot, volume.uuid);
            found.others.extend(others(&own, dest));
            found.own.extend(own.exists().then_some(own));
        }
        found
    }
    /// In words.
    pub fn lines(&self) -> Vec<String> {
        let own = self.own.iter().map(|path| {
            format!("goes on   with {}: what is right there is not fetched again", path.display())
        });
        let others = self.others.iter();
        own.chain(
            others
                .map(|path| format!("beside    {} is an unfinished copy of another moment", path.display())),
        )
        .collect()
    }
}

/// What the copy of this volume of this snapshot is called until it is whole.
pub fn partial(path: &Path, snapshot: Uuid, volume: Uuid) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}-{}.partial", snapshot.short(), volume.short()));
    name.into()
}

/// Unfinished copies to the same destination, of something else.
pub fn others(partial: &Path, dest: &Dest) -> Vec<PathBuf> {
    let (Some(folder), Some(name)) = (dest.path.parent(), dest.path.file_name()) else { return Vec::new() };
    let is_one = |path: &PathBuf| {
        let rest = path.file_name().and_then(|n| n.as_bytes().strip_prefix(name.as_bytes()));
        // A dot, twice eight digits with a dash, and the ending.
        rest.is_some_and(|r| r.len() == 26 && r[0] == b'.' && r[9] == b'-' && r.ends_with(b".partial"))
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|path| path != partial && is_one(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::Found;

    #[test]
    fn copies_of_other_moments_and_volumes_have_other_names() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("disk.raw");
        let id = |n| Uuid([n; 16]);
        let names = [(1, 1), (1, 2), (2, 1)].map(|(s, v)| partial(&path, id(s), id(v)));
        names.iter().for_each(|n| std::fs::write(n, "").unwrap());
        std::fs::write(tmp.path().join("disk.raw.old.partial"), "").unwrap();
        std::fs::write(tmp.path().join("disk2.raw.01010101-01010101.partial"), "").unwrap();
        let dest = Dest { path, found: Found::Nothing };
        let mut found = others(&names[0], &dest);
        found.sort();
        assert_eq!(found, names[1..]);
    }
}
