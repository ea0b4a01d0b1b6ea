//! What runs behind a restore once it is served: usage inherited, the fill started, verification.

use super::Restoring;
use crate::serve::record;
use crate::space::Space;
use rekindle_core::hydrate::Online;
use rekindle_core::usage::{Order, Ranker};
use rekindle_core::volume::Uuid;
use rekindle_engine::backup::StoredUsage;
use rekindle_engine::repository::Drill;
use rekindle_engine::restore::{Fill, FillOptions, FillVolume, FreeSpace, RestoreState, Step, Verifier};
use rekindle_engine::usage::{Opened, UsageMap};
use rekindle_io::Kind;
use rekindle_io::clock::SystemClock;
use rekindle_io::logfile::RealDir;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Relaxed};
use std::time::{Duration, Instant};

/// Threads that fetch, open and write.
pub const FETCHERS: usize = 4;
/// The usage map of a restoring volume; it becomes `usage` when the volume is live.
pub const MAP: &str = "usage-restoring";
/// Between looks at what is due.
const PACE: Duration = Duration::from_millis(100);
/// Between two looks at what could not be compared.
const AGAIN: Duration = Duration::from_secs(10);
/// Reading back stops this long after a batch: a guest comes first.
const VERIFY_PAUSE: Duration = Duration::from_millis(2);

impl Restoring {
    /// The thread: it ends when the set is stopped, handed over or verified.
    pub(super) fn upkeep(&self) {
        let volumes = (0..self.volumes.len()).map(|i| self.volume(i)).collect();
        if self.stop.load(Acquire) {
            return;
        }
        self.begin_fill(volumes);
        let mut verifier = Verifier::default();
        let mut looked = Instant::now();
        while !self.stop.load(Acquire) {
            // After a crash the guest is there already: it must not wait for a threshold a second time.
            if self.set.is_online() && !self.wishes().online_at.is_empty() {
                self.wish(|w| w.online_at.clear());
            }
            let waits = verifier.waits() && looked.elapsed() < AGAIN;
            if waits || self.wishes().no_verify || !self.set.is_complete() {
                std::thread::sleep(PACE);
                continue;
            }
            looked = Instant::now();
            match self.set.verify_step(&mut verifier) {
                Ok(Step::Worked) => {
                    self.verified_bytes.store(verifier.verified_bytes, Relaxed);
                    std::thread::sleep(VERIFY_PAUSE);
                }
                Ok(Step::Idle) => return,
                // Handed over unverified: the destinations are the guest's.
                Err(e) if e.kind == Kind::Gone && self.is_live() => return,
                Err(e) => {
                    tracing::warn!("verification of {}: {e}", self.name);
                    std::thread::sleep(Duration::from_secs(1));
                }
            }
        }
    }
    fn is_live(&self) -> bool {
        self.set.status().state == RestoreState::Live
    }
    fn begin_fill(&self, volumes: Vec<FillVolume>) {
        let options = FillOptions {
            volumes,
            online: Online::new(self.wishes().online_at),
            limit: self.wishes().limit,
            space: self.space(),
            elapsed_before: Duration::ZERO,
        };
        let fill = Fill::new(self.set.clone(), options, Arc::new(SystemClock::new()));
        {
            let mut early = self.early.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            early.drain(..).for_each(|act| act(&fill));
            let _ = self.fill.set(fill.clone());
        }
        if let Err(e) = fill.start() {
            tracing::error!("{} is not being filled: {e}", self.name);
        }
    }
    /// The file systems that files are restored to, once each. A device has its room already, and on the state's file
    /// system the fill takes none.
    fn space(&self) -> Vec<FreeSpace> {
        let mut space: BTreeMap<u64, FreeSpace> = BTreeMap::new();
        for v in self.volumes.iter().filter(|v| !v.block.is_device()) {
            let Ok(now) = Space::of(&v.path) else { continue };
            let (path, place) = (v.path.clone(), v.path.display().to_string());
            let free = Arc::new(move || Space::of(&path).map(|s| s.free));
            space.entry(now.device).or_insert(FreeSpace { place, free, floor: now.floor() });
        }
        space.into_values().collect()
    }
    /// Usage and hot list of one volume. Whatever goes wrong costs speed and is said.
    fn volume(&self, i: usize) -> FillVolume {
        let linear = self.wishes().order == Order::Linear;
        let usual = FillVolume { linear, ..FillVolume::default() };
        let drill = self.drill(i);
        let map = match self.open_map(i, drill.as_ref()) {
            Ok(map) => map,
            Err(e) => {
                tracing::warn!("usage of {} is not counted: {e}", self.volumes[i].name);
                self.volumes[i].usage.give_up();
                return usual;
            }
        };
        let hot = match self.hot(i, &map, drill.as_ref()) {
            Ok(hot) => hot,
            Err(e) => {
                tracing::warn!("{} is filled in the repository's order: {e}", self.volumes[i].name);
                Vec::new()
            }
        };
        FillVolume { hot: if linear { Vec::new() } else { hot }, ..usual }
    }
    fn source(&self, i: usize) -> Option<Uuid> {
        let name = self.app.source_volumes.get(i)?;
        self.snapshot.volume(name).ok().map(|v| v.uuid)
    }
    /// The newest drill of the volume that the snapshot's map does not know, and its number.
    fn drill(&self, i: usize) -> Option<(u64, Drill)> {
        let source = self.source(i)?;
        let found = StoredUsage::new(&self.snapshot, source).newest_drill(&self.repository, source);
        let name = &self.volumes[i].name;
        found
            .inspect(|d| tracing::info!(name, drill = d.as_ref().map(|d| d.0), "newest drill"))
            .inspect_err(|e| tracing::warn!("what the newest drill of {name} demanded is not known: {e}"))
            .ok()?
    }
    fn open_map(&self, i: usize, drill: Option<&(u64, Drill)>) -> rekindle_io::Result<Arc<UsageMap>> {
        let volume = &self.volumes[i];
        let plan = self.set.plan();
        let uuid = plan.volumes[i].volume()?;
        let folder = record::volume_folder(&self.name, &volume.name)
            .map_err(|f| rekindle_io::Error::new(rekindle_io::Kind::Failed, f.to_string()))?;
        let dir = RealDir::open(&folder)?;
        let geometry = self.set.volumes()[i].geometry();
        let map = UsageMap::open(&*dir, MAP, uuid, geometry)?;
        if map.opened() != Opened::Kept {
            if let Some(source) = self.source(i) {
                match StoredUsage::new(&self.snapshot, source).inherit(&map, source) {
                    Ok(came) => tracing::info!(volume.name, came.pages, came.damaged, "usage inherited"),
                    Err(e) => {
                        tracing::info!(volume.name, "no usage inherited: {e}");
                        map.cold_start();
                    }
                }
            }
            if let Some((number, drill)) = drill {
                map.know_drill(*number, &drill.demanded)?;
            }
            // A restore is a cold start of the guest, on this very data.
            map.expect_cold_start();
        }
        // Only now: what the guest read first is the beginning of the start that was just noted, not of what was before.
        volume.usage.count_into(map.clone());
        Ok(map)
    }
    /// Extents in restore order, with their weights. What the newest drill demanded comes before what the snapshot names.
    fn hot(
        &self,
        i: usize,
        map: &UsageMap,
        drill: Option<&(u64, Drill)>,
    ) -> rekindle_io::Result<Vec<(u64, u8)>> {
        let wished = self.wishes().order;
        let stored = match (wished, self.source(i)) {
            (Order::Auto, Some(source)) => {
                StoredUsage::new(&self.snapshot, source).hot_list().unwrap_or_else(|e| {
                    tracing::warn!("the hot list of {} is not used: {e}", self.volumes[i].name);
                    Vec::new()
                })
            }
            _ => Vec::new(),
        };
        let order = if stored.is_empty() { map.hot_list(wished, &[], Ranker::LIMIT)? } else { stored };
        let drill = drill.filter(|_| matches!(wished, Order::Auto | Order::Trace));
        let drilled: Vec<u64> =
            drill.map_or(Vec::new(), |(_, d)| d.demanded.in_order().map(|(e, _)| e).collect());
        let mut weights: HashMap<u64, u8> = order.iter().chain(&drilled).map(|e| (*e, 0)).collect();
        map.visit(&mut |extent, facts| {
            if let Some(w) = weights.get_mut(&extent) {
                *w = u8::try_from(facts.weight()).unwrap_or(u8::MAX);
            }
        })?;
        // Each once, where it is named first.
        let listed = drilled.into_iter().chain(order);
        Ok(listed.filter_map(|e| weights.remove(&e).map(|w| (e, w))).collect())
    }
}
