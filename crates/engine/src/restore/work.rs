//! What the fetch threads have to do, and in which order: what a guest waits for first.

use super::landing::Arrival;
use rekindle_io::holder::Urgency;
use std::collections::VecDeque;

/// What worker threads take from.
#[derive(Default)]
pub(super) struct Work {
    pub(super) demand: VecDeque<(u16, Vec<u64>)>,
    /// To be asked for when nobody waits.
    pub(super) background: VecDeque<(u16, Vec<u64>)>,
    /// Answers that a guest waits for: before all others, which may be a window of them.
    awaited: VecDeque<Arrival>,
    arrivals: VecDeque<Arrival>,
    /// Runs of these that are being written.
    pub(super) landing: usize,
}

impl Work {
    /// What to ask the holder for next.
    pub(super) fn asked(&mut self) -> Option<(u16, Vec<u64>, Urgency)> {
        let of = |urgency| move |(volume, extents)| (volume, extents, urgency);
        let demand = self.demand.pop_front().map(of(Urgency::Demand));
        demand.or_else(|| self.background.pop_front().map(of(Urgency::Background)))
    }
    /// An answer came; whether a thread has to be woken for it. `full`: answers in a full run.
    pub(super) fn came(&mut self, arrival: Arrival, awaited: bool, full: usize) -> bool {
        if awaited {
            self.awaited.push_back(arrival);
            return true;
        }
        self.arrivals.push_back(arrival);
        self.arrivals.len() == 1 && self.landing == 0 || self.arrivals.len().is_multiple_of(full)
    }
    /// The next answer that somebody waits for.
    pub(super) fn awaited(&mut self) -> Option<Arrival> {
        self.awaited.pop_front()
    }
    /// The next run of one volume that nobody waits for; it counts as landing until the caller takes it off. One thread
    /// writes what came while it wrote; another helps when there is a full run besides. Four threads that took them one by
    /// one woke four times as often, always in the guest's way, and their small writes held its flushes up.
    pub(super) fn run(&mut self, full: impl Fn(u16) -> usize) -> Option<Vec<Arrival>> {
        let most = self.lands(full)?;
        let volume = self.arrivals[0].volume;
        let n = self.arrivals.iter().take(most).take_while(|a| a.volume == volume).count();
        self.landing += 1;
        Some(self.arrivals.drain(..n).collect())
    }
    /// A run may be taken, of so many answers at most.
    fn lands(&self, full: impl Fn(u16) -> usize) -> Option<usize> {
        let full = full(self.arrivals.front()?.volume);
        (self.landing == 0 || self.arrivals.len() >= full).then_some(full)
    }
    pub(super) fn is_empty(&self, full: impl Fn(u16) -> usize) -> bool {
        let asked = [&self.demand, &self.background];
        asked.iter().all(|q| q.is_empty()) && self.awaited.is_empty() && self.lands(full).is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_io::holder::Fetched;
    use std::time::Duration;

    const FULL: usize = 4;

    fn answer(extent: u64) -> Arrival {
        Arrival { volume: 0, extent, at: Duration::ZERO, what: Ok(Fetched::Zero) }
    }
    /// What a thread takes next.
    fn run(work: &mut Work) -> Vec<u64> {
        let awaited = work.awaited().map(|one| vec![one]);
        let run = awaited.or_else(|| work.run(|_| FULL)).unwrap_or_default();
        run.into_iter().map(|a| a.extent).collect()
    }

    #[test]
    fn one_thread_writes_what_came_while_it_wrote() {
        let mut work = Work::default();
        assert!(work.came(answer(0), false, FULL), "somebody has to begin");
        assert!(!work.came(answer(1), false, FULL), "and is on the way");
        assert_eq!(run(&mut work), [0, 1]);
        let woken: Vec<bool> = (2..6).map(|e| work.came(answer(e), false, FULL)).collect();
        assert_eq!(woken, [false, false, false, true], "another helps with a full run");
        assert_eq!(run(&mut work), [2, 3, 4, 5]);
        assert!(!work.came(answer(6), false, FULL) && work.is_empty(|_| FULL));
        assert_eq!(run(&mut work), [0; 0], "two are at it");
        work.landing -= 2;
        assert!(!work.is_empty(|_| FULL), "who has ended looks again");
        assert_eq!(run(&mut work), [6]);
    }

    #[test]
    fn what_a_guest_waits_for_waits_for_nobody() {
        let mut work = Work::default();
        work.came(answer(0), false, FULL);
        assert_eq!(run(&mut work), [0]);
        assert!(!work.came(answer(1), false, FULL) && work.came(answer(2), true, FULL));
        assert!(!work.is_empty(|_| FULL));
        assert_eq!((run(&mut work), work.landing), (vec![2], 1));
        work.demand.push_back((0, vec![7]));
        work.background.push_back((0, vec![8]));
        assert!(!work.is_empty(|_| FULL));
        let asked: Vec<_> = std::iter::from_fn(|| work.asked()).map(|(_, e, u)| (e[0], u)).collect();
        assert_eq!(asked, [(7, Urgency::Demand), (8, Urgency::Background)]);
    }

    #[test]
    fn a_run_is_of_one_volume() {
        let mut work = Work::default();
        work.came(answer(0), false, FULL);
        work.came(Arrival { volume: 1, ..answer(1) }, false, FULL);
        assert_eq!(run(&mut work), [0]);
        work.landing -= 1;
        assert_eq!(run(&mut work), [1]);
    }
}
