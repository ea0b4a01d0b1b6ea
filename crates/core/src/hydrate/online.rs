//! When a restore goes online: the first of several thresholds; by default at once.

use crate::moment::{UnitError, parse_duration, parse_size};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// One threshold of `--online-at`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Threshold {
    /// This share of usage weight is local, 0 to 1, over all volumes of the set.
    Usage(f64),
    /// So many extents are local.
    Extents(u64),
    /// So many bytes of the volumes are local.
    Bytes(u64),
    /// So long after the restore began.
    Time(Duration),
}

/// Not a threshold.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ThresholdError {
    /// Unknown or malformed.
    #[error("`{0}` is not a threshold: use usage=90%, extents=1000, bytes=10GiB or time=30s")]
    Unknown(String),
    /// The value.
    #[error(transparent)]
    Unit(#[from] UnitError),
}

impl FromStr for Threshold {
    type Err = ThresholdError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ThresholdError::Unknown(text.to_string());
        let (what, value) = text.split_once('=').ok_or_else(bad)?;
        match what {
            "usage" => {
                let percent: f64 = value.strip_suffix('%').and_then(|v| v.parse().ok()).ok_or_else(bad)?;
                if (0.0..=100.0).contains(&percent) {
                    Ok(Threshold::Usage(percent / 100.0))
                } else {
                    Err(bad())
                }
            }
            "extents" => value.parse().map(Threshold::Extents).map_err(|_| bad()),
            "bytes" => Ok(Threshold::Bytes(parse_size(value)?)),
            "time" => Ok(Threshold::Time(parse_duration(value)?)),
            _ => Err(bad()),
        }
    }
}
impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Threshold::Usage(share) => write!(f, "usage={}%", (share * 1e8).round() / 1e6),
            Threshold::Extents(n) => write!(f, "extents={n}"),
            Threshold::Bytes(n) => write!(f, "bytes={n}"),
            Threshold::Time(d) => write!(f, "time={}ms", d.as_millis()),
        }
    }
}

/// How far a restore is, over all volumes of the set. Zero extents count as local: they are served without the holder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Extents that need the holder no more.
    pub local_extents: u64,
    /// All extents.
    pub extents: u64,
    /// Bytes of the volumes that need the holder no more.
    pub local_bytes: u64,
    /// Usage weight that is local.
    pub local_weight: u64,
    /// All usage weight; 0: there is no map.
    pub weight: u64,
    /// Since the restore began, restarts included.
    pub elapsed: Duration,
}

impl Progress {
    /// Share of usage weight that is local, 0 to 1. Without a map every extent weighs the same.
    pub fn usage_share(&self) -> f64 {
        let (part, whole) = if self.weight > 0 {
            (self.local_weight, self.weight)
        } else {
            (self.local_extents, self.extents)
        };
        if whole == 0 { 1.0 } else { part as f64 / whole as f64 }
    }
    /// Everything is local.
    pub fn is_complete(&self) -> bool {
        self.local_extents >= self.extents
    }
}

/// Why a restore went online: told in status.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Reason {
    /// No threshold was set.
    AtOnce,
    /// This one was reached first.
    Reached(Threshold),
    /// Everything is local; no threshold can ask for more.
    Complete,
    /// An operator said so.
    Told,
}

/// The rule of one restore.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Online {
    thresholds: Vec<Threshold>,
    told: bool,
}

impl Online {
    /// Online at the first of `thresholds`; with none, at once.
    pub fn new(thresholds: Vec<Threshold>) -> Self {
        Online { thresholds, told: false }
    }
    /// `tune --online-now`.
    pub fn now(&mut self) {
        self.told = true;
    }
    /// The thresholds, as they were given.
    pub fn thresholds(&self) -> &[Threshold] {
        &self.thresholds
    }
    /// Whether to go online, and why; `None`: not yet. Going online is for good: the caller asks no more.
    pub fn check(&self, p: &Progress) -> Option<Reason> {
        if self.told {
            return Some(Reason::Told);
        }
        if self.thresholds.is_empty() {
            return Some(Reason::AtOnce);
        }
        let reached = |t: &&Threshold| match **t {
            Threshold::Usage(share) => p.usage_share() >= share,
            Threshold::Extents(n) => p.local_extents >= n,
            Threshold::Bytes(n) => p.local_bytes >= n,
            Threshold::Time(d) => p.elapsed >= d,
        };
        let first = self.thresholds.iter().find(reached).copied().map(Reason::Reached);
        first.or(p.is_complete().then_some(Reason::Complete))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_typed_and_printed() {
        let ok = [
            ("usage=90%", Threshold::Usage(0.9)),
            ("usage=99.5%", Threshold::Usage(0.995)),
            ("extents=1000", Threshold::Extents(1000)),
            ("bytes=10GiB", Threshold::Bytes(10 << 30)),
            ("time=30s", Threshold::Time(Duration::from_secs(30))),
        ];
        for (text, t) in ok {
            assert_eq!(text.parse(), Ok(t));
            assert_eq!(t.to_string().parse(), Ok(t));
        }
        for bad in [
            "",
            "usage=90",
            "usage=101%",
            "usage=-1%",
            "usage=NaN%",
            "extents=x",
            "bytes=1Gbit",
            "time=30",
            "x=1",
        ] {
            assert!(bad.parse::<Threshold>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_first_threshold_wins() {
        let p = Progress { extents: 100, weight: 1000, ..Progress::default() };
        assert_eq!(Online::default().check(&p), Some(Reason::AtOnce));
        let t = [Threshold::Usage(0.9), Threshold::Time(Duration::from_secs(30)), Threshold::Extents(50)];
        let mut o = Online::new(t.to_vec());
        assert_eq!(o.check(&p), None);
        assert_eq!(o.check(&Progress { local_weight: 900, ..p }), Some(Reason::Reached(t[0])));
        assert_eq!(o.check(&Progress { elapsed: Duration::from_secs(30), ..p }), Some(Reason::Reached(t[1])));
        assert_eq!(o.check(&Progress { local_extents: 50, ..p }), Some(Reason::Reached(t[2])));
        o.now();
        assert_eq!(o.check(&p), Some(Reason::Told));
        let all = Online::new(vec![Threshold::Bytes(u64::MAX)]);
        assert_eq!(
            all.check(&Progress { local_extents: 100, ..p }),
            Some(Reason::Complete),
            "more cannot come"
        );
    }

    #[test]
    fn without_a_map_extents_weigh_alike() {
        let p = Progress { extents: 100, local_extents: 25, ..Progress::default() };
        assert!((p.usage_share() - 0.25).abs() < 1e-9);
        assert!((Progress::default().usage_share() - 1.0).abs() < 1e-9);
    }
}
