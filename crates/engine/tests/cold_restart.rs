//! The idea the restore order rests on, in small: below a guest's own cache a hot page is read once, at start, and never
//! again, so counts name what the cache keeps losing, and the trace of the last start names what the next one demands.
//!
//! A guest with a cache of a quarter of what it uses runs long over a scattered, skewed set that drifts a little, is then
//! started anew, and asks for what it needs. Judged: the share of its misses that are local when a tenth of the disk was
//! copied in each order.

use rekindle_core::usage::{Order, Ranker};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry, Uuid};
use rekindle_engine::usage::UsageMap;
use rekindle_io::logfile::MemDir;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

const EXTENTS: u64 = 8192;
const EXTENT: u64 = 1 << 16;

struct Guest {
    seed: u64,
    /// Rank to extent: hot places lie scattered.
    place: Vec<u64>,
    cumulative: Vec<f64>,
    cache: Vec<Option<(u64, bool)>>,
    hand: usize,
    cached: HashMap<u64, usize>,
}

impl Guest {
    fn new() -> Self {
        let mut place: Vec<u64> = (0..EXTENTS).collect();
        let mut guest = Guest {
            seed: 3,
            place: Vec::new(),
            cumulative: Vec::new(),
            cache: Vec::new(),
            hand: 0,
            cached: HashMap::new(),
        };
        (1..place.len()).rev().for_each(|i| place.swap(i, guest.random(i as u64 + 1) as usize));
        let weights = (1..=EXTENTS).map(|rank| 1.0 / rank as f64);
        guest.cumulative = weights
            .scan(0.0, |sum, w| {
                *sum += w;
                Some(*sum)
            })
            .collect();
        guest.place = place;
        guest.restart();
        guest
    }
    fn random(&mut self, n: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.seed >> 33) % n
    }
    fn restart(&mut self) {
        self.cache = vec![None; EXTENTS as usize / 4];
        self.cached.clear();
    }
    /// One access; gives the extent if the cache did not have it.
    fn access(&mut self) -> Option<u64> {
        let at = self.random(1 << 30) as f64 / (1u64 << 30) as f64 * self.cumulative[EXTENTS as usize - 1];
        let extent = self.place[self.cumulative.partition_point(|c| *c < at).min(EXTENTS as usize - 1)];
        if let Some(slot) = self.cached.get(&extent) {
            if let Some((_, used)) = &mut self.cache[*slot] {
                *used = true;
            }
            return None;
        }
        loop {
            self.hand = (self.hand + 1) % self.cache.len();
            match &mut self.cache[self.hand] {
                Some((_, used)) if *used => *used = false,
                slot => {
                    if let Some((old, _)) = slot.replace((extent, false)) {
                        self.cached.remove(&old);
                    }
                    self.cached.insert(extent, self.hand);
                    return Some(extent);
                }
            }
        }
    }
    /// A fraction of the hot places moves elsewhere.
    fn drift(&mut self) {
        for _ in 0..EXTENTS / 20 {
            let (a, b) = (self.random(EXTENTS) as usize, self.random(EXTENTS) as usize);
            self.place.swap(a, b);
        }
    }
}

#[test]
fn the_trace_of_a_start_names_what_the_next_one_demands() {
    let geometry =
        Geometry::new(EXTENTS * EXTENT, ExtentBytes::DEFAULT, 512, 4096).expect("a size that can be");
    let dir = MemDir::new();
    let map = UsageMap::open(&*dir, "usage", Uuid([1; 16]), geometry).expect("a map");
    let mut guest = Guest::new();
    let mut now = Duration::ZERO;
    let mut run = |guest: &mut Guest, accesses: u32, served: Duration| {
        for i in 0..accesses {
            if let Some(extent) = guest.access() {
                map.read(ByteRange::new(extent * EXTENT, 4096));
            }
            if i % (accesses / 10) == 0 {
                now += served / 10;
                map.served(now);
            }
        }
    };
    map.cold_start();
    run(&mut guest, 6_000, Duration::from_secs(60));
    for _ in 0..10 {
        run(&mut guest, 30_000, Duration::from_secs(600));
    }
    guest.drift();
    guest.restart();
    let demanded: Vec<u64> = (0..1_500).filter_map(|_| guest.access()).collect();
    let share = |order| {
        let hot = map.hot_list(order, &[], Ranker::LIMIT).expect("a hot list");
        let rest = (0..EXTENTS).filter(|e| !hot.contains(e));
        let copied: HashSet<u64> = hot.iter().copied().chain(rest).take(EXTENTS as usize / 10).collect();
        demanded.iter().filter(|e| copied.contains(e)).count() * 100 / demanded.len()
    };
    let [auto, trace, score, rate, count, linear] = Order::ALL.map(share);
    println!("share of {} misses local after a tenth of the disk, in per cent:", demanded.len());
    println!("auto {auto}, trace {trace}, score {score}, rate {rate}, count {count}, linear {linear}");
    assert!(auto >= 2 * linear, "auto {auto} against linear {linear}");
    assert!(auto > count + 5 && auto > rate + 5, "auto {auto} against count {count} and rate {rate}");
}
