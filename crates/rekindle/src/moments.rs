//! When a moment is: what people typed, resolved with this machine's clock and zone.

use crate::errors::{Failure, Outcome};
use jiff::civil::{Date, DateTime, Time};
use jiff::{Timestamp, Zoned};
use rekindle_core::moment::{Address, Named, When};

/// Which snapshot is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The newest.
    Latest,
    /// The newest not after this time, in nanoseconds since 1970.
    At(u64),
    /// The one whose id begins so.
    Id(String),
}

/// `NAME[@WHEN]`; a path is refused.
pub fn named(text: &str) -> Outcome<Named> {
    match text.parse::<Address>() {
        Ok(Address::Named(n)) => Ok(n),
        Ok(Address::Path(_)) => Err(Failure::usage(
            format!("`{text}` is a path"),
            "a set or moment is meant here",
            "write NAME or NAME@WHEN, as shop@latest; see `rekindle timeline`",
        )),
        Err(e) => Err(Failure::usage(
            format!("cannot understand `{text}`"),
            e,
            "write NAME@WHEN, as shop@latest, shop@-5m, shop@14:03:07 or shop@3f9c2a1e",
        )),
    }
}

/// Resolves the moment part; none typed is the newest.
pub fn wanted(when: Option<&When>, now: &Zoned) -> Outcome<Wanted> {
    Ok(match when {
        None | Some(When::Latest) => Wanted::Latest,
        Some(When::Id(id)) => Wanted::Id(id.clone()),
        Some(w @ (When::Marker(_) | When::Seq(_))) => {
            return Err(Failure::usage(
                format!("@{w} cannot be opened"),
                "markers and single writes need a journal, which this version does not keep",
                "name a snapshot: see `rekindle timeline`",
            ));
        }
        Some(time) => Wanted::At(time_of(time, now)?),
    })
}

/// The instant of a typed time, in nanoseconds since 1970.
pub fn time_of(when: &When, now: &Zoned) -> Outcome<u64> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::usage(
            format!("cannot understand `{when}` as a time"),
            why,
            "write it as 2026-11-20T14:03:07Z",
        )
    };
    let stamp = match when {
        When::Ago(d) => now.timestamp().checked_sub(*d).map_err(|e| bad(&e))?,
        When::Clock { hour, minute, second, nanos } => {
            let time =
                Time::new(*hour as i8, *minute as i8, *second as i8, *nanos as i32).map_err(|e| bad(&e))?;
            zoned(now.date().to_datetime(time), now)?
        }
        When::Rfc3339(text) => rfc3339(text, now)?,
        _ => return Err(bad(&"it names no time")),
    };
    u64::try_from(stamp.as_nanosecond()).map_err(|_| bad(&"it is before 1970"))
}

fn rfc3339(text: &str, now: &Zoned) -> Outcome<Timestamp> {
    if let Ok(stamp) = text.parse::<Timestamp>() {
        return Ok(stamp);
    }
    let local =
        text.parse::<DateTime>().or_else(|_| text.parse::<Date>().map(|d| d.to_datetime(Time::midnight())));
    let local = local.map_err(|e| {
        Failure::usage(format!("cannot understand `{text}` as a time"), e, "write it as 2026-11-20T14:03:07Z")
    })?;
    zoned(local, now)
}

fn zoned(local: DateTime, now: &Zoned) -> Outcome<Timestamp> {
    now.time_zone().to_ambiguous_timestamp(local).compatible().map_err(|e| {
        Failure::usage(
            format!("{local} cannot be placed in time"),
            e,
            "give it with a zone, as 2026-11-20T14:03:07Z",
        )
    })
}

/// `--since`: anything that names a time.
pub fn since(text: &str, now: &Zoned) -> Outcome<u64> {
    let when: When = text.parse().map_err(|e| {
        Failure::usage(format!("cannot understand `{text}` as a time"), e, "write -7d, 14:03 or 2026-11-20")
    })?;
    time_of(&when, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Zoned {
        let zone = jiff::tz::TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        "2026-11-21T10:00:00Z".parse::<Timestamp>().unwrap().to_zoned(zone)
    }

    #[test]
    fn times_are_local_unless_they_say_otherwise() {
        let check = |text: &str, want: &str| {
            let when = named(&format!("shop@{text}")).unwrap().when;
            let Wanted::At(ns) = wanted(when.as_ref(), &now()).unwrap() else { panic!("{text}") };
            assert_eq!(Timestamp::from_nanosecond(ns.into()).unwrap().to_string(), want, "{text}");
        };
        check("-5m", "2026-11-21T09:55:00Z");
        check("10:30:07.25", "2026-11-21T09:30:07.25Z");
        check("2026-11-20", "2026-11-19T23:00:00Z");
        check("2026-07-01T12:00", "2026-07-01T10:00:00Z");
        check("2026-11-20T14:03:07Z", "2026-11-20T14:03:07Z");
        check("2026-11-20T14:03:07+05:00", "2026-11-20T09:03:07Z");
        // The hour that does not exist counts on from before; the one that comes twice is the first.
        check("2026-03-29T02:30", "2026-03-29T01:30:00Z");
        check("2026-10-25T02:30", "2026-10-25T00:30:00Z");
    }

    #[test]
    fn the_rest() {
        let of = |text: &str| wanted(named(text).unwrap().when.as_ref(), &now());
        assert_eq!(of("shop").unwrap(), Wanted::Latest);
        assert_eq!(of("shop@latest").unwrap(), Wanted::Latest);
        assert_eq!(of("shop@3f9c2a1e").unwrap(), Wanted::Id("3f9c2a1e".into()));
        assert_eq!(of("shop@before-upgrade").unwrap_err().exit.code(), 2);
        assert_eq!(of("shop@2026-02-31").unwrap_err().exit.code(), 2);
        assert_eq!(named("/dev/x").unwrap_err().exit.code(), 2);
        assert_eq!(named("rbd:a/b@c").unwrap_err().exit.code(), 2);
        assert_eq!(since("-1d", &now()).unwrap(), 1_795_168_800_000_000_000);
        assert!(since("latest", &now()).is_err());
    }
}
