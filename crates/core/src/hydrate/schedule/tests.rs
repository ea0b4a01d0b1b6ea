//! Order, fairness and completeness of the schedule.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Extents in descending order, to tell it from volume order.
struct Down(u64, Option<u64>);
impl Rest for Down {
    fn chunk(&mut self, out: &mut VecDeque<u64>) -> Pass {
        let at = self.1.unwrap_or(self.0);
        let low = at.saturating_sub(3);
        out.extend((low..at).rev());
        self.1 = if at == 0 { None } else { Some(low) };
        if at == 0 { Pass::Over } else { Pass::More }
    }
}
struct World {
    local: Vec<BTreeSet<u64>>,
    rest: Vec<Down>,
}
impl Wanted for World {
    fn claim_fetch(&mut self, n: Next) -> Option<u32> {
        self.local[n.volume].insert(n.extent).then_some(65_536)
    }
    fn rest(&mut self, volume: usize) -> &mut dyn Rest {
        &mut self.rest[volume]
    }
}
fn world(sizes: &[u64]) -> World {
    World { local: vec![BTreeSet::new(); sizes.len()], rest: sizes.iter().map(|&n| Down(n, None)).collect() }
}
fn drain(s: &mut SetSchedule, w: &mut World) -> Vec<(usize, u64)> {
    let mut out = Vec::new();
    loop {
        match s.next(w) {
            Outcome::Fetch(n) => out.push((n.volume, n.extent)),
            Outcome::Again => {}
            Outcome::Swept => return out,
        }
    }
}
fn one(extents: u64, hot: &[u64]) -> SetSchedule {
    SetSchedule::new(vec![Schedule::new(extents, hot.to_vec(), WEIGHT)])
}
fn extents(got: &[(usize, u64)]) -> Vec<u64> {
    got.iter().map(|&(_, e)| e).collect()
}

#[test]
fn first_then_neighbours_then_hot_then_hints_then_rest_each_once() {
    let (mut s, mut w) = (one(12, &[9, 2, 99, 5]), world(&[12]));
    s.volumes[0].set_neighbours(2);
    s.volumes[0].hint(&[ExtentRange { start: 0, end: 2 }, ExtentRange { start: 50, end: 60 }]);
    s.volumes[0].missed(4);
    s.volumes[0].first(ExtentRange { start: 7, end: 9 }).expect("room");
    s.volumes[0].first(ExtentRange { start: 11, end: 70 }).expect("room");
    w.local[0].insert(4);
    assert_eq!(extents(&drain(&mut s, &mut w)), [11, 7, 8, 5, 9, 2, 6, 0, 1, 10, 3]);
    assert!(s.volumes[0].is_swept());
}

#[test]
fn neighbours_take_turns_with_what_is_known_to_be_hot() {
    let hot: Vec<u64> = (500..600).collect();
    let mut s = SetSchedule::new(vec![Schedule::new(1000, hot, WEIGHT), Schedule::new(1000, vec![], WEIGHT)]);
    let mut w = world(&[1000, 1000]);
    // Misses at random, faster than they could be served; on the other volume too, which knows nothing hot.
    (0..100).for_each(|i| s.volumes[i % 2].missed(i as u64 * 37 % 450));
    let early = &drain(&mut s, &mut w)[..100];
    let hot = early.iter().filter(|&&(v, e)| v == 0 && e >= 500).count();
    assert_eq!(hot, 75, "three of four");
    assert_ne!(early[0], (0, 500), "a miss after a while without is answered at once");
}

#[test]
fn a_sequential_reader_promotes_each_extent_once() {
    let (mut s, mut w) = (one(1000, &[]), world(&[1000]));
    for e in 0..8 {
        w.local[0].insert(e);
        s.volumes[0].missed(e);
    }
    assert_eq!(s.volumes[0].promoted, [ExtentRange { start: 1, end: 24 }], "one run that grows");
    let Outcome::Fetch(n) = s.next(&mut w) else { panic!("nothing next") };
    assert_eq!((n.extent, n.source), (8, Source::Promoted));
}

#[test]
fn promotions_are_bounded_and_the_newest_win() {
    let mut s = one(u64::MAX, &[]);
    for i in 0..1000 {
        s.volumes[0].missed(i * 1000);
    }
    assert_eq!(s.volumes[0].promoted.len(), PROMOTED_MAX);
    assert_eq!(s.volumes[0].promoted[0], ExtentRange { start: 999_001, end: 999_017 });
    let firsts = (0..FIRST_MAX as u64).map(|i| s.volumes[0].first(ExtentRange { start: i, end: i + 1 }));
    assert!(firsts.collect::<Vec<_>>().iter().all(Result::is_ok));
    assert_eq!(s.volumes[0].first(ExtentRange { start: 0, end: 1 }), Err(TooManyFirst));
}

#[test]
fn hot_of_every_volume_comes_before_the_rest_of_any_and_weights_share() {
    let hot: Vec<u64> = (0..40).collect();
    let mut s = SetSchedule::new(vec![Schedule::new(100, hot.clone(), 300), Schedule::new(100, hot, 100)]);
    let mut w = world(&[100, 100]);
    let got = drain(&mut s, &mut w);
    assert!(got[..80].iter().all(|&(_, e)| e < 40), "hot before rest");
    let early = got[..40].iter().filter(|&&(v, _)| v == 0).count();
    assert!((29..=31).contains(&early), "three to one: {early} of 40");
    assert_eq!(got.len(), 200);
}

#[test]
fn what_failed_is_swept_up_again() {
    let (mut s, mut w) = (one(6, &[]), world(&[6]));
    assert_eq!(drain(&mut s, &mut w).len(), 6);
    w.local[0].remove(&3);
    assert_eq!(s.next(&mut w), Outcome::Swept);
    s.volumes[0].failed();
    assert_eq!(extents(&drain(&mut s, &mut w)), [3]);
}

#[test]
fn what_came_to_nothing_unheard_is_found_by_the_next_pass() {
    struct Forgetful(World, u32);
    impl Wanted for Forgetful {
        fn claim_fetch(&mut self, n: Next) -> Option<u32> {
            if n.extent == 3 && self.1 > 0 {
                self.1 -= 1;
                return Some(1); // Started, and lost without a word.
            }
            self.0.claim_fetch(n)
        }
        fn rest(&mut self, volume: usize) -> &mut dyn Rest {
            self.0.rest(volume)
        }
    }
    let (mut s, mut w) = (one(6, &[]), Forgetful(world(&[6]), 2));
    while s.next(&mut w) != Outcome::Swept {}
    assert_eq!(w.0.local[0].len(), 6);
}

#[test]
fn neighbours_follow_the_link() {
    let at = |mbit: u64| neighbours(mbit * 125_000, 64 << 10);
    assert_eq!((at(25), at(100), at(1000), at(10_000)), (4, 16, 16, 16));
}

proptest! {
    #[test]
    fn every_extent_is_proposed_exactly_once_whatever_happens(
        size in 1u64..200, hot in prop::collection::vec(0u64..220, 0..100),
        events in prop::collection::vec((0u8..4, 0u64..220, 0u64..30), 0..60),
    ) {
        let mut hot = hot;
        hot.dedup();
        let (mut s, mut w) = (one(size, &hot), world(&[size]));
        let mut seen = BTreeSet::new();
        for (what, at, n) in events {
            match what {
                0 => s.volumes[0].missed(at.min(size - 1)),
                1 => s.volumes[0].first(ExtentRange { start: at, end: at + n }).expect("room"),
                2 => s.volumes[0].set_neighbours(n),
                _ => {
                    if let Outcome::Fetch(next) = s.next(&mut w) {
                        prop_assert!(seen.insert(next.extent));
                    }
                }
            }
        }
        for e in extents(&drain(&mut s, &mut w)) {
            prop_assert!(seen.insert(e), "{} twice", e);
        }
        prop_assert_eq!(seen.into_iter().collect::<Vec<_>>(), (0..size).collect::<Vec<_>>());
    }
}
