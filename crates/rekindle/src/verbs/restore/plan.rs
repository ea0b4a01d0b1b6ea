//! What a restore would do, and how long it would take: opened first, printed by `-n`, then performed.

use super::partial::{Unfinished, partial};
use crate::cli::{OrderArg, RestoreArgs};
use crate::dest::{Dest, Found};
use crate::errors::{Failure, Outcome};
use crate::out::Out;
use crate::serve::restoring::{StatePlace, is_left_over};
use crate::show::drill::DrillReport;
use crate::show::words;
use crate::space::Space;
use crate::units;
use crate::verbs::moment;
use rekindle_core::hydrate::{Assumed, Forecast, Threshold, forecast, steps as forecast_steps};
use rekindle_core::usage::Summary;
use rekindle_core::volume::ByteRange;
use rekindle_engine::backup::StoredUsage;
use rekindle_engine::copy::{self, CopyOptions};
use rekindle_engine::progress::{Done, Progress};
use rekindle_engine::repository::{Repository, Snapshot, VolumeRecord};
use rekindle_engine::restore::LogLimits;
use rekindle_io::Kind;
use rekindle_io::destination::Destination;
use rekindle_io::holder::Holder;
use schemars::JsonSchema;
use serde::Serialize;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// A volume and its destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Inside its set.
    pub volume: String,
    /// As it was typed.
    pub path: PathBuf,
}

/// Where everything goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Targets {
    /// One volume to stdout.
    Stdout(String),
    /// In the set's order.
    Disks(Vec<Target>),
}

/// A moment that was found, and destinations that were looked at.
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// The volumes, in the set's order.
    pub volumes: Vec<VolumeRecord>,
    /// Where they go.
    pub targets: Targets,
    /// What lies there; as many as there are disks.
    pub dests: Vec<Dest>,
}

impl Opened {
    /// `shop@3f9c2a1e`.
    pub fn shown(&self) -> String {
        let c = &self.snapshot.info().commit;
        format!("{}@{}", c.set, c.snapshot.short())
    }
    /// Bytes of all volumes.
    pub fn size(&self) -> u64 {
        self.volumes.iter().map(|v| v.geometry.size).sum()
    }
    /// Bytes a copy would fetch, and bytes it would write. The commit states them: walking the manifests to count took
    /// three quarters of a second for each TiB.
    fn moves(&self) -> (u64, u64) {
        (self.volumes.iter().map(|v| v.stored_bytes).sum(), self.volumes.iter().map(written).sum())
    }
}

/// Bytes that a copy of `v` writes.
fn written(v: &VolumeRecord) -> u64 {
    // The last extent may be cut short by the end of the volume.
    v.stored_extents.saturating_mul(v.geometry.extent.get()).min(v.geometry.size)
}

/// File systems on which files of this restore do not fit. What cannot be told is not warned of.
fn short(opened: &Opened, online: bool) -> Vec<Short> {
    let mut all: BTreeMap<u64, (Space, Short)> = BTreeMap::new();
    let files = opened.dests.iter().zip(&opened.volumes).filter(|(d, _)| !d.is_device());
    for (i, (d, v)) in files.enumerate() {
        let Ok(space) = Space::of(&d.path) else { continue };
        let place = d.path.display().to_string();
        let new = || (space, Short { place, free_bytes: space.free, needed_bytes: 0 });
        let (_, short) = all.entry(space.device).or_insert_with(new);
        short.needed_bytes += written(v);
        // Served, the file is emptied first, the write log lies beside the first one, and the fill keeps its distance.
        // A plain copy is made beside what is there, and goes on with what it has.
        let taken = |path: &Path| path.metadata().map_or(0, |m| m.blocks() * 512);
        if !online {
            short.free_bytes += taken(&partial(&d.path, opened.snapshot.info().commit.snapshot, v.uuid));
            continue;
        }
        short.free_bytes += taken(&d.path);
        if i == 0 {
            short.needed_bytes += space.floor() + 2 * LogLimits::default().segment_bytes;
        }
    }
    all.into_values().map(|(_, s)| s).filter(|s| s.needed_bytes > s.free_bytes).collect()
}

/// Opens the moment and looks at the destinations; changes nothing.
pub fn open(args: &RestoreArgs) -> Outcome<Opened> {
    let named = crate::moments::named(&args.moment)?;
    let (repository, snapshot) = moment::open(&args.repo, &args.moment)?;
    let volumes: Vec<VolumeRecord> = moment::volumes(&snapshot, &named)?.into_iter().cloned().collect();
    let names: Vec<String> = volumes.iter().map(|v| v.name.clone()).collect();
    let targets = super::targets(args, &names)?;
    let mut dests = Vec::new();
    if let Targets::Disks(disks) = &targets {
        for (t, v) in disks.iter().zip(&volumes) {
            let dest = Dest::look(&t.path)?;
            dest.fits(&v.geometry)?;
            dests.push(dest);
        }
    }
    if let (false, Some(first)) = (args.listen.is_empty(), dests.first()) {
        let set = args.named.as_deref().unwrap_or(&named.name);
        let state = StatePlace::of(set, &first.path, first.is_device())?;
        let left = dests.iter_mut().filter(|d| matches!(d.found, Found::File(_)));
        left.filter(|d| is_left_over(&state, &d.path)).for_each(|d| d.found = Found::Nothing);
    }
    Ok(Opened { repository, snapshot, volumes, targets, dests })
}

/// The plan as JSON.
#[derive(Serialize, JsonSchema)]
pub struct Plan {
    /// It goes on with a restore that was interrupted: at most so much is left to be moved.
    goes_on: bool,
    /// The moment.
    moment: String,
    /// RFC 3339, UTC.
    time: String,
    /// Bytes of all volumes.
    size_bytes: u64,
    /// Bytes that would be fetched.
    fetch_bytes: u64,
    /// Bytes that would be written; the rest are holes or zeros.
    write_bytes: u64,
    /// Volume, destination, and what would be lost there.
    destinations: Vec<PlannedDest>,
    /// File systems that have too little room for it.
    short: Vec<Short>,
    /// Assumed or measured, in bytes per second.
    bytes_per_s: f64,
    /// Forecast of the whole copy.
    complete_s: f64,
    /// How an online restore would go; absent for a plain copy.
    #[serde(skip_serializing_if = "Option::is_none")]
    online: Option<Online>,
}

/// The forecast of an online restore, in seconds from its beginning.
#[derive(Serialize, JsonSchema)]
pub struct Online {
    /// The exports appear.
    online_s: f64,
    /// 50 % of the next start's reads are local.
    local_50_s: f64,
    /// 90 %.
    local_90_s: f64,
    /// 99 %.
    local_99_s: f64,
    /// Reads that will have waited for the repository a minute after the guest's start.
    misses_60_s: u64,
    /// Where write log and state would lie; part of the volume until settled.
    state_place: String,
    /// The newest drill of each volume that has one which the usage map of the moment does not have yet.
    drills: Vec<DrillReport>,
}

/// One destination of a plan.
#[derive(Serialize, JsonSchema)]
pub struct PlannedDest {
    /// The volume.
    volume: String,
    /// Where it would go.
    to: String,
    /// What would be lost, in words.
    loses: Option<String>,
}

/// A file system with too little room.
#[derive(Serialize, JsonSchema)]
pub struct Short {
    /// A destination on it.
    place: String,
    /// Bytes free now.
    free_bytes: u64,
    /// Bytes that are needed there.
    needed_bytes: u64,
}

/// Prints plan and forecast.
pub fn tell(args: &RestoreArgs, set: &str, opened: &Opened, out: Out) -> Outcome<u8> {
    let (fetch, write) = opened.moves();
    let rate = rate(args, opened)?;
    let mut plan = plan(opened, fetch, write, rate);
    plan.short = short(opened, !args.listen.is_empty());
    let plain = args.listen.is_empty();
    let unfinished = if plain { Unfinished::of(opened) } else { Unfinished::default() };
    plan.goes_on = !unfinished.own.is_empty();
    if !args.listen.is_empty() {
        plan.online = Some(online(args, set, opened, &plan)?);
    }
    out.document(&plan);
    let at = words::time(opened.snapshot.info().commit.time_ns);
    out.line(format!(
        "moment    {} of {at}: {} in {}",
        plan.moment,
        words::bytes(plan.size_bytes),
        words::count(opened.volumes.len() as u64, "volume")
    ));
    for d in &plan.destinations {
        let loses = d.loses.as_ref().map_or(String::new(), |l| format!(", losing {l} (needs --yes {set})"));
        out.line(format!("plan      {} to {}{loses}", d.volume, d.to));
    }
    unfinished.lines().into_iter().for_each(|line| out.line(line));
    for s in &plan.short {
        out.line(format!(
            "short     {} are needed beside {}, {} are free: free {} more, or name another destination",
            words::bytes(s.needed_bytes),
            s.place,
            words::bytes(s.free_bytes),
            words::bytes(s.needed_bytes - s.free_bytes)
        ));
    }
    let verify = if args.no_verify { "not verified" } else { "then verified" };
    out.line(format!(
        "moves     {}{} to fetch, {} to write, {verify}",
        if plan.goes_on { "at most " } else { "" },
        words::bytes(fetch),
        words::bytes(write)
    ));
    let time = |s: f64| words::duration(Duration::from_secs_f64(s.clamp(0.0, 1e9)));
    let mut forecast = format!("forecast  at {}: ", words::rate(rate));
    if let Some(o) = &plan.online {
        o.drills.iter().for_each(|d| out.line(d.line()));
        out.line(format!("state     {} (part of the volume until settled)", o.state_place));
        forecast.push_str(&format!(
            "online {}, 50 % of I/O local {}, 90 % {}, 99 % {}, ",
            time(o.online_s),
            time(o.local_50_s),
            time(o.local_90_s),
            time(o.local_99_s)
        ));
    }
    out.line(format!("{forecast}complete {}", time(plan.complete_s)));
    Ok(0)
}

/// Bytes per second, as stated or measured, within the limit.
pub fn rate(args: &RestoreArgs, opened: &Opened) -> Outcome<f64> {
    let rate = match args.bandwidth.as_deref() {
        Some(text) => units::rate(text)? as f64,
        None => measured(&holders(opened)?)?,
    };
    let limit = args.limit.as_deref().map(units::limit).transpose()?.flatten();
    Ok(limit.map_or(rate, |l| rate.min(l as f64)))
}

/// The plan of going on.
pub fn going_on(opened: &Opened, fetch: u64, write: u64, rate: f64) -> Plan {
    Plan { goes_on: true, ..plan(opened, fetch, write, rate) }
}

fn plan(opened: &Opened, fetch: u64, write: u64, rate: f64) -> Plan {
    let destinations = match &opened.targets {
        Targets::Stdout(volume) => {
            vec![PlannedDest { volume: volume.clone(), to: "stdout".into(), loses: None }]
        }
        Targets::Disks(disks) => disks
            .iter()
            .zip(&opened.dests)
            .map(|(t, d)| PlannedDest {
                volume: t.volume.clone(),
                to: match d.found {
                    Found::Device { .. } => format!("device {}", d.path.display()),
                    _ => d.path.display().to_string(),
                },
                loses: d.loses(),
            })
            .collect(),
    };
    Plan {
        goes_on: false,
        moment: opened.shown(),
        time: words::rfc3339(opened.snapshot.info().commit.time_ns),
        size_bytes: opened.size(),
        fetch_bytes: fetch,
        write_bytes: write,
        destinations,
        short: Vec::new(),
        bytes_per_s: rate,
        complete_s: fetch as f64 / rate.max(1.0),
        online: None,
    }
}

/// From the usage kept with the snapshot; without any, every extent weighs the same.
fn online(args: &RestoreArgs, set: &str, opened: &Opened, plan: &Plan) -> Outcome<Online> {
    let (mut steps, mut drills) = (Vec::new(), Vec::new());
    for v in &opened.volumes {
        let usage = StoredUsage::new(&opened.snapshot, v.uuid);
        let mut summary = usage.summary().ok().flatten().and_then(|s| Summary::decode(v.uuid, &s).ok());
        let wanted = matches!(args.order, None | Some(OrderArg::Auto | OrderArg::Trace));
        // One that cannot be read brings nothing first.
        if let (true, Ok(Some((_, drill)))) = (wanted, usage.newest_drill(&opened.repository, v.uuid)) {
            let trace = drill.demanded.trace();
            let known = summary.unwrap_or_default();
            summary = Some(Summary { trace_extents: trace.extents, rank_ms: trace.rank_ms, ..known });
            drills.push(DrillReport::new(&v.name, &drill));
        }
        let hot = usage.hot_list().map_or(0, |h| h.len() as u64);
        steps.extend(forecast_steps(summary.as_ref(), hot, v.stored_extents, v.stored_bytes));
    }
    // Hot of every volume comes before the rest of any.
    steps.sort_by_key(|s| (s.demanded_ms.is_none(), s.demanded_ms, s.weight == 0));
    let assume = |online| Assumed { bytes_per_s: plan.bytes_per_s as u64, online };
    let first = forecast(&steps, &assume(Duration::ZERO));
    let rules = args.online_at.iter().map(|t| units::threshold(t)).collect::<Outcome<Vec<_>>>()?;
    let when = rules.iter().map(|t| reached(t, &first, opened, plan)).min_by(f64::total_cmp);
    let online_s = when.unwrap_or(0.0).min(plan.complete_s);
    let f = forecast(&steps, &assume(Duration::from_secs_f64(online_s.clamp(0.0, 1e9))));
    let device = matches!(opened.dests.first().map(|d| &d.found), Some(Found::Device { .. }));
    let place = opened.dests.first().map(|d| StatePlace::of(set, &d.path, device)).transpose()?;
    Ok(Online {
        online_s,
        local_50_s: f.local[0].1.as_secs_f64(),
        local_90_s: f.local[1].1.as_secs_f64(),
        local_99_s: f.local[2].1.as_secs_f64(),
        misses_60_s: f.misses[2].1,
        state_place: place.map_or(String::new(), |p| p.path.display().to_string()),
        drills,
    })
}

/// When a threshold is reached, in seconds; for usage at the latest (the next of 50, 90, 99 % that covers it).
fn reached(t: &Threshold, f: &Forecast, opened: &Opened, plan: &Plan) -> f64 {
    let part = |bytes: f64| plan.complete_s * (bytes / plan.size_bytes.max(1) as f64).min(1.0);
    match *t {
        Threshold::Time(d) => d.as_secs_f64(),
        Threshold::Bytes(n) => part(n as f64),
        Threshold::Extents(n) => {
            let extent = opened.volumes.iter().map(|v| v.geometry.extent.get()).max().unwrap_or(0);
            part(n as f64 * extent as f64)
        }
        Threshold::Usage(share) => {
            let found = f.local.iter().find(|(percent, _)| f64::from(*percent) / 100.0 >= share);
            found.map_or(plan.complete_s, |(_, d)| d.as_secs_f64())
        }
    }
}

/// The holder of each volume.
pub fn holders(opened: &Opened) -> Outcome<Vec<Arc<dyn Holder>>> {
    let holder = |v: &VolumeRecord| {
        opened
            .snapshot
            .holder(&v.name)
            .map(|h| h as Arc<dyn Holder>)
            .map_err(|e| crate::repositories::failure(format!("cannot open {}", v.name), &e))
    };
    opened.volumes.iter().map(holder).collect()
}

/// Bytes per second the repository gives now: a copy to nowhere, for a third of a second at most.
fn measured(holders: &[Arc<dyn Holder>]) -> Outcome<f64> {
    let trial = Trial { begun: Instant::now(), moved: AtomicU64::new(0) };
    let mut moved = 0;
    for holder in holders {
        match copy::copy(holder, None, &Nowhere, &CopyOptions::default(), &trial) {
            Err(e) if e.kind != Kind::Cancelled => return Err(Failure::io("cannot read the snapshot", &e)),
            _ => moved += trial.moved.swap(0, Relaxed),
        }
    }
    // Nothing to move takes no time at any rate.
    Ok((moved as f64 / trial.begun.elapsed().as_secs_f64()).max(1.0))
}

/// Ends a copy when its time is up.
struct Trial {
    begun: Instant,
    moved: AtomicU64,
}

impl Progress for Trial {
    fn update(&self, done: Done) {
        self.moved.store(done.moved_bytes, Relaxed);
    }
    fn cancelled(&self) -> bool {
        self.begun.elapsed() >= Duration::from_millis(330)
    }
}

/// Takes everything, keeps nothing.
struct Nowhere;

impl Destination for Nowhere {
    fn place(&self) -> String {
        "nowhere".into()
    }
    fn is_fresh(&self) -> bool {
        true
    }
    fn read(&self, _: u64, buf: &mut [u8]) -> rekindle_io::Result<()> {
        buf.fill(0);
        Ok(())
    }
    fn write(&self, _: u64, _: &[u8]) -> rekindle_io::Result<()> {
        Ok(())
    }
    fn zero(&self, _: ByteRange) -> rekindle_io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> rekindle_io::Result<()> {
        Ok(())
    }
}
