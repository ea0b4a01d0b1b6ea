//! What is measured of served I/O: loads, clients, states of the file, and which servers take part.

use super::Size;
use crate::nbd::load::{Load, Pattern};
use crate::rig::servers::Kind;
use std::time::Duration;

/// Who applies the load.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Client {
    Generator,
    Fio,
}

impl Client {
    pub const fn name(self) -> &'static str {
        match self {
            Client::Generator => "gen",
            Client::Fio => "fio",
        }
    }
}

/// State of the file before a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    Warm,
    Cold,
}

/// One kind of load with one client.
#[derive(Clone)]
pub struct Cell {
    pub name: String,
    pub client: Client,
    pub state: State,
    pub load: Load,
    /// Who takes part.
    pub on: &'static [Kind],
    /// Flushes of the servers are slow.
    pub slow: bool,
}

/// Every server, in the order of the tables.
pub const ALL: [Kind; 6] =
    [Kind::NbdkitFile, Kind::NbdkitFileNoSr, Kind::Rekindle, Kind::QemuNbd, Kind::NbdkitMemory, Kind::Null];
const LARGE: [Kind; 5] = [Kind::NbdkitFile, Kind::NbdkitFileNoSr, Kind::Rekindle, Kind::QemuNbd, Kind::Null];
const READERS: [Kind; 4] = [Kind::NbdkitFile, Kind::NbdkitFileNoSr, Kind::Rekindle, Kind::QemuNbd];
const WRITERS: [Kind; 2] = [Kind::NbdkitFile, Kind::Rekindle];
/// Those that have a disk to flush.
pub const FLUSHERS: [Kind; 3] = [Kind::NbdkitFile, Kind::Rekindle, Kind::QemuNbd];

/// Depth and connections beyond the main 32 on one.
const SHAPES: [(usize, usize); 7] = [(1, 1), (8, 1), (128, 1), (1, 4), (8, 4), (32, 4), (128, 4)];

pub const READ: &str = "read 4k QD32x1";
pub const WRITE: &str = "write 4k QD32x1";
pub const LARGE_READ: &str = "read 256k QD8x1";
pub const LARGE_WRITE: &str = "write 256k QD8x1";
pub const MIXED: &str = "70/30 4k, FLUSH each 64 writes, QD32x1";
pub const COLD: &str = "cold read 4k QD32x1";

/// Random requests of 4 KiB, 32 in flight on one connection.
pub fn main_load(size: &Size, read_percent: u32) -> Load {
    Load {
        block: 4096,
        depth: 32,
        connections: 1,
        read_percent,
        flush_every: 0,
        pattern: Pattern::Random,
        span: size.file,
        time: size.time,
        seed: 1,
    }
}

/// All of them that `size` asks for. Reads stand before writes: they leave the files as they are.
pub fn cells(size: &Size) -> Vec<Cell> {
    let load = |block, depth, connections, read_percent, pattern| Load {
        block,
        depth,
        connections,
        pattern,
        ..main_load(size, read_percent)
    };
    let main = |read| main_load(size, read);
    let large = |read| load(256 << 10, 8, 1, read, Pattern::Sequential);
    let mut all = Vec::new();
    let mut add = |name: &str, client: Client, load: Load, on: &'static [Kind]| {
        let name = format!("{name} {}", client.name());
        all.push(Cell { name, client, state: State::Warm, load, on, slow: false });
    };
    let both = [Client::Generator, Client::Fio];
    both.iter().for_each(|c| add(READ, *c, main(100), &ALL));
    both.iter().for_each(|c| add(LARGE_READ, *c, large(100), &LARGE));
    if !size.brief {
        // The curve over depths needs the ratio, not the third digit.
        let time = size.time.min(Duration::from_millis(400));
        for (read, name, on) in [(100, "read", &READERS[..]), (0, "write", &WRITERS)] {
            for (depth, connections) in SHAPES {
                let load = Load { time, ..load(4096, depth, connections, read, Pattern::Random) };
                add(&format!("{name} 4k QD{depth}x{connections}"), Client::Generator, load, on);
            }
        }
    }
    both.iter().for_each(|c| add(WRITE, *c, main(0), &ALL));
    both.iter().for_each(|c| add(LARGE_WRITE, *c, large(0), &LARGE));
    let mixed = Load { flush_every: 64, ..main(70) };
    both.iter().for_each(|c| add(MIXED, *c, mixed.clone(), &FLUSHERS));
    both.iter().for_each(|c| add(COLD, *c, main(100), &FLUSHERS));
    let mut slow = Vec::new();
    for cell in &mut all {
        if cell.name.starts_with(COLD) {
            cell.state = State::Cold;
        }
        if cell.load.flush_every > 0 && cell.client == Client::Generator {
            slow.push(Cell {
                name: format!("{}, flushes 2 ms later", cell.name),
                slow: true,
                ..cell.clone()
            });
        }
    }
    all.extend(slow);
    all.retain(|cell| cell.name.contains(&size.only));
    all
}
