//! Sizes, rates, durations and shares as people type them: core's grammar, with the failure a command ends with.

use crate::errors::{Failure, Outcome};
use rekindle_core::hydrate::Threshold;
use rekindle_core::moment::{parse_duration, parse_rate, parse_size};
use std::fmt::Display;
use std::time::Duration;

/// A size in bytes: `512`, `64KiB`, `10GiB`, `2GB`.
pub fn bytes(text: &str) -> Outcome<u64> {
    parse_size(text).map_err(|e| wrong(text, &e))
}

/// A rate in bytes per second: `200MiB/s`, `1Gbit`. Never a bare number: who types `--limit 5` does not mean five bytes a
/// second, and would only see that nothing moves.
pub fn rate(text: &str) -> Outcome<u64> {
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong(text, &"a rate needs a unit, as 200MiB/s, 50MB/s or 1Gbit"));
    }
    parse_rate(text).map_err(|e| wrong(text, &e))
}

/// A limit: a rate, or `none`.
pub fn limit(text: &str) -> Outcome<Option<u64>> {
    if text == "none" { Ok(None) } else { rate(text).map(Some) }
}

/// A duration: `500ms`, `30s`, `5m`, `2h`.
pub fn duration(text: &str) -> Outcome<Duration> {
    parse_duration(text).map_err(|e| wrong(text, &e))
}

/// A threshold of `--online-at`.
pub fn threshold(text: &str) -> Outcome<Threshold> {
    text.parse().map_err(|e| wrong(text, &e))
}

fn wrong(text: &str, why: &dyn Display) -> Failure {
    Failure::usage(format!("cannot understand `{text}`"), why, "see `rekindle VERB --help`")
}
