//! `NAME@WHEN`: how people name a set, a volume, a moment, a path or another system's snapshot.
//!
//! The forms cannot be mistaken for each other: a path begins with `/` or `./` (or `../`), a foreign address has a known
//! scheme and a colon before any `@`, all else is a name. Core knows no time zone and no clock: times stay as typed and
//! the program resolves them.

use super::units::parse_duration;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// What an address names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A set, restore or one volume of it, maybe at a moment.
    Named(Named),
    /// A file or device of this host.
    Path(String),
}

/// `NAME[/VOLUME][~EPOCH][@WHEN]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// The set or restore.
    pub name: String,
    /// One volume of it.
    pub volume: Option<String>,
    /// The moment; `None` where none was typed.
    pub when: Option<When>,
}

/// A place in a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum When {
    /// The newest.
    Latest,
    /// That long before now.
    Ago(Duration),
    /// A time of day, today, in the local zone.
    Clock {
        /// 0 to 23.
        hour: u8,
        /// 0 to 59.
        minute: u8,
        /// 0 to 59.
        second: u8,
        /// Below the second.
        nanos: u32,
    },
    /// RFC 3339 as typed (date, or date and time; the zone may be missing: then it is the local one). Only its shape was
    /// checked; the program resolves it.
    Rfc3339(String),
    /// A snapshot id: 8 to 32 lower-case hex digits.
    Id(String),
    /// A marker.
    Marker(String),
    /// One exact write of the journal.
    Seq(u64),
}

/// An address that cannot be, or that this version cannot serve.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AddressError {
    /// Nothing typed.
    #[error("an empty address: use NAME, NAME/VOLUME, NAME@WHEN, or a path that begins with / or ./")]
    Empty,
    /// The name part.
    #[error(
        "`{0}` is not a name: a name is a letter or digit, then letters, digits, `.`, `_` or `-`, at most 64 in all (a path begins with / or ./)"
    )]
    Name(String),
    /// `latest` as a name.
    #[error("`latest` is no name but a moment: write NAME@latest")]
    Reserved,
    /// The moment part.
    #[error(
        "`@{0}` is not a moment: use @latest, @-5m, @14:03:07, @2026-11-20T14:03:07Z, a snapshot id of 8 hex digits or more, or a marker"
    )]
    When(String),
    /// A short id.
    #[error("`@{0}` is too short for a snapshot id: give at least 8 hex digits")]
    ShortId(String),
    /// Another system.
    #[error("`{address}` is an address of {system}, which this version of rekindle cannot open yet")]
    Foreign {
        /// As typed.
        address: String,
        /// What it is of.
        system: &'static str,
    },
    /// A branch.
    #[error("`{0}` names a branch (`~`), which this version of rekindle cannot open yet")]
    Branch(String),
}

const FOREIGN: [(&str, &str); 10] = [
    ("rbd:", "Ceph RBD"),
    ("zfs:", "ZFS"),
    ("lvm:", "LVM"),
    ("qcow2:", "qcow2 images"),
    ("ebs:", "Amazon EBS"),
    ("nbd://", "NBD servers"),
    ("nbd+unix://", "NBD servers"),
    ("nbds://", "NBD servers"),
    ("repo:", "another repository"),
    ("s3:", "object stores"),
];

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        if ["/", "./", "../"].iter().any(|p| text.starts_with(p)) || text == "." || text == ".." {
            return Ok(Address::Path(text.to_string()));
        }
        if let Some((_, system)) = FOREIGN.into_iter().find(|(scheme, _)| text.starts_with(scheme)) {
            return Err(AddressError::Foreign { address: text.to_string(), system });
        }
        text.parse().map(Address::Named)
    }
}

impl FromStr for Named {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (place, when) = match text.split_once('@') {
            Some((place, when)) => (place, Some(when.parse()?)),
            None => (text, None),
        };
        if place.is_empty() {
            return Err(AddressError::Empty);
        }
        if let Some((name, epoch)) = place.split_once('~') {
            let branch = check_name(name).is_ok() && epoch.bytes().all(|b| b.is_ascii_digit());
            let text = place.to_string();
            return Err(if branch { AddressError::Branch(text) } else { AddressError::Name(text) });
        }
        let (name, volume) = match place.split_once('/') {
            Some((name, volume)) => (check_name(name)?, Some(check_name(volume)?)),
            None => (check_name(place)?, None),
        };
        Ok(Named { name, volume, when })
    }
}

/// Checks the name of a set, restore or volume.
pub fn check_name(name: &str) -> Result<String, AddressError> {
    if name == "latest" {
        return Err(AddressError::Reserved);
    }
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if first && rest && name.len() <= 64 {
        Ok(name.to_string())
    } else {
        Err(AddressError::Name(name.to_string()))
    }
}

impl FromStr for When {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || AddressError::When(text.to_string());
        if text == "latest" {
            return Ok(When::Latest);
        }
        if let Some(ago) = text.strip_prefix('-') {
            return parse_duration(ago).map(When::Ago).map_err(|_| bad());
        }
        if let Some(seq) = text.strip_prefix("seq:") {
            return digits(seq, 1, 20).and_then(|_| seq.parse().ok()).map(When::Seq).ok_or_else(bad);
        }
        if let Some(clock) = clock(text) {
            return Ok(clock);
        }
        if is_rfc3339(text) {
            return Ok(When::Rfc3339(text.to_string()));
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return match text.len() {
                0..8 => Err(AddressError::ShortId(text.to_string())),
                8..=32 => Ok(When::Id(text.to_string())),
                _ => Err(bad()),
            };
        }
        if is_marker(text) { Ok(When::Marker(text.to_string())) } else { Err(bad()) }
    }
}

/// Whether `text` can be a marker: `[a-z][a-z0-9.-]*`, not `latest`, not all hex, at most 64 long.
pub fn is_marker(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
        && !text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && text != "latest"
}

fn digits(text: &str, min: usize, max: usize) -> Option<u64> {
    let ok = (min..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if ok { text.parse().ok() } else { None }
}
fn below(text: &str, limit: u64) -> Option<u8> {
    digits(text, 2, 2).filter(|n| *n < limit).map(|n| n as u8)
}
/// `14:03`, `14:03:07`, `14:03:07.25`.
fn clock(text: &str) -> Option<When> {
    let (hour, rest) = text.split_once(':')?;
    let (minute, second) = rest.split_once(':').unwrap_or((rest, "00"));
    let (second, part) = second.split_once('.').unwrap_or((second, "0"));
    digits(part, 1, 9)?;
    let nanos = format!("{part:0<9}").parse().ok()?;
    Some(When::Clock {
        hour: below(hour, 24)?,
        minute: below(minute, 60)?,
        second: below(second, 60)?,
        nanos,
    })
}
/// `2026-11-20`, with `T` and a clock, with a zone.
fn is_rfc3339(text: &str) -> bool {
    let Some((date, time)) = text.split_at_checked(10) else { return false };
    let mut parts = date.split('-');
    let date = [(4, 9999), (2, 12), (2, 31)].iter().all(|&(len, most)| {
        parts.next().and_then(|p| digits(p, len, len)).is_some_and(|n| (1..=most).contains(&n))
    });
    if !date || parts.next().is_some() {
        return false;
    }
    let Some(time) = time.strip_prefix(['T', 't']) else { return time.is_empty() };
    let time = match time.strip_suffix(['Z', 'z']) {
        Some(time) => time,
        None => match time.rfind(['+', '-']) {
            Some(at) => {
                let zone = time[at + 1..].split_once(':');
                if !zone.is_some_and(|(h, m)| below(h, 24).is_some() && below(m, 60).is_some()) {
                    return false;
                }
                &time[..at]
            }
            None => time,
        },
    };
    clock(time).is_some()
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            When::Latest => f.write_str("latest"),
            When::Ago(d) => write!(f, "-{}", ago(*d)),
            When::Clock { hour, minute, second, nanos: 0 } => write!(f, "{hour:02}:{minute:02}:{second:02}"),
            When::Clock { hour, minute, second, nanos } => {
                write!(f, "{hour:02}:{minute:02}:{second:02}.{nanos:09}")
            }
            When::Rfc3339(s) | When::Id(s) | When::Marker(s) => f.write_str(s),
            When::Seq(n) => write!(f, "seq:{n}"),
        }
    }
}
/// As people type it: `5m`, `1h30m`, `2d`.
fn ago(d: Duration) -> String {
    let mut rest = u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, ms) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= ms {
            text.push_str(&format!("{}{unit}", rest / ms));
            rest %= ms;
        }
    }
    if text.is_empty() { "0s".into() } else { text }
}
impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(v) = &self.volume {
            write!(f, "/{v}")?;
        }
        self.when.iter().try_for_each(|w| write!(f, "@{w}"))
    }
}
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Named(n) => n.fmt(f),
            Address::Path(p) => f.write_str(p),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn named(text: &str) -> Named {
        match text.parse() {
            Ok(Address::Named(n)) => n,
            other => panic!("{text}: {other:?}"),
        }
    }
    fn when(text: &str) -> When {
        named(&format!("shop@{text}")).when.expect("a moment was typed")
    }

    #[test]
    fn names_volumes_and_paths() {
        assert_eq!(named("shop"), Named { name: "shop".into(), volume: None, when: None });
        let n = named("shop/wal@latest");
        assert_eq!((n.volume.as_deref(), n.when), (Some("wal"), Some(When::Latest)));
        for path in ["/dev/vg0/db", "./db.raw", "../x@y", "/a:b"] {
            assert_eq!(path.parse(), Ok(Address::Path(path.into())));
        }
        for bad in ["", "@latest", "a b", "shop/", "shop/a/b", ".hidden", "a:b", "-x"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn moments() {
        assert_eq!(when("-5m"), When::Ago(Duration::from_secs(300)));
        for t in ["-5m", "-300ms", "-1h30m", "-2d", "-0s"] {
            assert_eq!(when(t).to_string(), t);
        }
        assert_eq!(when("14:03"), When::Clock { hour: 14, minute: 3, second: 0, nanos: 0 });
        assert_eq!(when("14:03:07.25"), When::Clock { hour: 14, minute: 3, second: 7, nanos: 250_000_000 });
        for t in ["2026-11-20", "2026-11-20T14:03", "2026-11-20T14:03:07Z", "2026-11-20T14:03:07.5+01:00"] {
            assert_eq!(when(t), When::Rfc3339(t.into()));
        }
        assert_eq!(when("3f9c2a1e"), When::Id("3f9c2a1e".into()));
        assert_eq!(when("before-upgrade"), When::Marker("before-upgrade".into()));
        assert_eq!(when("20261120"), When::Id("20261120".into()), "all hex is an id, never a date");
        assert_eq!(when("seq:88142017"), When::Seq(88_142_017));
    }

    #[test]
    fn what_cannot_be_is_said_precisely() {
        let error = |text: &str| text.parse::<Address>().unwrap_err();
        assert_eq!(error("shop@3f9c"), AddressError::ShortId("3f9c".into()));
        assert_eq!(error("latest"), AddressError::Reserved);
        assert_eq!(error("shop~7@latest"), AddressError::Branch("shop~7".into()));
        let e = error("rbd:vms/db@nightly").to_string();
        assert_eq!(
            e,
            "`rbd:vms/db@nightly` is an address of Ceph RBD, which this version of rekindle cannot open yet"
        );
        let bad = [
            "",
            "25:00",
            "14:3",
            "-",
            "-5",
            "2026-13-01",
            "2026-11-20T",
            "2026-11-20T14:03+1",
            "Latest",
            "seq:",
        ];
        for t in bad.into_iter().chain(["seq:-1", "a@b", "14:03:07.", "2026-11-20T14:03:07+01:00Z"]) {
            assert_eq!(error(&format!("shop@{t}")), AddressError::When(t.into()), "{t}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_parses_is_printed_back(text in "[a-z0-9@/~:.+TZ-]{0,30}|\\PC{0,20}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
