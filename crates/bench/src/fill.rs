//! Filling over a link: how much of it the fill takes when the guest is idle, and what a demand read costs beside it. The
//! store is our own directory store behind a TCP socket in a network namespace with a token bucket and a real FIFO; its
//! latency is added by the server. The code path is that of any remote store.

use crate::nbd::load::Random;
use crate::nbd::wire::Connection;
use crate::rig::link::{Link, Shape};
use crate::rig::report::{Goal, Report, Table, goals};
use crate::rig::scene::{Running, Scene};
use crate::rig::{files, workspace};
use crate::stats::{Percentiles, Rounds};
use crate::suite::Plan;
use crate::{Result, fail};
use rekindle_io::store::{DirStore, ServerOptions, StoreServer};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const PORT: u16 = 7_700;
const EXTENT: u64 = 64 << 10;

/// How large.
pub struct Size {
    /// Rounds.
    pub rounds: usize,
    /// Bytes of the disk, all random: nothing compresses.
    pub disk: u64,
    /// The links.
    pub links: Vec<Shape>,
    /// Demand reads of a round.
    pub reads: usize,
}

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        Size {
            rounds: plan.rounds(),
            disk: plan.pick(512 << 20, 384 << 20, 64 << 20),
            links: vec![Shape { rate: 100_000_000, rtt_ms: 20 }],
            reads: plan.pick(150, 100, 20),
        }
    }
}

/// Serves the repository folder until killed; every answer at least so late.
pub fn store_server(repo: &Path, address: &str, delay: Duration) -> Result<()> {
    let server = StoreServer::start(DirStore::open(repo)?, address, ServerOptions { delay })?;
    println!("{}", server.url());
    loop {
        std::thread::park();
    }
}

/// Sends to every connection as much as it takes, until killed: what the link itself carries.
pub fn blast(address: &str) -> Result<()> {
    let piece = vec![0x77; 1 << 20];
    for stream in std::net::TcpListener::bind(address)?.incoming() {
        let mut stream = stream?;
        // Ends when the client has had enough.
        while stream.write_all(&piece).is_ok() {}
    }
    Ok(())
}

/// The far side of a link: its store, and something that fills the link.
struct Far {
    link: Link,
    servers: Vec<Child>,
}

impl Far {
    fn up(shape: Shape, repo: &Path) -> Result<Self> {
        let link = Link::up(shape)?;
        let mut far = Far { link, servers: Vec::new() };
        let mut store = far.link.inside(&std::env::current_exe()?);
        store.arg("store-server").arg(repo).arg(format!("0.0.0.0:{PORT}")).arg(shape.rtt_ms.to_string());
        let mut blast = far.link.inside(&std::env::current_exe()?);
        blast.arg("blast").arg(format!("0.0.0.0:{}", PORT + 1));
        for mut command in [blast, store] {
            far.servers.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        }
        let began = Instant::now();
        for port in [PORT, PORT + 1] {
            while std::net::TcpStream::connect((far.link.address(), port)).is_err() {
                if began.elapsed() > Duration::from_secs(10) {
                    return fail("what is behind the link does not answer");
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        Ok(far)
    }

    /// Bytes a second that one TCP connection gets of the link, counted on the link.
    fn capacity(&self) -> Result<f64> {
        let mut stream = std::net::TcpStream::connect((self.link.address(), PORT + 1))?;
        let mut piece = vec![0; 1 << 20];
        let mut measured = (Instant::now(), self.link.received()?);
        let began = Instant::now();
        let mut settled = false;
        while began.elapsed() < Duration::from_secs(4) {
            stream.read_exact(&mut piece)?;
            if !settled && began.elapsed() > Duration::from_secs(1) {
                (measured, settled) = ((Instant::now(), self.link.received()?), true);
            }
        }
        Ok((self.link.received()? - measured.1) as f64 / measured.0.elapsed().as_secs_f64())
    }

    fn url(&self) -> String {
        format!("tcp://{}:{PORT}", self.link.address())
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // Ended already is as good.
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

#[derive(Default)]
struct Found {
    capacity: Rounds,
    share: Rounds,
    seconds: Rounds,
    idle: Rounds,
    filling: Rounds,
}

/// A restore of its own, thrown away afterwards.
fn restored<T>(scene: &Scene, body: impl FnOnce(&Running) -> Result<T>) -> Result<T> {
    let to = scene.home.join("restored");
    let running = scene.restore(&to, &["--no-verify"])?;
    let got = body(&running).map_err(|e| format!("{e}\n{}", running.said()))?;
    scene.verb(&["discard", "shop", "--yes", "shop"])?;
    drop(running);
    let _ = std::fs::remove_file(&to);
    Ok(got)
}

/// One read after another, each of an extent of its own.
fn demand(running: &Running, size: &Size, seed: u64) -> Result<Percentiles> {
    let mut connection = Connection::open(&running.target)?;
    let mut random = Random::new(seed);
    let mut latency = Percentiles::new();
    let mut block = [0; 4096];
    // Some of them the fill will have brought already: those are no demand, and are left out by being fast. Reads go to
    // the second half of the disk, where an idle fill without a usage map comes last.
    for _ in 0..size.reads {
        let extent = size.disk / EXTENT / 2 + random.below(size.disk / EXTENT / 2);
        let asked = Instant::now();
        connection.read(extent * EXTENT, &mut block)?;
        latency.add(asked.elapsed());
    }
    connection.disconnect()?;
    Ok(latency)
}

fn round(far: &Far, scene: &Scene, size: &Size, seed: u64, found: &mut Found) -> Result<()> {
    let capacity = far.capacity()?;
    let (rate, seconds) = restored(scene, |_| {
        let (began, before) = (Instant::now(), far.link.received()?);
        scene.wait("complete")?;
        let seconds = began.elapsed().as_secs_f64();
        Ok(((far.link.received()? - before) as f64 / seconds, seconds))
    })?;
    found.capacity.0.push(capacity / 1e6);
    found.share.0.push(rate / capacity * 100.0);
    found.seconds.0.push(seconds);
    let idle = restored(scene, |running| {
        scene.verb(&["pause", "shop"])?;
        std::thread::sleep(Duration::from_secs(1));
        demand(running, size, seed)
    })?;
    found.idle.0.push(idle.at(99.0) as f64 / 1000.0);
    let filling = restored(scene, |running| {
        std::thread::sleep(Duration::from_secs(1));
        demand(running, size, seed + 1)
    })?;
    found.filling.0.push(filling.at(99.0) as f64 / 1000.0);
    Ok(())
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("fill")?;
    let disk = home.path().join("disk");
    files::random(&disk, size.disk, 5)?;
    let near = Scene::new(&home.path().join("near"))?;
    near.backup_at_rest(&disk)?;
    let mut table = Table::new(&[
        "link",
        "it carries MB/s",
        "fill takes of it %",
        "complete s",
        "demand p99 ms, idle link",
        "under fill",
        "ratio",
    ]);
    let mut targets = Vec::new();
    for shape in &size.links {
        let far = Far::up(*shape, Path::new(&near.repo))?;
        let scene = Scene::with_repo(&home.path().join("far"), far.url())?;
        let mut found = Found::default();
        for r in 0..size.rounds {
            round(&far, &scene, size, r as u64 * 10, &mut found)?;
            eprintln!("{}: round {} of {} done", shape.name(), r + 1, size.rounds);
        }
        let what = format!("fill's share of {}, %", shape.name());
        targets.push(Goal::at_least(90.0, what, found.share.clone()));
        let what = format!("demand p99 under fill / on an idle link, {}", shape.name());
        targets.push(Goal::at_most(1.5, what, found.filling.ratio(&found.idle)));
        table.row(vec![
            shape.name(),
            found.capacity.show(1),
            found.share.show(1),
            found.seconds.show(1),
            found.idle.show(1),
            found.filling.show(1),
            found.filling.ratio(&found.idle).show(2),
        ]);
    }
    report.section(
        "fill",
        &format!(
            "{} MiB of random data; {} rounds; {} demand reads of 4 KiB a round, one after another, in extents that were not \
             there. The share is of what one TCP stream gets of the link, both counted in bytes received on it, from online to complete.\n\n{}\n{}",
            size.disk >> 20,
            size.rounds,
            size.reads,
            goals(&targets),
            table.markdown()
        ),
    )
}
