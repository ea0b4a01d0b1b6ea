//! Drills: the highest number counts, what is damaged or under another name is an error and nothing else.

use super::super::objects::{Created, create};
use super::super::*;
use super::kit::*;
use rekindle_core::repo::names;
use rekindle_core::usage::Demanded;
use rekindle_core::volume::ExtentBytes;
use rekindle_io::Kind;
use rekindle_io::random;
use rekindle_io::store::{Part, StoreExt};

const VOLUME: Uuid = Uuid([1; 16]);

fn drill(extent: u64) -> Drill {
    let mut demanded = Demanded::default();
    demanded.ranks[0] = (1, vec![extent]);
    let (snapshot, token) = (Uuid([2; 16]), random::uuid());
    Drill { snapshot, host: "here".into(), time_ns: 3, extent: ExtentBytes::DEFAULT, demanded, token }
}

#[test]
fn the_newest_drill_counts_whoever_numbered_it() {
    let (_, repo) = new_repo(true);
    assert_eq!(repo.newest_drill(VOLUME, 0).unwrap(), None);
    let all = [drill(7), drill(8), drill(9)];
    assert_eq!(repo.keep_drill(VOLUME, 0, &all[0]).unwrap(), 1);
    assert_eq!(repo.keep_drill(VOLUME, 0, &all[1]).unwrap(), 2);
    assert_eq!(repo.newest_drill(VOLUME, 0).unwrap(), Some((2, all[1].clone())));
    assert_eq!(repo.newest_drill(VOLUME, 2).unwrap(), None, "known already");
    // The map has taken in the seventh of another repository.
    assert_eq!(repo.keep_drill(VOLUME, 7, &all[2]).unwrap(), 8);
    assert_eq!(repo.newest_drill(VOLUME, 7).unwrap(), Some((8, all[2].clone())));
    assert_eq!(repo.newest_drill(Uuid([9; 16]), 0).unwrap(), None, "another volume");
    assert!(repo.keep_drill(VOLUME, u64::MAX, &all[0]).is_err());
}

#[test]
fn a_damaged_or_foreign_drill_is_an_error() {
    for encrypted in [false, true] {
        let (store, repo) = new_repo(encrypted);
        repo.keep_drill(VOLUME, 0, &drill(7)).unwrap();
        let name = names::drills(VOLUME) + &names::number(1);
        let whole = store.get(&name, Part::All).unwrap();
        let over = |bytes: &[u8], name: &str| {
            let copy = store.copy();
            let _ = copy.delete(name);
            assert_eq!(create(&copy, name, bytes).unwrap(), Created::Won);
            let repo = Repository::open(Arc::new(copy), encrypted.then(key).as_ref()).unwrap();
            let volume = name[2..34].parse().unwrap();
            repo.newest_drill(volume, 0).unwrap_err().kind()
        };
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            assert_eq!(over(&bytes, &name), Kind::Corrupt, "byte {at}");
            assert_eq!(over(&whole[..at], &name), Kind::Corrupt, "cut at {at}");
        }
        let other = names::drills(Uuid([9; 16])) + &names::number(1);
        assert_eq!(over(&whole, &other), Kind::Corrupt, "of another volume");
        assert_eq!(over(&whole, &(names::drills(VOLUME) + &names::number(2))), Kind::Corrupt, "an older one");
    }
}
