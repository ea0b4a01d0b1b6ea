//! What `wait --for` waits for.

use super::control::{RestoreStatus, SetStatus, State};
use crate::errors::{Exit, Failure, Outcome};
use rekindle_core::hydrate::Threshold;

/// A state to be reached. Each is met by what comes after it too: who waits for `online` is content with `live`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Condition {
    /// The export is there.
    Online,
    /// This share of the expected I/O is local.
    Usage(f64),
    /// All bytes are local.
    Complete,
    /// All bytes were compared.
    Verified,
    /// Settled, or never restored.
    Live,
}

impl Condition {
    /// From `online`, `usage=90%`, `complete`, `verified`, `live`.
    pub fn parse(text: &str) -> Outcome<Condition> {
        Ok(match text {
            "online" => Condition::Online,
            "complete" => Condition::Complete,
            "verified" => Condition::Verified,
            "live" => Condition::Live,
            _ => match text.parse() {
                Ok(Threshold::Usage(share)) => Condition::Usage(share),
                _ => {
                    return Err(Failure::usage(
                        format!("`{text}` cannot be waited for"),
                        "no set is ever in that state",
                        "wait for online, usage=90%, complete, verified or live",
                    ));
                }
            },
        })
    }
    /// Whether it is reached. A failed set never will reach anything, nor will one of which only damage is left: errors.
    pub fn met(self, status: &SetStatus) -> Outcome<bool> {
        if let Some(failure) = &status.failure {
            return Err(failure.clone().into());
        }
        let reached = self.reached(status);
        if let Some(restore) = &status.restore
            && !reached
            && status.state == State::Complete
        {
            restore.can_go_on(self == Condition::Verified, &status.name)?;
        }
        match status.restore.as_ref().and_then(|r| r.damage.as_ref()) {
            // The export appears all the same.
            Some(damage) if damage.rest_complete && !reached && self != Condition::Online => {
                let error = format!("{} is not whole, and waiting longer brings nothing", status.name);
                Err(damage.failure(Exit::Damage, error, &status.name))
            }
            _ => Ok(reached),
        }
    }
    fn reached(self, status: &SetStatus) -> bool {
        let local = status.restore.as_ref().map_or(1.0, |r| r.local_io_share);
        match self {
            // Not the state's word: a restore whose repository is away says `stalled` before it is online too, and a
            // word says online a moment before clients are let in. Who waited is going to connect.
            Condition::Online => rank(status.state) >= 1 && status.volumes.iter().all(|v| v.uri.is_some()),
            Condition::Usage(share) => local >= share || rank(status.state) >= 2,
            Condition::Complete => rank(status.state) >= 2,
            Condition::Verified => rank(status.state) >= 3,
            Condition::Live => rank(status.state) >= 4,
        }
    }
}

impl RestoreStatus {
    /// A complete restore goes on by itself, unless it is not to be `verified` or cannot be in whole.
    fn can_go_on(&self, verified: bool, name: &str) -> Outcome {
        if let Some(lost) = self.uncompared.as_ref().filter(|u| u.rest_complete) {
            return Err(lost.failure_uncompared(Exit::Damage, name));
        }
        if verified && self.no_verify {
            return Err(Failure::new(
                Exit::Failed,
                format!("{name} is not being verified"),
                "--no-verify was asked for",
                format!("verify it after all: rekindle tune {name} --verify"),
            ));
        }
        Ok(())
    }
}

/// How far along a state is.
fn rank(state: State) -> u8 {
    match state {
        State::Opening | State::Failed | State::Interrupted => 0,
        State::Online | State::Stalled | State::Paused => 1,
        State::Complete => 2,
        State::Verified | State::Merging => 3,
        State::Live => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::control::{Damage, VolumeStatus};

    fn status(state: State, share: f64) -> SetStatus {
        SetStatus {
            name: "shop".into(),
            state,
            failure: None,
            pid: Some(1),
            since: None,
            volumes: Vec::new(),
            restore: Some(RestoreStatus { local_io_share: share, ..RestoreStatus::default() }),
            interrupted: None,
            backup: None,
        }
    }

    #[test]
    fn what_comes_later_counts_too() {
        let met = |c: &str, s, share| Condition::parse(c).unwrap().met(&status(s, share)).unwrap();
        assert!(!met("online", State::Opening, 0.0) && met("online", State::Live, 0.0));
        assert!(met("online", State::Stalled, 0.0) && met("online", State::Paused, 0.0));
        let absent = SetStatus { volumes: vec![VolumeStatus::default()], ..status(State::Stalled, 0.0) };
        assert!(!Condition::Online.met(&absent).unwrap(), "whatever the word: no export, not online");
        assert!(!met("usage=90%", State::Online, 0.89) && met("usage=90%", State::Online, 0.9));
        assert!(!met("complete", State::Online, 1.0) && met("complete", State::Verified, 1.0));
        assert!(!met("verified", State::Complete, 1.0) && met("verified", State::Merging, 1.0));
        assert!(!met("live", State::Verified, 1.0) && met("live", State::Live, 1.0));
        let failure =
            Failure::new(crate::errors::Exit::Failed, "shop has failed", "its disk", "start it again");
        let failed = SetStatus { failure: Some(failure.to_json()), ..status(State::Failed, 0.0) };
        assert_eq!(Condition::Online.met(&failed).unwrap_err(), failure);
        let mut lost = status(State::Online, 0.8);
        let damage = |rest_complete| Some(Damage { bytes: 65536, rest_complete, ..Damage::default() });
        for (rest_complete, usage, codes) in
            [(false, "usage=90%", [0, 0, 0]), (true, "usage=90%", [3, 3, 0]), (true, "usage=80%", [0, 3, 0])]
        {
            lost.restore.as_mut().unwrap().damage = damage(rest_complete);
            let code =
                |c: &str| Condition::parse(c).unwrap().met(&lost).map_or_else(|f| f.exit.code(), |_| 0);
            assert_eq!([code(usage), code("verified"), code("online")], codes, "{rest_complete} {usage}");
        }
        let mut complete = status(State::Complete, 1.0);
        let code = |s: &SetStatus, c: &str| {
            Condition::parse(c).unwrap().met(s).map_or_else(|f| f.exit.code(), |_| 0)
        };
        let all = |s: &SetStatus| ["complete", "verified", "live"].map(|c| code(s, c));
        for (rest_complete, codes) in [(false, [0, 0, 0]), (true, [0, 3, 3])] {
            complete.restore.as_mut().unwrap().uncompared = damage(rest_complete);
            assert_eq!(all(&complete), codes, "what cannot be compared is not waited for");
        }
        complete.restore = Some(RestoreStatus { no_verify: true, ..RestoreStatus::default() });
        assert_eq!(all(&complete), [0, 1, 0], "nobody verifies");
        for bad in ["", "done", "usage=101%", "usage="] {
            assert_eq!(Condition::parse(bad).unwrap_err().exit.code(), 2, "{bad}");
        }
    }
}
