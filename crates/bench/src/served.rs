//! Served I/O beside the peers: issue by issue the same load on every server, each with a file of its own made the same
//! way, reset before each cell; servers alive at once, their order rotated each round; ratios within a round.

use crate::nbd::load::{self, Load, Pattern};
use crate::rig::report::{Report, Table};
use crate::rig::servers::{Kind, Server};
use crate::rig::svg::{Bar, Group};
use crate::rig::{files, fio, machine, svg, workspace};
use crate::stats::Rounds;
use crate::{Result, fail};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

/// How large, how long.
pub struct Size {
    /// Rounds of each cell.
    pub rounds: usize,
    /// Time of one cell.
    pub time: Duration,
    /// Bytes of each server's file.
    pub file: u64,
    /// Only cells whose name contains this.
    pub only: String,
    /// Leave out depths and connections beyond the main ones.
    pub brief: bool,
}

/// Who applies the load.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Client {
    Generator,
    Fio,
}

/// State of the file before a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Warm,
    Cold,
}

/// One kind of load with one client.
#[derive(Clone)]
struct Cell {
    name: String,
    client: Client,
    state: State,
    load: Load,
}

/// What one cell gave on one server, a value a round.
#[derive(Default)]
struct Found {
    rate: Rounds,
    p99: Rounds,
    cpu: Rounds,
}

fn cells(size: &Size) -> Vec<Cell> {
    let mut all = Vec::new();
    let mut add =
        |name: &str, client, state, block, depth, connections, read_percent, flush_every, pattern| {
            let load = Load {
                block,
                depth,
                connections,
                read_percent,
                flush_every,
                pattern,
                span: size.file,
                time: size.time,
                seed: 1,
            };
            let who = if client == Client::Fio { "fio" } else { "gen" };
            let shape = if block > 4096 { "256k" } else { "4k" };
            let name = format!("{name} {shape} QD{depth}x{connections} {who}");
            all.push(Cell { name, client, state, load });
        };
    for client in [Client::Generator, Client::Fio] {
        for (name, read) in [("read", 100), ("write", 0)] {
            for (depth, connections) in [(32, 1), (1, 1), (8, 1), (128, 1), (1, 4), (8, 4), (32, 4), (128, 4)]
            {
                if !size.brief || (depth, connections) == (32, 1) {
                    add(name, client, State::Warm, 4096, depth, connections, read, 0, Pattern::Random);
                }
            }
            add(name, client, State::Warm, 256 << 10, 8, 1, read, 0, Pattern::Sequential);
        }
        add("mixed 70/30, flush each 64 writes", client, State::Warm, 4096, 32, 1, 70, 64, Pattern::Random);
        add("cold read", client, State::Cold, 4096, 32, 1, 100, 0, Pattern::Random);
    }
    all.retain(|cell| cell.name.contains(&size.only));
    all
}

/// Every server that can be started here; the others are named on the terminal.
fn servers(home: &Path, size: &Size) -> Result<Vec<Server>> {
    let mut up = Vec::new();
    let kinds = [
        Kind::NbdkitFile,
        Kind::NbdkitFileNoSr,
        Kind::Rekindle,
        Kind::QemuNbd,
        Kind::NbdkitMemory,
        Kind::Null,
    ];
    for (i, kind) in kinds.into_iter().enumerate() {
        let home = home.join(i.to_string());
        std::fs::create_dir_all(&home)?;
        let file = home.join("disk");
        files::random(&file, if kind.has_file() { size.file } else { 0 }, 1)?;
        std::fs::File::options().write(true).open(&file)?.set_len(size.file)?;
        match Server::start(kind, &home, &file) {
            Ok(server) => up.push(server),
            Err(error) => println!("left out: {error}"),
        }
    }
    if !up.iter().any(|s| s.kind == Kind::NbdkitFile) {
        return fail("nbdkit is what everything is compared with: scripts/setup installs it");
    }
    // A memory disk never written answers from nowhere: fill it first.
    if let Some(memory) = up.iter().find(|s| s.kind == Kind::NbdkitMemory) {
        fill(memory, size.file)?;
    }
    Ok(up)
}

fn fill(server: &Server, bytes: u64) -> Result<()> {
    let mut connection = crate::nbd::wire::Connection::open(&server.target)?;
    let piece = vec![0xA5; 1 << 20];
    for at in (0..bytes).step_by(piece.len()) {
        connection.write(at, &piece[..piece.len().min((bytes - at) as usize)])?;
    }
    connection.disconnect()
}

fn measure(server: &Server, cell: &Cell) -> Result<(f64, f64, f64)> {
    if server.kind.has_file() {
        match cell.state {
            State::Warm => files::warm(&server.file)?,
            State::Cold => files::cold(&server.file)?,
        }
    }
    let before = server.cpu()?;
    let (rate, p99, operations) = match cell.client {
        Client::Generator => {
            let outcome = load::run(&server.target, &cell.load)?;
            (outcome.rate(), outcome.latency.at(99.0) as f64, outcome.operations as f64)
        }
        Client::Fio => {
            let measured = fio::run(&server.target, &cell.load)?;
            (measured.rate, measured.p99, measured.operations)
        }
    };
    Ok((rate, p99, (server.cpu()? - before) * 1e6 / operations))
}

/// Measures and reports.
pub fn run(size: &Size, report: &Report) -> Result<()> {
    let home = workspace("served")?;
    let servers = servers(home.path(), size)?;
    let cells = cells(size);
    if cells.is_empty() {
        return fail("no cell has that name");
    }
    let mut found: BTreeMap<(usize, usize), Found> = BTreeMap::new();
    for round in 0..size.rounds {
        for (c, cell) in cells.iter().enumerate() {
            for turn in 0..servers.len() {
                let s = (turn + round) % servers.len();
                let (rate, p99, cpu) = measure(&servers[s], cell)
                    .map_err(|e| format!("{} on {}: {e}", cell.name, servers[s].kind.name()))?;
                let into = found.entry((c, s)).or_default();
                into.rate.0.push(rate);
                into.p99.0.push(p99);
                into.cpu.0.push(cpu);
            }
        }
        eprintln!("round {} of {} done", round + 1, size.rounds);
    }
    let kinds: Vec<Kind> = servers.iter().map(|s| s.kind).collect();
    report.plot("served", &plot(&cells, &kinds, &found))?;
    report.section("served", &text(size, &cells, &kinds, &found))
}

fn text(size: &Size, cells: &[Cell], kinds: &[Kind], found: &BTreeMap<(usize, usize), Found>) -> String {
    let peers = [("nbdkit", "--version"), ("qemu-nbd", "--version"), ("fio", "--version")];
    let versions: Vec<String> = peers.iter().map(|(program, flag)| machine::version(program, flag)).collect();
    let mut out = format!(
        "{}. {} rounds of {:.1} s a cell, {} MiB a file, written in 64 KiB pieces; warm: flushed, dropped, read once in order; \
         cold: flushed and dropped. Median [range]; ratios within a round; CPU is the server's.\n\n",
        versions.join(", "),
        size.rounds,
        size.time.as_secs_f64(),
        size.file >> 20
    );
    for (c, cell) in cells.iter().enumerate() {
        let _ = writeln!(out, "**{}**\n", cell.name);
        let mut table =
            Table::new(&["server", "k requests/s", "/ nbdkit file", "/ --no-sr", "p99 us", "CPU us/request"]);
        let base = |kind| kinds.iter().position(|k| *k == kind).and_then(|s| found.get(&(c, s)));
        for (s, kind) in kinds.iter().enumerate() {
            let f = &found[&(c, s)];
            let over = |kind| base(kind).map_or("-".into(), |b: &Found| f.rate.ratio(&b.rate).show(2));
            table.row(vec![
                kind.name().into(),
                Rounds(f.rate.0.iter().map(|r| r / 1000.0).collect()).show(1),
                over(Kind::NbdkitFile),
                over(Kind::NbdkitFileNoSr),
                f.p99.show(0),
                f.cpu.show(1),
            ]);
        }
        out += &table.markdown();
        out.push('\n');
    }
    out + "![served I/O](plots/served.svg)\n"
}

fn plot(cells: &[Cell], kinds: &[Kind], found: &BTreeMap<(usize, usize), Found>) -> String {
    let main = |cell: &&Cell| (cell.load.depth, cell.load.connections) == (32, 1) || cell.load.block > 4096;
    let groups: Vec<Group> = cells
        .iter()
        .enumerate()
        .filter(|(_, cell)| main(cell))
        .map(|(c, cell)| {
            let bar = |(s, kind): (usize, &Kind)| {
                let k = Rounds(found[&(c, s)].rate.0.iter().map(|r| r / 1000.0).collect());
                Bar { label: kind.name().into(), value: k.median(), range: k.range() }
            };
            Group { title: cell.name.clone(), bars: kinds.iter().enumerate().map(bar).collect() }
        })
        .collect();
    svg::bars("Served I/O, thousand requests a second", "k/s", &groups)
}
