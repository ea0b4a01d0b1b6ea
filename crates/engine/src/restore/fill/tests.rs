//! The fill on a restoring set in memory, stepped by hand, with a holder that goes away, is damaged, is slow.

use super::*;
use crate::restore::{Heat, NewVolume, RestoreOptions, RestoreSet, VolumeParts};
use rekindle_core::hydrate::{Pass, Reason, Rest, Source, Threshold};
use rekindle_core::volume::{ByteRange, ExtentBytes, ExtentRange, Geometry, Uuid};
use rekindle_io::Kind;
use rekindle_io::block::{Answer, Block, BlockExt, CompletionSink, FaultyBlock, MemBlock, Op, Request};
use rekindle_io::clock::{Clock, ManualClock, SystemClock};
use rekindle_io::fault::{FaultOp, FaultPlan};
use rekindle_io::holder::MemHolder;
use rekindle_io::logfile::MemDir;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

const EXTENT: u64 = 1 << 16;

struct World {
    clock: Arc<ManualClock>,
    holders: Vec<Arc<MemHolder>>,
    disks: Vec<Arc<MemBlock>>,
    set: Arc<RestoreSet>,
    fill: Arc<Fill>,
}

struct Make {
    extents: Vec<u64>,
    data: Vec<ExtentRange>,
    used: bool,
    plan: Option<Arc<FaultPlan>>,
}
impl Default for Make {
    fn default() -> Self {
        Make { extents: vec![100], data: vec![ExtentRange { start: 0, end: 100 }], used: false, plan: None }
    }
}

fn world(make: Make, options: FillOptions) -> World {
    let clock = Arc::new(ManualClock::default());
    world_with(make, options, clock.clone(), clock)
}
fn world_with(make: Make, options: FillOptions, clock: Arc<ManualClock>, used: Arc<dyn Clock>) -> World {
    let geometry = |n: &u64| Geometry::new(n * EXTENT - 512, ExtentBytes::DEFAULT, 512, 512).unwrap();
    let shapes: Vec<Geometry> = make.extents.iter().map(geometry).collect();
    let holders: Vec<_> =
        shapes.iter().zip(1..).map(|(g, s)| MemHolder::from_pattern(*g, &make.data, s)).collect();
    let disks: Vec<_> = shapes.iter().map(|g| MemBlock::new(g.size)).collect();
    for d in disks.iter().filter(|_| make.used) {
        d.write_at(0, &vec![0xee; d.bytes().len()]).unwrap();
    }
    let volumes = holders.iter().zip(&disks).enumerate().map(|(i, (h, d))| NewVolume {
        name: format!("v{i}"),
        volume: Uuid([i as u8; 16]),
        destination: format!("/dev/v{i}"),
        origin: None,
        parts: VolumeParts {
            holder: h.clone(),
            target: match &make.plan {
                Some(plan) => FaultyBlock::new(d.clone(), plan.clone()),
                None => d.clone(),
            },
            fresh: !make.used,
            usage: None,
        },
    });
    let options_set = RestoreOptions::default();
    let set =
        RestoreSet::create(MemDir::new(), "shop", volumes.collect(), options_set, used.clone()).unwrap();
    let fill = Fill::new(set.clone(), options, used);
    World { clock, holders, disks, set, fill }
}

impl World {
    /// Steps everything until the fill is complete or only waits; tells which.
    fn steps(&self, most: usize) -> FillStep {
        let mut last = FillStep::Worked;
        for _ in 0..most {
            last = self.fill.step();
            while self.set.work_step() == crate::restore::Step::Worked {}
            self.set.timer_step();
            match last {
                FillStep::Complete => return last,
                FillStep::Wait(d) => self.clock.advance(d.min(Duration::from_millis(100))),
                FillStep::Worked => self.clock.advance(Duration::from_millis(1)),
            }
        }
        last
    }
    fn check_contents(&self) {
        let state = self.set.volumes();
        for (v, h) in self.holders.iter().enumerate() {
            let info = rekindle_io::block::Block::info(&*state[v]);
            let (mut got, mut want) = (vec![0; EXTENT as usize], vec![0; EXTENT as usize]);
            for e in 0..info.size.div_ceil(EXTENT) {
                let len = EXTENT.min(info.size - e * EXTENT) as usize;
                state[v].read_at(e * EXTENT, &mut got[..len]).unwrap();
                h.truth(e, &mut want[..len]);
                assert_eq!(got[..len], want[..len], "volume {v}, extent {e}");
            }
        }
    }
    fn fetched(&self, source: Source) -> u64 {
        self.fill.status().fetched.iter().find(|(s, _)| *s == source).map_or(0, |f| f.1)
    }
}

/// The order in which a held holder was asked.
fn asked(w: &World, volume: usize) -> Vec<u64> {
    w.holders[volume].release(usize::MAX)
}

#[test]
fn everything_comes_zeros_included_each_extent_once() {
    let data = vec![ExtentRange { start: 0, end: 30 }, ExtentRange { start: 60, end: 61 }];
    for used in [false, true] {
        let make = Make { data: data.clone(), used, extents: vec![100, 70], ..Make::default() };
        let w = world(make, FillOptions::default());
        assert_eq!(w.steps(10_000), FillStep::Complete);
        assert_eq!(w.set.missing(), (0, 0));
        w.check_contents();
        assert_eq!(w.holders.iter().map(|h| h.fetches().0).sum::<u64>(), 62, "zeros are not fetched");
        let p = w.fill.status().progress;
        assert_eq!((p.local_extents, p.extents), (170, 170));
        let middle = &w.disks[0].bytes()[40 * EXTENT as usize..41 * EXTENT as usize];
        assert!(middle.iter().all(|b| *b == 0), "a used destination keeps nothing of before");
    }
}

#[test]
fn hot_first_then_the_rest_and_neighbours_of_a_miss_in_turns_before_both() {
    let hot = vec![(70, 8), (7, 8), (71, 4)];
    let options =
        FillOptions { volumes: vec![FillVolume { hot, ..FillVolume::default() }], ..FillOptions::default() };
    let w = world(Make::default(), options);
    w.holders[0].hold();
    w.fill.step();
    assert_eq!(asked(&w, 0)[..2], [70, 7]);
    let mut buf = vec![0; 512];
    w.holders[0].answer_inline();
    w.set.volumes()[0].read_at(50 * EXTENT, &mut buf).unwrap();
    w.holders[0].hold();
    w.steps(3);
    let next = asked(&w, 0);
    assert_eq!(next[..2], [51, 71], "neighbours, in turns with the last hot one: {next:?}");
    assert!(!next.contains(&50) && !next.contains(&70), "single flight");
    w.holders[0].answer_inline();
    assert_eq!(w.steps(10_000), FillStep::Complete);
    assert_eq!((w.fetched(Source::Hot), w.fetched(Source::Promoted)), (3, 16));
    w.check_contents();
}

#[test]
fn a_hot_list_may_come_late() {
    let options = FillOptions { online: Online::new(vec![Threshold::Usage(1.0)]), ..FillOptions::default() };
    let w = world(Make::default(), options);
    w.steps(2);
    assert!(!w.set.is_online() && w.fetched(Source::Hot) == 0);
    w.fill.set_hot(0, vec![(80, 8), (81, 8), (0, 2), (5000, 8)]);
    while !w.set.is_online() {
        w.clock.advance(Duration::from_millis(100));
        w.steps(1);
    }
    assert!(w.fetched(Source::Hot) == 2 && w.fill.status().progress.local_extents < 60);
    assert_eq!(w.steps(10_000), FillStep::Complete);
    w.check_contents();
}

#[test]
fn without_a_map_metadata_comes_before_the_rest() {
    let w = world(Make::default(), FillOptions::default());
    w.fill.look_for_metadata();
    w.steps(6);
    assert_eq!(
        w.fetched(Source::Hot),
        3,
        "no file system in a pattern: the two ends, 64 KiB each, over three extents"
    );
    assert!(w.holders[0].fetches_of(99) == 1 && w.holders[0].fetches_of(50) == 0);
}

#[test]
fn online_at_the_first_threshold() {
    let hot: Vec<(u64, u8)> = (0..10).map(|e| (e, 8)).collect();
    let at = |t: &[Threshold]| {
        let volumes = vec![FillVolume { hot: hot.clone(), ..FillVolume::default() }];
        let options = FillOptions { volumes, online: Online::new(t.to_vec()), ..FillOptions::default() };
        world(Make::default(), options)
    };
    assert!(at(&[]).set.is_online(), "at once");
    let usage = Threshold::Usage(0.9);
    let w = at(&[usage, Threshold::Extents(99)]);
    assert!(!w.set.is_online());
    while !w.set.is_online() {
        w.clock.advance(Duration::from_millis(100));
        w.steps(1);
    }
    assert_eq!(w.fill.status().online, Some(Reason::Reached(usage)));
    let p = w.fill.status().progress;
    assert!(p.local_weight * 10 >= p.weight * 9 && p.local_extents < 60, "{p:?}");
    let w = at(&[Threshold::Time(Duration::from_secs(30))]);
    w.set.pause(true);
    w.clock.advance(Duration::from_secs(30));
    w.steps(1);
    assert!(w.set.is_online(), "time runs while paused");
    let w = at(&[Threshold::Extents(1000)]);
    w.fill.online_now();
    assert!(w.set.is_online() && w.fill.status().online == Some(Reason::Told));
    let w = at(&[Threshold::Extents(1000)]);
    w.steps(10_000);
    assert_eq!(w.fill.status().online, Some(Reason::Complete));
}

#[test]
fn an_outage_stalls_the_fill_and_ends_by_itself() {
    let w = world(Make::default(), FillOptions::default());
    w.steps(5);
    w.holders[0].set_available(false);
    w.steps(100);
    let before = w.holders[0].fetches().0;
    let s = w.fill.status();
    assert!(s.stalled.is_some() && w.set.damage(1).volumes.is_empty(), "{s:?}");
    w.steps(600);
    let probes = w.holders[0].fetches().0 - before;
    assert!((3..20).contains(&probes), "{probes} probes in a minute");
    w.holders[0].set_available(true);
    assert_eq!(w.steps(10_000), FillStep::Complete);
    assert!(w.fill.status().stalled.is_none());
    w.check_contents();
}

#[test]
fn an_outage_is_probed_by_one_fetch_at_a_time() {
    let w = world(Make::default(), FillOptions::default());
    w.holders[0].set_available(false);
    w.steps(10);
    w.holders[0].set_available(true);
    w.holders[0].hold();
    w.clock.advance(Duration::from_secs(20));
    w.steps(20);
    assert_eq!((w.holders[0].held(), w.fill.status().in_flight), (1, 1));
    w.holders[0].release(1);
    w.steps(5);
    assert!(w.holders[0].held() > 1, "the probe came: on with it");
}

#[test]
fn what_another_fetched_first_does_not_count_as_under_way() {
    let w = world(Make::default(), FillOptions::default());
    w.holders[0].hold();
    w.steps(2);
    let under_way = w.fill.status().in_flight;
    let asked = super::state::Asked { at: Duration::ZERO, bytes: 5000, source: Source::Rest };
    super::super::lock(&w.fill.state).asked.insert((0, 99), asked);
    w.fill.forget_unstarted(0, &[99, 0]);
    assert_eq!(w.fill.status().in_flight, under_way, "99 is forgotten, 0 is on its way");
}

/// Goal: an extent that two lists name is asked for, and counted, once. (Counted twice it narrowed the window for ever:
/// small frames behind a slow link then stood still.)
#[test]
fn an_extent_in_two_lists_is_counted_once() {
    let linear = FillVolume { linear: true, ..FillVolume::default() };
    let w = world(Make::default(), FillOptions { volumes: vec![linear], ..FillOptions::default() });
    w.holders[0].hold();
    let state = || super::super::lock(&w.fill.state);
    state().schedule.volumes[0].hint(&[ExtentRange { start: 0, end: 1 }]);
    for _ in 0..10_000 {
        let step = w.steps(1);
        asked(&w, 0);
        if step == FillStep::Complete {
            break;
        }
    }
    assert_eq!(w.fill.status().progress.local_extents, 100, "it stood still");
    let (mut s, now) = (state(), w.clock.now());
    assert_eq!(s.throttle.allowance(now), s.throttle.link().window, "something counts as under way");
}

/// Goal: damage is named in bytes, everything else is restored, and nothing asks for it in a loop. Method: a holder that
/// finds extents damaged, and a guest that overwrites one of them.
#[test]
fn a_damaged_extent_is_named_and_the_rest_goes_on() {
    let w = world(Make { extents: vec![100, 10], ..Make::default() }, FillOptions::default());
    [33, 34, 99].iter().for_each(|e| w.holders[0].set_damaged(*e, true));
    assert!(!w.set.damage(9).only_damage_left);
    w.steps(2_000);
    let d = w.set.damage(9);
    assert!(d.only_damage_left && d.volumes.len() == 1, "{d:?}");
    let (name, d) = &d.volumes[0];
    assert_eq!((&**name, d.extents, d.bytes, d.ranges.len()), ("v0", 3, 3 * EXTENT - 512, 2));
    assert_eq!(d.ranges[0].range, ByteRange::new(33 * EXTENT, 2 * EXTENT));
    assert!(d.ranges[0].why.contains("33"), "{d:?}");
    let s = w.fill.status();
    assert_eq!((s.progress.local_extents, s.left), (107, Some(Duration::ZERO)));
    // Looked at every ten seconds, no more often.
    let (before, began) = (w.holders[0].fetches_of(33), w.clock.now());
    w.steps(1_000);
    let (looks, took) = (w.holders[0].fetches_of(33) - before, (w.clock.now() - began).as_secs());
    assert!((1..=took / 10 + 1).contains(&looks), "{looks} in {took} s");
    // A guest's write that covers it heals it, one that does not does not. Reading it is an error, the log is not.
    let disk = &w.set.volumes()[0];
    disk.write_at(33 * EXTENT, &vec![7; EXTENT as usize]).unwrap();
    disk.write_at(34 * EXTENT, &[8; 512]).unwrap();
    let d = &w.set.damage(9).volumes[0].1;
    assert_eq!((d.extents, d.ranges[0].range.start), (2, 34 * EXTENT));
    let mut buf = [0; 512];
    disk.read_at(34 * EXTENT, &mut buf).unwrap();
    assert!(buf == [8; 512] && disk.read_at(34 * EXTENT + 512, &mut buf).is_err());
    for _ in 0..50 {
        w.set.mover_step(true).unwrap();
    }
    assert!(w.set.damage(9).only_damage_left, "33 is in its place now");
    // Mended: all of it comes within the next look, the guest's own bytes stay.
    [33, 34, 99].iter().for_each(|e| w.holders[0].set_damaged(*e, false));
    w.steps(500);
    assert_eq!((w.fill.step(), w.set.damage(9)), (FillStep::Complete, Default::default()));
    disk.read_at(34 * EXTENT, &mut buf).unwrap();
    assert_eq!(buf, [8; 512]);
}

#[test]
fn mended_damage_comes_at_once_when_told() {
    let w = world(Make::default(), FillOptions::default());
    w.holders[0].set_damaged(33, true);
    w.steps(1_000);
    w.holders[0].set_damaged(33, false);
    w.fill.retry_damaged();
    assert_eq!(w.steps(20), FillStep::Complete);
    w.check_contents();
}

/// A lost pack that is put back: the first extent of it that comes lets all be asked for again.
#[test]
fn mended_damage_comes_soon_by_itself() {
    let data = vec![ExtentRange { start: 0, end: 1000 }];
    let w = world(Make { extents: vec![1000], data, ..Make::default() }, FillOptions::default());
    (0..1000).for_each(|e| w.holders[0].set_damaged(e, true));
    w.steps(1_500);
    let all = w.set.damage(9);
    assert!(all.only_damage_left && all.volumes[0].1.ranges.len() == 1, "{all:?}");
    (0..1000).for_each(|e| w.holders[0].set_damaged(e, false));
    let began = w.clock.now();
    assert_eq!(w.steps(2_000), FillStep::Complete);
    assert!(w.clock.now() - began < Duration::from_secs(25), "{:?}", w.clock.now() - began);
}

#[test]
fn a_threshold_that_damage_holds_up_is_waved_through() {
    let online = Online::new(vec![Threshold::Extents(100)]);
    let w = world(Make::default(), FillOptions { online, ..FillOptions::default() });
    w.holders[0].set_damaged(33, true);
    w.steps(500);
    assert_eq!((w.set.is_online(), w.fill.status().online), (true, Some(Reason::Complete)));
}

#[test]
fn pause_limit_first_and_space() {
    let free = Arc::new(Mutex::new(1000u64));
    let now_free = free.clone();
    let space =
        FreeSpace { place: "here".into(), free: Arc::new(move || Ok(*now_free.lock().unwrap())), floor: 500 };
    let w = world(Make::default(), FillOptions { space: vec![space], ..FillOptions::default() });
    w.set.pause(true);
    w.steps(50);
    assert_eq!(w.holders[0].fetches().0, 0, "paused");
    w.set.pause(false);
    w.fill.first(0, ExtentRange { start: 90, end: 92 }).unwrap();
    w.steps(4);
    assert_eq!(w.fetched(Source::First), 2);
    *free.lock().unwrap() = 400;
    w.clock.advance(Duration::from_secs(1));
    w.steps(3);
    let before = w.holders[0].fetches().0;
    w.steps(100);
    assert_eq!((w.holders[0].fetches().0, w.fill.status().no_space.is_some()), (before, true));
    *free.lock().unwrap() = 4000;
    w.clock.advance(Duration::from_secs(3));
    w.fill.set_limit(Some(10 * EXTENT));
    let (began, at) = (w.clock.now(), w.holders[0].fetches().0);
    while w.clock.now() < began + Duration::from_secs(4) {
        w.steps(1);
    }
    let per_s = (w.holders[0].fetches().0 - at) / 4;
    assert!((8..=13).contains(&per_s), "{per_s} extents a second at a limit of 10");
    w.fill.set_limit(None);
    assert_eq!(w.steps(10_000), FillStep::Complete);
}

#[test]
fn what_the_guest_overwrote_is_not_fetched() {
    let w = world(Make::default(), FillOptions::default());
    w.set.volumes()[0].write_at(40 * EXTENT, &vec![7; 2 * EXTENT as usize]).unwrap();
    w.steps(3_000);
    assert_eq!((w.holders[0].fetches_of(40), w.holders[0].fetches_of(41)), (0, 0));
    assert_eq!(w.set.missing().0, 2, "the mover will bring them");
    while w.set.mover_step(true).unwrap() == crate::restore::Step::Worked {}
    w.clock.advance(Duration::from_secs(60));
    for _ in 0..100 {
        let _ = w.set.mover_step(true).unwrap();
        w.clock.advance(Duration::from_secs(1));
    }
    assert_eq!(w.steps(100), FillStep::Complete);
    let mut buf = vec![0; 512];
    w.set.volumes()[0].read_at(41 * EXTENT, &mut buf).unwrap();
    assert_eq!(buf, [7; 512]);
}

#[test]
fn threads_finish_with_inline_and_late_holders() {
    for late in [None, Some(Duration::from_millis(1))] {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let make = Make {
            extents: vec![300, 200],
            data: vec![ExtentRange { start: 0, end: 250 }],
            ..Make::default()
        };
        let w = world_with(make, FillOptions::default(), Arc::new(ManualClock::default()), clock.clone());
        w.holders.iter().for_each(|h| late.map_or_else(|| h.answer_inline(), |d| h.answer_late(d)));
        w.set.start(2).unwrap();
        w.fill.start().unwrap();
        let began = clock.now();
        while !w.set.is_complete() {
            assert!(clock.now() < began + Duration::from_secs(30), "{:?}", w.fill.status());
            std::thread::sleep(Duration::from_millis(5));
        }
        w.check_contents();
        w.fill.stop();
        w.set.stop().unwrap();
        assert_eq!(w.fill.status().in_flight, 0);
    }
}

/// A read of one page of `extent`, which the holder does not answer yet.
fn miss(w: &World, extent: u64) {
    let sink = rekindle_io::block::kit::TestSink::new();
    let mut buf = vec![0; 4096];
    let read = Op::Read(&mut buf);
    let (mut answers, sink) = (Vec::new(), sink as Arc<dyn CompletionSink>);
    w.set.volumes()[0].submit(
        &mut [Request { token: 1, offset: extent * EXTENT, op: read }],
        &mut answers,
        &sink,
    );
    assert!(matches!(answers[..], [Answer::Later]), "it waits for the holder");
}

/// A window of answers may be here and not worked off: who waits must not stand behind them.
#[test]
fn an_answer_that_somebody_waits_for_is_worked_off_first() {
    let w = world(Make::default(), FillOptions::default());
    w.set.parts.threaded.store(true, std::sync::atomic::Ordering::Release);
    w.holders[0].hold();
    w.set.fetch(0, &[10, 11, 12], Heat::Cold);
    miss(&w, 12);
    miss(&w, 50);
    assert_eq!(asked(&w, 0), [10, 11, 12, 50]);
    let local = || [10, 11, 12, 50].map(|e| !w.set.needs_holder(0, e));
    w.set.work_step();
    assert_eq!(local(), [false, false, true, false], "asked for in the background, then waited for");
    w.set.work_step();
    assert_eq!(local(), [false, false, true, true]);
}

/// Memory of the page cache is for what the guest uses: what it was seen to use, what it asks for, and what lies behind that.
#[test]
fn only_what_nobody_is_known_to_use_is_written_past_the_page_cache() {
    let hot = (30..40).map(|e| (e, 8)).collect();
    let volumes = vec![FillVolume { hot, ..FillVolume::default() }];
    let w = world(Make::default(), FillOptions { volumes, ..FillOptions::default() });
    w.set.parts.threaded.store(true, std::sync::atomic::Ordering::Release);
    w.holders[0].hold();
    w.set.fetch(0, &[60, 61], Heat::Cold);
    miss(&w, 50);
    miss(&w, 61);
    w.fill.first(0, ExtentRange { start: 70, end: 72 }).unwrap();
    for _ in 0..1000 {
        w.fill.step();
        asked(&w, 0);
        while w.set.work_step() == crate::restore::Step::Worked {}
        w.clock.advance(Duration::from_millis(1));
    }
    assert_eq!(w.set.missing(), (0, 0));
    // The first and the last MiB lie in the edges file.
    let used =
        |e: &u64| (30..40).contains(e) || (50..=50 + 16).contains(e) && *e != 60 || [70, 71].contains(e);
    assert_eq!(written_cold(&w), (16..84).filter(|e| !used(e)).collect::<Vec<_>>());
    w.check_contents();
}

/// The extents that were written past the page cache, ascending.
fn written_cold(w: &World) -> Vec<u64> {
    let writes = w.disks[0].written_cold();
    let mut extents: Vec<u64> =
        writes.iter().flat_map(|r| r.start / EXTENT..r.end().div_ceil(EXTENT)).collect();
    extents.sort_unstable();
    extents
}

/// Answers that lie side by side are written at once. What in their midst is local, overwritten, zero, damaged or waited for
/// is left out, and the others do not suffer from it.
#[test]
fn neighbours_are_written_at_once_around_what_must_not_be() {
    let data = vec![ExtentRange { start: 0, end: 60 }, ExtentRange { start: 61, end: 100 }];
    let make = Make { data, ..Make::default() };
    let w = world(make, FillOptions::default());
    w.set.parts.threaded.store(true, std::sync::atomic::Ordering::Release);
    let guest = &w.set.volumes()[0];
    guest.write_at(34 * EXTENT, &vec![7; EXTENT as usize]).unwrap();
    guest.write_at(36 * EXTENT + 4096, &[8; 4096]).unwrap();
    w.holders[0].set_damaged(38, true);
    w.holders[0].hold();
    w.set.fetch(0, &(30..46).collect::<Vec<_>>(), Heat::Cold);
    miss(&w, 40);
    guest.write_at(42 * EXTENT, &vec![9; EXTENT as usize]).unwrap();
    asked(&w, 0);
    while w.set.work_step() == crate::restore::Step::Worked {}
    w.set.fetch(0, &(55..70).collect::<Vec<_>>(), Heat::Cold);
    asked(&w, 0);
    while w.set.work_step() == crate::restore::Step::Worked {}
    let writes = w.disks[0].written_cold();
    let writes: Vec<(u64, u64)> = writes.iter().map(|r| (r.start / EXTENT, r.len / EXTENT)).collect();
    // 34 was never asked for, 38 cannot be had, 40 is hot, 42 is the mover's, 60 is zero; a MiB is the most.
    let mut want = vec![(30, 4), (35, 3), (39, 1), (41, 1), (43, 3), (55, 5), (61, 9)];
    let mut got = writes.clone();
    want.sort_unstable();
    got.sort_unstable();
    assert_eq!(got, want);
    w.holders[0].set_damaged(38, false);
    w.holders[0].release(usize::MAX);
    let mut buf = vec![0; EXTENT as usize];
    for (extent, at, byte) in [(34, 0, 7), (36, 4096, 8), (42, 0, 9)] {
        guest.read_at(extent * EXTENT, &mut buf).unwrap();
        assert!(buf[at..at + 4096].iter().all(|b| *b == byte), "the guest's own bytes of {extent}");
    }
    for extent in (30..46).chain(55..70).filter(|e| ![34, 38, 42].contains(e)) {
        assert!(!w.set.needs_holder(0, extent), "extent {extent}");
        guest.read_at(extent * EXTENT, &mut buf).unwrap();
        let mut truth = vec![0; EXTENT as usize];
        w.holders[0].truth(extent, &mut truth);
        if extent == 36 {
            truth[4096..8192].fill(8);
        }
        assert_eq!(buf, truth, "extent {extent}");
    }
    assert!(w.set.needs_holder(0, 38) && w.set.needs_holder(0, 34));
}

/// Volumes of a set may have extents of other sizes; buffers are the set's.
#[test]
fn a_buffer_that_is_too_small_is_not_used() {
    let w = world(Make::default(), FillOptions::default());
    crate::restore::lock(&w.set.parts.spare).push(rekindle_io::destination::Aligned::new(512));
    assert_eq!(w.steps(10_000), FillStep::Complete);
    w.check_contents();
}

/// A write that fails leaves all of its run absent; it is fetched again.
#[test]
fn a_run_that_could_not_be_written_comes_again() {
    let plan = Arc::new(FaultPlan::new());
    let w = world(Make { plan: Some(plan.clone()), ..Make::default() }, FillOptions::default());
    w.set.parts.threaded.store(true, std::sync::atomic::Ordering::Release);
    w.holders[0].hold();
    w.set.fetch(0, &(30..40).collect::<Vec<_>>(), Heat::Cold);
    plan.fail_next(FaultOp::Write, Kind::Full);
    asked(&w, 0);
    while w.set.work_step() == crate::restore::Step::Worked {}
    assert!((30..40).all(|e| w.set.is_absent(0, e)));
    w.holders[0].answer_inline();
    assert_eq!(w.steps(10_000), FillStep::Complete);
    w.check_contents();
}

/// What happens to an answer that is here says nothing of the link.
#[test]
fn a_link_is_measured_by_when_answers_come_not_by_when_they_are_worked_off() {
    let w = world(Make::default(), FillOptions::default());
    w.set.parts.threaded.store(true, std::sync::atomic::Ordering::Release);
    w.holders[0].hold();
    for _ in 0..20 {
        w.fill.step();
        w.clock.advance(Duration::from_millis(3));
        asked(&w, 0);
        w.clock.advance(Duration::from_millis(50));
        while w.set.work_step() == crate::restore::Step::Worked {}
    }
    assert_eq!(w.fill.status().link.latency_min, Duration::from_millis(3));
}

/// The fill ends with the last extent, which may be before it has heard of it.
#[test]
fn status_knows_of_what_came_since_the_last_step() {
    let w = world(Make { extents: vec![2], ..Make::default() }, FillOptions::default());
    w.holders[0].hold();
    while w.holders[0].held() < 2 {
        w.fill.step();
    }
    assert_eq!(w.fill.status().in_flight, 2);
    asked(&w, 0);
    assert!(w.set.is_complete());
    let status = w.fill.status();
    assert_eq!((status.in_flight, w.fetched(Source::Rest)), (0, 2));
    assert!(status.fetched_bytes > 0);
}

/// A store that hangs keeps its own readers waiting, not who asks how it goes or tells it to end.
#[test]
fn nobody_waits_for_a_look_at_the_holder() {
    let w = world(Make::default(), FillOptions::default());
    let (tell, heard) = std::sync::mpsc::channel();
    let (fill, set) = (w.fill.clone(), w.set.clone());
    w.holders[0].at_next_look(move || {
        let asked = fill.clone();
        std::thread::spawn(move || tell.send((asked.status().in_flight, asked.step())));
        let (in_flight, step) =
            heard.recv_timeout(Duration::from_secs(10)).expect("status waits for the holder");
        assert_eq!((in_flight, step), (0, FillStep::Wait(Duration::from_millis(100))), "one look at a time");
        assert!(set.is_absent(0, 5));
    });
    assert_eq!(w.steps(400), FillStep::Complete);
    w.check_contents();
}

/// Who wants more while another looks must not have what that finds overwritten by one more look.
#[test]
fn what_a_look_found_is_given_before_the_next() {
    let w = world(Make::default(), FillOptions::default());
    let rest = &mut w.fill.state.lock().unwrap().rests[0];
    let mut out = VecDeque::new();
    assert_eq!(rest.chunk(&mut out), Pass::More);
    let mut look = rest.look().expect("nothing is known yet");
    rest.chunk(&mut out);
    look.run(&AtomicBool::new(false)).unwrap();
    rest.looked(look);
    assert!(out.is_empty() && rest.look().is_none());
    rest.chunk(&mut out);
    assert_eq!(out.len(), 100);
}
