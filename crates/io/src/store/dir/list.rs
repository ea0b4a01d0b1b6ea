//! Names in byte order out of folders. A folder sorts as its name with `/` behind it, so walking entries in that order
//! yields names in byte order; folders that cannot hold a wanted name are not opened.

use super::super::{Entry, check_name};
use super::{FOLDER, here};
use rustix::fs::{self, AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// What a folder holds.
struct Found {
    /// Full name, with `/` behind it for a folder.
    name: String,
    folder: bool,
}

struct Wanted<'a> {
    root: &'a OwnedFd,
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    out: Vec<Entry>,
}

type Failed = (String, Errno);

/// See [`super::super::Store::list`].
pub(super) fn list(root: &OwnedFd, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>, Failed> {
    let mut wanted = Wanted { root, prefix, after, limit, out: Vec::new() };
    // Straight to the folder the prefix names, if it can be one.
    match prefix.rsplit_once('/') {
        Some((folder, _)) if check_name(folder).is_ok() => wanted.walk(&format!("{folder}/"))?,
        Some(_) => {}
        None => wanted.walk("")?,
    }
    Ok(wanted.out)
}

impl Wanted<'_> {
    /// Adds what is wanted below `folder` (empty, or with `/` behind it).
    fn walk(&mut self, folder: &str) -> Result<(), Failed> {
        let mut found = self.entries(folder).map_err(|e| (folder.to_string(), e))?;
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        for f in found {
            if self.out.len() >= self.limit {
                break;
            }
            match f.folder {
                true => self.walk(&f.name)?,
                false => self.add(f.name)?,
            }
        }
        Ok(())
    }

    fn add(&mut self, name: String) -> Result<(), Failed> {
        match fs::statat(self.root, name.as_str(), AtFlags::empty()) {
            Ok(s) if FileType::from_raw_mode(s.st_mode) == FileType::RegularFile => {
                self.out.push(Entry { name, size: s.st_size as u64 });
                Ok(())
            }
            // Deleted since, or no object (a link that leads nowhere).
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(()),
            Err(e) => Err((name, e)),
        }
    }

    fn entries(&self, folder: &str) -> Result<Vec<Found>, Errno> {
        let path = here(folder.trim_end_matches('/'));
        let dir = match fs::openat(self.root, path, FOLDER, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Vec::new()),
            other => Dir::read_from(other?)?,
        };
        let mut out = Vec::new();
        for entry in dir {
            let entry = entry?;
            let Ok(part) = entry.file_name().to_str() else { continue };
            let name = format!("{folder}{part}");
            // Also what lies in `tmp/`, `..`, and files of others.
            if check_name(&name).is_err() {
                continue;
            }
            let kind = match entry.file_type() {
                // Some file systems do not tell, and a link is what it leads to.
                FileType::Unknown | FileType::Symlink => {
                    match fs::statat(self.root, name.as_str(), AtFlags::empty()) {
                        Ok(s) => FileType::from_raw_mode(s.st_mode),
                        Err(Errno::NOENT | Errno::LOOP) => continue,
                        Err(e) => return Err(e),
                    }
                }
                kind => kind,
            };
            let found = match kind {
                FileType::Directory => Found { name: name + "/", folder: true },
                FileType::RegularFile => Found { name, folder: false },
                _ => continue,
            };
            if self.may_hold(&found) {
                out.push(found);
            }
        }
        Ok(out)
    }

    fn may_hold(&self, f: &Found) -> bool {
        if !f.folder {
            return f.name.starts_with(self.prefix) && f.name.as_str() > self.after;
        }
        let under_prefix = f.name.starts_with(self.prefix) || self.prefix.starts_with(&f.name);
        // Everything below a folder is greater than the folder, and greater than `after` or not together with it,
        // unless `after` lies below the folder itself.
        under_prefix && (f.name.as_str() > self.after || self.after.starts_with(&f.name))
    }
}
