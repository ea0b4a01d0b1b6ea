//! Where a restore may write: what is there is looked at first, and what would be lost is said in bytes.

use crate::errors::{Exit, Failure, Outcome};
use crate::serve::owner;
use crate::serve::restoring::holding;
use crate::show::words;
use rekindle_core::volume::Geometry;
use rekindle_io::Kind;
use rekindle_io::block::{Block, BlockExt, FileBlock, FileOptions};
use std::fs::File;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A device is taken for empty if this much at both ends is zero: labels, partition tables and superblocks lie there.
const LOOK_BYTES: u64 = 1 << 20;

/// A destination as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// Nothing is there, or an empty file.
    Nothing,
    /// A file with so many bytes.
    File(u64),
    /// A device of so many bytes.
    Device {
        /// Bytes.
        size: u64,
        /// Both its ends are zero.
        blank: bool,
    },
}

/// A destination of one volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dest {
    /// Absolute.
    pub path: PathBuf,
    /// What is there.
    pub found: Found,
}

impl Dest {
    /// Looks at `path`; changes nothing.
    pub fn look(path: &Path) -> Outcome<Dest> {
        let cannot = |e: &std::io::Error| Failure::system(format!("cannot restore to {}", path.display()), e);
        let absolute = std::path::absolute(path).map_err(|e| cannot(&e))?;
        let meta = match std::fs::metadata(&absolute) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if let Some((place, found)) = holding(&absolute)?.filter(|(_, f)| !f.is_live()) {
                    return Err(found.gone(&absolute, &place));
                }
                return parent(&absolute).map(|()| Dest { path: absolute, found: Found::Nothing });
            }
            Err(e) => return Err(cannot(&e)),
        };
        // An online restore has locked its name and destinations before it looks.
        if let Some(h) = owner::owner_of(&absolute).filter(|h| h.pid != std::process::id()) {
            return Err(owner::disk_busy(&absolute, &format!("process {} has it", h.pid)));
        }
        if let Some((_, found)) = holding(&absolute)?.filter(|(_, f)| !f.is_live()) {
            return Err(found.refuse(&absolute));
        }
        let found = if meta.is_file() {
            not_in_use(&absolute)?;
            if meta.len() == 0 { Found::Nothing } else { Found::File(meta.len()) }
        } else if meta.file_type().is_block_device() {
            device(&absolute)?
        } else {
            return Err(Failure::usage(
                format!("cannot restore to {}", path.display()),
                "it is neither a file nor a block device",
                "name a new file or a block device",
            ));
        };
        Ok(Dest { path: absolute, found })
    }
    /// Written in place.
    pub fn is_device(&self) -> bool {
        matches!(self.found, Found::Device { .. })
    }
    /// Fails if a volume of this shape cannot live there.
    pub fn fits(&self, g: &Geometry) -> Outcome {
        let cannot = format!("cannot restore to {}", self.path.display());
        match self.found {
            Found::Device { size, .. } if size < g.size => Err(Failure::new(
                Exit::Failed,
                cannot,
                format!("the device has {}, the volume {}", words::bytes(size), words::bytes(g.size)),
                "name a device that is large enough",
            )),
            Found::Device { .. } => {
                let block = open(&self.path, true, None)?.info().logical_block;
                if block <= g.logical_block {
                    return Ok(());
                }
                Err(Failure::new(
                    Exit::Failed,
                    cannot,
                    format!(
                        "its blocks have {block} bytes, the volume's {}: smaller writes would fail",
                        g.logical_block
                    ),
                    "name a device with smaller logical blocks, or a file",
                ))
            }
            _ => Ok(()),
        }
    }
    /// Fails if somebody uses the file: consent to lose it is not consent to pull it from under a guest. (A device is
    /// claimed when it is opened, before anything is written.)
    pub fn free(&self) -> Outcome {
        if !matches!(self.found, Found::File(_)) {
            return Ok(());
        }
        match FileBlock::open(&self.path, &FileOptions::default()) {
            Err(e) if e.kind == Kind::Busy => Err(owner::disk_busy(&self.path, &e.what)),
            // Whatever else is wrong with it as a disk: it is going to be another one.
            _ => Ok(()),
        }
    }
    /// What a restore destroys, in words; `None` if nothing.
    pub fn loses(&self) -> Option<String> {
        match self.found {
            Found::Nothing | Found::Device { blank: true, .. } => None,
            Found::File(len) => Some(format!("the file {} of {}", self.path.display(), words::bytes(len))),
            Found::Device { size, .. } => {
                Some(format!("what is on {} ({})", self.path.display(), words::bytes(size)))
            }
        }
    }
}

/// Whether all of these may be written: nobody uses them, and nothing is lost, or the set's name was typed.
pub fn consent(dests: &[&Dest], set: &str, yes: Option<&str>) -> Outcome {
    let lost: Vec<String> = dests.iter().filter_map(|d| d.loses()).collect();
    if lost.is_empty() || yes == Some(set) {
        return dests.iter().try_for_each(|d| d.free());
    }
    let cause = match yes {
        Some(typed) => format!("this would lose {}, and --yes says {typed}, not {set}", lost.join(" and ")),
        None => format!("this would lose {}", lost.join(" and ")),
    };
    Err(Failure::refused(
        "nothing was restored",
        cause,
        format!("if that is meant, add --yes {set}; else name another destination"),
    ))
}

/// Opens a destination for the engine.
pub fn open(path: &Path, read_only: bool, logical_block: Option<u32>) -> Outcome<Arc<FileBlock>> {
    let options = FileOptions { read_only, logical_block, ..FileOptions::default() };
    FileBlock::open(path, &options).map_err(|e| match e.kind {
        Kind::Busy => owner::disk_busy(path, &e.what),
        _ => Failure::io(format!("cannot open {}", path.display()), &e),
    })
}

/// Fails if somebody has the file locked, as QEMU does: a copy takes the name and leaves him writing to what nobody can
/// find any more. What else cannot be opened is no matter here: it is replaced, not written to.
fn not_in_use(path: &Path) -> Outcome {
    match FileBlock::open(path, &FileOptions::default()) {
        Err(e) if e.kind == Kind::Busy => Err(owner::disk_busy(path, &e.what)),
        _ => Ok(()),
    }
}

fn parent(path: &Path) -> Outcome {
    let dir = path.parent().unwrap_or(Path::new("/"));
    match std::fs::metadata(dir) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(Failure::usage(
            format!("cannot restore to {}", path.display()),
            format!("{} is no directory", dir.display()),
            "name a file in a directory that exists",
        )),
        Err(e) => Err(Failure::system(format!("cannot restore to {}", path.display()), &e)
            .cure(format!("make the directory first: mkdir -p {}", dir.display()))),
    }
}

fn device(path: &Path) -> Outcome<Found> {
    let device = open(path, true, None)?;
    let size = device.info().size;
    let look = LOOK_BYTES.min(size) as usize;
    let mut buf = vec![0; look];
    let cannot = |e| Failure::io(format!("cannot look at {}", path.display()), &e);
    device.read_at(0, &mut buf).map_err(cannot)?;
    let mut blank = buf.iter().all(|b| *b == 0);
    device.read_at(size - look as u64, &mut buf).map_err(cannot)?;
    blank &= buf.iter().all(|b| *b == 0);
    Ok(Found::Device { size, blank })
}

/// Makes a name durable.
pub fn sync_folder_of(path: &Path) -> std::io::Result<()> {
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(dir)?.sync_all()
}

/// Gives `file` the mode and owner of what it replaces, as far as we may.
pub fn like(file: &File, old: &Path) {
    let Ok(meta) = std::fs::metadata(old) else { return };
    let _ = file.set_permissions(meta.permissions());
    if let Err(e) = std::os::unix::fs::fchown(file, Some(meta.uid()), Some(meta.gid())) {
        tracing::warn!("{} gets another owner: {e}", old.display());
    }
}
