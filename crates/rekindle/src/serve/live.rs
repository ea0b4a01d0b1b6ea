//! A set on its own disks: each volume opened and locked, its changes tracked, its usage counted.

use super::counting::Counting;
use super::restoring::{holding, move_map};
use super::{owner, record};
use crate::errors::{Exit, Failure, Outcome};
use crate::places;
use rekindle_core::volume::Uuid;
use rekindle_engine::live::{LiveOptions, LiveSet, LiveVolume};
use rekindle_engine::usage::{Opened, UsageMap};
use rekindle_io::Kind;
use rekindle_io::block::BlockExt;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::RealDir;
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
    set: LiveSet,
    /// By volume uuid, in the set's order. A volume whose map cannot be opened is served without.
    maps: Vec<(Uuid, Arc<UsageMap>)>,
    clock: SystemClock,
}

impl Live {
    /// Opens every disk, or none.
    pub fn open(plan: &LivePlan<'_>) -> Outcome<Live> {
        let mut opened = Vec::with_capacity(plan.disks.len());
        for (name, path) in plan.disks {
            // Before the first fill a destination has no label yet, only holes.
            if let Some((_, found)) = holding(path)?.filter(|(_, f)| !f.is_live()) {
                return Err(found.refuse(path));
            }
            opened.push(volume(plan, name, path)?);
        }
        let (volumes, maps): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
        Live::of(plan.name, volumes, maps.into_iter().flatten().collect())
    }
    /// A set of volumes that are open already.
    pub fn of(name: &str, volumes: Vec<Arc<LiveVolume>>, maps: Vec<(Uuid, Arc<UsageMap>)>) -> Outcome<Live> {
        let set = LiveSet::new(name, volumes);
        set.start().map_err(|e| Failure::io(format!("cannot serve {name}"), &e))?;
        Ok(Live { set, maps, clock: SystemClock::new() })
    }
    /// The set.
    pub fn set(&self) -> &LiveSet {
        &self.set
    }
    /// The usage maps, by volume uuid.
    pub fn maps(&self) -> &[(Uuid, Arc<UsageMap>)] {
        &self.maps
    }
    /// The usage maps, by volume name.
    pub fn usage(&self) -> Vec<(String, Arc<UsageMap>)> {
        let named = |v: &Arc<LiveVolume>| {
            let id = v.identity();
            let map = self.maps.iter().find(|(uuid, _)| *uuid == id.uuid)?;
            Some((id.name, map.1.clone()))
        };
        self.set.volumes().iter().filter_map(named).collect()
    }
    /// Once a second: usage is folded when a tick is due. (The set's own thread looks after tracking.)
    pub fn tick(&self) {
        let now = self.clock.now();
        self.maps.iter().for_each(|(_, map)| map.served(now));
    }
    /// Why it takes no writes any more, once a disk or the state of one failed.
    pub fn failed(&self) -> Option<Failure> {
        let why = |v: &Arc<LiveVolume>| Some((v.identity().name, v.failed()?));
        let (volume, why) = self.set.volumes().iter().find_map(why)?;
        let name = self.set.name();
        Some(Failure::new(
            Exit::Failed,
            format!("{name} has failed"),
            format!("{volume}: {why}; its writes fail from then on"),
            format!(
                "stop what writes to it, look at the kernel's messages (`dmesg`), then start the process that serves {name} \
                 again; if the disk is lost, restore: rekindle restore {name}@latest"
            ),
        ))
    }
    /// Everything durable, the clean stop recorded. Failures cost comparisons at the next backup, and are said.
    pub fn close(&self) -> Vec<String> {
        let name = self.set.name();
        let tracking = self.set.close().map_err(|e| format!("{name} was not closed cleanly: {e}"));
        let maps = self.maps.iter().map(|(_, map)| map.close().map_err(|e| format!("usage of {name}: {e}")));
        std::iter::once(tracking).chain(maps).filter_map(Result::err).collect()
    }
}

/// How the label of a half-restored destination begins.
pub const LABEL: &[u8] = b"rekindle: this is not a volume yet";

type OpenVolume = (Arc<LiveVolume>, Option<(Uuid, Arc<UsageMap>)>);

fn volume(plan: &LivePlan<'_>, name: &str, path: &Path) -> Outcome<OpenVolume> {
    let folder = record::volume_folder(plan.name, name)?;
    let state =
        RealDir::open(&folder).map_err(|e| Failure::io(format!("cannot open the state of {name}"), &e))?;
    let counting = Arc::new(Counting::default());
    let options = LiveOptions {
        observer: Some(counting.clone()),
        read_only: plan.read_only,
        ..LiveOptions::new(name, state.clone())
    };
    let volume = LiveVolume::open(path, &options).map_err(|e| cannot_open(path, &e))?;
    let uuid = volume.identity().uuid;
    tracing::info!(volume = name, tracked = volume.tracked_since(), "open");
    refuse_half_restored(&volume, path)?;
    counting.begin_anew();
    // A restore whose process died right after its hand-over left its map under another name.
    move_map(&*state);
    // Usage is a hint: without it everything works, only a restore begins with less to go by.
    let map = UsageMap::open(&*state, "usage", uuid, volume.geometry());
    let map = map.inspect_err(|e| tracing::warn!("usage of {name} is not counted: {e}")).ok();
    if let Some(map) = &map {
        if let Opened::Lost(why) = map.opened() {
            tracing::warn!("usage of {name} begins anew: {why}");
        }
        counting.count_into(map.clone());
    }
    Ok((volume, map.map(|map| (uuid, map))))
}

/// A destination whose restore was never settled begins with a label instead of its first MiB. To serve or back up that
/// would be to take it for the volume.
fn refuse_half_restored(volume: &LiveVolume, path: &Path) -> Outcome {
    let mut head = vec![0; volume.geometry().logical_block.max(512) as usize];
    volume.read_at(0, &mut head).map_err(|e| cannot_open(path, &e))?;
    if !head.starts_with(LABEL) {
        return Ok(());
    }
    Err(Failure::refused(
        format!("{} cannot be used", path.display()),
        "a restore to it was begun and never settled; its first bytes say which",
        "go on with that restore (the same command), or restore to it anew",
    ))
}

/// The failure of a disk that cannot be opened.
pub fn cannot_open(path: &Path, e: &rekindle_io::Error) -> Failure {
    match e.kind {
        Kind::Busy => owner::disk_busy(path, &e.what),
        Kind::Invalid if !places::is_disk(path) => {
            Failure::io(format!("cannot open {}", path.display()), e).cure("name a raw image or a block device")
        }
        Kind::Invalid => Failure::io(format!("cannot open {}", path.display()), e).cure(
            "make it whole again, or restore it; if it is another disk now, give it a set of its own with another name",
        ),
        _ => Failure::io(format!("cannot open {}", path.display()), e),
    }
}
