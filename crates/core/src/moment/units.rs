//! Sizes, rates and durations as people type and read them: `10GiB`, `200MiB/s`, `1Gbit`, `30s`.
//!
//! One grammar for flags, configuration and control socket. A number may have a decimal part; units are exact: `kB MB GB`
//! are powers of 1000, `KiB MiB GiB` and the bare letters `k M G` of 1024 (as dd and qemu-img have it); a bare number is
//! bytes. `Gbit` only makes sense for rates and is a power of 1000.

use std::time::Duration;

/// Not a size, rate or duration; says what would be one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum UnitError {
    /// Size.
    #[error("`{0}` is not a size: use a number and a unit such as 512, 64KiB, 10GiB or 1.5TB")]
    Size(String),
    /// Rate.
    #[error("`{0}` is not a rate: use a number and a unit such as 200MiB/s, 50MB/s or 1Gbit")]
    Rate(String),
    /// Duration.
    #[error("`{0}` is not a duration: use a number and a unit such as 500ms, 30s, 5m, 2h or 1d")]
    Duration(String),
}

/// Parses `text` as number and unit; the number is a decimal times a scale, exact as long as it fits.
fn number(text: &str) -> Option<(u64, u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() || digits.ends_with('.') || part.len() > 9 || part.contains('.') {
        return None;
    }
    let value = format!("{whole}{part}").parse().ok()?;
    Some((value, part.len() as u32, unit))
}
fn scaled(value: u64, decimals: u32, unit: u64) -> Option<u64> {
    u64::try_from(u128::from(value) * u128::from(unit) / 10u128.pow(decimals)).ok()
}
/// `""`, `B`, `kB`, `KiB`, `k`, ...
fn byte_unit(unit: &str) -> Option<u64> {
    if unit.is_empty() || unit == "B" {
        return Some(1);
    }
    if let Some(prefix) = unit.strip_suffix("iB").or(unit.strip_suffix('i')) {
        return power(prefix).map(|n| 1 << (10 * n));
    }
    match unit.strip_suffix('B') {
        Some(prefix) => power(prefix).map(|n| 1000u64.pow(n)),
        None => power(unit).map(|n| 1 << (10 * n)),
    }
}
/// `k` or `K` is 1, `M` 2, ...
fn power(prefix: &str) -> Option<u32> {
    let prefix = if prefix == "K" { "k" } else { prefix };
    "kMGTPE".find(prefix).filter(|_| prefix.len() == 1).map(|n| n as u32 + 1)
}

/// A size in bytes.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let parsed = || {
        let (value, decimals, unit) = number(text)?;
        scaled(value, decimals, byte_unit(unit)?)
    };
    parsed().ok_or_else(|| UnitError::Size(text.to_string()))
}

/// A rate in bytes per second: a size with `/s` (which may be left out), or bits as `25Mbit` or `25Mbit/s`. Never 0.
pub fn parse_rate(text: &str) -> Result<u64, UnitError> {
    let parsed = || {
        let (value, decimals, unit) = number(text)?;
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let bytes = match unit.strip_suffix("bit") {
            Some("") => value / 8 / 10u64.pow(decimals),
            Some(prefix) => scaled(value, decimals, 1000u64.pow(power(prefix)?))? / 8,
            None => scaled(value, decimals, byte_unit(unit)?)?,
        };
        Some(bytes).filter(|b| *b > 0)
    };
    parsed().ok_or_else(|| UnitError::Rate(text.to_string()))
}

/// A duration: `ms`, `s`, `m`, `h`, `d`, `w`, also joined as `1h30m`.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    let parsed = || {
        let (mut rest, mut ms) = (text, 0u64);
        while !rest.is_empty() {
            let (value, decimals, tail) = number(rest)?;
            let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, after) = tail.split_at(end);
            let unit_ms = match unit {
                "ms" => 1,
                "s" => 1_000,
                "m" | "min" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                "w" => 604_800_000,
                _ => return None,
            };
            ms = ms.checked_add(scaled(value, decimals, unit_ms)?)?;
            rest = after;
        }
        (!text.is_empty()).then(|| Duration::from_millis(ms))
    };
    parsed().ok_or_else(|| UnitError::Duration(text.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes() {
        let ok = [
            ("0", 0),
            ("512", 512),
            ("64KiB", 65_536),
            ("10GiB", 10 << 30),
            ("1.5TB", 1_500_000_000_000),
            ("4k", 4_096),
            ("4K", 4_096),
            ("4kB", 4_000),
            ("4Ki", 4_096),
            ("0.5MiB", 524_288),
            ("15EiB", 15 << 60),
        ];
        for (text, bytes) in ok {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "GiB", "1.", ".5", "1.2.3k", "-1", "1 GiB", "1Gib", "16EiB", "10Gbit", "1mB", "१", "0x10"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        let e = parse_size("10Gbit").unwrap_err().to_string();
        assert_eq!(e, "`10Gbit` is not a size: use a number and a unit such as 512, 64KiB, 10GiB or 1.5TB");
    }

    #[test]
    fn rates() {
        let ok = [
            ("200MiB/s", 200 << 20),
            ("50MB/s", 50_000_000),
            ("1Gbit", 125_000_000),
            ("25Mbit/s", 3_125_000),
            ("1000", 1_000),
        ];
        for (text, bytes) in ok {
            assert_eq!(parse_rate(text), Ok(bytes), "{text}");
        }
        for bad in ["0", "0MiB/s", "fast", "1Gbit/h", "4bit", "10MiB/s/s"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        let ok = [
            ("30s", 30_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("2d", 172_800_000),
            ("1w", 604_800_000),
            ("0s", 0),
        ];
        for (text, ms) in ok {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "30", "s", "1y", "5m3", "-5m", "99999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_answer(text in "\\PC{0,12}") {
            let _ = (parse_size(&text), parse_rate(&text), parse_duration(&text));
        }
        #[test]
        fn whole_bytes_are_exact(n: u64) {
            prop_assert_eq!(parse_size(&n.to_string()), Ok(n));
        }
    }
}
