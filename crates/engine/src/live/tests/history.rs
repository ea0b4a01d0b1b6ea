//! Invariant 8 under random histories: the incremental computed from tracking equals the full image of its instant,
//! whatever happened between: crash or power cut at any I/O, failed backups, several repositories, writes behind our
//! back, clean stops, checkpoints at any time. One counter numbers every operation on the image and on the state
//! folder, so "at any I/O" is meant literally.

use super::world::*;
use crate::live::{LiveSet, LiveVolume};
use proptest::prelude::*;
use rekindle_io::block::BlockExt;
use rekindle_io::fault::Crash;
use rekindle_io::{Kind, Result};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
enum Event {
    Write {
        block: u64,
        blocks: u64,
    },
    Zero {
        block: u64,
        blocks: u64,
    },
    Trim {
        block: u64,
        blocks: u64,
    },
    Flush,
    /// To repository 0 or 1; writes while it runs; some fail before they commit.
    Backup {
        repository: usize,
        during: Vec<u64>,
        commits: bool,
    },
    Checkpoint {
        all: bool,
    },
    Minute,
    /// Clean stop, perhaps somebody writes to the image, start.
    Restart {
        behind: Option<u64>,
    },
    /// kill -9, perhaps somebody writes to the image, start.
    Kill {
        behind: Option<u64>,
    },
    PowerCut {
        seed: u64,
    },
}

/// Blocks that are close together now and then, so that histories meet.
fn block() -> impl Strategy<Value = u64> {
    prop_oneof![3 => 0..8u64, 1 => 60..70u64, 2 => 0..SIZE / BLOCK - 8]
}

fn event() -> impl Strategy<Value = Event> {
    let behind = || prop::option::weighted(0.4, block());
    prop_oneof![
        8 => (block(), 1..8u64).prop_map(|(block, blocks)| Event::Write { block, blocks }),
        1 => (block(), 1..8u64).prop_map(|(block, blocks)| Event::Zero { block, blocks }),
        1 => (block(), 1..8u64).prop_map(|(block, blocks)| Event::Trim { block, blocks }),
        2 => Just(Event::Flush),
        5 => (0..2usize, prop::collection::vec(block(), 0..4), prop::bool::weighted(0.8))
            .prop_map(|(repository, during, commits)| Event::Backup { repository, during, commits }),
        3 => any::<bool>().prop_map(|all| Event::Checkpoint { all }),
        1 => Just(Event::Minute),
        1 => behind().prop_map(|behind| Event::Restart { behind }),
        1 => behind().prop_map(|behind| Event::Kill { behind }),
        2 => any::<u64>().prop_map(|seed| Event::PowerCut { seed }),
    ]
}

/// A machine that lives through a history, and two repositories that nothing happens to.
struct Life {
    machine: Machine,
    open: Option<(Arc<LiveVolume>, LiveSet)>,
    repositories: [Vec<Snapshot>; 2],
    stamp: u8,
}

impl Life {
    fn new() -> Life {
        Life { machine: Machine::new(), open: None, repositories: Default::default(), stamp: 0 }
    }
    fn volume(&mut self) -> Result<Arc<LiveVolume>> {
        if self.open.is_none() {
            self.open = Some(self.machine.open()?);
        }
        Ok(self.open.as_ref().expect("opened above").0.clone())
    }
    fn write(&mut self, block: u64, blocks: u64) -> Result<()> {
        self.stamp = self.stamp % 250 + 1;
        let data = vec![self.stamp; (blocks * BLOCK) as usize];
        self.volume()?.write_at(block * BLOCK, &data)
    }
    fn crash(&mut self, crash: Crash) {
        self.open = None;
        self.machine = self.machine.crash(crash);
    }
    fn behind(&mut self, block: Option<u64>) {
        if let Some(b) = block {
            self.machine.touch(b * BLOCK, &[255; BLOCK as usize]);
        }
    }
    fn backup(&mut self, repository: usize, during: &[u64], commits: bool) -> Result<()> {
        self.volume()?;
        let set = &self.open.as_ref().expect("opened above").1;
        let instant = self.machine.instant(set)?;
        let truth = full(&self.machine.disk);
        for b in during {
            self.write(*b, 3)?;
        }
        let mine = &mut self.repositories[repository];
        let snapshot = backup(&*instant, mine.last())?;
        assert!(
            snapshot.blocks == truth,
            "an incremental differs from its instant at {:?}",
            differs(&snapshot, &truth)
        );
        // Any older parent will do as well: a newer one may have been forgotten.
        for parent in mine.iter() {
            let again = backup(&*instant, Some(parent))?;
            assert!(again.blocks == truth, "against an older parent, at {:?}", differs(&again, &truth));
        }
        if commits {
            mine.push(snapshot);
        }
        Ok(())
    }
    fn live(&mut self, event: &Event) -> Result<()> {
        match event {
            Event::Write { block, blocks } => self.write(*block, *blocks),
            Event::Zero { block, blocks } => self.volume()?.zero_at(block * BLOCK, blocks * BLOCK),
            Event::Trim { block, blocks } => self.volume()?.trim_at(block * BLOCK, blocks * BLOCK),
            Event::Flush => self.volume()?.flush(),
            Event::Backup { repository, during, commits } => self.backup(*repository, during, *commits),
            Event::Checkpoint { all } => self.volume()?.checkpoint(*all),
            Event::Minute => {
                self.machine.facts.clock.advance(Duration::from_secs(61));
                self.volume()?.tick()
            }
            Event::Restart { behind } => {
                self.volume()?;
                self.open.take().map_or(Ok(()), |(_, set)| set.close())?;
                self.behind(*behind);
                Ok(())
            }
            Event::Kill { behind } => {
                self.crash(Crash::Kill);
                self.behind(*behind);
                Ok(())
            }
            Event::PowerCut { seed } => {
                self.crash(Crash::Power { seed: *seed });
                Ok(())
            }
        }
    }
    /// Every event in turn; when the machine dies in one (`dies` names the I/O of each life), it comes back as `seed`
    /// decides and goes on with the next event. Ends with a backup to each repository.
    fn run(&mut self, events: &[Event], mut dies: Vec<(u64, u64)>, seed: u64) {
        dies.reverse();
        self.arm(dies.pop());
        let last = [0, 1].map(|repository| Event::Backup { repository, during: vec![1], commits: true });
        for e in events.iter().chain(&last) {
            // The last two must succeed, so they are tried again after a death.
            for attempt in 0..6 {
                let before = self.machine.plan.count();
                let result = self.live(e);
                let Err(error) = result else { break };
                assert_eq!(error.kind, Kind::Cancelled, "{e:?}: {error}");
                let n = seed.wrapping_add(before + attempt);
                self.crash(if n.is_multiple_of(4) { Crash::Kill } else { Crash::Power { seed: n } });
                self.arm(dies.pop());
                if !matches!(e, Event::Backup { commits: true, .. }) {
                    break;
                }
            }
        }
        assert!(self.repositories.iter().all(|r| !r.is_empty()));
    }
    fn arm(&self, dies: Option<(u64, u64)>) {
        if let Some((n, torn)) = dies {
            self.machine.plan.die_within(n, torn);
        }
    }
}

fn differs(s: &Snapshot, truth: &[u8]) -> Vec<usize> {
    (0..truth.len()).filter(|n| s.blocks[*n] != truth[*n]).collect()
}

/// A history in which everything happens once, for the exhaustive runs.
fn chronicle() -> Vec<Event> {
    let write = |block| Event::Write { block, blocks: 2 };
    let backup = |repository, block| Event::Backup { repository, during: vec![block], commits: true };
    vec![
        write(0),
        backup(0, 1),
        write(66),
        write(5),
        Event::Checkpoint { all: true },
        write(9),
        Event::Backup { repository: 0, during: vec![2], commits: false },
        backup(1, 67),
        Event::Flush,
        write(130),
        Event::Minute,
        write(1),
        Event::Zero { block: 64, blocks: 4 },
        Event::Restart { behind: None },
        write(3),
        backup(0, 3),
        Event::Checkpoint { all: false },
        Event::Checkpoint { all: false },
        write(2),
    ]
}

#[test]
fn nothing_happens_to_the_chronicle_without_a_crash() {
    let mut life = Life::new();
    life.run(&chronicle(), vec![], 0);
    assert_eq!(life.repositories[0].len(), 3);
}

#[test]
fn a_crash_at_every_io() {
    let mut n = 0;
    loop {
        for (torn, seed) in [(0, 0), (400, 1), (900, 2), (0, 3)] {
            let mut life = Life::new();
            let plan = life.machine.plan.clone();
            life.run(&chronicle(), vec![(n, torn)], seed);
            if !plan.is_dead() {
                assert!(n > 100, "the chronicle has {n} operations");
                return;
            }
        }
        n += 1;
    }
}

#[test]
fn a_second_crash_at_every_io_of_the_recovery() {
    for first in (7..130).step_by(13) {
        for second in 0..24 {
            Life::new().run(&chronicle(), vec![(first, 0), (second, 500)], first * 31 + second);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn random_histories(
        events in prop::collection::vec(event(), 1..40),
        dies in prop::collection::vec((0..120u64, 0..1000u64), 0..4),
        seed: u64,
    ) {
        Life::new().run(&events, dies, seed);
    }
}
