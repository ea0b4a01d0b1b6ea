//! What a hand-over writes for the live side, cut short or wrong.

use super::world::*;
use crate::backup::Changed;
use crate::live::{Adopted, LiveState};
use rekindle_core::volume::{ExtentRange, Generation, Geometry, Uuid};
use rekindle_io::Kind;
use rekindle_io::fault::Crash;
use rekindle_io::logfile::LogDir;

const ORIGIN: (Uuid, Generation) = (Uuid([5; 16]), Generation(7));

fn adopted(m: &Machine, open: u16, changed: u16) -> Adopted {
    let o = m.options();
    Adopted {
        name: "vm".into(),
        uuid: Uuid([6; 16]),
        geometry: Geometry::new(SIZE, o.extent.unwrap(), 512, 4096).unwrap(),
        origin: Some(ORIGIN),
        tracking: Some((Uuid([8; 16]), Generation(open))),
        changed: vec![(ExtentRange { start: 3, end: 5 }, Generation(changed))],
        image: *m.facts.facts.lock().unwrap(),
    }
}

/// A mark of a generation that is not open yet would be taken for an older one's change as soon as that is closed, and a
/// generation 0 cannot be told from the moment: nothing is written for such a volume.
#[test]
fn marks_that_cannot_be_are_refused() {
    for (open, changed) in [(0, 0), (1, 2), (3, 4)] {
        let m = Machine::new();
        let e = LiveState::adopt(&*m.options().state, &adopted(&m, open, changed)).unwrap_err();
        assert_eq!((e.kind, m.state.names().unwrap().len()), (Kind::Invalid, 0), "{open} {changed}");
    }
}

/// One mark too new among others is as bad.
#[test]
fn the_newest_of_all_marks_counts() {
    let m = Machine::new();
    let mut adopted = adopted(&m, 3, 2);
    adopted.changed.push((ExtentRange { start: 7, end: 8 }, Generation(4)));
    assert_eq!(LiveState::adopt(&*m.options().state, &adopted).unwrap_err().kind, Kind::Invalid);
}

/// A hand-over that is tried again may bring another tracking: of the first nothing stays. A name may be of any length.
#[test]
fn a_hand_over_that_is_tried_again_leaves_nothing_of_the_first() {
    let m = Machine::new();
    let o = m.options();
    LiveState::adopt(&*o.state, &adopted(&m, 3, 2)).unwrap();
    let other = Uuid([9; 16]);
    let again =
        Adopted { name: "\u{e9}".repeat(3000), tracking: Some((other, Generation(3))), ..adopted(&m, 3, 2) };
    LiveState::adopt(&*o.state, &again).unwrap();
    let names = m.state.names().unwrap();
    let (ours, old) = (other.to_string(), Uuid([8; 16]).to_string());
    assert!(
        names.iter().any(|n| n.ends_with(&ours)) && !names.iter().any(|n| n.ends_with(&old)),
        "{names:?}"
    );
    m.open().unwrap();
}

/// A record that names the tracking is not found before all its marks are: a backup would leave out what the guest changed.
#[test]
fn a_state_that_was_cut_short_proves_nothing() {
    for k in 0..40 {
        for seed in 0..16 {
            let m = Machine::new();
            m.plan.die_at(m.plan.count() + k);
            let done = LiveState::adopt(&*m.options().state, &adopted(&m, 3, 2));
            let m = m.crash(Crash::Power { seed });
            let (v, set) = m.open().unwrap();
            let i = m.instant(&set).unwrap();
            match i.volumes()[0].changed(ORIGIN.0, ORIGIN.1) {
                Changed::CompareAll(_) => assert!(done.is_err(), "{k} {seed}"),
                Changed::Since { marked, compare } => {
                    let named = |e: u64| marked.contains(e) || compare.contains(e);
                    assert!(named(3) && named(4), "{k} {seed}: {marked:?} {compare:?}");
                    assert!(done.is_err() || compare.is_empty(), "{k} {seed}: {compare:?}");
                }
            }
            drop(v);
        }
    }
}
