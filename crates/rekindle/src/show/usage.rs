//! Usage of one volume, measured: as JSON, as lines, as a picture.

use super::drill::DrillReport;
use super::svg::{Drawing, render};
use super::{bar, curve, words};
use rekindle_core::usage::{Coverage, Facts, Order, RATE_HALF_LIFE_TICKS, SCORE_HALF_LIFE_TICKS, Summary};
use rekindle_core::volume::Geometry;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Widest bar, in characters.
const BAR: usize = 40;
/// The curve, in characters.
const CURVE: (usize, usize) = (60, 10);

/// Usage of one volume.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct UsageReport {
    /// `shop/data`, or `shop/data@3f9c2a1e`.
    pub volume: String,
    /// What was measured: `trace`, `count`, `rate` or `score`.
    pub by: String,
    /// Unit of counting, in bytes.
    pub extent_bytes: u64,
    /// Bytes of the volume.
    pub size_bytes: u64,
    /// Bytes of extents with any use by this measure.
    pub used_bytes: u64,
    /// Cold starts seen.
    pub cold_starts: u32,
    /// Bytes touched since the newest cold start; as long as none was seen, since counting began.
    pub trace_bytes: u64,
    /// Served time since the newest cold start, in seconds, counted once a second; null as long as none was seen.
    pub since_start_s: Option<f64>,
    /// The hottest `bytes` cover `share` (0 to 1) of all use; from nothing to everything.
    pub curve: Vec<UsagePoint>,
    /// In powers of two of the measure (for `trace` by rank), smallest first.
    pub histogram: Vec<UsageBar>,
    /// The newest drill of the volume, if the map does not have it yet; of a moment only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drill: Option<DrillReport>,
}

/// A point of the coverage curve.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsagePoint {
    /// The hottest bytes.
    pub bytes: u64,
    /// Share of all use, 0 to 1.
    pub share: f64,
}

/// A bar of the histogram.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageBar {
    /// Values from here.
    pub from: f64,
    /// To below here.
    pub to: f64,
    /// Extents in it.
    pub extents: u64,
    /// Their share of all use, 0 to 1.
    pub share: f64,
}

/// Facts of one extent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UsageRow {
    /// First byte.
    pub start: u64,
    /// Reads ever.
    pub reads: u32,
    /// Writes ever.
    pub writes: u32,
    /// Decayed rate.
    pub rate: f64,
    /// Decayed worth.
    pub score: f64,
    /// Rank in the newest cold-start trace, 0 first.
    pub rank: Option<u8>,
}

impl UsageRow {
    /// Of extent `extent`, at `tick`.
    pub fn new(geometry: &Geometry, extent: u64, f: &Facts, tick: u32) -> UsageRow {
        UsageRow {
            start: geometry.extent_bytes(extent).start,
            reads: f.reads,
            writes: f.writes,
            rate: f.rate.at(tick, RATE_HALF_LIFE_TICKS),
            score: f.score.at(tick, SCORE_HALF_LIFE_TICKS),
            rank: f.rank(),
        }
    }
    /// The head of the CSV.
    pub const CSV_HEAD: &str = "volume,start,reads,writes,rate,score,rank";
    /// As a line of CSV.
    pub fn csv(&self, volume: &str) -> String {
        let rank = self.rank.map_or(String::new(), |r| r.to_string());
        format!(
            "{volume},{},{},{},{:.4},{:.4},{rank}",
            self.start, self.reads, self.writes, self.rate, self.score
        )
    }
}

impl UsageReport {
    /// From a coverage that has seen every extent.
    pub fn new(volume: String, by: Order, geometry: &Geometry, c: &Coverage, s: &Summary) -> UsageReport {
        let bytes = |extents: u64| (extents * geometry.extent.get()).min(geometry.size);
        UsageReport {
            volume,
            by: by.name().into(),
            extent_bytes: geometry.extent.get(),
            size_bytes: geometry.size,
            used_bytes: bytes(c.extents()),
            cold_starts: s.cold_starts,
            trace_bytes: bytes(s.trace_extents),
            since_start_s: (s.cold_starts > 0).then_some(s.since_start_ms as f64 / 1e3),
            curve: c.curve().iter().map(|p| UsagePoint { bytes: bytes(p.extents), share: p.share }).collect(),
            histogram: c
                .histogram()
                .iter()
                .map(|b| UsageBar { from: b.from, to: b.to, extents: b.extents, share: b.share })
                .collect(),
            drill: None,
        }
    }
    fn points(&self) -> Vec<curve::Point> {
        self.curve.iter().map(|p| (p.bytes as f64 / self.size_bytes.max(1) as f64, p.share)).collect()
    }
    /// In words and block characters.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{}  by {}: {} of {} used ({})",
            self.volume,
            self.by,
            words::bytes(self.used_bytes),
            words::bytes(self.size_bytes),
            words::percent(self.used_bytes as f64 / self.size_bytes.max(1) as f64)
        )];
        lines.push(self.starts());
        lines.extend(self.drill.iter().map(DrillReport::line));
        if self.used_bytes == 0 {
            return lines;
        }
        let points = self.points();
        let reach = |share: f64| {
            let x = curve::reaches(&points, share).unwrap_or(1.0);
            format!("{} % in {}", share * 100.0, words::bytes((x * self.size_bytes as f64) as u64))
        };
        lines.push(format!("I/O       {}, {}, {}", reach(0.5), reach(0.9), reach(0.99)));
        lines.push(String::new());
        lines.extend(curve::draw(&points, CURVE.0, CURVE.1));
        lines.push(String::new());
        let max = self.histogram.iter().map(|b| b.extents).max().unwrap_or(0) as f64;
        for b in &self.histogram {
            let drawn = bar::block(b.extents as f64, max, BAR);
            let count = words::count(b.extents, "extent");
            lines.push(format!(
                "{:>12} {drawn:<BAR$} {count}, {} of I/O",
                self.label(b),
                words::percent(b.share)
            ));
        }
        lines
    }
    fn starts(&self) -> String {
        let Some(since) = self.since_start_s.filter(|_| self.cold_starts > 0) else {
            return "no cold start seen yet".into();
        };
        let since = match since {
            // Served time is counted once a second: before that nothing more exact is known.
            s if s < 1.0 => "less than a second".into(),
            s => words::duration(Duration::from_secs_f64(s.clamp(0.0, 1e12))),
        };
        format!(
            "{}; {} touched since the newest, {since} of service ago",
            words::count(self.cold_starts.into(), "cold start"),
            words::bytes(self.trace_bytes)
        )
    }
    fn label(&self, b: &UsageBar) -> String {
        match self.by.as_str() {
            "trace" => format!("rank {:.0}", b.from),
            _ if b.from >= 1.0 => format!("{:.0}..{:.0}", b.from, b.to),
            _ => format!("{:.2}..{:.2}", b.from, b.to),
        }
    }
    /// As a picture.
    pub fn svg(&self) -> String {
        let bars: Vec<(String, f64)> =
            self.histogram.iter().map(|b| (self.label(b), b.extents as f64)).collect();
        let title = format!("{} by {}", self.volume, self.by);
        render(&Drawing { title: &title, curve: &self.points(), bars: &bars })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::usage::Touch;
    use rekindle_core::volume::ExtentBytes;

    #[test]
    fn a_report_in_words() {
        let g = Geometry::new(100 << 16, ExtentBytes::DEFAULT, 512, 512).unwrap();
        let mut c = Coverage::new(Order::Count, 0);
        for (extent, reads) in [(1, 30), (2, 1), (3, 1)] {
            let mut f = Facts::default();
            f.fold(extent, Touch { reads, ..Touch::default() }, 0);
            c.add(&f);
        }
        let r = UsageReport::new("shop/data".into(), Order::Count, &g, &c, &Summary::default());
        let lines = r.lines();
        assert_eq!(lines[0], "shop/data  by count: 192 KiB of 6.2 MiB used (3.0 %)");
        assert_eq!(lines[1], "no cold start seen yet");
        assert!(lines[2].starts_with("I/O       50 % in "), "{}", lines[2]);
        assert!(lines.iter().any(|l| l.contains("1..2 ████") && l.contains("2 extents")), "{lines:#?}");
        assert!(r.svg().contains("shop/data by count"));
        assert_eq!(r.since_start_s, None, "no start, no time since it");
        let starts = |ms| {
            let s = Summary { cold_starts: 1, since_start_ms: ms, trace_extents: 1, ..Summary::default() };
            UsageReport::new("shop/data".into(), Order::Count, &g, &c, &s).lines().swap_remove(1)
        };
        assert_eq!(
            starts(0),
            "1 cold start; 64 KiB touched since the newest, less than a second of service ago"
        );
        assert_eq!(starts(61_000), "1 cold start; 64 KiB touched since the newest, 61 s of service ago");
        let none = UsageReport { size_bytes: 1 << 20, ..UsageReport::default() };
        assert_eq!(none.lines().len(), 2, "nothing measured, nothing drawn");
    }
}
