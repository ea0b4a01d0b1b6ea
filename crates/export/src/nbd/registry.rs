//! Which exports there are, which connections use them, and how both end.

use super::ExportSpec;
use super::late::Link;
use rekindle_core::nbd::wire::*;
use rekindle_core::nbd::{Catalogue, ExportInfo};
use rekindle_io::block::{Block, Info};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Threads that are cut get this long to notice.
const CUT: Duration = Duration::from_secs(1);

struct Entry {
    spec: ExportSpec,
    info: ExportInfo,
}

#[derive(Default)]
struct Inside {
    exports: BTreeMap<String, Entry>,
    links: HashMap<u64, (Arc<Link>, Option<u64>)>,
    next: u64,
    closed: bool,
}

/// The table; one lock, never held across I/O.
#[derive(Default)]
pub(super) struct Registry {
    inside: Mutex<Inside>,
    left: Condvar,
    count: AtomicUsize,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Adds an export; false when the name is taken.
    pub(super) fn add(&self, spec: ExportSpec) -> bool {
        let mut inside = self.lock();
        if inside.exports.contains_key(&spec.name) {
            return false;
        }
        inside.next += 1;
        let info = describe(inside.next, &spec);
        inside.exports.insert(spec.name.clone(), Entry { spec, info });
        true
    }
    /// Takes an export away and ends its connections; false when one was still busy after `grace`.
    pub(super) fn remove(&self, name: &str, grace: Duration) -> bool {
        let Some(entry) = self.lock().exports.remove(name) else { return true };
        let id = Some(entry.info.id);
        self.end(grace, move |export| export == id)
    }
    /// Ends every connection and admits no more.
    pub(super) fn close(&self, grace: Duration) -> bool {
        let mut inside = self.lock();
        inside.closed = true;
        inside.exports.clear();
        drop(inside);
        self.end(grace, |_| true)
    }
    fn end(&self, grace: Duration, which: impl Fn(Option<u64>) -> bool) -> bool {
        let each = |inside: &Inside, f: fn(&Link)| {
            inside.links.values().filter(|(_, export)| which(*export)).for_each(|(link, _)| f(link));
        };
        let inside = self.lock();
        each(&inside, Link::close_softly);
        let inside = self.wait_gone(inside, grace, &which);
        each(&inside, Link::kill);
        let inside = self.wait_gone(inside, CUT, &which);
        !inside.links.values().any(|(_, export)| which(*export))
    }
    fn wait_gone<'a>(
        &self,
        mut inside: MutexGuard<'a, Inside>,
        limit: Duration,
        which: &impl Fn(Option<u64>) -> bool,
    ) -> MutexGuard<'a, Inside> {
        let deadline = Instant::now() + limit;
        while inside.links.values().any(|(_, export)| which(*export)) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            inside = self.left.wait_timeout(inside, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        inside
    }
    /// Counts a new connection in; `None` when there are `max` already or the server stops.
    pub(super) fn enter(self: &Arc<Self>, link: &Arc<Link>, max: usize) -> Option<Presence> {
        let mut inside = self.lock();
        if inside.closed || inside.links.len() >= max {
            return None;
        }
        inside.next += 1;
        let id = inside.next;
        inside.links.insert(id, (Arc::clone(link), None));
        self.count.store(inside.links.len(), Ordering::Relaxed);
        Some(Presence { registry: Arc::clone(self), id })
    }
    /// The device of a registration, for the connection that negotiated it; `None` when it was removed meanwhile.
    pub(super) fn attach(&self, presence: &Presence, export: &ExportInfo) -> Option<Arc<dyn Block>> {
        let mut inside = self.lock();
        let entry = inside.exports.get(&export.name).filter(|e| e.info.id == export.id)?;
        let device = Arc::clone(&entry.spec.device);
        inside.links.get_mut(&presence.id)?.1 = Some(export.id);
        Some(device)
    }
    /// How many connections use an export.
    pub(super) fn connections(&self, name: &str) -> usize {
        let inside = self.lock();
        let Some(id) = inside.exports.get(name).map(|e| e.info.id) else { return 0 };
        inside.links.values().filter(|(_, export)| *export == Some(id)).count()
    }
    /// How many connections there are at all; asked before every receive, so without the lock.
    pub(super) fn len(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Catalogue for Registry {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        let inside = self.lock();
        let entry = if name.is_empty() && !inside.exports.contains_key("") {
            let mut defaults = inside.exports.values().filter(|e| e.spec.is_default);
            defaults.next().filter(|_| defaults.next().is_none())
        } else {
            inside.exports.get(name)
        };
        entry.map(|e| e.info.clone())
    }
    fn each(&self, tell: &mut dyn FnMut(&str, &str)) {
        for (name, entry) in &self.lock().exports {
            tell(name, &entry.spec.description);
        }
    }
}

/// A connection in the table, until dropped.
pub(super) struct Presence {
    registry: Arc<Registry>,
    id: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut inside = self.registry.lock();
        let gone = inside.links.remove(&self.id);
        self.registry.count.store(inside.links.len(), Ordering::Relaxed);
        drop(inside);
        self.registry.left.notify_all();
        if let Some((link, _)) = gone {
            // Also after a panic of the device: the client learns that nobody is there.
            link.finish();
            link.kill();
        }
    }
}

fn describe(id: u64, spec: &ExportSpec) -> ExportInfo {
    let info = spec.device.info();
    ExportInfo {
        id,
        name: spec.name.clone(),
        description: spec.description.clone(),
        size: info.size,
        block_min: info.logical_block,
        block_preferred: info.physical_block.max(4096),
        flags: flags(&info),
    }
}

/// Multi-conn always: the block port promises that a flush covers what any connection was answered before it.
fn flags(info: &Info) -> u16 {
    let when = |on: bool, flag: u16| if on { flag } else { 0 };
    let writable = !info.read_only;
    FLAG_SEND_FLUSH
        | FLAG_SEND_FUA
        | FLAG_SEND_CACHE
        | FLAG_CAN_MULTI_CONN
        | when(info.read_only, FLAG_READ_ONLY)
        | when(info.rotational, FLAG_ROTATIONAL)
        | when(writable, FLAG_SEND_WRITE_ZEROES)
        | when(writable && info.trim, FLAG_SEND_TRIM)
        | when(writable && info.fast_zero, FLAG_SEND_FAST_ZERO)
}
