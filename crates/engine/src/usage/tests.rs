//! The whole map against a plain model, through crashes, damage and full disks, on folders in memory.

use super::file::FactsFile;
use super::*;
use rekindle_core::usage::{Facts, LATE, Order, PageHead, Summary, TICK_MS, Traced, empty_page};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry, Uuid};
use rekindle_io::Kind;
use rekindle_io::fault::{Crash, FaultPlan};
use rekindle_io::logfile::{FaultyDir, LogDir, MemDir};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const EXTENT: u64 = 1 << 16;
const VOLUME: Uuid = Uuid([5; 16]);

fn geometry(extents: u64) -> Geometry {
    Geometry::new(extents * EXTENT, ExtentBytes::DEFAULT, 512, 4096).unwrap()
}
struct World {
    dir: Arc<MemDir>,
    map: Arc<UsageMap>,
    now: Duration,
}
impl World {
    fn new(extents: u64) -> Self {
        let dir = MemDir::new();
        let map = UsageMap::open(&*dir, "usage", VOLUME, geometry(extents)).unwrap();
        map.served(Duration::ZERO);
        map.cold_start();
        World { dir, map, now: Duration::ZERO }
    }
    fn reopen(&mut self) {
        let extents = self.map.geometry().extents();
        self.map = UsageMap::open(&*self.dir, "usage", VOLUME, geometry(extents)).unwrap();
        self.map.served(self.now);
    }
    fn serve(&mut self, ms: u64) {
        for _ in 0..ms / 1000 {
            self.now += Duration::from_secs(1);
            self.map.served(self.now);
        }
    }
    fn read(&self, extent: u64) {
        self.map.read(ByteRange::new(extent * EXTENT + 4096, 4096));
    }
    fn write(&self, extent: u64) {
        self.map.write(ByteRange::new(extent * EXTENT + 8192, 512));
    }
    fn facts(&self) -> BTreeMap<u64, Facts> {
        facts(&self.map)
    }
}
fn facts(map: &UsageMap) -> BTreeMap<u64, Facts> {
    let mut all = BTreeMap::new();
    map.visit(&mut |e, f| assert!(all.insert(e, *f).is_none(), "{e} twice")).unwrap();
    all
}
fn pages(map: &UsageMap, parent: Option<&[u8]>) -> (UsageSnapshot, BTreeMap<u64, Vec<u8>>) {
    let mut all = BTreeMap::new();
    let emit = &mut |index, bytes| {
        all.insert(index, bytes);
        Ok(())
    };
    let snapshot = map.snapshot(parent, emit).unwrap();
    (snapshot, all)
}

#[test]
fn counts_are_exact_whatever_the_folds() {
    let mut w = World::new(5000);
    let mut model: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let mut seed = 9u64;
    for step in 0..3000u64 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let extent = if step % 3 == 0 { 4999 } else { (seed >> 33) % 5000 };
        if seed >> 62 == 0 {
            w.write(extent);
            model.entry(extent).or_default().1 += 1;
        } else {
            w.read(extent);
            model.entry(extent).or_default().0 += 1;
        }
        if step % 97 == 0 {
            w.serve(7_000);
        }
        if step % 1000 == 999 {
            w.map.close().unwrap();
            w.reopen();
        }
    }
    let got: BTreeMap<u64, (u32, u32)> = w.facts().iter().map(|(e, f)| (*e, (f.reads, f.writes))).collect();
    assert_eq!(got, model);
}

#[test]
fn an_operation_counts_on_every_extent_it_touches_and_a_huge_discard_on_none() {
    let w = World::new(5000);
    w.map.read(ByteRange::new(EXTENT - 512, EXTENT + 1024));
    w.map.write(ByteRange::new(0, 1024 * EXTENT));
    w.map.write(ByteRange::new(0, 5000 * EXTENT));
    let facts = w.facts();
    assert_eq!(facts.len(), 1024);
    let reads: Vec<u32> = (0..4).map(|e| facts[&e].reads).collect();
    assert_eq!((reads, facts[&3].writes), (vec![1, 1, 1, 0], 1));
}

#[test]
fn a_cold_start_is_seen_after_a_quiet_minute_and_ranks_what_follows() {
    let mut w = World::new(3000);
    w.read(7);
    w.write(8);
    w.serve(120_000);
    w.map.read(ByteRange::new(0, 512));
    for e in (100..140).rev() {
        w.read(e);
    }
    w.write(8);
    w.serve(2_000);
    let f = w.facts();
    assert_eq!(w.map.summary().cold_starts, 2);
    assert_eq!(
        (f[&0].rank(), f[&139].rank(), f[&125].rank(), f[&100].rank()),
        (Some(0), Some(0), Some(0), Some(2))
    );
    assert_eq!((f[&7].rank(), f[&7].rank_before()), (None, Some(0)), "the old set is the set before");
    assert_eq!(f[&8].rank(), Some(LATE), "written only: in the set, late");
    let hot = w.map.hot_list(Order::Auto, &[], 100).unwrap();
    assert_eq!(hot[42..], [8, 99], "the set, and what has half of its neighbourhood in it");
    assert!(hot[..16].iter().all(|e| *e == 0 || (124..140).contains(e)), "{hot:?}");
}

#[test]
fn a_new_volume_traces_from_its_first_boot_read_on() {
    let dir = MemDir::new();
    let map = UsageMap::open(&*dir, "usage", VOLUME, geometry(100)).unwrap();
    let read = |e: u64| map.read(ByteRange::new(e * EXTENT, 512));
    read(99);
    map.served(Duration::ZERO);
    read(98);
    assert_eq!(map.summary().cold_starts, 0);
    assert_eq!(facts(&map)[&98].rank(), Some(LATE), "whoever goes on where nobody looked: by score");
    read(0);
    read(50);
    let f = facts(&map);
    assert_eq!((map.summary().cold_starts, f[&50].rank(), f[&98].rank()), (1, Some(0), None));
}

#[test]
fn a_summary_is_of_now_and_not_of_the_last_fold() {
    let mut w = World::new(8);
    w.read(1);
    w.serve(TICK_MS);
    let folded = w.map.summary();
    assert_eq!((folded.since_start_ms, folded.trace_extents), (TICK_MS, 1));
    // Nothing is touched, so nothing is folded; time is served all the same.
    w.serve(3_000);
    assert_eq!(w.map.summary().since_start_ms, TICK_MS + 3_000);
    let carried = Summary::decode(VOLUME, &pages(&w.map, None).0.summary).unwrap();
    assert_eq!(carried.since_start_ms, TICK_MS + 3_000, "a snapshot carries no older one");
}

#[test]
fn a_restart_of_the_server_is_no_cold_start_and_does_not_break_the_trace() {
    let mut w = World::new(3000);
    (0..20).for_each(|e| w.read(e * 3));
    w.serve(12_000);
    w.map.close().unwrap();
    w.reopen();
    w.map.read(ByteRange::new(0, 512));
    (0..20).rev().for_each(|e| w.read(e * 3));
    w.read(2999);
    let f = w.facts();
    assert_eq!(w.map.opened(), Opened::Kept);
    assert_eq!((f[&0].rank(), f[&57].rank(), f[&2999].rank()), (Some(0), Some(1), Some(2)));
    assert_eq!(w.map.summary().cold_starts, 1);
}

#[test]
fn after_an_hour_first_reads_are_late() {
    let mut w = World::new(3000);
    w.read(1);
    w.now += Duration::from_secs(59);
    w.serve(1_000);
    for _ in 0..70 {
        w.now += Duration::from_secs(59);
        w.read(1);
        w.serve(1_000);
    }
    w.read(2);
    let f = w.facts();
    assert_eq!((f[&1].rank(), f[&2].rank()), (Some(0), Some(LATE)));
}

#[test]
fn a_scan_counts_but_scores_little() {
    let mut w = World::new(3000);
    for _ in 0..3 {
        (0..500).for_each(|e| w.map.read(ByteRange::new(e * EXTENT, EXTENT)));
        (1000..1010).for_each(|e| w.read(e * 2));
        w.serve(11_000);
    }
    let f = w.facts();
    assert_eq!((f[&300].reads, f[&2000].reads), (3, 3));
    assert!(f[&300].score < f[&2000].score && f[&300].rate == f[&2000].rate);
    let hot = w.map.hot_list(Order::Score, &[], 25).unwrap();
    assert!(hot.iter().all(|e| *e < 16 || *e >= 2000), "a scan is known from its 16th extent on: {hot:?}");
}

#[test]
fn snapshots_carry_changed_pages_only_and_a_restore_inherits_them() {
    let mut w = World::new(10 * 1024);
    (0..10).for_each(|p| w.read(p * 1024));
    w.serve(11_000);
    let (first, mut stored) = pages(&w.map, None);
    assert_eq!((stored.len(), first.is_whole), (10, true));
    let (again, none) = pages(&w.map, Some(&first.summary));
    assert!(none.is_empty() && !again.is_whole, "an idle volume rewrites nothing");
    w.write(3 * 1024 + 5);
    let (second, changed) = pages(&w.map, Some(&again.summary));
    assert_eq!(changed.keys().copied().collect::<Vec<_>>(), [3]);
    stored.extend(changed);
    w.map.close().unwrap();
    w.reopen();
    let (third, none) = pages(&w.map, Some(&second.summary));
    assert!(none.is_empty() && !third.is_whole, "the stamp survives a restart");

    let target = World::new(10 * 1024);
    let came = target.map.inherit(VOLUME, &third.summary, &mut stored.clone().into_iter()).unwrap();
    assert_eq!((came.pages, came.damaged), (10, 0));
    let mut aged = w.facts();
    aged.values_mut().for_each(|f| f.age(0, 1));
    assert_eq!(target.facts(), aged, "a restore is a cold start: the newest trace is the one before");
    assert!(pages(&target.map, Some(&third.summary)).0.is_whole, "another map: its stamps do not compare");
    target.map.cold_start();
    target.read(77);
    let f = target.facts();
    assert_eq!((f[&0].rank_before(), f[&77].rank()), (Some(0), Some(0)));

    let damaged = World::new(10 * 1024);
    stored.get_mut(&4).unwrap()[60] ^= 1;
    let came = damaged.map.inherit(VOLUME, &third.summary, &mut stored.into_iter()).unwrap();
    assert_eq!((came.pages, came.damaged), (9, 1));
    assert!(damaged.map.inherit(VOLUME, b"junk", &mut std::iter::empty()).is_err());
}

#[test]
fn a_drill_gives_its_trace_and_not_its_counts() {
    let mut w = World::new(3000);
    (0..50).for_each(|e| w.read(e));
    w.serve(11_000);
    let drill = World::new(3000);
    drill.map.cold_start();
    [900, 3, 901].iter().for_each(|e| drill.read(*e));
    drill.write(700);
    let demanded = drill.map.demanded().unwrap();
    assert_eq!(demanded.in_order().map(|(e, _)| e).collect::<Vec<_>>(), [3, 900, 901], "reads alone");
    w.map.merge_drill(1, &demanded).unwrap();
    w.read(40);
    let f = w.facts();
    assert_eq!((f[&900].rank(), f[&900].reads), (Some(0), 0));
    assert_eq!((f[&3].rank(), f[&3].reads), (Some(0), 1));
    assert_eq!((f[&40].rank(), f[&40].rank_before()), (Some(LATE), Some(2)));
    assert_eq!(w.map.hot_list(Order::Auto, &[], 4).unwrap()[..3], [3, 900, 901]);
    assert_eq!((w.map.summary().drill, w.map.summary().trace_extents), (1, 4));
    w.map.close().unwrap();
    w.reopen();
    assert_eq!(w.map.summary().drill, 1, "it is not taken in twice");
    // A restore inherits that, and knows of a newer drill as of the start before its own.
    let (snapshot, stored) = pages(&w.map, None);
    let target = World::new(3000);
    target.map.inherit(VOLUME, &snapshot.summary, &mut stored.into_iter()).unwrap();
    target.read(901);
    let mut beyond = demanded.clone();
    beyond.ranks[1] = (7, vec![40, 2999, 3000, 1 << 40]);
    target.map.know_drill(9, &beyond).unwrap();
    let f = target.facts();
    assert_eq!((f[&40].rank_before(), f[&2999].rank_before(), f.len()), (Some(1), Some(1), 53));
    assert_eq!((f[&901].rank(), f[&901].rank_before(), f[&900].rank()), (Some(0), Some(0), None));
    assert_eq!(target.map.summary().drill, 9);
}

#[test]
fn a_guest_that_comes_late_to_a_restore_takes_no_set_away() {
    let w = World::new(3000);
    (0..50).for_each(|e| w.read(e));
    let (snapshot, stored) = pages(&w.map, None);
    let mut target = World::new(3000);
    target.map.inherit(VOLUME, &snapshot.summary, &mut stored.into_iter()).unwrap();
    target.map.expect_cold_start();
    target.serve(120_000);
    target.map.read(ByteRange::new(0, 4096));
    target.read(77);
    target.serve(1_000);
    let f = target.facts();
    assert_eq!((f[&7].rank_before(), f[&0].rank(), f[&77].rank()), (Some(0), Some(0), Some(0)));
    assert!(target.map.summary().since_start_ms < 10_000, "the start is counted from when it was");
}

#[test]
fn damage_costs_pages_or_the_map_and_says_so() {
    let mut w = World::new(5 * 1024);
    (0..5).for_each(|p| w.read(p * 1024));
    w.map.close().unwrap();
    let file = w.dir.open("usage").unwrap().unwrap();
    file.write_at(4096 + 20_480 * 2 + 100, &[&[0xff; 8]]).unwrap();
    w.reopen();
    assert_eq!(w.facts().keys().copied().collect::<Vec<_>>(), [0, 1024, 3072, 4096]);
    assert!(w.map.trouble().1 > 0);
    w.read(2 * 1024);
    assert_eq!(w.facts().len(), 5, "the page begins again");
    w.map.close().unwrap();
    file.write_at(0, &[&[0; 4096]]).unwrap();
    w.reopen();
    assert!(matches!(w.map.opened(), Opened::Lost(_)));
    assert!(w.facts().is_empty());
    w.read(1);
    assert_eq!(w.facts().len(), 1);
}

#[test]
fn imported_traces_are_usage() {
    let w = World::new(3000);
    let mut clock = 0;
    for i in 0..100u64 {
        let range = ByteRange::new(i % 10 * EXTENT, 4096);
        w.map.import(Traced { at_ms: i * 1000, range, is_read: true }, &mut clock);
    }
    w.map.import(Traced { at_ms: 99_000, range: ByteRange::new(u64::MAX - 1, 1), is_read: true }, &mut clock);
    let f = w.facts();
    assert_eq!((f.len(), f[&3].reads), (10, 10));
    assert_eq!(w.map.summary().tick, (99_000 / TICK_MS) as u32);
}

#[test]
fn a_guest_that_touches_everything_writes_a_bounded_number_of_pages_a_tick() {
    let extents = (FOLD_PAGES as u64 + 500) * 1024;
    let mut w = World::new(extents);
    for p in 0..extents / 1024 {
        w.read(p * 1024 + 1);
    }
    w.now += Duration::from_secs(10);
    w.read(1);
    w.map.served(w.now);
    let used = w.dir.allocated_bytes();
    assert!(used < 2 * FOLD_PAGES as u64 * 4096 + 8192, "{used}");
    assert_eq!(w.facts().len() as u64, extents / 1024, "the rest waited");
}

/// Cost of a report on the hot path; only judged when asked, in an optimised build on a machine with time to spare.
#[test]
fn a_report_costs_nanoseconds() {
    if std::env::var_os("REKINDLE_MEASURE").is_none() {
        println!("not measured: set REKINDLE_MEASURE=1 (and CARGO_PROFILE_DEV_OPT_LEVEL=3) to measure");
        return;
    }
    let w = World::new(1 << 20);
    let mut seed = 1u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % (1 << 24) * 4096
    };
    // Time on the processor, not on the wall: others may be at work.
    let cpu_ns = || -> u64 {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    };
    let rounds = 5_000_000u32;
    let began = cpu_ns();
    let sum: u64 = (0..rounds).map(|_| std::hint::black_box(random())).fold(0, u64::wrapping_add);
    let base = cpu_ns() - began;
    for (what, mask) in [("over 64 GiB", u64::MAX), ("over 256 MiB", (256 << 20) - 1)] {
        (0..rounds).for_each(|_| w.map.read(ByteRange::new(random() & mask, 4096)));
        let began = cpu_ns();
        (0..rounds).for_each(|_| w.map.read(ByteRange::new(std::hint::black_box(random() & mask), 4096)));
        let cost = (cpu_ns() - began).saturating_sub(base) as f64 / f64::from(rounds);
        println!("usage: {cost:.1} ns a random 4 KiB read {what} ({sum:x})");
        assert!(cost < 100.0, "{cost} ns");
    }
}

#[test]
fn a_map_is_inherited_while_the_volume_is_served() {
    let w = World::new(3 * 1024);
    (0..40).for_each(|e| w.read(e));
    let (snapshot, stored) = pages(&w.map, None);
    let mut target = World::new(3 * 1024);
    let mut serving = stored.into_iter().inspect(|_| {
        target.map.read(ByteRange::new(5 * EXTENT, 512));
        target.map.write(ByteRange::new(2000 * EXTENT, 512));
    });
    target.map.inherit(VOLUME, &snapshot.summary, &mut serving).unwrap();
    target.serve(11_000);
    let f = target.facts();
    assert_eq!((f[&5].reads, f[&5].rank(), f[&5].rank_before()), (2, Some(0), Some(0)));
    assert_eq!((f[&30].reads, f[&30].rank(), f[&30].rank_before()), (1, None, Some(1)));
    assert_eq!((f[&2000].rank(), f[&2000].writes), (Some(LATE), 1));
    let hot = target.map.hot_list(Order::Auto, &[], 3).unwrap();
    assert_eq!(hot, [5, 0, 1]);
}

#[test]
fn boot_reads_of_a_restored_guest_are_part_of_its_start() {
    let w = World::new(1024);
    (7..40).for_each(|e| w.read(e));
    let (snapshot, stored) = pages(&w.map, None);
    let mut target = World::new(1024);
    target.map.inherit(VOLUME, &snapshot.summary, &mut stored.into_iter()).unwrap();
    target.map.expect_cold_start();
    target.read(500);
    target.serve(12_000);
    target.map.read(ByteRange::new(0, 512));
    target.serve(12_000);
    let f = target.facts();
    assert_eq!(target.map.summary().cold_starts, 2);
    assert_eq!((f[&7].rank_before(), f[&500].rank(), f[&0].rank()), (Some(0), Some(0), Some(0)));
}

#[test]
fn a_start_told_twice_is_one() {
    let w = World::new(1024);
    w.read(9);
    w.map.cold_start();
    w.map.cold_start();
    w.serve_nothing();
    w.map.cold_start();
    assert_eq!((w.map.summary().cold_starts, w.facts()[&9].rank_before()), (2, Some(0)));
    w.read(10);
    w.map.cold_start();
    assert_eq!((w.map.summary().cold_starts, w.facts()[&9].rank_before()), (3, None));
}
impl World {
    fn serve_nothing(&self) {
        self.map.served(self.now + Duration::from_secs(20));
    }
}

/// A guest reads and writes for three ticks over several pages; what each extent got.
fn busy(map: &UsageMap) -> BTreeMap<u64, (u32, u32)> {
    let mut model: BTreeMap<u64, (u32, u32)> = BTreeMap::new();
    let mut now = Duration::ZERO;
    for i in 0..60u64 {
        let e = i * 577 % 5000;
        map.read(ByteRange::new(e * EXTENT, 4096));
        map.write(ByteRange::new((e / 2) * EXTENT, 4096));
        model.entry(e).or_default().0 += 1;
        model.entry(e / 2).or_default().1 += 1;
        if i % 20 == 19 {
            now += Duration::from_secs(10);
            map.served(now);
        }
    }
    model
}
fn at_most(map: &UsageMap, model: &BTreeMap<u64, (u32, u32)>, when: &str) -> usize {
    let got = facts(map);
    for (e, f) in &got {
        let most = model.get(e).copied().unwrap_or_default();
        assert!(f.reads <= most.0 && f.writes <= most.1, "{when}: extent {e} got {f:?}, at most {most:?}");
    }
    got.len()
}

#[test]
fn a_power_cut_at_any_operation_costs_counts_and_never_makes_them_up() {
    for seed in 0..2 {
        for n in 0.. {
            let (dir, plan) = (MemDir::new(), Arc::new(FaultPlan::new()));
            plan.die_within(n, 500);
            let faulty = FaultyDir::new(dir.clone(), plan.clone());
            let model = UsageMap::open(&*faulty, "usage", VOLUME, geometry(5000)).map(|m| {
                let model = busy(&m);
                let _ = m.close();
                model
            });
            let ended = !plan.is_dead();
            let after = dir.crash(Crash::Power { seed: seed + n });
            let map = UsageMap::open(&*after, "usage", VOLUME, geometry(5000)).unwrap();
            let known = at_most(&map, &model.unwrap_or_default(), &format!("operation {n}"));
            busy(&map);
            map.close().unwrap();
            assert!(facts(&map).len() >= known, "it goes on");
            if ended {
                assert!(n > 10, "there were {n} operations");
                break;
            }
        }
    }
}

#[test]
fn an_error_at_any_operation_never_reaches_the_guest() {
    for n in 0..40 {
        let (dir, plan) = (MemDir::new(), Arc::new(FaultPlan::new()));
        plan.fail_at(n, Kind::Full);
        let faulty = FaultyDir::new(dir.clone(), plan.clone());
        let Ok(map) = UsageMap::open(&*faulty, "usage", VOLUME, geometry(5000)) else { continue };
        let model = busy(&map);
        let before = map.trouble().0;
        at_most(&map, &model, &format!("operation {n}"));
        for round in 0..3 {
            busy(&map);
            map.served(Duration::from_secs(1000 * (round + 1)));
        }
        assert!(map.trouble().0.is_none(), "operation {n}: it works again after {before:?}");
    }
}

/// A restore of a large disk visits its map while the guest starts: what was touched, not what lies between.
#[test]
fn a_file_that_began_empty_knows_what_was_written() {
    let dir = MemDir::new();
    let open = |file| FactsFile::new(file, VOLUME, ExtentBytes::DEFAULT, 256);
    let walk = |f: &FactsFile| {
        let next = |from: &u64| f.next_written(from + 1).unwrap();
        std::iter::successors(f.next_written(0).unwrap(), next).collect::<Vec<_>>()
    };
    let mut fresh = open(dir.create("facts").unwrap());
    fresh.clear().unwrap();
    assert!(walk(&fresh).is_empty());
    let head = PageHead { cold_starts: 1, stamp: 1 };
    for index in [200, 3] {
        fresh.write(index, head, &empty_page()).unwrap();
    }
    assert_eq!(walk(&fresh), [3, 200]);
    let again = open(dir.open("facts").unwrap().unwrap());
    assert_eq!(
        walk(&again),
        (0..=200).collect::<Vec<_>>(),
        "a file that cannot tell is looked at everywhere"
    );
    fresh.clear().unwrap();
    assert!(walk(&fresh).is_empty());
}

#[test]
fn a_sparse_map_shows_all_it_has_and_so_does_one_opened_again() {
    let mut w = World::new(1 << 18);
    let last = (1 << 18) - 1;
    w.read(last);
    assert_eq!(w.facts().into_keys().collect::<Vec<_>>(), [last]);
    w.read(70_000);
    let found = w.facts();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [70_000, last], "what came later, in its place");
    assert_eq!(pages(&w.map, None).1.into_keys().collect::<Vec<_>>(), [70_000 / 1024, last / 1024]);
    w.map.close().unwrap();
    w.reopen();
    assert_eq!(w.facts(), found);
}

/// A map of 16 TiB has slots for 5 GiB: what was never written of it is not looked at when it is opened again.
#[test]
fn a_map_that_is_opened_again_skips_what_was_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = rekindle_io::logfile::RealDir::open(folder.path()).unwrap();
    let extent = ExtentBytes::DEFAULT;
    let pages = (16 << 40) / extent.get() / rekindle_core::usage::PAGE_EXTENTS as u64;
    let wanted = [0, 3, 4, 70_000, pages - 1];
    {
        let mut f = FactsFile::new(dir.create("usage").unwrap(), Uuid([1; 16]), extent, pages);
        for slot in wanted {
            f.write(slot, PageHead { cold_starts: 0, stamp: 1 }, &empty_page()).unwrap();
        }
    }
    let f = FactsFile::new(dir.open("usage").unwrap().unwrap(), Uuid([1; 16]), extent, pages);
    let next = |from: &u64| f.next_written(from + 1).unwrap();
    let found: Vec<u64> = std::iter::successors(f.next_written(0).unwrap(), next).take(100).collect();
    assert_eq!(found, wanted);
}
