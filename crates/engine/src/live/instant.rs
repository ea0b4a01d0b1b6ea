//! One instant of all volumes of a set, and what a backup reads of it.

use super::cut::Cut;
use super::fleece::Fleece;
use super::sync::{AtomicBool, SeqCst};
use super::volume::{LiveVolume, Next};
use crate::backup::{Changed, InstantVolume, SetInstant, VolumeIdentity};
use rekindle_core::volume::{ByteRange, ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::logfile::LogDir;
use rekindle_io::{Error, Kind, Result};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// What brackets the instant: the guest's own freeze and thaw, or a script.
pub trait Hooks {
    /// Before the gates close. An error calls the instant off (after `after`).
    fn before(&self, limit: Duration) -> Result<()>;
    /// When the instant is over or called off; always called if `before` was.
    fn after(&self);
}

/// Nothing brackets it.
pub struct NoHooks;
impl Hooks for NoHooks {
    fn before(&self, _limit: Duration) -> Result<()> {
        Ok(())
    }
    fn after(&self) {}
}

/// How an instant is taken.
#[derive(Clone)]
pub struct FleeceOptions {
    /// Where overwritten bytes are kept.
    pub dir: Arc<dyn LogDir>,
    /// How many at most, over all volumes, in bytes, besides those in memory; more, and the backup is given up.
    pub bytes: u64,
    /// How many of them in memory, over all volumes, in bytes: the guest waits for a disk only when it is full.
    pub memory_bytes: u64,
    /// How long a guest waits for room in memory while the disk of `dir` takes nothing; then the backup is given up.
    pub room_limit: Duration,
    /// How long running writes may take to end while new ones wait.
    pub drain_limit: Duration,
    /// How long `Hooks::before` may take.
    pub hook_limit: Duration,
}

impl FleeceOptions {
    /// 4 GiB in `dir`, 16 MiB in memory, 5 s for a disk that hangs, 10 s to drain, 30 s for a hook.
    pub fn new(dir: Arc<dyn LogDir>) -> Self {
        FleeceOptions {
            dir,
            bytes: 4 << 30,
            memory_bytes: 16 << 20,
            room_limit: Duration::from_secs(5),
            drain_limit: Duration::from_secs(10),
            hook_limit: Duration::from_secs(30),
        }
    }
}

/// The thaw happens whatever else does.
struct Thaw<'a>(&'a dyn Hooks);
impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        self.0.after();
    }
}

/// All gates closed; open again when dropped.
struct Held<'a> {
    volumes: &'a [Arc<LiveVolume>],
    _steering: Vec<MutexGuard<'a, ()>>,
}
impl<'a> Held<'a> {
    fn close(volumes: &'a [Arc<LiveVolume>]) -> Held<'a> {
        // In the set's order, everywhere: no two can wait for each other.
        let steering =
            volumes.iter().map(|v| v.steering.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        volumes.iter().for_each(|v| v.gate.close());
        Held { volumes, _steering: steering }
    }
    fn drained(&self, limit: Duration) -> Result<()> {
        let end = std::time::Instant::now() + limit;
        for v in self.volumes {
            let left = end.saturating_duration_since(std::time::Instant::now());
            if !v.gate.drained(left) {
                let what = format!("{}: running writes did not end within {limit:?}", v.identity().name);
                return Err(Error::new(Kind::Busy, what));
            }
        }
        Ok(())
    }
}
impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.volumes.iter().for_each(|v| v.gate.open());
    }
}

/// Takes the instant. `busy` is set as long as it lives.
pub(super) fn take(
    volumes: &[Arc<LiveVolume>],
    busy: &Arc<AtomicBool>,
    hooks: &dyn Hooks,
    options: &FleeceOptions,
) -> Result<LiveInstant> {
    if busy.swap(true, SeqCst) {
        return Err(Error::new(
            Kind::Busy,
            "a backup of this set is running already, or its disk does not answer",
        ));
    }
    let busy = Arc::new(Busy(busy.clone()));
    // All that touches a disk comes before the gates close.
    let nexts = volumes.iter().map(|v| v.prepare_instant()).collect::<Result<Vec<Next>>>()?;
    let files: Vec<_> =
        volumes.iter().map(|v| (format!("fleece.{}", v.identity().uuid), v.geometry())).collect();
    let fleece = Arc::new(Fleece::create(
        &options.dir,
        &files,
        options.memory_bytes,
        options.bytes,
        options.room_limit,
    )?);
    let write_out = {
        let (fleece, busy) = (fleece.clone(), busy.clone());
        let write_out = move || {
            fleece.write_out();
            // Its files go with it; no other instant may have made them anew by then.
            drop(fleece);
            drop(busy);
        };
        std::thread::Builder::new().name("rk-fleece".into()).spawn(write_out)
    };
    // From here on dropping `instant` undoes everything.
    let mut instant = LiveInstant {
        volumes: Vec::new(),
        fleece: fleece.clone(),
        write_out: Some(write_out.map_err(|e| Error::os("starting the fleece's thread", &e))?),
        _busy: busy,
    };
    let thaw = Thaw(hooks);
    hooks.before(options.hook_limit)?;
    let held = Held::close(volumes);
    held.drained(options.drain_limit)?;
    for (n, (v, next)) in volumes.iter().zip(nexts).enumerate() {
        let identity = v.advance(next)?;
        let cut = Arc::new(Cut::new(v.geometry(), v.inner().clone(), fleece.clone(), n));
        v.set_cut(Some(cut.clone()));
        instant.volumes.push(LiveInstantVolume { volume: v.clone(), identity, cut });
    }
    drop(held);
    drop(thaw);
    Ok(instant)
}

/// The instant. Dropping it ends copy-before-write and frees the fleece.
pub(super) struct LiveInstant {
    volumes: Vec<LiveInstantVolume>,
    fleece: Arc<Fleece>,
    write_out: Option<JoinHandle<()>>,
    _busy: Arc<Busy>,
}

/// The mark that an instant of the set lives.
struct Busy(Arc<AtomicBool>);
impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, SeqCst);
    }
}

struct LiveInstantVolume {
    volume: Arc<LiveVolume>,
    identity: VolumeIdentity,
    cut: Arc<Cut>,
}

impl Drop for LiveInstant {
    fn drop(&mut self) {
        for v in &self.volumes {
            v.volume.set_cut(None);
        }
        // A guest that waits for room waits no more.
        self.fleece.end();
        if let Some(thread) = self.write_out.take() {
            // One that hangs in the kernel is left behind: neither the backup nor a stop waits for it. A panic there was
            // reported by the panic hook.
            if self.fleece.has_left() {
                thread.join().ok();
            }
        }
        self.volumes.clear();
    }
}

impl SetInstant for LiveInstant {
    fn volumes(&self) -> Vec<&dyn InstantVolume> {
        self.volumes.iter().map(|v| v as &dyn InstantVolume).collect()
    }
    fn intact(&self) -> Result<()> {
        self.fleece.check()
    }
}

impl InstantVolume for LiveInstantVolume {
    fn identity(&self) -> VolumeIdentity {
        self.identity.clone()
    }
    fn geometry(&self) -> Geometry {
        self.volume.geometry()
    }
    fn changed(&self, tracking: Uuid, generation: Generation) -> Changed {
        // Writes since the instant may be named as well; they cost a read, which gives the old bytes.
        self.volume.changed(tracking, generation, self.identity.generation)
    }
    fn next_data(&self, from: u64) -> Result<Option<ByteRange>> {
        self.cut.next_data(from)
    }
    fn read(&self, extent: u64, out: &mut [u8]) -> Result<()> {
        self.cut.read(extent, out)
    }
    fn urgent(&self) -> Option<u64> {
        self.cut.urgent()
    }
    fn taken(&self, extents: ExtentRange) {
        self.cut.taken(extents);
    }
}
