//! How a restore will go, before it begins: when the next start's reads are local, how many will have to wait, when all is
//! copied. After the restore the same numbers are facts and can be compared.
//!
//! A fluid model: the copy goes through its steps (ranks of the newest trace, then the rest of what is known, then
//! everything else) at the given bandwidth; the guest starts when the restore goes online and touches the extents of a rank
//! evenly over the time that rank took at the last cold start. A read of an extent that is not there yet is a miss. Misses
//! are fetched out of turn, which moves the same bytes, so completion does not depend on them.

use crate::usage::{LATE, RANKS, Summary, Trace};
use std::time::Duration;

/// One step of the copy, in restore order.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Step {
    /// Extents that have to be fetched.
    pub extents: u64,
    /// Bytes that fetching them moves.
    pub stored_bytes: u64,
    /// Usage weight of the step.
    pub weight: u64,
    /// When the last start first touched these, in ms after its beginning, from and to; `None`: it did not.
    pub demanded_ms: Option<(u32, u32)>,
}

/// The steps of the newest trace's ranks: `per_rank` gives extents, stored bytes and weight of each, `rank_ms` is the
/// summary's (when each rank got its last extent).
pub fn trace_steps(
    per_rank: &[(u64, u64, u64); RANKS as usize],
    rank_ms: &[u32; RANKS as usize],
) -> Vec<Step> {
    let mut from = 0;
    let steps = per_rank.iter().zip(rank_ms).map(|(&(extents, stored_bytes, weight), &ms)| {
        let to = ms.max(from);
        let demanded = (from, to);
        from = to;
        Step { extents, stored_bytes, weight, demanded_ms: Some(demanded) }
    });
    steps.collect()
}

/// The steps of a restore from what is known before it begins: the usage summary of the snapshot (if it has one), how many
/// extents its hot list names, and what is stored in all. Extents are taken to be of average stored size.
pub fn steps(
    summary: Option<&Summary>,
    hot_extents: u64,
    stored_extents: u64,
    stored_bytes: u64,
) -> Vec<Step> {
    let bytes = |extents: u64| {
        (u128::from(stored_bytes) * u128::from(extents) / u128::from(stored_extents.max(1))) as u64
    };
    let mut per_rank = [(0, 0, 0); RANKS as usize];
    let (mut traced, mut rank_ms) = (0, [0; RANKS as usize]);
    if let Some(s) = summary {
        rank_ms = s.rank_ms;
        // Ranks fill up one after the other; what came late is in the set but not of the start.
        let known = s.trace_extents.min(stored_extents);
        for (rank, slot) in
            per_rank.iter_mut().enumerate().take(usize::from(LATE)).filter(|(r, _)| rank_ms[*r] > 0)
        {
            let n = Trace::extents_of(rank as u8).min(known - traced);
            traced += n;
            *slot = (n, bytes(n), 8 * n);
        }
    }
    let mut steps = trace_steps(&per_rank, &rank_ms);
    steps.retain(|s| s.extents > 0);
    let warm = hot_extents.min(stored_extents).saturating_sub(traced);
    let rest = stored_extents - traced - warm;
    for (extents, weight) in [(warm, 2 * warm), (rest, 0)] {
        steps.push(Step { extents, stored_bytes: bytes(extents), weight, demanded_ms: None });
    }
    steps
}

/// What to assume.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Assumed {
    /// Bytes per second that fill gets.
    pub bytes_per_s: u64,
    /// When the restore goes online and the guest starts, after the copy began.
    pub online: Duration,
}

/// The forecast. Times count from the beginning of the restore.
#[derive(Clone, PartialEq, Debug)]
pub struct Forecast {
    /// 50, 90 and 99 % of the next start's reads (without a trace: of usage weight) are local.
    pub local: [(u8, Duration); 3],
    /// Reads that will have waited for the holder 10, 30 and 60 s after the guest's start.
    pub misses: [(Duration, u64); 3],
    /// Everything is copied.
    pub complete: Duration,
}

/// Bytes moved in all.
pub fn stored_bytes(steps: &[Step]) -> u64 {
    steps.iter().map(|s| s.stored_bytes).sum()
}

/// When so many bytes are copied.
fn after(bytes: f64, assumed: &Assumed) -> f64 {
    bytes / assumed.bytes_per_s.max(1) as f64
}

/// Forecasts a restore of `steps`, given in restore order.
pub fn forecast(steps: &[Step], assumed: &Assumed) -> Forecast {
    let share = |percent: u8| {
        (percent, Duration::from_secs_f64(local_at(steps, assumed, f64::from(percent) / 100.0)))
    };
    let within = |s: u64| (Duration::from_secs(s), misses(steps, assumed, s as f64).round() as u64);
    Forecast {
        local: [share(50), share(90), share(99)],
        misses: [within(10), within(30), within(60)],
        complete: Duration::from_secs_f64(after(stored_bytes(steps) as f64, assumed)),
    }
}

/// When `part` (0 to 1) of the next start's reads is local. A start reads each extent of its trace about once.
fn local_at(steps: &[Step], assumed: &Assumed, part: f64) -> f64 {
    let traced = steps.iter().any(|s| s.demanded_ms.is_some() && s.extents > 0);
    let of = |s: &Step| match (traced, s.demanded_ms) {
        (true, Some(_)) => s.extents as f64,
        (true, None) => 0.0,
        (false, _) => s.weight as f64,
    };
    let want = steps.iter().map(of).sum::<f64>() * part;
    let (mut have, mut bytes) = (0.0, 0.0);
    for s in steps.iter().filter(|_| want > 0.0) {
        let (step, stored) = (of(s), s.stored_bytes as f64);
        if have + step >= want {
            return after(bytes + stored * (want - have) / step.max(f64::MIN_POSITIVE), assumed);
        }
        have += step;
        bytes += stored;
    }
    after(bytes, assumed)
}

/// Misses in the first `horizon` seconds of the guest.
fn misses(steps: &[Step], assumed: &Assumed, horizon: f64) -> f64 {
    let (mut sum, mut bytes) = (0.0, 0.0);
    for s in steps {
        let begin = after(bytes, assumed) - assumed.online.as_secs_f64();
        bytes += s.stored_bytes as f64;
        let end = after(bytes, assumed) - assumed.online.as_secs_f64();
        if let Some((from, to)) = s.demanded_ms.filter(|_| s.extents > 0) {
            let (from, to) = (f64::from(from) / 1e3, f64::from(to) / 1e3);
            sum += s.extents as f64 * missed_share(from, to.max(from + 1e-3), begin, end, horizon);
        }
    }
    sum
}

/// Extents are demanded evenly over `from..to` and copied evenly over `begin..end`: the share demanded before it is
/// copied and before `horizon`. The integral of the part not yet copied, exact since it is linear in pieces.
fn missed_share(from: f64, to: f64, begin: f64, end: f64, horizon: f64) -> f64 {
    let left = |t: f64| if t <= begin { 1.0 } else { ((end - t) / (end - begin)).clamp(0.0, 1.0) };
    let mut cuts = [from, begin.clamp(from, to), end.clamp(from, to), to].map(|t| t.min(horizon));
    cuts.sort_by(f64::total_cmp);
    let area: f64 = cuts.windows(2).map(|w| (w[1] - w[0]) * left(f64::midpoint(w[0], w[1]))).sum();
    area / (to - from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(extents: u64, stored_bytes: u64, ms: Option<(u32, u32)>) -> Step {
        Step { extents, stored_bytes, weight: extents, demanded_ms: ms }
    }
    const MB: u64 = 1_000_000;

    #[test]
    fn a_trace_that_comes_in_time_misses_nothing_and_one_that_does_not_misses_all() {
        let assumed = Assumed { bytes_per_s: 100 * MB, online: Duration::from_secs(1) };
        let steps = [step(100, 100 * MB, Some((0, 1000))), step(1000, 900 * MB, None)];
        let f = forecast(&steps, &assumed);
        assert_eq!(f.misses.map(|m| m.1), [0, 0, 0], "copied in the second before the guest starts");
        assert_eq!(f.complete, Duration::from_secs(10));
        assert_eq!(f.local.map(|l| l.1.as_millis()), [500, 900, 990]);
        let slow = Assumed { bytes_per_s: MB, online: Duration::ZERO };
        let f = forecast(&[step(0, 100 * MB, None), step(100, 100 * MB, Some((0, 20_000)))], &slow);
        assert_eq!(f.misses.map(|m| m.1), [50, 100, 100]);
    }

    #[test]
    fn even_demand_against_even_copying_misses_half() {
        let assumed = Assumed { bytes_per_s: 10 * MB, online: Duration::ZERO };
        let f = forecast(&[step(1000, 100 * MB, Some((0, 10_000)))], &assumed);
        assert_eq!(f.misses[0].1, 500);
        let brute = (0..10_000).map(|i| 1.0 - f64::from(i) / 10_000.0).sum::<f64>() / 10_000.0;
        assert!((missed_share(0.0, 10.0, 0.0, 10.0, 10.0) - brute).abs() < 1e-3);
    }

    #[test]
    fn without_a_trace_weight_is_what_counts_and_nothing_at_all_is_fine() {
        let assumed = Assumed { bytes_per_s: MB, online: Duration::ZERO };
        let f = forecast(&[step(9, 9 * MB, None), step(1, 91 * MB, None)], &assumed);
        assert_eq!((f.local[1].1.as_secs(), f.misses[2].1), (9, 0));
        let f = forecast(&[], &assumed);
        assert_eq!((f.local[2].1, f.complete), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn steps_from_a_summary_add_up() {
        let mut s = Summary { trace_extents: 40, ..Summary::default() };
        (s.rank_ms[0], s.rank_ms[1], s.rank_ms[2]) = (100, 900, 4_000);
        let steps = steps(Some(&s), 100, 1000, 64_000);
        let extents: Vec<u64> = steps.iter().map(|s| s.extents).collect();
        assert_eq!((extents, stored_bytes(&steps)), (vec![16, 16, 8, 60, 900], 64_000));
        assert_eq!(steps[2].demanded_ms, Some((900, 4_000)));
        let none = super::steps(None, 5000, 1000, 64_000);
        assert_eq!(none.iter().map(|s| s.extents).collect::<Vec<_>>(), [1000, 0]);
        assert_eq!(super::steps(None, 0, 0, 0).len(), 2);
    }

    #[test]
    fn ranks_follow_each_other_in_time() {
        let mut per_rank = [(0, 0, 0); RANKS as usize];
        (per_rank[0], per_rank[2]) = ((16, 16, 16), (32, 32, 32));
        let mut rank_ms = [0; RANKS as usize];
        (rank_ms[0], rank_ms[2]) = (400, 2_000);
        let steps = trace_steps(&per_rank, &rank_ms);
        assert_eq!(steps[0].demanded_ms, Some((0, 400)));
        assert_eq!((steps[1].demanded_ms, steps[2].demanded_ms), (Some((400, 400)), Some((400, 2_000))));
        assert_eq!(stored_bytes(&steps), 48);
    }
}
