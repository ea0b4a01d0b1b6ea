//! Served I/O beside the peers: the same load on every server, each with a file of its own made the same way, reset before
//! each cell that needs it; servers alive at once, their order rotated each round; ratios within a round.

mod cells;
mod pair;
mod report;

use crate::nbd::load;
use crate::rig::report::Report;
use crate::rig::servers::{Kind, Server};
use crate::rig::slow_sync::{SLOW, profiles};
use crate::rig::{files, fio, workspace};
use crate::stats::Rounds;
use crate::suite::{Plan, Scale};
use crate::{Result, fail};
use cells::{ALL, Cell, Client, FLUSHERS, State, cells};
use std::collections::BTreeMap;
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
    /// Quartets of slices a round, where only usage counting and change tracking differ.
    pub quartets: usize,
    /// Leave out depths and connections beyond the main ones.
    pub brief: bool,
}

impl Size {
    /// Of a scale.
    pub fn of(plan: Plan) -> Self {
        Size {
            rounds: plan.rounds(),
            time: Duration::from_millis(plan.pick(700, 700, 40)),
            file: plan.pick(256 << 20, 256 << 20, 8 << 20),
            only: String::new(),
            quartets: plan.pick(25, 15, 1),
            brief: plan.scale != Scale::Full,
        }
    }
}

/// What one cell gave on one server, a value a round.
#[derive(Default)]
struct Found {
    rate: Rounds,
    p99: Rounds,
    cpu: Rounds,
}

/// By cell and kind; a server that is not there has none.
type Results = BTreeMap<(usize, &'static str), Found>;

/// A server, whether its flushes are slow, and what is known of the page cache of its file.
struct Up {
    server: Server,
    slow: bool,
    state: Option<State>,
}

/// Every server that can be started here; the others are named on the terminal.
fn servers(home: &Path, size: &Size) -> Result<Vec<Up>> {
    let mut up: Vec<Up> = Vec::new();
    let slow = if profiles().len() > 1 { &FLUSHERS[..] } else { &[] };
    let wanted = ALL.iter().map(|k| (*k, false)).chain(slow.iter().map(|k| (*k, true)));
    for (i, (kind, slow)) in wanted.enumerate() {
        let home = home.join(i.to_string());
        std::fs::create_dir_all(&home)?;
        let file = home.join("disk");
        files::random(&file, if kind.has_file() { size.file } else { 0 }, 1)?;
        std::fs::File::options().write(true).open(&file)?.set_len(size.file)?;
        let delay = if slow { SLOW } else { Duration::ZERO };
        match Server::start(kind, &home, &file, delay) {
            Ok(server) => up.push(Up { server, slow, state: None }),
            Err(error) => println!("left out: {error}"),
        }
    }
    if !up.iter().any(|u| u.server.kind == Kind::NbdkitFile) {
        return fail("nbdkit is what everything is compared with: scripts/setup installs it");
    }
    // A memory disk never written answers from nowhere: fill it first.
    if let Some(memory) = up.iter().find(|u| u.server.kind == Kind::NbdkitMemory) {
        fill(&memory.server, size.file)?;
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

/// Rate, 99th percentile in microseconds, processor time of a request in microseconds.
fn measure(up: &mut Up, cell: &Cell) -> Result<(f64, f64, f64)> {
    let server = &up.server;
    if server.kind.has_file() && up.state != Some(cell.state) {
        match cell.state {
            State::Warm => files::warm(&server.file)?,
            State::Cold => files::cold(&server.file)?,
        }
    }
    // Reads of a warm file leave it warm; after anything else it is what nobody knows.
    let kept = cell.state == State::Warm && cell.load.read_percent == 100;
    up.state = kept.then_some(State::Warm);
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
    let cells = cells(size);
    let pairs = if pair::NAME.contains(&size.only) { pair::run(home.path(), size)? } else { Vec::new() };
    if cells.is_empty() && pairs.is_empty() {
        return fail("no cell has that name");
    }
    let found = if cells.is_empty() { Results::new() } else { beside_peers(home.path(), size, &cells)? };
    let results = report::Results { size, cells: &cells, found: &found, pairs: &pairs };
    report.plot("served", &results.plot())?;
    report.section("served", &results.text())
}

/// All cells on all servers, round by round.
fn beside_peers(home: &Path, size: &Size, cells: &[Cell]) -> Result<Results> {
    let mut servers = servers(home, size)?;
    let mut found = Results::new();
    for round in 0..size.rounds {
        for (c, cell) in cells.iter().enumerate() {
            let count = servers.len();
            for turn in 0..count {
                let up = &mut servers[(turn + round) % count];
                let kind = up.server.kind;
                if up.slow != cell.slow || !cell.on.contains(&kind) {
                    continue;
                }
                let (rate, p99, cpu) =
                    measure(up, cell).map_err(|e| format!("{} on {}: {e}", cell.name, kind.name()))?;
                let into = found.entry((c, kind.name())).or_default();
                into.rate.0.push(rate);
                into.p99.0.push(p99);
                into.cpu.0.push(cpu);
            }
        }
        eprintln!("round {} of {} done", round + 1, size.rounds);
    }
    Ok(found)
}
