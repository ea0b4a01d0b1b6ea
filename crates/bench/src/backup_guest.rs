//! What a guest notices of a backup: 4 KiB writes at random places of a served disk, at a steady pace, without and with a
//! full backup of everything under way. And what a backup costs when nothing has changed.

use crate::nbd::load::Random;
use crate::nbd::wire::Connection;
use crate::rig::report::{Goal, Report, Table, goals};
use crate::rig::scene::Scene;
use crate::rig::{cost, files, workspace};
use crate::stats::{Percentiles, Rounds};
use crate::suite::Plan;
use crate::{Result, fail};
use std::path::Path;
use std::time::{Duration, Instant};

/// How large, how long.
pub struct Size {
    /// Rounds.
    pub rounds: usize,
    /// Bytes of the disk.
    pub disk: u64,
    /// Writes a second.
    pub pace: u64,
    /// Time of the measurement without a backup.
    pub time: Duration,
    /// Bytes of the sparse disk of the no-change incremental.
    pub sparse: u64,
}

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        Size {
            rounds: plan.rounds(),
            disk: plan.pick(1 << 30, 512 << 20, 32 << 20),
            pace: 2000,
            time: Duration::from_millis(plan.pick(3000, 2000, 500)),
            sparse: plan.pick(1 << 40, 1 << 40, 16 << 30),
        }
    }
}

/// Writes at its pace until `done` answers true.
fn writes(
    connection: &mut Connection,
    size: &Size,
    seed: u64,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<Percentiles> {
    let mut random = Random::new(seed);
    let mut latency = Percentiles::new();
    let block = [0xC3; 4096];
    let began = Instant::now();
    for n in 0u64.. {
        if n % 64 == 0 && done()? {
            break;
        }
        let place = random.below(size.disk / 4096) * 4096;
        let due = began + Duration::from_secs_f64(n as f64 / size.pace as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        // From when it was due: a stall delays those behind it, and a guest feels them all.
        connection.write(place, &block)?;
        latency.add(due.elapsed());
    }
    Ok(latency)
}

#[derive(Default)]
struct Found {
    idle: Rounds,
    during: Rounds,
    during_p999: Rounds,
    seconds: Rounds,
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let mut found = Found::default();
    for round in 0..size.rounds {
        let home = workspace("guest")?;
        let disk = home.path().join("disk");
        files::random(&disk, size.disk, round as u64)?;
        one_round(size, home.path(), &disk, round as u64, &mut found)?;
        eprintln!("round {} of {} done", round + 1, size.rounds);
    }
    let mut table = Table::new(&["4 KiB writes", "p99 us", "p99.9 us", "/ without"]);
    table.row(vec!["without a backup".into(), found.idle.show(0), "-".into(), "1".into()]);
    table.row(vec![
        "during a full backup".into(),
        found.during.show(0),
        found.during_p999.show(0),
        found.during.ratio(&found.idle).show(2),
    ]);
    let (wall, written) = no_change(size)?;
    report.section(
        "backup-guest",
        &format!(
            "{} writes a second on one connection of a served disk of {} MiB of random data; latency counts from when a write \
             was due. {} rounds; the backup took {} s.\n\n{}\n{}\nNothing changed: the next backup of a served sparse disk of \
             {} GiB takes {} ms from exec to exit and adds {} bytes to the repository.\n",
            size.pace,
            size.disk >> 20,
            size.rounds,
            found.seconds.show(1),
            goals(&[Goal::at_most(100.0, "no-change incremental, ms", wall.clone())]),
            table.markdown(),
            size.sparse >> 30,
            wall.show(1),
            written.show(0),
        ),
    )
}

fn one_round(size: &Size, home: &Path, disk: &Path, seed: u64, found: &mut Found) -> Result<()> {
    let scene = Scene::new(&home.join("scene"))?;
    files::warm(disk)?;
    let server = scene.serve(disk)?;
    let mut connection = Connection::open(&server.target)?;
    let began = Instant::now();
    let idle = writes(&mut connection, size, seed, || Ok(began.elapsed() > size.time))?;
    let mut backup = scene.command(&["backup", "shop", "-q"])?.spawn()?;
    let began = Instant::now();
    let during = writes(&mut connection, size, seed + 1, || Ok(backup.try_wait()?.is_some()))?;
    if !backup.wait()?.success() {
        return fail("the backup failed");
    }
    found.seconds.0.push(began.elapsed().as_secs_f64());
    found.idle.0.push(idle.at(99.0) as f64);
    found.during.0.push(during.at(99.0) as f64);
    found.during_p999.0.push(during.at(99.9) as f64);
    connection.disconnect()?;
    server.stop()
}

/// Milliseconds and bytes of the second backup of a disk that nobody wrote.
fn no_change(size: &Size) -> Result<(Rounds, Rounds)> {
    let home = workspace("nochange")?;
    let disk = home.path().join("disk");
    std::fs::File::create(&disk)?.set_len(size.sparse)?;
    let scene = Scene::new(&home.path().join("scene"))?;
    let server = scene.serve(&disk)?;
    scene.verb(&["backup", "shop", "-q"])?;
    let (mut wall, mut written) = (Rounds::default(), Rounds::default());
    for _ in 0..size.rounds {
        let before = cost::bytes(Path::new(&scene.repo))?;
        wall.0.push(scene.verb(&["backup", "shop", "-q"])?.wall.as_secs_f64() * 1000.0);
        written.0.push((cost::bytes(Path::new(&scene.repo))? - before) as f64);
    }
    server.stop()?;
    Ok((wall, written))
}
