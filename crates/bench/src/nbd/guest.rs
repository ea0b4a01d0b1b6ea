//! A guest that checks what it is told: a skewed mix of reads and writes, one at a time, every read compared with the
//! oracle, every answered write entered into it. The demo's client; also what loads a volume while a story runs.

use super::load::Random;
use super::oracle::{BLOCK, Oracle};
use super::wire::{Connection, Target};
use crate::stats::Percentiles;
use crate::{Result, fail};
use std::time::{Duration, Instant};

const EXTENT_BLOCKS: u64 = 16;

/// What the guest does.
pub struct Habits {
    /// For how long.
    pub time: Duration,
    /// Requests a second; 0: as fast as answers come.
    pub rate: u64,
    /// Share of reads, 0 to 100.
    pub read_percent: u64,
    /// Byte ranges (offset, length) it may write to; none: it only reads.
    pub write_in: Vec<(u64, u64)>,
    /// A FLUSH after so many writes; 0: never.
    pub flush_every: u64,
    /// Decides which extents are hot: the same seed, the same favourites.
    pub seed: u64,
    /// Keep trying to connect for so long.
    pub patience: Duration,
    /// Print a line a second.
    pub chatty: bool,
}

/// What it saw.
#[derive(Default)]
pub struct Seen {
    /// Reads answered.
    pub reads: u64,
    /// Writes answered.
    pub writes: u64,
    /// Blocks that did not hold what they should.
    pub wrong: u64,
}

/// Picks extents with Zipf's skew, in an order that has nothing to do with their place on the disk.
struct Favourites {
    extents: u64,
    stride: u64,
}

impl Favourites {
    fn new(extents: u64, seed: u64) -> Self {
        // A stride without a factor in common visits every extent: a permutation without a table.
        let mut stride = (Random::new(seed).next() % extents.max(1)) | 1;
        while gcd(stride, extents) != 1 {
            stride += 2;
        }
        Favourites { extents, stride }
    }

    fn pick(&self, random: &mut Random) -> u64 {
        // Log-uniform rank: the continuous Zipf distribution with exponent 1.
        let rank = (((self.extents + 1) as f64).powf(random.unit()) as u64 - 1).min(self.extents - 1);
        (u128::from(rank) * u128::from(self.stride) % u128::from(self.extents)) as u64
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// The blocks a guest may write, numbered through.
fn writable(ranges: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let whole = |&(offset, len): &(u64, u64)| (offset.div_ceil(BLOCK), (offset + len) / BLOCK);
    ranges.iter().map(whole).filter(|(first, end)| end > first).collect()
}

struct Guest<'a> {
    connection: Connection,
    oracle: &'a mut Oracle,
    random: Random,
    seen: Seen,
    latency: Percentiles,
    block: Vec<u8>,
}

impl Guest<'_> {
    fn read(&mut self, block: u64) -> Result<()> {
        self.connection.read(block * BLOCK, &mut self.block)?;
        self.seen.reads += 1;
        if !self.oracle.holds(block, &self.block) {
            self.seen.wrong += 1;
            println!("guest     WRONG bytes in block {block}");
        }
        Ok(())
    }

    fn write(&mut self, block: u64) -> Result<()> {
        let mut fill = Random::new(self.random.next());
        for word in self.block.chunks_exact_mut(8) {
            word.copy_from_slice(&(fill.next() & 0x0F0F_0F0F_0F0F_0F0F).to_le_bytes());
        }
        self.connection.write(block * BLOCK, &self.block)?;
        self.seen.writes += 1;
        self.oracle.wrote(block, &self.block);
        Ok(())
    }

    fn say(&mut self, began: Instant) {
        println!(
            "guest     {:5.1} s  {:7} reads {:6} writes  p50 {:6.2} ms  p99 {:6.2} ms  {} wrong",
            began.elapsed().as_secs_f64(),
            self.seen.reads,
            self.seen.writes,
            self.latency.at(50.0) as f64 / 1000.0,
            self.latency.at(99.0) as f64 / 1000.0,
            self.seen.wrong
        );
        self.latency = Percentiles::new();
    }
}

/// Lives the habits on `target`; the oracle is saved at the end. Fails when a byte was wrong.
pub fn live(target: &Target, habits: &Habits, oracle: &mut Oracle) -> Result<Seen> {
    let connection = Connection::open_within(target, habits.patience)?;
    if connection.size.div_ceil(BLOCK) != oracle.blocks() {
        return fail("the export has another size than the oracle");
    }
    let random = Random::new(habits.seed ^ 0x5EED);
    let (seen, latency) = (Seen::default(), Percentiles::new());
    let mut guest = Guest { connection, oracle, random, seen, latency, block: vec![0; BLOCK as usize] };
    let readable = Favourites::new((guest.oracle.blocks() / EXTENT_BLOCKS).max(1), habits.seed);
    let ranges = writable(&habits.write_in);
    let total: u64 = ranges.iter().map(|(first, end)| end - first).sum();
    let favourites = Favourites::new(total.max(1), habits.seed);
    let began = Instant::now();
    let (mut said, mut done, mut unflushed) = (began, 0, 0);
    while began.elapsed() < habits.time {
        let asked = Instant::now();
        if total == 0 || guest.random.below(100) < habits.read_percent {
            let extent = readable.pick(&mut guest.random);
            let block = extent * EXTENT_BLOCKS + guest.random.below(EXTENT_BLOCKS);
            guest.read(block.min(guest.oracle.blocks() - 1))?;
        } else {
            let nth = favourites.pick(&mut guest.random);
            guest.write(nth_block(&ranges, nth))?;
            unflushed += 1;
            if habits.flush_every > 0 && unflushed >= habits.flush_every {
                guest.connection.flush()?;
                unflushed = 0;
            }
        }
        guest.latency.add(asked.elapsed());
        done += 1;
        if habits.chatty && said.elapsed() >= Duration::from_secs(1) {
            guest.say(began);
            said = Instant::now();
        }
        pace(habits.rate, began, done);
    }
    guest.connection.flush()?;
    guest.oracle.save()?;
    let Guest { seen, connection, .. } = guest;
    connection.disconnect()?;
    if seen.wrong > 0 { fail(format!("{} blocks were wrong", seen.wrong)) } else { Ok(seen) }
}

fn nth_block(ranges: &[(u64, u64)], mut nth: u64) -> u64 {
    for (first, end) in ranges {
        if nth < end - first {
            return first + nth;
        }
        nth -= end - first;
    }
    ranges[0].0
}

/// Sleeps until the `done`-th request is due.
fn pace(rate: u64, began: Instant, done: u64) {
    if rate > 0 {
        let due = Duration::from_secs_f64(done as f64 / rate as f64);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn favourites_reach_every_extent_and_are_skewed() {
        let favourites = Favourites::new(1000, 3);
        let mut random = Random::new(1);
        let mut counts = vec![0u32; 1000];
        for _ in 0..200_000 {
            counts[favourites.pick(&mut random) as usize] += 1;
        }
        assert!(counts.iter().all(|c| *c > 0));
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let top: u32 = counts[..100].iter().sum();
        assert!(top > 100_000, "a tenth of the extents gets over half: {top}");
    }

    #[test]
    fn blocks_of_ranges_are_numbered_through() {
        let ranges = writable(&[(4096, 8192), (100_000, 5000), (1 << 20, 10_000)]);
        assert_eq!(ranges, [(1, 3), (256, 258)]);
        assert_eq!((0..4).map(|n| nth_block(&ranges, n)).collect::<Vec<_>>(), [1, 2, 256, 257]);
    }
}
