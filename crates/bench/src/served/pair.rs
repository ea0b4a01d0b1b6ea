//! What usage counting and change tracking cost: our server with and without them over one file, in short slices one after
//! the other. A machine whose speed wanders wanders less between two slices than the cost that is looked for.

use super::Size;
use super::cells::{READ, WRITE, main_load};
use crate::Result;
use crate::nbd::load::{self, Load};
use crate::rig::files;
use crate::rig::servers::{Kind, Server};
use crate::stats::Rounds;
use std::path::Path;
use std::time::Duration;

/// What `--only` calls it.
pub const NAME: &str = "usage and tracking";
/// Length of a slice: what disturbs one rarely lasts as long as the four of a quartet.
const SLICE: Duration = Duration::from_millis(60);

/// One kind of load, with over without.
pub struct Pair {
    pub name: &'static str,
    /// Requests a second, a value a round.
    pub rate: Rounds,
    /// Processor time of a request in the server, a value a round.
    pub cpu: Rounds,
}

/// Requests, seconds, processor seconds of the server.
type Sum = [f64; 3];

fn slice(server: &Server, load: &Load, sum: &mut Sum) -> Result<()> {
    let before = server.cpu()?;
    let outcome = load::run(&server.target, load)?;
    sum[0] += outcome.operations as f64;
    sum[1] += outcome.seconds;
    sum[2] += server.cpu()? - before;
    Ok(())
}

/// Four slices, there and back (whatever wanders steadily falls out): ratios of requests a second and of processor time.
fn quartet(with: &Server, without: &Server, load: &Load) -> Result<(f64, f64)> {
    let mut sums = [Sum::default(); 2];
    for (at, server) in [(0, with), (1, without), (1, without), (0, with)] {
        slice(server, load, &mut sums[at])?;
    }
    let [on, off] = sums;
    Ok(((on[0] / on[1]) / (off[0] / off[1]), (on[2] / on[0]) / (off[2] / off[0])))
}

/// One round: the median of so many quartets, every second one the other way round.
fn round(with: &Server, without: &Server, load: &Load, quartets: usize) -> Result<(f64, f64)> {
    let (mut rate, mut cpu) = (Rounds::default(), Rounds::default());
    for n in 0..quartets {
        let load = Load { seed: n as u64 + 1, ..load.clone() };
        let (r, c) = match n % 2 {
            0 => quartet(with, without, &load)?,
            _ => quartet(without, with, &load).map(|(r, c)| (1.0 / r, 1.0 / c))?,
        };
        rate.0.push(r);
        cpu.0.push(c);
    }
    Ok((rate.median(), cpu.median()))
}

/// Measures reads and writes.
pub fn run(home: &Path, size: &Size) -> Result<Vec<Pair>> {
    let file = home.join("pair");
    files::random(&file, size.file, 1)?;
    let with = Server::start(Kind::Rekindle, &home.join("with"), &file, Duration::ZERO)?;
    let without = Server::start(Kind::RekindleBare, &home.join("without"), &file, Duration::ZERO)?;
    files::warm(&file)?;
    let mut all = Vec::new();
    for (name, read_percent) in [(READ, 100), (WRITE, 0)] {
        let load = Load { time: SLICE.min(size.time), ..main_load(size, read_percent) };
        let mut pair = Pair { name, rate: Rounds::default(), cpu: Rounds::default() };
        // The first slices meet extents that were never touched, and are not counted.
        quartet(&with, &without, &load)?;
        for _ in 0..size.rounds {
            let (rate, cpu) = round(&with, &without, &load, size.quartets)?;
            pair.rate.0.push(rate);
            pair.cpu.0.push(cpu);
        }
        all.push(pair);
    }
    Ok(all)
}
