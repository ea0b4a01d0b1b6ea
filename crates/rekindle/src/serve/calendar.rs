//! When a schedule fires: the part of systemd's calendar that backups use.
//!
//! `[WEEKDAYS] [DATE] [TIME]` with WEEKDAYS `Mon`, `Mon,Thu`, `Mon..Fri`; DATE `*-*-*`, `*-*-01`, `*-03,09-01`; TIME `HH:MM`
//! or `HH:MM:SS`; in every field of date and time `*`, `7`, `1,15`, `1..7`, `0/15` (from 0 in steps of 15), `*/2`. A date
//! left out is every day, a time left out midnight. Words: `minutely`, `hourly`, `daily`, `weekly` (Monday), `monthly`.
//! Local time; an hour that a clock change skips fires right after it, one that comes twice fires the first time.

use jiff::civil::{DateTime, Time};
use jiff::{Timestamp, ToSpan, tz::TimeZone};
use std::fmt;
use std::str::FromStr;

/// A schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Calendar {
    text: String,
    /// Sunday is bit 0.
    weekdays: u8,
    months: u64,
    days: u64,
    hours: u64,
    minutes: u64,
    seconds: u64,
}

/// Why a text is no schedule: names the part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadCalendar(String);

impl fmt::Display for BadCalendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}; write for example `*-*-* 02:00`, `Mon..Fri 22:30`, `Sun 05:00`, `*:0/15`, `hourly`, `daily`, `weekly`",
            self.0
        )
    }
}

const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
const EVERY_DAY: u8 = 0x7f;

impl FromStr for Calendar {
    type Err = BadCalendar;
    fn from_str(text: &str) -> Result<Self, BadCalendar> {
        let spelled = match text.trim() {
            "minutely" => "*-*-* *:*:00",
            "hourly" => "*-*-* *:00:00",
            "daily" => "*-*-* 00:00:00",
            "weekly" => "Mon *-*-* 00:00:00",
            "monthly" => "*-*-01 00:00:00",
            other => other,
        };
        let mut c = Calendar {
            text: text.trim().to_string(),
            weekdays: EVERY_DAY,
            months: bits(1, 12),
            days: bits(1, 31),
            hours: 1,
            minutes: 1,
            seconds: 1,
        };
        let parts: Vec<&str> = spelled.split_whitespace().collect();
        let mut rest = &parts[..];
        if let [first, tail @ ..] = rest
            && first.starts_with(|x: char| x.is_ascii_alphabetic())
        {
            c.weekdays = weekdays(first)?;
            rest = tail;
        }
        if let [first, tail @ ..] = rest
            && first.contains('-')
        {
            (c.months, c.days) = date(first)?;
            rest = tail;
        }
        if let [first, tail @ ..] = rest
            && first.contains(':')
        {
            (c.hours, c.minutes, c.seconds) = time(first)?;
            rest = tail;
        }
        match rest {
            [] if !parts.is_empty() => Ok(c),
            [] => Err(BadCalendar("an empty schedule".into())),
            [what, ..] => Err(BadCalendar(format!("`{what}` is neither weekdays, a date nor a time"))),
        }
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Calendar {
    /// The first time strictly after `now`, or `None` if there is none in the next nine years (29 February can take eight).
    pub fn next(&self, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = now.to_zoned(zone.clone()).datetime();
        let mut day = local.date();
        for _ in 0..9 * 366 {
            let weekday = day.weekday().to_sunday_zero_offset();
            let fits = self.weekdays >> weekday & 1 == 1
                && has(self.months, day.month())
                && has(self.days, day.day());
            if fits && let Some(found) = self.first_on(day, local, now, zone) {
                return Some(found);
            }
            day = day.checked_add(1.day()).ok()?;
        }
        None
    }

    fn first_on(
        &self,
        day: jiff::civil::Date,
        local: DateTime,
        now: Timestamp,
        zone: &TimeZone,
    ) -> Option<Timestamp> {
        for hour in (0..24).filter(|h| has(self.hours, *h)) {
            for minute in (0..60).filter(|m| has(self.minutes, *m)) {
                // A clock set back makes a later instant carry an earlier local time, so look a few hours around.
                let close = DateTime::from_parts(day, Time::constant(hour, minute, 59, 0));
                if close < local.checked_sub(3.hours()).ok()? {
                    continue;
                }
                for second in (0..60).filter(|s| has(self.seconds, *s)) {
                    let at = DateTime::from_parts(day, Time::constant(hour, minute, second, 0));
                    let stamp = zone.to_ambiguous_timestamp(at).compatible().ok()?;
                    if stamp > now {
                        return Some(stamp);
                    }
                }
            }
        }
        None
    }
}

fn has(set: u64, n: i8) -> bool {
    set >> n & 1 == 1
}

fn bits(from: u32, to: u32) -> u64 {
    (from..=to).fold(0, |set, n| set | 1 << n)
}

fn weekdays(text: &str) -> Result<u8, BadCalendar> {
    let bad = || BadCalendar(format!("`{text}` names no weekdays"));
    let day = |name: &str| {
        let short = name.to_ascii_lowercase();
        let full = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
        DAYS.iter()
            .position(|d| *d == short)
            .or_else(|| full.iter().position(|d| *d == short))
            .ok_or_else(bad)
    };
    let mut set = 0;
    for item in text.trim_end_matches(',').split(',') {
        let (from, to) = item.split_once("..").unwrap_or((item, item));
        let (from, to) = (day(from)?, day(to)?);
        // Sat..Tue goes over the end of the week.
        (0..7).map(|i| (from + i) % 7).take((to + 7 - from) % 7 + 1).for_each(|d| set |= 1 << d);
    }
    Ok(set)
}

fn date(text: &str) -> Result<(u64, u64), BadCalendar> {
    let parts: Vec<&str> = text.split('-').collect();
    let (year, month, day) = match parts[..] {
        [y, m, d] => (y, m, d),
        [m, d] => ("*", m, d),
        _ => return Err(BadCalendar(format!("`{text}` is no date"))),
    };
    if year != "*" {
        return Err(BadCalendar(format!("the year in `{text}` must be `*`")));
    }
    Ok((field("month", month, 1, 12)?, field("day", day, 1, 31)?))
}

fn time(text: &str) -> Result<(u64, u64, u64), BadCalendar> {
    let parts: Vec<&str> = text.split(':').collect();
    let (h, m, s) = match parts[..] {
        [h, m] => (h, m, "0"),
        [h, m, s] => (h, m, s),
        _ => return Err(BadCalendar(format!("`{text}` is no time"))),
    };
    Ok((field("hour", h, 0, 23)?, field("minute", m, 0, 59)?, field("second", s, 0, 59)?))
}

/// One field: a comma list of `*`, `n`, `a..b`, each with an optional `/step`.
fn field(name: &str, text: &str, min: u32, max: u32) -> Result<u64, BadCalendar> {
    let bad = |why: String| BadCalendar(format!("the {name} `{text}` {why}"));
    let number = |s: &str| match s.parse::<u32>() {
        Ok(n) if (min..=max).contains(&n) && s.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => Err(bad(format!("is not from {min} to {max}"))),
    };
    let mut set = 0;
    for item in text.split(',') {
        let (range, step) = item.split_once('/').map_or((item, None), |(r, s)| (r, Some(s)));
        let (from, to) = match (range, range.split_once("..")) {
            ("*", _) => (min, max),
            (_, Some((a, b))) => (number(a)?, number(b)?),
            // `0/15` goes to the end of the field, `7` is 7.
            (n, None) => (number(n)?, if step.is_some() { max } else { number(n)? }),
        };
        let step = match step.map(str::parse::<u32>) {
            None => 1,
            Some(Ok(s)) if (1..=max).contains(&s) => s,
            Some(_) => return Err(bad("has an impossible step".into())),
        };
        if from > to {
            return Err(bad("runs backwards".into()));
        }
        (from..=to).step_by(step as usize).for_each(|n| set |= 1 << n);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_in(zone: &str, text: &str, after: &str, want: &str) {
        let zone = TimeZone::get(zone).unwrap_or_else(|_| TimeZone::posix(zone).unwrap());
        let c: Calendar = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
        let next = c.next(after.parse().unwrap(), &zone).expect("fires some day");
        assert_eq!(next.to_string(), want, "{text} after {after}");
    }
    fn check(text: &str, after: &str, want: &str) {
        check_in("UTC0", text, after, want);
    }

    #[test]
    fn words_and_fields() {
        // 2026-11-21 is a Saturday.
        let now = "2026-11-21T10:07:30Z";
        check("*-*-* 02:00", now, "2026-11-22T02:00:00Z");
        check("02:00", now, "2026-11-22T02:00:00Z");
        check("hourly", now, "2026-11-21T11:00:00Z");
        check("minutely", now, "2026-11-21T10:08:00Z");
        check("daily", now, "2026-11-22T00:00:00Z");
        check("weekly", now, "2026-11-23T00:00:00Z");
        check("monthly", now, "2026-12-01T00:00:00Z");
        check("*:0/15", now, "2026-11-21T10:15:00Z");
        check("*:*:0/10", now, "2026-11-21T10:07:40Z");
        check("Mon..Fri 22:30", now, "2026-11-23T22:30:00Z");
        check("Sun 05:00", now, "2026-11-22T05:00:00Z");
        check("Sat..Mon 09:00", now, "2026-11-22T09:00:00Z");
        check("mon,thursday 1:00", now, "2026-11-23T01:00:00Z");
        check("Sat", now, "2026-11-28T00:00:00Z");
        check("*-*-01,15 04:05:06", now, "2026-12-01T04:05:06Z");
        check("*-02-29 00:00", now, "2028-02-29T00:00:00Z");
        check("8..18/2:30", now, "2026-11-21T10:30:00Z");
        check("10:07:30", now, "2026-11-22T10:07:30Z");
    }

    #[test]
    fn clock_changes() {
        // Central Europe 2026: forward on 29 March at 02:00, back on 25 October at 03:00.
        let zone = "CET-1CEST,M3.5.0,M10.5.0/3";
        check_in(zone, "02:30", "2026-03-28T12:00:00Z", "2026-03-29T01:30:00Z");
        check_in(zone, "02:30", "2026-10-24T12:00:00Z", "2026-10-25T00:30:00Z");
        check_in(zone, "02:30", "2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, why: &str| {
            let e = text.parse::<Calendar>().unwrap_err().to_string();
            assert!(e.starts_with(why), "{text}: {e}");
        };
        check("", "an empty schedule");
        check("sometimes", "`sometimes` names no weekdays");
        check("25:00", "the hour `25` is not from 0 to 23");
        check("*:0/0", "the minute `0/0` has an impossible step");
        check("18..8:00", "the hour `18..8` runs backwards");
        check("2026-01-01 00:00", "the year in `2026-01-01` must be `*`");
        check("*-*-* 02:00 UTC", "`UTC` is neither weekdays, a date nor a time");
        check("*-+1-* 02:00", "the month `+1` is not from 1 to 12");
    }
}
