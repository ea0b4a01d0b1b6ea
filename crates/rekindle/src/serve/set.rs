//! A set this process owns: its disks, what it is made of now, its exports, its backups.

use super::backups::Backups;
use super::control::{Progress, SetStatus, State, VolumeStatus};
use super::live::Live;
use super::owner::OwnerLock;
use super::record;
use super::restoring::Restoring;
use crate::errors::{Failure, Outcome};
use crate::names;
use crate::show::words;
use rekindle_core::volume::Uuid;
use rekindle_engine::backup::SetInstant;
use rekindle_engine::live::{FleeceOptions, Hooks, LiveVolume};
use rekindle_engine::usage::UsageMap;
use rekindle_io::block::Block;
use rekindle_io::clock::{Clock, SystemClock};
use rekindle_io::logfile::RealDir;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What a set is made of now. A restore turns into a live set.
#[derive(Clone)]
pub enum Body {
    /// On its own disks.
    Live(Arc<Live>),
    /// Served while it fills.
    Restoring(Arc<Restoring>),
}

/// One volume of an owned set.
pub struct OwnedVolume {
    /// Inside its set.
    pub name: String,
    /// The disk below.
    pub path: PathBuf,
    /// Name of its export.
    pub export: String,
    /// What is served.
    pub device: Arc<dyn Block>,
    /// Unit of usage and tracking, in bytes.
    pub extent_bytes: u64,
}

/// A set this process owns.
pub struct OwnedSet {
    /// Its name.
    pub name: String,
    /// Its volumes, in order.
    pub volumes: Vec<OwnedVolume>,
    /// Its backups.
    pub backups: Backups,
    /// Since when, nanoseconds since 1970.
    since_ns: u64,
    body: Mutex<Body>,
    announced: AtomicBool,
    clock: SystemClock,
    /// Held by whoever hands it over.
    settling: Mutex<()>,
    discarded: AtomicBool,
    /// Held until the set is closed.
    lock: OwnerLock,
}

impl OwnedSet {
    /// A set on its own disks.
    pub fn live(
        name: &str,
        disks: &[(String, PathBuf)],
        live: Live,
        lock: OwnerLock,
        backups: Backups,
    ) -> OwnedSet {
        let lone = disks.len() == 1;
        let volume = |((volume, path), live): (&(String, PathBuf), &Arc<LiveVolume>)| OwnedVolume {
            name: volume.clone(),
            path: path.clone(),
            export: names::export(name, volume, lone),
            device: live.clone(),
            extent_bytes: live.geometry().extent.get(),
        };
        OwnedSet {
            name: name.into(),
            volumes: disks.iter().zip(live.set().volumes()).map(volume).collect(),
            backups,
            since_ns: SystemClock::new().wall_ns(),
            body: Mutex::new(Body::Live(Arc::new(live))),
            announced: AtomicBool::new(false),
            clock: SystemClock::new(),
            settling: Mutex::default(),
            discarded: AtomicBool::new(false),
            lock,
        }
    }
    /// A set being restored.
    pub fn restoring(restoring: Arc<Restoring>, lock: OwnerLock, backups: Backups) -> OwnedSet {
        let lone = restoring.volumes.len() == 1;
        let volumes = restoring.volumes.iter().zip(restoring.devices()).map(|(v, (device, extent_bytes))| {
            let export = names::export(&restoring.name, &v.name, lone);
            OwnedVolume { name: v.name.clone(), path: v.path.clone(), export, device, extent_bytes }
        });
        OwnedSet {
            name: restoring.name.clone(),
            volumes: volumes.collect(),
            backups,
            since_ns: SystemClock::new().wall_ns(),
            body: Mutex::new(Body::Restoring(restoring)),
            announced: AtomicBool::new(false),
            clock: SystemClock::new(),
            settling: Mutex::default(),
            discarded: AtomicBool::new(false),
            lock,
        }
    }
    /// It was handed over: live from now on.
    pub fn settled(&self, live: Arc<Live>) {
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Body::Live(live);
    }
    /// The right to hand it over, one at a time.
    pub fn settling(&self) -> MutexGuard<'_, ()> {
        self.settling.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// It was thrown away: there is nothing to close.
    pub fn discarded(&self) {
        self.discarded.store(true, Ordering::Release);
    }
    /// It was thrown away.
    pub fn is_discarded(&self) -> bool {
        self.discarded.load(Ordering::Acquire)
    }
    /// It was not settled and not thrown away: the same command goes on with it.
    pub fn unfinished(&self) -> bool {
        !self.is_discarded() && matches!(self.body(), Body::Restoring(_))
    }
    /// What it is made of now.
    pub fn body(&self) -> Body {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
    /// Whether its going online was announced before; now it is.
    pub fn announced(&self) -> bool {
        self.announced.swap(true, Ordering::AcqRel)
    }
    /// Its control socket.
    pub fn socket(&self) -> &std::path::Path {
        self.lock.socket()
    }
    /// Its exports may be shown.
    pub fn online(&self) -> bool {
        match self.body() {
            Body::Live(_) => true,
            Body::Restoring(r) => r.online(),
        }
    }
    /// How long it took to come online, if it is a restore.
    pub fn online_after(&self) -> Option<Duration> {
        match self.body() {
            Body::Live(_) => None,
            Body::Restoring(r) => r.online_after(),
        }
    }
    /// What moves, for people; `None` when nothing does.
    pub fn progress(&self) -> Option<Progress> {
        match self.body() {
            Body::Live(_) => None,
            Body::Restoring(r) => r.progress(),
        }
    }
    /// Where it stands.
    pub fn state(&self) -> State {
        match self.body() {
            Body::Live(live) if live.failed().is_some() => State::Failed,
            Body::Live(_) => State::Live,
            Body::Restoring(r) => r.state(),
        }
    }
    /// Why it failed and what to do, if it has.
    pub fn failed(&self) -> Option<Failure> {
        match self.body() {
            Body::Live(live) => live.failed(),
            Body::Restoring(r) => r.failed(),
        }
    }
    /// Everything about it; `served` tells URI and clients of an export.
    pub fn status(&self, served: impl Fn(&str) -> (Option<String>, u64)) -> SetStatus {
        let volume = |v: &OwnedVolume| {
            let (uri, connections) = served(&v.export);
            let info = v.device.info();
            VolumeStatus {
                name: v.name.clone(),
                path: v.path.display().to_string(),
                size_bytes: info.size,
                extent_bytes: v.extent_bytes,
                read_only: info.read_only,
                uri,
                connections,
            }
        };
        SetStatus {
            name: self.name.clone(),
            state: self.state(),
            failure: self.failed().map(|f| f.to_json()),
            pid: Some(std::process::id()),
            since: Some(words::rfc3339(self.since_ns)),
            volumes: self.volumes.iter().map(volume).collect(),
            restore: match self.body() {
                Body::Live(_) => None,
                Body::Restoring(r) => Some(r.status()),
            },
            interrupted: None,
            backup: self.backups.status(),
        }
    }
    /// What is due once a second.
    pub fn tick(&self) {
        match self.body() {
            Body::Live(live) => live.tick(),
            Body::Restoring(r) => {
                let now = self.clock.now();
                r.maps().iter().for_each(|(_, map)| map.served(now));
            }
        }
    }
    /// Ends it: everything durable, a clean stop recorded. What did not work, in words.
    pub fn close(&self) -> Vec<String> {
        if self.is_discarded() {
            return Vec::new();
        }
        match self.body() {
            Body::Live(live) => live.close(),
            Body::Restoring(r) => r.close(),
        }
    }
    /// One instant of all its volumes.
    pub fn instant(&self, hooks: &dyn Hooks) -> Outcome<Box<dyn SetInstant>> {
        let fleece = record::folder(&self.name)?.join("fleece");
        let cannot = |e| Failure::io(format!("cannot take an instant of {}", self.name), &e);
        let fleece = FleeceOptions::new(RealDir::open(&fleece).map_err(cannot)?);
        match self.body() {
            Body::Live(live) => live.set().instant(hooks, &fleece).map_err(cannot),
            Body::Restoring(r) => {
                let ready = hooks.before(fleece.hook_limit);
                let instant = ready.and_then(|()| r.set.instant());
                hooks.after();
                instant.map_err(cannot)
            }
        }
    }
    /// The usage maps of its volumes, by volume name.
    pub fn usage(&self) -> Vec<(String, Arc<UsageMap>)> {
        match self.body() {
            Body::Live(live) => live.usage(),
            Body::Restoring(r) => r.usage(),
        }
    }
    /// The usage maps of its volumes, by volume uuid.
    pub fn maps(&self) -> Vec<(Uuid, Arc<UsageMap>)> {
        match self.body() {
            Body::Live(live) => live.maps().to_vec(),
            Body::Restoring(r) => r.maps(),
        }
    }
}
