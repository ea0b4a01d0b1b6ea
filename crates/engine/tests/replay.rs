//! Does the usage map name what comes next? A real block trace teaches the map with its first half, then a cold restore is
//! replayed against the second half over links of three speeds: how many reads have to wait for the holder.
//!
//! The trace is not part of the project: give its path in REKINDLE_BLOCK_TRACE (CSV: microseconds, R or W, offset, length;
//! `.xz` is unpacked by the xz program). Without it the same replay runs on a small made-up trace, and says so.

use rekindle_core::hydrate::{Next, Outcome, Pass, Rest, Schedule, SetSchedule, Wanted, neighbours};
use rekindle_core::usage::{Order, Ranker, Traced};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry, Uuid};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::MemDir;
use std::collections::VecDeque;
use std::process::Command;
use std::sync::Arc;

const EXTENT: u64 = 1 << 16;

fn parse(text: &str) -> Vec<Traced> {
    let line = |l: &str| {
        let mut f = l.split(',');
        let at_us: u64 = f.next()?.parse().ok()?;
        let is_read = f.next()? == "R";
        let (start, len) = (f.next()?.parse().ok()?, f.next()?.parse().ok()?);
        Some(Traced { at_ms: at_us / 1000, range: ByteRange::new(start, len), is_read })
    };
    text.lines().skip(1).filter_map(line).collect()
}
fn real() -> Option<Vec<Traced>> {
    let path = std::env::var("REKINDLE_BLOCK_TRACE").ok()?;
    let text = if path.ends_with(".xz") {
        String::from_utf8(Command::new("xz").args(["-dc", &path]).output().ok()?.stdout).ok()?
    } else {
        std::fs::read_to_string(&path).ok()?
    };
    Some(parse(&text)).filter(|t| t.len() > 1000)
}
/// Numbers below what it is asked for, always the same ones.
fn dice() -> impl FnMut(u64) -> u64 {
    let mut seed = 7u64;
    move |n: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % n
    }
}
/// Two halves in small: a scattered hot set, read in runs, a quarter of the second half in new places.
fn made_up() -> Vec<Traced> {
    let mut random = dice();
    let ops = (0..8000u64).map(|i| {
        let place = if i < 4000 || random(4) > 0 { random(60) } else { 60 + random(30) };
        let extent = place * 997 % 20_000 + random(8);
        Traced { at_ms: i * 100, range: ByteRange::new(extent * EXTENT, 4096), is_read: random(5) > 0 }
    });
    ops.collect()
}

/// A guest that reads at random, by a skewed weight, of a scattered fifth of its disk: no extent's neighbour is likelier
/// than any other.
fn skewed() -> Vec<Traced> {
    let mut random = dice();
    let ops = (0..40_000u64).map(|i| {
        let place = 1600 * random(1000).pow(2) / 1_000_000;
        let range = ByteRange::new(place * 4_999 % 8192 * EXTENT, 4096);
        Traced { at_ms: i * 10 / 4, range, is_read: random(5) > 0 }
    });
    ops.collect()
}

struct Replay {
    extents: u64,
    local: Vec<bool>,
    rest: Linear,
}
struct Linear(u64, u64);
impl Rest for Linear {
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
        if self.0 == self.1 {
            self.0 = 0;
            return Pass::Over;
        }
        let end = (self.0 + 4096).min(self.1);
        out.extend(self.0..end);
        self.0 = end;
        Pass::More
    }
}
impl Wanted for Replay {
    fn claim_fetch(&mut self, next: Next) -> Option<u32> {
        let slot = &mut self.local[next.extent as usize];
        (!std::mem::replace(slot, true)).then_some(EXTENT as u32)
    }
    fn rest(&mut self, _: usize) -> &mut dyn Rest {
        &mut self.rest
    }
}

/// Reads that had to wait, and extents of the whole trace that were read.
fn misses(judge: &[Traced], extents: u64, hot: &[u64], mbit: u64, neighbours_max: Option<u64>) -> u64 {
    let rate = mbit * 125_000;
    let mut w = Replay { extents, local: vec![false; extents as usize], rest: Linear(0, extents) };
    let mut s = SetSchedule::new(vec![Schedule::new(extents, hot.to_vec(), 100)]);
    s.volumes[0].set_neighbours(neighbours_max.unwrap_or_else(|| neighbours(rate, EXTENT)));
    let per_extent = EXTENT * 1_000_000 / rate; // microseconds on the wire
    let began = judge.first().map_or(0, |t| t.at_ms * 1000);
    let (mut free_at, mut missed) = (began, 0);
    for op in judge.iter().filter(|t| t.is_read) {
        let now = op.at_ms * 1000;
        while free_at + per_extent <= now {
            match s.next(&mut w) {
                Outcome::Fetch(_) => free_at += per_extent,
                Outcome::Again => {}
                Outcome::Swept => free_at = now,
            }
        }
        for e in op.range.start / EXTENT..=(op.range.end() - 1) / EXTENT {
            if e < w.extents && !std::mem::replace(&mut w.local[e as usize], true) {
                missed += 1;
                free_at = free_at.max(now) + per_extent;
                s.volumes[0].missed(e);
            }
        }
    }
    missed
}

/// A map taught by the first half of a trace, its extents, and the second half.
fn taught(trace: &[Traced]) -> (Arc<UsageMap>, u64, &[Traced]) {
    let size = trace.iter().map(|t| t.range.end()).max().unwrap_or(0).next_multiple_of(EXTENT);
    let geometry = Geometry::new(size, ExtentBytes::DEFAULT, 512, 4096).expect("a size that can be");
    let map = UsageMap::open(&*MemDir::new(), "usage", Uuid([1; 16]), geometry).expect("a map");
    let half = trace.partition_point(|t| t.at_ms < trace[trace.len() - 1].at_ms / 2);
    let (train, judge) = trace.split_at(half);
    let mut clock = 0;
    train.iter().for_each(|t| map.import(*t, &mut clock));
    (map, geometry.extents(), judge)
}

/// With neighbours first the hot list starves, and three of four of what it saves are missed after all.
#[test]
fn neighbours_of_random_reads_do_not_starve_the_hot_list() {
    let trace = skewed();
    let (map, extents, judge) = taught(&trace);
    let hot = map.hot_list(Order::Auto, &[], Ranker::LIMIT).expect("a hot list");
    for mbit in [100, 200, 1000] {
        let linear = misses(judge, extents, &[], mbit, Some(0));
        let (without, with) =
            (misses(judge, extents, &hot, mbit, Some(0)), misses(judge, extents, &hot, mbit, None));
        println!("{mbit:>6} Mbit/s: linear {linear}, hot list {without}, with neighbours {with}");
        assert!(
            with - without <= (linear - without) / 6,
            "{mbit}: {with}, {without} without, {linear} linear"
        );
    }
}

#[test]
fn what_the_map_names_is_what_comes_next() {
    let trace = match real() {
        Some(trace) => trace,
        None => {
            println!("no real trace: set REKINDLE_BLOCK_TRACE to one; a made-up one stands in");
            made_up()
        }
    };
    let (map, extents, judge) = taught(&trace);
    let reads = judge.iter().filter(|t| t.is_read).count();
    println!("{extents} extents, {reads} reads judged; misses:");
    println!("{:>10} {:>8} | linear  count   rate  score  trace   auto | auto+16  auto+link", "link", "");
    for mbit in [25, 100, 1000] {
        let with = |order, n| {
            let hot = map.hot_list(order, &[], Ranker::LIMIT).expect("a hot list");
            misses(judge, extents, &hot, mbit, n)
        };
        let of = |order| with(order, Some(0));
        let (linear, auto) = (of(Order::Linear), of(Order::Auto));
        let (auto16, link) = (with(Order::Auto, Some(16)), with(Order::Auto, None));
        let others = [Order::Count, Order::Rate, Order::Score, Order::Trace].map(of);
        let o = others;
        println!(
            "{mbit:>6} Mbit/s {:>6} | {linear:>6} {:>6} {:>6} {:>6} {:>6} {auto:>6} | {auto16:>7} {link:>7}",
            "", o[0], o[1], o[2], o[3]
        );
        assert!(auto < linear, "{mbit} Mbit/s: the map must help: {auto} against {linear}");
        assert!(link <= auto + auto / 20, "{mbit} Mbit/s: neighbours must not cost: {link} against {auto}");
    }
}
