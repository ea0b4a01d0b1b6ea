//! What a FLUSH costs: 4 KiB at a random place, then FLUSH, one at a time. A restoring volume under fill beside a plain file
//! with fdatasync, idle and beside a writer of the same speed (the disk is shared either way).

use crate::nbd::wire::Connection;
use crate::rig::report::{Goal, Report, Table, goals};
use crate::rig::scene::{Running, Scene, places};
use crate::rig::servers::{Kind, Server};
use crate::rig::slow_sync::{self, slowed};
use crate::rig::{files, workspace};
use crate::stats::{Percentiles, Rounds};
use crate::suite::Plan;
use crate::{Result, fail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How large, how long.
pub struct Size {
    /// Rounds.
    pub rounds: usize,
    /// Time of one cell.
    pub time: Duration,
    /// Bytes of the disk.
    pub disk: u64,
    /// Speed of the fill, bytes a second.
    pub fill: u64,
}

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        Size {
            rounds: plan.rounds(),
            time: Duration::from_millis(plan.pick(1500, 1000, 200)),
            disk: plan.pick(512 << 20, 256 << 20, 64 << 20),
            fill: plan.pick(50_000_000, 50_000_000, 10_000_000),
        }
    }
}

const CELLS: [&str; 4] = [
    "plain file, disk idle",
    "plain file, beside a writer",
    "nbdkit file, disk idle",
    "restoring volume under fill",
];

#[derive(Default)]
struct Found {
    p50: Rounds,
    p99: Rounds,
    rate: Rounds,
}

impl Found {
    fn add(&mut self, latency: &Percentiles, time: Duration) {
        self.p50.0.push(latency.at(50.0) as f64);
        self.p99.0.push(latency.at(99.0) as f64);
        self.rate.0.push(latency.count() as f64 / time.as_secs_f64());
    }
}

/// Repeats `step` with random places until the time is over.
fn repeat(size: &Size, seed: u64, mut step: impl FnMut(u64) -> Result<()>) -> Result<Percentiles> {
    let mut latency = Percentiles::new();
    let places = places(size.disk, 1 << 16, seed);
    let began = Instant::now();
    for place in places.into_iter().cycle() {
        if began.elapsed() >= size.time {
            break;
        }
        let asked = Instant::now();
        step(place)?;
        latency.add(asked.elapsed());
    }
    Ok(latency)
}

fn plain(path: &Path, size: &Size, seed: u64) -> Result<Percentiles> {
    let file = File::options().read(true).write(true).open(path)?;
    let block = [0x5A; 4096];
    repeat(size, seed, |place| {
        file.write_all_at(&block, place)?;
        Ok(file.sync_data()?)
    })
}

fn over_nbd(connection: &mut Connection, size: &Size, seed: u64) -> Result<Percentiles> {
    let block = [0x5A; 4096];
    repeat(size, seed, |place| {
        connection.write(place, &block)?;
        connection.flush()
    })
}

/// Writes like a fill does, 64 KiB at a time, so many bytes a second, until told to end.
fn writer(path: &Path, rate: u64, ending: &AtomicBool) -> Result<()> {
    let file = File::create(path)?;
    let piece = vec![0x33; 64 << 10];
    let began = Instant::now();
    let mut written = 0;
    while !ending.load(Ordering::Relaxed) {
        file.write_all_at(&piece, written)?;
        written += piece.len() as u64;
        let due = Duration::from_secs_f64(written as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
    drop(file);
    Ok(std::fs::remove_file(path)?)
}

fn beside_a_writer(home: &Path, disk: &Path, size: &Size, seed: u64) -> Result<Percentiles> {
    let ending = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let background =
            scope.spawn(|| writer(&home.join("background"), size.fill, &ending).map_err(|e| e.to_string()));
        let latency = plain(disk, size, seed);
        ending.store(true, Ordering::Relaxed);
        background.join().map_err(|_| "the writer died")??;
        latency
    })
}

fn restoring(scene: &Scene, size: &Size, seed: u64) -> Result<Percentiles> {
    let to = scene.home.join("restored");
    let limit = format!("{}B/s", size.fill);
    let running: Running = scene.restore(&to, &["--limit", &limit])?;
    let mut connection = Connection::open_within(&running.target, Duration::from_secs(10))?;
    let latency = over_nbd(&mut connection, size, seed)?;
    if !scene.ask(&["status", "shop", "--json"])?.contains("online") {
        return fail("the fill ended before the measurement: a larger disk or a slower fill is needed");
    }
    connection.disconnect()?;
    scene.verb(&["discard", "shop", "--yes", "shop"])?;
    drop(running);
    let _ = std::fs::remove_file(&to);
    Ok(latency)
}

/// All cells once, in turn, in each profile.
fn round(
    size: &Size,
    round: usize,
    disk: &Path,
    scene: &Scene,
    profiles: &mut [(Duration, Server, Vec<Found>)],
) -> Result<()> {
    for (delay, nbdkit, found) in profiles {
        for turn in 0..CELLS.len() {
            let cell = (turn + round) % CELLS.len();
            files::warm(disk)?;
            let seed = (round * 7 + 1) as u64;
            // The 99th of a few hundred is the fourth of the worst, which is chance.
            let time = if delay.is_zero() { size.time } else { size.time * 2 };
            let size = &Size { time, ..*size };
            let latency = slowed(*delay, || match cell {
                0 => plain(disk, size, seed),
                1 => beside_a_writer(&scene.home, disk, size, seed),
                2 => over_nbd(&mut Connection::open(&nbdkit.target)?, size, seed),
                _ => restoring(scene, size, seed),
            })?;
            found[cell].add(&latency, time);
        }
    }
    Ok(())
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("flush")?;
    let disk = home.path().join("disk");
    files::random(&disk, size.disk, 3)?;
    let scene = Scene::new(&home.path().join("scene"))?;
    scene.backup_at_rest(&disk)?;
    let mut profiles = Vec::new();
    for (n, delay) in slow_sync::profiles().into_iter().enumerate() {
        let at = home.path().join(format!("nbdkit{n}"));
        let nbdkit = Server::start(Kind::NbdkitFile, &at, &disk, delay)?;
        profiles.push((delay, nbdkit, CELLS.iter().map(|_| Found::default()).collect()));
    }
    for r in 0..size.rounds {
        round(size, r, &disk, &scene, &mut profiles)?;
        eprintln!("round {} of {} done", r + 1, size.rounds);
    }
    let found: Vec<_> = profiles.into_iter().map(|(delay, _, found)| (delay, found)).collect();
    report.section("flush", &text(size, &found))
}

fn text(size: &Size, profiles: &[(Duration, Vec<Found>)]) -> String {
    let mut table = Table::new(&[
        "4 KiB write, then FLUSH",
        "p50 us",
        "p99 us",
        "p99 / plain",
        "p99 / plain beside a writer",
        "a second",
    ]);
    let mut targets = Vec::new();
    for (delay, found) in profiles {
        let profile = slow_sync::name(*delay);
        for (name, f) in CELLS.iter().zip(found) {
            table.row(vec![
                format!("{name}{profile}"),
                f.p50.show(0),
                f.p99.show(0),
                f.p99.ratio(&found[0].p99).show(2),
                f.p99.ratio(&found[1].p99).show(2),
                f.rate.show(0),
            ]);
        }
        let what = format!("p99 of a restoring volume under fill / plain file on an idle disk{profile}");
        targets.push(Goal::at_most(1.3, what, found[3].p99.ratio(&found[0].p99)));
    }
    format!(
        "{} MiB of random data; fill and writer at {:.0} MB/s; {} rounds of {:.1} s a cell (twice that with slow flushes), one request at a time. Median \
         [range]. Flushes later: the kernel holds each fsync and fdatasync of the measured program back for so long before it \
         runs.\n\n{}\n{}",
        size.disk >> 20,
        size.fill as f64 / 1e6,
        size.rounds,
        size.time.as_secs_f64(),
        goals(&targets),
        table.markdown()
    )
}
