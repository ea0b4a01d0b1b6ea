//! Sizes, durations, shares and times in words, to three figures.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use std::time::Duration;

/// `512 B`, `3.4 GiB`, `41.2 GiB`, `412 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 999.5 would print as 1000: the next unit reads better.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", figures(value), UNITS[unit])
}

/// `112 MB/s`: rates are decimal, as links and disks are sold.
pub fn rate(bytes_per_s: f64) -> String {
    const UNITS: [&str; 5] = ["B/s", "kB/s", "MB/s", "GB/s", "TB/s"];
    let mut value = bytes_per_s.max(0.0);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{} {}", if unit == 0 { format!("{value:.0}") } else { figures(value) }, UNITS[unit])
}

/// `38 ms`, `0.28 s`, `9 s`, `31 min`, `2 h 5 min`, `3 d 4 h`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    let whole = s.round() as u64;
    match s {
        _ if s < 0.0995 => format!("{:.0} ms", s * 1e3),
        _ if s < 0.995 => format!("{s:.2} s"),
        _ if s < 9.95 => format!("{} s", format!("{s:.1}").trim_end_matches(".0")),
        _ if whole < 120 => format!("{whole} s"),
        _ if whole < 7200 => format!("{} min", (whole + 30) / 60),
        _ if whole < 48 * 3600 => {
            let minutes = (whole + 30) / 60;
            two(minutes / 60, "h", minutes % 60, "min")
        }
        _ => {
            let hours = (whole + 1800) / 3600;
            two(hours / 24, "d", hours % 24, "h")
        }
    }
}

/// `2 h 5 min`, `2 h`.
fn two(n: u64, unit: &str, rest: u64, small: &str) -> String {
    if rest == 0 { format!("{n} {unit}") } else { format!("{n} {unit} {rest} {small}") }
}

/// `31 %`, `0.4 %`, `100 %`; never rounds up to 100 nor down to 0.
pub fn percent(share: f64) -> String {
    let p = (share * 100.0).clamp(0.0, 100.0);
    match p {
        _ if p == 0.0 || p == 100.0 => format!("{p:.0} %"),
        _ if p < 0.1 => "<0.1 %".into(),
        _ if p < 9.95 => format!("{p:.1} %"),
        _ if p > 99.9 => ">99.9 %".into(),
        _ if p > 98.95 => format!("{:.1} %", (p * 10.0).floor() / 10.0),
        _ => format!("{p:.0} %"),
    }
}

/// `2026-11-21 14:03:07` in the local zone.
pub fn time(ns: u64) -> String {
    time_in(ns, &TimeZone::system())
}

/// Like `time`, in a given zone.
pub fn time_in(ns: u64, zone: &TimeZone) -> String {
    match Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(t) => t.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string(),
        Err(_) => format!("{ns} ns after 1970"),
    }
}

/// RFC 3339 in UTC to the microsecond: what JSON carries.
pub fn rfc3339(ns: u64) -> String {
    match Timestamp::from_nanosecond(i128::from(ns)) {
        Ok(t) => t.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        Err(_) => String::new(),
    }
}

/// `12 s ago`, `3 h 5 min ago`, `in 4 min`.
pub fn relative(then_ns: u64, now_ns: u64) -> String {
    let d = duration(Duration::from_nanos(then_ns.abs_diff(now_ns)));
    if then_ns <= now_ns { format!("{d} ago") } else { format!("in {d}") }
}

/// `1 extent`, `2 extents`.
pub fn count(n: u64, noun: &str) -> String {
    format!("{n} {noun}{}", if n == 1 { "" } else { "s" })
}

/// A word of a command line as a shell takes it.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-=:@+,~[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Three figures: `3.42` is too many for people, `3.4`, `41.2`, `412`.
fn figures(value: f64) -> String {
    if value < 99.95 {
        let s = format!("{value:.1}");
        s.strip_suffix(".0").map(str::to_string).unwrap_or(s)
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates() {
        let check = |n, s: &str| assert_eq!(bytes(n), s, "{n}");
        check(0, "0 B");
        check(1023, "1023 B");
        check(1024, "1 KiB");
        check(3 << 30, "3 GiB");
        check((3 << 30) + (400 << 20), "3.4 GiB");
        check(412 << 30, "412 GiB");
        check(1023 << 20, "1 GiB");
        check(u64::MAX, "16 EiB");
        assert_eq!(rate(112e6), "112 MB/s");
        assert_eq!(rate(999.6), "1 kB/s");
        assert_eq!(rate(0.0), "0 B/s");
    }

    #[test]
    fn durations() {
        let check = |ms, s: &str| assert_eq!(duration(Duration::from_millis(ms)), s, "{ms}");
        check(38, "38 ms");
        check(280, "0.28 s");
        check(999, "1 s");
        check(2900, "2.9 s");
        check(9_000, "9 s");
        check(29_400, "29 s");
        check(31 * 60_000, "31 min");
        check(125 * 60_000, "2 h 5 min");
        check(76 * 3_600_000, "3 d 4 h");
        check(3 * 3_600_000, "3 h");
    }

    #[test]
    fn shares_do_not_lie_at_the_ends() {
        let check = |x, s: &str| assert_eq!(percent(x), s, "{x}");
        check(0.0, "0 %");
        check(0.0001, "<0.1 %");
        check(0.004, "0.4 %");
        check(0.31, "31 %");
        check(0.9996, ">99.9 %");
        check(0.996, "99.6 %");
        check(1.0, "100 %");
    }

    #[test]
    fn words_of_a_shell() {
        for plain in ["/srv/a.raw", "wal=/dev/vg1/wal", "unix:/run/x", "tcp:[::1]:10809"] {
            assert_eq!(shell(plain), plain);
        }
        assert_eq!(
            (shell("a b"), shell("it's"), shell("")),
            ("'a b'".into(), r"'it'\''s'".into(), "''".into())
        );
    }

    #[test]
    fn times() {
        assert_eq!(time_in(1_763_733_787_000_000_000, &TimeZone::UTC), "2025-11-21 14:03:07");
        assert_eq!(rfc3339(1_763_733_787_250_000_000), "2025-11-21T14:03:07.250000Z");
        assert_eq!(relative(5_000_000_000, 17_000_000_000), "12 s ago");
        assert_eq!(relative(17_000_000_000, 5_000_000_000), "in 12 s");
        assert_eq!((count(1, "extent"), count(2, "extent")), ("1 extent".into(), "2 extents".into()));
    }
}
