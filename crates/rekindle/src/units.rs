//! Sizes, rates and durations as people write them.

use crate::errors::{Failure, Outcome};
use std::time::Duration;

/// `65536`, `64KiB`, `64k`, `1.5GiB`, `2GB` (decimal), in bytes.
pub fn bytes(text: &str) -> Outcome<u64> {
    let bad = |why: &str| {
        Failure::usage(
            format!("`{text}` is no size"),
            why,
            "write a number with a unit, as 512, 64KiB, 10GiB or 2GB",
        )
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "p" | "pib" => 1 << 50,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        "pb" => 1_000_000_000_000_000,
        _ => return Err(bad("the unit is not known")),
    };
    if let Ok(n) = number.parse::<u64>() {
        return n.checked_mul(factor).ok_or_else(|| bad("it is too large"));
    }
    let value: f64 = number.parse().map_err(|_| bad("the number cannot be read"))?;
    let product = value * factor as f64;
    // 2^53: beyond it a fraction would silently be another number.
    if product < 9e15 { Ok(product as u64) } else { Err(bad("it is too large for a fraction")) }
}

/// `200MiB/s`, `200MiB`, `1Gbit/s`, in bytes per second.
pub fn rate(text: &str) -> Outcome<u64> {
    let trimmed = text.trim();
    let size = trimmed.strip_suffix("/s").unwrap_or(trimmed);
    if let Some(bits) = size.strip_suffix("bit") {
        // Links are named in decimal bits.
        return bytes(&format!(
            "{bits}{}",
            if bits.ends_with(|c: char| c.is_ascii_digit()) { "" } else { "b" }
        ))
        .map(|n| n / 8)
        .map_err(|f| no_rate(text, &f.cause));
    }
    match bytes(size) {
        Ok(0) => Err(no_rate(text, "nothing would move")),
        Ok(n) => Ok(n),
        Err(f) => Err(no_rate(text, &f.cause)),
    }
}

fn no_rate(text: &str, why: &str) -> Failure {
    Failure::usage(format!("`{text}` is no rate"), why, "write a size per second, as 200MiB/s or 1Gbit/s")
}

/// `500ms`, `30s`, `5m`, `2h`, `7d`.
pub fn duration(text: &str) -> Outcome<Duration> {
    let bad = |why: &str| {
        Failure::usage(
            format!("`{text}` is no time"),
            why,
            "write a number with a unit, as 500ms, 30s, 5m, 2h or 7d",
        )
    };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit_s = match unit.trim() {
        "ms" => 0.001,
        "s" | "sec" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        "w" => 604_800.0,
        "" => return Err(bad("it has no unit")),
        _ => return Err(bad("the unit is not known")),
    };
    let value: f64 = number.parse().map_err(|_| bad("the number cannot be read"))?;
    Duration::try_from_secs_f64(value * unit_s).map_err(|_| bad("it is too long"))
}

/// `90%` or `0.9`, as 0 to 1.
pub fn share(text: &str) -> Outcome<f64> {
    let bad =
        || Failure::usage(format!("`{text}` is no share"), "it is not from 0 % to 100 %", "write it as 90%");
    let trimmed = text.trim();
    let value = match trimmed.strip_suffix('%') {
        Some(p) => p.trim().parse::<f64>().map_err(|_| bad())? / 100.0,
        None => trimmed.parse::<f64>().map_err(|_| bad())?,
    };
    if (0.0..=1.0).contains(&value) { Ok(value) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        let check = |s: &str, n: Option<u64>| assert_eq!(bytes(s).ok(), n, "{s}");
        check("512", Some(512));
        check("64KiB", Some(65536));
        check("64k", Some(65536));
        check("1.5GiB", Some(3 << 29));
        check("2GB", Some(2_000_000_000));
        check(" 7 MiB ", Some(7 << 20));
        check("18446744073709551615", Some(u64::MAX));
        for bad in ["", "GiB", "-1", "1x", "1e3", "99999999PiB", "1..2", "NaN"] {
            check(bad, None);
        }
    }

    #[test]
    fn rates_times_shares() {
        assert_eq!(rate("200MiB/s").unwrap(), 200 << 20);
        assert_eq!(rate("1Gbit/s").unwrap(), 125_000_000);
        assert_eq!(rate("800bit/s").unwrap(), 100);
        assert!(rate("0").is_err() && rate("fast").is_err());
        assert_eq!(duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(duration("1.5m").unwrap(), Duration::from_secs(90));
        assert!(duration("5").is_err() && duration("-5s").is_err() && duration("1e99d").is_err());
        assert_eq!(share("90%").unwrap(), 0.9);
        assert_eq!(share("0.5").unwrap(), 0.5);
        assert!(share("101%").is_err() && share("x").is_err());
    }
}
