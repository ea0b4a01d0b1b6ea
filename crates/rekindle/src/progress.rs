//! Progress of long work: one line redrawn on a terminal, plain lines now and then elsewhere, JSON lines on request.

use crate::out::Out;
use crate::serve::control::{Message, Progress, Status};
use crate::show::{bar, words};
use std::collections::VecDeque;
use std::io::Write;
use std::time::{Duration, Instant};

/// Between redraws of a terminal line.
const REDRAW: Duration = Duration::from_millis(200);
/// Between plain lines: a log of an hour stays readable.
const PLAIN: Duration = Duration::from_secs(5);
/// Between JSON lines.
const LINES: Duration = Duration::from_millis(500);
/// The rate is of this long a stretch.
const WINDOW: Duration = Duration::from_secs(15);

/// Speed and time left, from what was done when.
#[derive(Debug)]
pub struct Meter {
    started: Instant,
    seen: VecDeque<(Instant, u64)>,
}

impl Meter {
    /// Starts now.
    pub fn new() -> Meter {
        Meter { started: Instant::now(), seen: VecDeque::new() }
    }
    /// The progress now that `done` of `total` bytes are dealt with.
    pub fn progress(&mut self, activity: &str, done: u64, total: Option<u64>) -> Progress {
        self.progress_at(Instant::now(), activity, done, total)
    }
    fn progress_at(&mut self, now: Instant, activity: &str, done: u64, total: Option<u64>) -> Progress {
        while self.seen.len() > 1 && now.duration_since(self.seen[1].0) > WINDOW {
            self.seen.pop_front();
        }
        // One mark in a tenth of the window is enough, and bounds the queue however often we are asked.
        if self.seen.back().is_none_or(|(t, _)| now.duration_since(*t) >= WINDOW / 10) {
            self.seen.push_back((now, done));
        }
        let (then, had) = self.seen.front().copied().unwrap_or((self.started, 0));
        let span = now.duration_since(then).as_secs_f64();
        let elapsed = now.duration_since(self.started).as_secs_f64();
        let rate = match span {
            s if s > 0.5 => done.saturating_sub(had) as f64 / s,
            _ if elapsed > 0.0 => done as f64 / elapsed,
            _ => 0.0,
        };
        let left = total.map(|t| t.saturating_sub(done) as f64);
        Progress {
            activity: activity.into(),
            done_bytes: done,
            total_bytes: total,
            elapsed_s: elapsed,
            remaining_s: left.filter(|_| rate > 0.0 && elapsed > 1.0).map(|l| l / rate),
            bytes_per_s: rate,
            detail: String::new(),
        }
    }
}

/// `filling   [######..............] 31 %, 93 % of I/O local, 21 min left`.
pub fn words_of(p: &Progress) -> String {
    let mut line = format!("{:<9} ", p.activity);
    match p.total_bytes {
        Some(total) => {
            let share = if total == 0 { 1.0 } else { p.done_bytes as f64 / total as f64 };
            line.push_str(&format!("{} {}", bar::progress(share, 20), words::percent(share)));
        }
        None => line.push_str(&words::bytes(p.done_bytes)),
    }
    if !p.detail.is_empty() {
        line.push_str(&format!(", {}", p.detail));
    }
    if p.bytes_per_s > 0.0 {
        line.push_str(&format!(", {}", words::rate(p.bytes_per_s)));
    }
    if let Some(left) = p.remaining_s
        && left.is_finite()
    {
        line.push_str(&format!(", {} left", words::duration(Duration::from_secs_f64(left.clamp(0.0, 1e9)))));
    }
    line
}

/// Shows progress of one piece of work; dropping it leaves a clean line.
#[derive(Debug)]
pub struct Shown {
    out: Out,
    name: String,
    last: Option<Instant>,
    drawn: bool,
}

impl Shown {
    /// For work on `name`.
    pub fn new(out: Out, name: &str) -> Shown {
        Shown { out, name: name.into(), last: None, drawn: false }
    }
    /// Shows, if it is time again.
    pub fn show(&mut self, p: &Progress) {
        let every = match (self.out.json, self.out.live) {
            (true, _) => LINES,
            (false, true) => REDRAW,
            (false, false) => PLAIN,
        };
        // The first plain line comes after a while too: short work says nothing but its result.
        let last = *self.last.get_or_insert_with(Instant::now);
        if last.elapsed() < every || self.out.quiet {
            return;
        }
        self.last = Some(Instant::now());
        if self.out.json {
            let status = Status { name: self.name.clone(), progress: Some(p.clone()), set: None };
            self.out.message(&Message::Status(status));
        } else if self.out.live {
            self.drawn = true;
            let line: String = words_of(p).chars().take(width().saturating_sub(1)).collect();
            let mut err = std::io::stderr();
            let _ = write!(err, "\r{line}\x1b[K").and_then(|()| err.flush());
        } else {
            self.out.note(words_of(p));
        }
    }
    /// Makes room for another line.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let mut err = std::io::stderr();
            let _ = write!(err, "\r\x1b[K").and_then(|()| err.flush());
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Columns of the terminal on stderr.
fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr()).map_or(80, |w| w.ws_col.max(20) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_of_the_last_stretch() {
        let mut m = Meter::new();
        let t0 = m.started;
        let at = |s: u64| t0 + Duration::from_secs(s);
        for s in 0..=60 {
            m.progress_at(at(s), "copy", s * 10, Some(10_000));
        }
        let p = m.progress_at(at(61), "copy", 610, Some(10_000));
        assert!((p.bytes_per_s - 10.0).abs() < 0.01, "{p:?}");
        assert!((p.remaining_s.unwrap() - 939.0).abs() < 1.0, "{p:?}");
        // Stalled for a minute: the old speed is forgotten.
        let p = m.progress_at(at(121), "copy", 610, Some(10_000));
        let p2 = m.progress_at(at(140), "copy", 610, Some(10_000));
        assert!(p.bytes_per_s < 1.0 && p2.bytes_per_s == 0.0 && p2.remaining_s.is_none(), "{p:?} {p2:?}");
        assert!(m.seen.len() < 16);
    }

    #[test]
    fn a_line_as_in_the_story() {
        let p = Progress {
            activity: "filling".into(),
            done_bytes: 31,
            total_bytes: Some(100),
            remaining_s: Some(21.0 * 60.0),
            detail: "93 % of I/O local".into(),
            ..Progress::default()
        };
        assert_eq!(words_of(&p), "filling   [######..............] 31 %, 93 % of I/O local, 21 min left");
    }
}
