//! Would the usage map have helped a real disk? A trace of block I/O (REKINDLE_BLOCK_TRACE: CSV of time in microseconds, R or
//! W, offset and length in bytes; .xz is unpacked) trains a map with its first half. Its second half is then replayed
//! against a restore over a link: who reads what is not there waits, and is counted. The map, its orders and the schedule
//! with its promoted neighbours are the product's own; the link is a model that moves so many bytes a second.

use crate::rig::report::{Report, Table};
use crate::{Result, fail};
use rekindle_core::hydrate::{NEIGHBOURS, Next, Outcome, Pass, Rest, Schedule, SetSchedule, Wanted};
use rekindle_core::usage::{Order, Ranker, Traced};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry, Uuid};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::RealDir;
use std::collections::{HashSet, VecDeque};
use std::path::Path;
use std::process::Command;

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

/// Measures and reports; without a trace says so.
pub fn run(report: &Report) -> Result<()> {
    let Some(path) = std::env::var_os("REKINDLE_BLOCK_TRACE") else {
        println!("skipped: REKINDLE_BLOCK_TRACE names no trace of a real disk");
        return Ok(());
    };
    let ops = load(Path::new(&path))?;
    let end = ops.iter().map(|op| op.traced.range.end()).max().unwrap_or(0).next_multiple_of(EXTENT);
    let middle = ops.partition_point(|op| op.us < ops[ops.len() - 1].us / 2);
    let (first, second) = ops.split_at(middle);
    if second.is_empty() || first.is_empty() {
        return fail("a trace of one moment has no halves");
    }
    let folder = tempfile::tempdir()?;
    let geometry = Geometry::new(end, ExtentBytes::DEFAULT, 512, 4096)?;
    let map = UsageMap::open(&*RealDir::open(folder.path())?, "usage", Uuid([3; 16]), geometry)?;
    let mut clock = 0;
    first.iter().for_each(|op| map.import(op.traced, &mut clock));
    let mut orders = vec![("oracle", oracle(second))];
    for order in Order::ALL {
        let hot = if order == Order::Linear { Vec::new() } else { map.hot_list(order, &[], Ranker::LIMIT)? };
        orders.push((order.name(), hot));
    }
    let mut table =
        Table::new(&["link", "order", "extents it names", "reads that waited", "neighbours promoted"]);
    for (link, rate) in LINKS {
        for (name, hot) in &orders {
            let wait = |promote| missed(second, geometry.extents(), hot.clone(), promote, rate).to_string();
            let cells = [link, name].map(str::to_owned).into_iter();
            table.row(cells.chain([hot.len().to_string(), wait(0), wait(NEIGHBOURS)]).collect());
        }
    }
    let reads = second.iter().filter(|op| op.traced.is_read).count();
    report.section(
        "trace",
        &format!(
            "A trace of {} operations over {} GiB; its first half trains, its second is judged: {reads} reads of {} extents. \
             An extent that was fetched, or read once, is there. Neighbours: the {NEIGHBOURS} extents behind a miss come \
             next. Raw bytes, nothing compresses; no target of its own.\n\n{}",
            ops.len(),
            end >> 30,
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
}
