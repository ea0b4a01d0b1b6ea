//! What was asked of a restore, kept beside its state, so that whoever goes on with it goes on as it was asked.
//!
//! `wishes.json`, replaced atomically when something else is asked. Hints only: without it a restore goes on in the usual
//! way, which is said.

use super::StatePlace;
use crate::places;
use crate::show::words;
use rekindle_core::hydrate::Threshold;
use rekindle_core::usage::Order;
use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// The file.
const NAME: &str = "wishes.json";

/// What can be chosen for a restore.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Wishes {
    /// Online at the first of these; none: at once. Forgotten once it is online: it comes back at once after a crash.
    pub online_at: Vec<Threshold>,
    /// What to fill first.
    pub order: Order,
    /// Bytes per second of background work.
    pub limit: Option<u64>,
    /// Do not read back and compare.
    pub no_verify: bool,
    /// Where it was served, as `--listen` takes it: whoever is to go on is told the very command.
    pub listen: Vec<String>,
}

/// What one command line asks for; what it leaves out stays as it was asked before.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Asked {
    /// Not empty if given.
    pub online_at: Vec<Threshold>,
    /// What to fill first.
    pub order: Option<Order>,
    /// Bytes per second of background work; `Some(None)` lifts the limit.
    pub limit: Option<Option<u64>>,
    /// Do not read back and compare; `Some(false)`: do, after all.
    pub no_verify: Option<bool>,
    /// Where to serve; not empty if given.
    pub listen: Vec<String>,
}

impl Asked {
    /// These wishes, and what is asked now.
    pub fn over(&self, kept: Wishes) -> Wishes {
        Wishes {
            online_at: if self.online_at.is_empty() { kept.online_at } else { self.online_at.clone() },
            order: self.order.unwrap_or(kept.order),
            limit: self.limit.unwrap_or(kept.limit),
            no_verify: self.no_verify.unwrap_or(kept.no_verify),
            listen: if self.listen.is_empty() { kept.listen } else { self.listen.clone() },
        }
    }
}

/// As it lies in the file.
#[derive(Serialize, Deserialize)]
struct Kept {
    online_at: Vec<String>,
    order: String,
    limit_bytes_per_s: Option<u64>,
    no_verify: bool,
    #[serde(default)]
    listen: Vec<String>,
}

impl Wishes {
    /// What was asked of the restore in `place`.
    pub fn kept(place: &StatePlace) -> Wishes {
        let path = place.path.join(NAME);
        let read = std::fs::read(&path).map_err(|e| e.to_string());
        let parsed = read.and_then(|text| Wishes::parse(&text));
        parsed.unwrap_or_else(|e| {
            tracing::warn!(
                "what was asked of the restore is not known, it goes on in the usual way: {}: {e}",
                path.display()
            );
            Wishes::default()
        })
    }
    fn parse(text: &[u8]) -> Result<Wishes, String> {
        fn one<T: FromStr<Err: ToString>>(text: &str) -> Result<T, String> {
            text.parse().map_err(|e: T::Err| e.to_string())
        }
        let kept: Kept = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        Ok(Wishes {
            online_at: kept.online_at.iter().map(|t| one(t)).collect::<Result<_, _>>()?,
            order: one(&kept.order)?,
            limit: kept.limit_bytes_per_s,
            no_verify: kept.no_verify,
            listen: kept.listen,
        })
    }
    /// Keeps them. A failure costs a wish after a crash, and is said.
    pub fn keep(&self, place: &StatePlace) {
        let kept = Kept {
            online_at: self.online_at.iter().map(ToString::to_string).collect(),
            order: self.order.to_string(),
            limit_bytes_per_s: self.limit,
            no_verify: self.no_verify,
            listen: self.listen.clone(),
        };
        let text = serde_json::to_vec(&kept).expect("our types are always JSON");
        if let Err(e) = places::replace(&place.path, NAME, &text) {
            tracing::warn!("what is asked of the restore would be forgotten in a crash: {e}");
        }
    }
    /// Removes the file, so that the folder can go.
    pub fn forget(place: &StatePlace) {
        let _ = std::fs::remove_file(place.path.join(NAME));
    }
    /// What is not usual about them, in words; empty if nothing is.
    pub fn words(&self) -> String {
        let mut all = Vec::new();
        if !self.online_at.is_empty() {
            let rules: Vec<String> = self.online_at.iter().map(ToString::to_string).collect();
            all.push(format!("online at {}", rules.join(" or ")));
        }
        if self.order != Order::default() {
            all.push(format!("order {}", self.order));
        }
        all.extend(self.limit.map(|l| format!("at most {}", words::rate(l as f64))));
        if self.no_verify {
            all.push("not verified".into());
        }
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_kept_and_what_is_asked_later_goes_before() {
        let dir = tempfile::tempdir().unwrap();
        let place = StatePlace { path: dir.path().into() };
        assert_eq!(Wishes::kept(&place), Wishes::default());
        let asked = Asked {
            online_at: vec![Threshold::Usage(0.9), "time=90s".parse().unwrap()],
            order: Some(Order::Linear),
            limit: Some(Some(1000)),
            no_verify: Some(true),
            listen: vec!["unix:/run/x.sock".into()],
        };
        let wishes = asked.over(Wishes::default());
        assert_eq!(
            wishes.words(),
            "online at usage=90% or time=90000ms, order linear, at most 1 kB/s, not verified"
        );
        wishes.keep(&place);
        assert_eq!(Wishes::kept(&place), wishes);
        assert_eq!(Asked::default().over(wishes.clone()), wishes);
        let later =
            Asked { order: Some(Order::Auto), limit: Some(Some(7)), ..Asked::default() }.over(wishes.clone());
        assert_eq!((later.order, later.limit, later.online_at.len()), (Order::Auto, Some(7), 2));
        assert_eq!(Asked { limit: Some(None), ..Asked::default() }.over(wishes.clone()).limit, None);
        assert!(!Asked { no_verify: Some(false), ..Asked::default() }.over(wishes).no_verify);
        std::fs::write(dir.path().join(NAME), "{}").unwrap();
        assert_eq!(Wishes::kept(&place).words(), "");
    }
}
