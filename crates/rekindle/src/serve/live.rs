//! A set on its own disks: each volume opened, its state found, its usage counted.

use super::owner;
use crate::errors::{Failure, Outcome};
use rekindle_io::Kind;
use rekindle_io::block::{Block, FileBlock, FileOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How to open a set.
pub struct LivePlan<'a> {
    /// The set.
    pub name: &'a str,
    /// Volume names and paths, in order.
    pub disks: &'a [(String, PathBuf)],
    /// Writes are refused.
    pub read_only: bool,
}

/// An open set.
pub struct Live {
    volumes: Vec<Arc<FileBlock>>,
}

impl Live {
    /// Opens every disk, or none.
    pub fn open(plan: &LivePlan<'_>) -> Outcome<Live> {
        let mut volumes = Vec::with_capacity(plan.disks.len());
        for (_, path) in plan.disks {
            let options = FileOptions { read_only: plan.read_only, ..FileOptions::default() };
            volumes.push(FileBlock::open(path, &options).map_err(|e| cannot_open(path, &e))?);
        }
        Ok(Live { volumes })
    }
    /// What is served, in the set's order.
    pub fn devices(&self) -> Vec<Arc<dyn Block>> {
        self.volumes.iter().map(|v| v.clone() as Arc<dyn Block>).collect()
    }
    /// A disk failed a write or a flush.
    pub fn failed(&self) -> bool {
        self.volumes.iter().any(|v| v.is_failed())
    }
}

/// The failure of a disk that cannot be opened.
pub fn cannot_open(path: &Path, e: &rekindle_io::Error) -> Failure {
    match e.kind {
        Kind::Busy => owner::disk_busy(path, &e.what),
        _ => Failure::io(format!("cannot open {}", path.display()), e),
    }
}
