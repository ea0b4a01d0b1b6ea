//! What grows with the disk: from exec to the first byte of an online restore, listing, planning, memory, at sizes from small
//! to 16 TiB, dense. Targets are of ratios: the largest beside the smallest.

use crate::nbd::wire::Connection;
use crate::rig::report::{Goal, Report, Table, goals};
use crate::rig::scene::Scene;
use crate::rig::{machine, svg, synthetic, workspace};
use crate::stats::Rounds;
use crate::suite::Plan;
use crate::{Result, fail};
use std::path::Path;
use std::time::{Duration, Instant};

/// Sizes and rounds.
pub struct Size {
    /// Rounds.
    pub rounds: usize,
    /// Bytes of the disks, ascending.
    pub disks: Vec<u64>,
}

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        let gib: &[u64] = plan.pick(&[1, 64, 1024, 16384][..], &[64, 16384], &[1, 4]);
        Size { rounds: plan.rounds(), disks: gib.iter().map(|g| g << 30).collect() }
    }
}

/// ext4 holds no file of 16 TiB: a leaf's worth less.
const LARGEST: u64 = (16 << 40) - (64 << 20);

#[derive(Default)]
struct Found {
    first_byte: Rounds,
    list: Rounds,
    plan: Rounds,
    memory: Rounds,
    incremental: Rounds,
    incremental_bytes: Rounds,
}

/// One size: its world, and its files.
struct Disk {
    scene: Scene,
    bytes: u64,
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From just before exec to the first 4 KiB read from the middle of the disk, then memory of the process; the restore is
/// thrown away afterwards.
fn first_byte(disk: &Disk, found: &mut Found) -> Result<()> {
    let to = disk.scene.home.join("restored");
    let began = Instant::now();
    let arguments = ["restore", "shop@latest", "--to", crate::rig::scene::path(&to)?, "--limit", "1MiB/s"];
    let running = disk.scene.start(&arguments)?;
    let connected = Connection::open_within(&running.target, Duration::from_secs(30));
    let mut connection = connected.map_err(|e| format!("{e}: {}", running.said()))?;
    let mut block = [0; 4096];
    connection.read(disk.bytes / 2, &mut block)?;
    found.first_byte.0.push(milliseconds(began.elapsed()));
    if block == [0; 4096] {
        return fail("a dense disk read as zeros");
    }
    connection.disconnect()?;
    found.memory.0.push(machine::peak_memory(running.child.id())? as f64 / 1_048_576.0);
    disk.scene.verb(&["discard", "shop", "--yes", "shop"])?;
    drop(running);
    let _ = std::fs::remove_file(&to);
    Ok(())
}

fn one(disk: &Disk, found: &mut Found) -> Result<()> {
    first_byte(disk, found)?;
    found.list.0.push(milliseconds(disk.scene.verb(&["timeline", "shop"])?.wall));
    let to = disk.scene.home.join("planned");
    let plan = [
        "restore",
        "shop@latest",
        "--to",
        crate::rig::scene::path(&to)?,
        "--listen",
        "unix:/nowhere",
        "-n",
        "--bandwidth",
        "100MB/s",
    ];
    found.plan.0.push(milliseconds(disk.scene.verb(&plan)?.wall));
    Ok(())
}

/// The second backup of a served sparse disk whose newest snapshot is dense: nothing has changed.
fn incremental(home: &Path, bytes: u64, rounds: usize, found: &mut Found) -> Result<()> {
    std::fs::create_dir_all(home)?;
    let image = home.join("disk");
    std::fs::File::create(&image)?.set_len(bytes)?;
    let scene = Scene::new(home)?;
    let server = scene.serve(&image)?;
    scene.verb(&["backup", "shop", "-q"])?;
    synthetic::densify(Path::new(&scene.repo), &home.join("key"))?;
    // The first one after it writes what a changed parent costs; the ones after that are what is asked for.
    scene.verb(&["backup", "shop", "-q"])?;
    for _ in 0..rounds {
        let before = crate::rig::cost::bytes(Path::new(&scene.repo))?;
        found.incremental.0.push(milliseconds(scene.verb(&["backup", "shop", "-q"])?.wall));
        found.incremental_bytes.0.push((crate::rig::cost::bytes(Path::new(&scene.repo))? - before) as f64);
    }
    server.stop()
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("growth")?;
    let mut disks = Vec::new();
    for bytes in size.disks.iter().map(|bytes| bytes.min(&LARGEST)) {
        let at = home.path().join(bytes.to_string());
        let scene = Scene::with_repo(&at, at.join("repo").display().to_string())?;
        synthetic::make(&at.join("repo"), &at.join("key"), *bytes)?;
        eprintln!("made a dense manifest of {} GiB", bytes >> 30);
        disks.push(Disk { scene, bytes: *bytes });
    }
    let mut found: Vec<Found> = disks.iter().map(|_| Found::default()).collect();
    for round in 0..size.rounds {
        for turn in 0..disks.len() {
            let d = (turn + round) % disks.len();
            one(&disks[d], &mut found[d])?;
        }
    }
    for (d, disk) in disks.iter().enumerate() {
        incremental(&home.path().join(format!("served{d}")), disk.bytes, size.rounds, &mut found[d])?;
    }
    report.plot("growth", &plot(&disks, &found))?;
    report.section("growth", &text(size, &disks, &found))
}

fn text(size: &Size, disks: &[Disk], found: &[Found]) -> String {
    let mut table = Table::new(&[
        "disk, dense",
        "first byte ms",
        "/ smallest",
        "list ms",
        "plan ms",
        "no-change incremental ms",
        "/ smallest",
        "bytes it adds",
        "memory MiB",
    ]);
    for (disk, f) in disks.iter().zip(found) {
        table.row(vec![
            format!("{} GiB", disk.bytes >> 30),
            f.first_byte.show(1),
            f.first_byte.ratio(&found[0].first_byte).show(2),
            f.list.show(1),
            f.plan.show(1),
            f.incremental.show(1),
            f.incremental.ratio(&found[0].incremental).show(2),
            f.incremental_bytes.show(0),
            f.memory.show(0),
        ]);
    }
    // From a disk of everyday size to the largest.
    let small = disks.iter().position(|d| d.bytes >= 64 << 30).unwrap_or(0);
    let (base, last) = (&found[small], &found[found.len() - 1]);
    let sizes = format!("{} GiB / {} GiB", disks[disks.len() - 1].bytes >> 30, disks[small].bytes >> 30);
    let goal = |what: &str, of: fn(&Found) -> &Rounds| {
        Goal::at_most(1.2, format!("{what}, {sizes}"), of(last).ratio(of(base)))
    };
    let targets = goals(&[
        goal("open and plan (`restore -n`)", |f| &f.plan),
        goal("first byte", |f| &f.first_byte),
        goal("no-change incremental", |f| &f.incremental),
    ]);
    format!(
        "Synthetic manifests: every extent holds data, a true tree over leaves that share it; 16383 GiB is 64 MiB short of \
         16 TiB, as an ext4 file must be. Key file, so no key derivation. First byte: \
         from exec of `restore --to --listen` to 4 KiB read from the middle, hold and state durable. {} rounds. Memory is the \
         restore's, after its first byte.\n\n{targets}\n{}\n![growth](plots/growth.svg)\n",
        size.rounds,
        table.markdown()
    )
}

fn plot(disks: &[Disk], found: &[Found]) -> String {
    let bar = |(disk, f): (&Disk, &Found), of: fn(&Found) -> &Rounds| svg::Bar {
        label: format!("{} GiB", disk.bytes >> 30),
        value: of(f).median(),
        range: of(f).range(),
    };
    let group = |title: &str, of: fn(&Found) -> &Rounds| svg::Group {
        title: title.into(),
        bars: disks.iter().zip(found).map(|pair| bar(pair, of)).collect(),
    };
    let groups =
        [group("exec to first byte", |f| &f.first_byte), group("no-change incremental", |f| &f.incremental)];
    svg::bars("Growth with the disk, milliseconds", "ms", &groups)
}
