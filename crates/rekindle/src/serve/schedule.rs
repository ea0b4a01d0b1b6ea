//! When the next scheduled backup is due, by the wall clock, which may jump.

use super::calendar::Calendar;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A calendar that is being watched.
#[derive(Clone, Debug)]
pub struct Schedule {
    calendar: Calendar,
    zone: TimeZone,
    next: Option<Timestamp>,
}

impl Schedule {
    /// Watches from `now` on; what was due before is not made up for.
    pub fn new(calendar: Calendar, now: Timestamp, zone: TimeZone) -> Schedule {
        let next = calendar.next(now, &zone);
        Schedule { calendar, zone, next }
    }
    /// When it fires next.
    pub fn next(&self) -> Option<Timestamp> {
        self.next
    }
    /// Whether it fires now; however much was missed (a sleeping machine, a clock set forward), it fires once.
    pub fn due(&mut self, now: Timestamp) -> bool {
        let fires = self.next.is_some_and(|next| next <= now);
        let fresh = self.calendar.next(now, &self.zone);
        // A clock set back by a day must not silence the schedule for a day.
        if fires || fresh < self.next {
            self.next = fresh;
        }
        fires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_however_the_clock_goes() {
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        let mut s = Schedule::new("02:00".parse().unwrap(), at("2026-11-21T10:00:00Z"), TimeZone::UTC);
        assert_eq!(s.next(), Some(at("2026-11-22T02:00:00Z")));
        assert!(!s.due(at("2026-11-22T01:59:59Z")));
        assert!(s.due(at("2026-11-22T02:00:00Z")));
        assert!(!s.due(at("2026-11-22T02:00:01Z")), "once");
        assert!(s.due(at("2026-11-29T12:00:00Z")), "a week asleep");
        assert!(!s.due(at("2026-11-29T12:00:01Z")), "is made up for once");
        assert!(!s.due(at("2026-11-20T01:00:00Z")), "set back");
        assert!(s.due(at("2026-11-20T02:00:00Z")), "and goes on from there");
    }
}
