//! Would the usage map have helped a real disk? A trace of block I/O (REKINDLE_BLOCK_TRACE: CSV of time in microseconds, R or
//! W, offset and length in bytes; .xz is unpacked) trains a map with its first half. Its second half is then replayed
//! against a restore over a link: who reads what is not there waits, and is counted. The map, its orders and the schedule
//! with its promoted neighbours are the product's own; the link is a model that moves so many bytes a second.

use crate::rig::report::{Report, Table};
use crate::{Result, fail};
use rekindle_core::hydrate::{
    NEIGHBOURS, Next, Outcome, Pass, Rest, Schedule, SetSchedule, Wanted, neighbours,
};
use rekindle_core::usage::{Order, Ranker, Traced};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry, Uuid};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::MemDir;
use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

const EXTENT: u64 = 64 << 10;
const LINKS: [(&str, u64); 3] =
    [("25 Mbit/s", 3_125_000), ("100 Mbit/s", 12_500_000), ("1 Gbit/s", 125_000_000)];

/// One operation and its microsecond.
struct Op {
    us: u64,
    traced: Traced,
}

fn load(path: &Path) -> Result<Vec<Op>> {
    let text = if path.extension().is_some_and(|e| e == "xz") {
        let out = Command::new("xz").arg("-dc").arg(path).output().map_err(|e| format!("xz: {e}"))?;
        String::from_utf8(out.stdout)?
    } else {
        std::fs::read_to_string(path)?
    };
    let ops: Result<Vec<Op>> = text.lines().skip(1).map(operation).collect();
    let ops = ops?;
    if ops.is_empty() { fail(format!("{}: no operation in it", path.display())) } else { Ok(ops) }
}

fn operation(line: &str) -> Result<Op> {
    let fields: Vec<&str> = line.split(',').collect();
    let &[us, op, offset, length] = fields.as_slice() else {
        return fail(format!("not time,op,offset,length: {line}"));
    };
    let us = us.parse()?;
    let range = ByteRange::new(offset.parse()?, length.parse()?);
    Ok(Op { us, traced: Traced { at_ms: us / 1000, range, is_read: op == "R" } })
}

/// Everything that is copied, from the first extent to the last.
struct Ascending {
    next: u64,
    extents: u64,
}

impl Rest for Ascending {
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
        let end = (self.next + 1024).min(self.extents);
        out.extend(self.next..end);
        let over = self.next == end;
        self.next = if over { 0 } else { end };
        if over { Pass::Over } else { Pass::More }
    }
}

/// A restoring disk over a link.
struct Disk {
    local: Vec<bool>,
    rest: Ascending,
}

impl Wanted for Disk {
    fn claim_fetch(&mut self, next: Next) -> Option<u32> {
        let there = std::mem::replace(&mut self.local[next.extent as usize], true);
        (!there).then_some(EXTENT as u32)
    }

    fn rest(&mut self, _: usize) -> &mut dyn Rest {
        &mut self.rest
    }
}

/// How many reads of `ops` would have waited: one an extent and second, as a guest that waits asks no more.
fn missed(ops: &[Op], extents: u64, hot: Vec<u64>, promote: u64, bytes_per_s: u64) -> u64 {
    let mut disk = Disk { local: vec![false; extents as usize], rest: Ascending { next: 0, extents } };
    let mut schedule = Schedule::new(extents, hot, 100);
    schedule.set_neighbours(promote);
    let mut set = SetSchedule::new(vec![schedule]);
    let us_of_an_extent = EXTENT as f64 * 1e6 / bytes_per_s as f64;
    // The link is busy until then; demand reads go before what the background would take next.
    let mut free_at = ops[0].us as f64;
    let (mut waited, mut swept) = (0, false);
    for op in ops.iter().filter(|op| op.traced.is_read) {
        while !swept && free_at + us_of_an_extent <= op.us as f64 {
            match set.next(&mut disk) {
                Outcome::Fetch(_) => free_at += us_of_an_extent,
                Outcome::Again => {}
                Outcome::Swept => swept = true,
            }
        }
        let range = op.traced.range;
        for extent in range.start / EXTENT..=(range.end().max(1) - 1) / EXTENT {
            if !std::mem::replace(&mut disk.local[extent as usize], true) {
                waited += 1;
                free_at = free_at.max(op.us as f64) + us_of_an_extent;
                if promote > 0 {
                    set.volumes[0].missed(extent);
                }
            }
        }
    }
    waited
}

/// Extents of the second half in the order of their first read: what nobody can know.
fn oracle(ops: &[Op]) -> Vec<u64> {
    let mut seen = HashSet::new();
    let reads = ops.iter().filter(|op| op.traced.is_read);
    let extents =
        reads.flat_map(|op| op.traced.range.start / EXTENT..=(op.traced.range.end().max(1) - 1) / EXTENT);
    extents.filter(|extent| seen.insert(*extent)).collect()
}

/// A map that the first half of a trace has taught, the extents of the disk, and the second half.
fn taught(ops: &[Op]) -> Result<(Arc<UsageMap>, u64, &[Op])> {
    let end = ops.iter().map(|op| op.traced.range.end()).max().unwrap_or(0).next_multiple_of(EXTENT);
    let middle = ops.partition_point(|op| op.us < ops[ops.len() - 1].us / 2);
    let (first, second) = ops.split_at(middle);
    if second.is_empty() || first.is_empty() {
        return fail("a trace of one moment has no halves");
    }
    let geometry = Geometry::new(end, ExtentBytes::DEFAULT, 512, 4096)?;
    let map = UsageMap::open(&*MemDir::new(), "usage", Uuid([3; 16]), geometry)?;
    let mut clock = 0;
    first.iter().for_each(|op| map.import(op.traced, &mut clock));
    Ok((map, geometry.extents(), second))
}

/// Measures and reports; without a trace says so.
pub fn run(report: &Report) -> Result<()> {
    let Some(path) = std::env::var_os("REKINDLE_BLOCK_TRACE") else {
        println!("skipped: REKINDLE_BLOCK_TRACE names no trace of a real disk");
        return Ok(());
    };
    let ops = load(Path::new(&path))?;
    let (map, extents, second) = taught(&ops)?;
    let mut orders = vec![("oracle", oracle(second))];
    for order in Order::ALL {
        let hot = if order == Order::Linear { Vec::new() } else { map.hot_list(order, &[], Ranker::LIMIT)? };
        orders.push((order.name(), hot));
    }
    let mut table =
        Table::new(&["link", "order", "extents it names", "reads that waited", "neighbours promoted"]);
    for (link, rate) in LINKS {
        for (name, hot) in &orders {
            let wait = |promote| missed(second, extents, hot.clone(), promote, rate).to_string();
            let cells = [link, name].map(str::to_owned).into_iter();
            table
                .row(cells.chain([hot.len().to_string(), wait(0), wait(neighbours(rate, EXTENT))]).collect());
        }
    }
    let reads = second.iter().filter(|op| op.traced.is_read).count();
    report.section(
        "trace",
        &format!(
            "A trace of {} operations over {} GiB; its first half trains, its second is judged: {reads} reads of {} extents. \
             An extent that was fetched, or read once, is there. Neighbours: of the {NEIGHBOURS} extents behind a \
             miss, those that the link moves in 100 ms come next. Raw bytes, nothing compresses; no target of its own.\n\n{}",
            ops.len(),
            (extents * EXTENT) >> 30,
            oracle(second).len(),
            table.markdown()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads(extents: &[u64], every_us: u64) -> Vec<Op> {
        let line = |(i, e): (usize, &u64)| {
            operation(&format!("{},R,{},4096", i as u64 * every_us, e * EXTENT)).unwrap()
        };
        extents.iter().enumerate().map(line).collect()
    }

    #[test]
    fn what_the_link_brought_in_time_is_not_waited_for() {
        // A link of an extent each 1,000 us; a read each 3,000 us.
        let (ops, rate) = (reads(&[9, 0, 8, 50, 51, 52], 3000), EXTENT * 1000);
        let all = missed(&ops, 64, Vec::new(), 0, rate);
        assert_eq!(all, 5, "9 came too late, 0 in time, the others before their turn");
        assert_eq!(missed(&ops, 64, oracle(&ops), 0, rate), 1, "even an oracle has no time before the first");
        assert_eq!(
            missed(&ops, 64, Vec::new(), 16, rate),
            4,
            "51 and 52 are neighbours of 50, but those of 9 delayed 0"
        );
    }

    /// Operations, four reads to a write, one every `us` microseconds, where `place` says.
    fn made_up(
        count: u64,
        us: u64,
        mut place: impl FnMut(u64, &mut dyn FnMut(u64) -> u64) -> u64,
    ) -> Vec<Op> {
        let mut seed = 7u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % n
        };
        let mut one = |i| {
            let extent = place(i, &mut random);
            let op = if random(5) > 0 { "R" } else { "W" };
            operation(&format!("{},{op},{},4096", i * us, extent * EXTENT)).unwrap()
        };
        (0..count).map(&mut one).collect()
    }
    fn hot(map: &UsageMap) -> Vec<u64> {
        map.hot_list(Order::Auto, &[], Ranker::LIMIT).unwrap()
    }

    /// A guest that reads at random, by a skewed weight, of a scattered fifth of its disk: no extent's neighbour is likelier
    /// than any other. With neighbours first the hot list starves, and three of four of what it saves are missed after all.
    #[test]
    fn neighbours_of_random_reads_do_not_starve_the_hot_list() {
        let ops = made_up(40_000, 2500, |_, random| 1600 * random(1000).pow(2) / 1_000_000 * 4_999 % 8192);
        let (map, extents, second) = taught(&ops).unwrap();
        for rate in [12_500_000, 25_000_000, 125_000_000] {
            let wait = |hot, promote| missed(second, extents, hot, promote, rate);
            let (linear, without) = (wait(Vec::new(), 0), wait(hot(&map), 0));
            let with = wait(hot(&map), neighbours(rate, EXTENT));
            assert!(with - without <= (linear - without) / 6, "{rate}: {linear} linear, {without}, {with}");
        }
    }

    /// A scattered hot set, read in runs, a quarter of the second half in new places: the map names what comes next.
    #[test]
    fn the_map_helps_and_neighbours_do_not_cost() {
        let ops = made_up(8000, 100_000, |i, random| {
            let place = if i < 4000 || random(4) > 0 { random(60) } else { 60 + random(30) };
            place * 997 % 20_000 + random(8)
        });
        let (map, extents, second) = taught(&ops).unwrap();
        for (link, rate) in LINKS {
            let wait = |hot, promote| missed(second, extents, hot, promote, rate);
            let (linear, auto) = (wait(Vec::new(), 0), wait(hot(&map), 0));
            let with = wait(hot(&map), neighbours(rate, EXTENT));
            assert!(auto < linear, "{link}: {auto} against {linear}");
            assert!(with <= auto + auto / 20, "{link}: {with} against {auto}");
        }
    }
}
