//! What every store must do. One `check`, run by each implementation's tests over fresh empty stores.
#![allow(clippy::unwrap_used)] // This is test code that other crates' tests call; a failure here should panic.

use super::{Entry, Part, Put, Store, StoreExt};
use crate::Kind;
use rekindle_core::volume::ByteRange;
use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};

/// Panics with the reason if the stores that `fresh` makes (empty, each its own) break the port's contract.
pub fn check(fresh: &dyn Fn() -> Arc<dyn Store>) {
    objects_are_immutable(&*fresh());
    parts(&*fresh());
    drafts_are_whole_or_nothing(&*fresh());
    absent_is_gone(&*fresh());
    names_are_checked(&*fresh());
    lists_in_byte_order(&*fresh());
    random_history_equals_a_map(&*fresh());
    one_of_racing_creators_wins(fresh());
    readers_never_see_half(fresh());
    many_reads_at_once(fresh());
}

fn objects_are_immutable(s: &dyn Store) {
    assert_eq!(s.put_new("a/b", &[b"one", b"", b"two"]).unwrap(), Put::Created);
    assert_eq!(s.put_new("a/b", &[b"other"]).unwrap(), Put::Exists);
    assert_eq!(s.get("a/b", Part::All).unwrap(), b"onetwo");
    assert_eq!(s.head("a/b").unwrap(), Some(6));
    assert_eq!(s.put_new("empty", &[]).unwrap(), Put::Created);
    assert_eq!(s.get("empty", Part::All).unwrap(), b"");
    assert_eq!(s.head("empty").unwrap(), Some(0));
    s.delete("a/b").unwrap();
    assert_eq!(s.get("a/b", Part::All).unwrap_err().kind, Kind::Gone, "read, deleted, read");
    s.delete("a/b").unwrap();
    s.delete("never/was").unwrap();
    assert_eq!(s.head("a/b").unwrap(), None);
    assert_eq!(s.head("empty").unwrap(), Some(0));
    assert!(!s.place().is_empty());
}

fn parts(s: &dyn Store) {
    let bytes: Vec<u8> = (0..300_000u32).flat_map(|i| i.to_le_bytes()).collect();
    s.put_new("big", &[&bytes[..7], &bytes[7..1 << 20], &bytes[1 << 20..]]).unwrap();
    let len = bytes.len() as u64;
    assert_eq!(s.get("big", Part::All).unwrap(), bytes);
    for (start, n) in [(0, 0), (0, 1), (5, 9), (len - 1, 1), (0, len), (len, 0), (65_535, 131_073)] {
        let got = s.get("big", Part::Range(ByteRange::new(start, n))).unwrap();
        assert_eq!(got, bytes[start as usize..(start + n) as usize], "range {start}+{n}");
    }
    for n in [0, 1, 4096, len, len + 1, u64::MAX] {
        assert_eq!(s.get("big", Part::Tail(n)).unwrap(), bytes[(len - n.min(len)) as usize..], "tail {n}");
    }
    for (start, n) in [(0, len + 1), (len, 1), (len + 9, 0), (u64::MAX, 1)] {
        let e = s.get("big", Part::Range(ByteRange { start, len: n })).unwrap_err();
        assert_eq!(e.kind, Kind::Corrupt, "range {start}+{n}: {e}");
        assert!(e.what.contains("big"), "an error names the object: {e}");
    }
}

fn drafts_are_whole_or_nothing(s: &dyn Store) {
    assert_eq!(s.begin("/a").err().map(|e| e.kind), Some(Kind::Invalid));
    let Some(mut draft) = s.begin("d/x").unwrap() else { return };
    // Longer than what is written out at once, in pieces that do not fit it.
    let bytes: Vec<u8> = (0..900_000u32).flat_map(|i| i.to_le_bytes()).collect();
    for piece in bytes.chunks(300_001) {
        draft.write(&[&piece[..1], b"", &piece[1..]]).unwrap();
        assert_eq!(s.head("d/x").unwrap(), None, "seen before it is whole");
    }
    drop(draft);
    assert_eq!((s.head("d/x").unwrap(), s.list_all("").unwrap()), (None, Vec::new()), "given up");
    for (at, put) in [Put::Created, Put::Exists].into_iter().enumerate() {
        let mut draft = s.begin("d/x").unwrap().unwrap();
        for piece in bytes[at..].chunks(300_001) {
            draft.write(&[piece]).unwrap();
        }
        assert_eq!(draft.finish().unwrap(), put);
        assert!(s.get("d/x", Part::All).unwrap() == bytes, "the first one stays");
    }
    assert_eq!(s.begin("d/e").unwrap().unwrap().finish().unwrap(), Put::Created);
    assert_eq!(s.head("d/e").unwrap(), Some(0));
}

fn absent_is_gone(s: &dyn Store) {
    s.put_new("dir/x", &[b"1"]).unwrap();
    for name in ["x", "dir", "dir/y", "dir/x/z"] {
        for part in [Part::All, Part::Range(ByteRange::new(0, 1)), Part::Tail(1)] {
            assert_eq!(s.get(name, part).unwrap_err().kind, Kind::Gone, "{name}");
        }
        assert_eq!(s.head(name).unwrap(), None, "{name}");
        s.delete(name).unwrap();
    }
    assert_eq!(s.get("dir/x", Part::All).unwrap(), b"1");
}

fn names_are_checked(s: &dyn Store) {
    for name in ["", "/a", "a/", "a//b", "../a", "a/../../b", ".a", "A", "tmp/a", "a\0b"] {
        assert_eq!(s.put_new(name, &[b"x"]).unwrap_err().kind, Kind::Invalid, "put {name:?}");
        assert_eq!(s.get(name, Part::All).unwrap_err().kind, Kind::Invalid, "get {name:?}");
        assert_eq!(s.head(name).unwrap_err().kind, Kind::Invalid, "head {name:?}");
        assert_eq!(s.delete(name).unwrap_err().kind, Kind::Invalid, "delete {name:?}");
    }
    assert_eq!(s.list_all("").unwrap(), []);
}

fn lists_in_byte_order(s: &dyn Store) {
    // `-` and `.` sort before `/`, digits after it: a folder is not simply sorted by its own name.
    let names = [
        "a-b",
        "a.b/c",
        "a/b",
        "a/b-",
        "a/b0/x",
        "a/c/d",
        "a0",
        "ab/0",
        "b",
        "packs/00/1",
        "packs/00/2",
        "packs/0f/0",
    ];
    for (i, name) in names.iter().rev().enumerate() {
        s.put_new(name, &[&vec![7; i]]).unwrap();
    }
    let all: Vec<Entry> = names
        .iter()
        .enumerate()
        .map(|(i, n)| Entry { name: n.to_string(), size: (names.len() - 1 - i) as u64 })
        .collect();
    assert!(all.is_sorted_by(|a, b| a.name < b.name));
    let prefixes = [
        "",
        "a",
        "a/",
        "a/b",
        "a/b0",
        "a/b0/",
        "packs",
        "packs/",
        "packs/00/",
        "packs/0",
        "z",
        "b/",
        "../",
        "a//",
    ];
    let afters =
        ["", "a", "a/", "a/b", "a/b0/x", "a/zzz", "packs/00/1", "packs/00/1a", "zz", "0", "a.c", "../x"];
    for prefix in prefixes {
        for after in afters {
            for limit in [0, 1, 2, 5, 100] {
                let want: Vec<&Entry> = all
                    .iter()
                    .filter(|e| e.name.starts_with(prefix) && e.name.as_str() > after)
                    .take(limit)
                    .collect();
                let got = s.list(prefix, after, limit).unwrap();
                assert_eq!(
                    got.iter().collect::<Vec<_>>(),
                    want,
                    "list {prefix:?} after {after:?} limit {limit}"
                );
            }
        }
    }
}

/// A small generator: the kit needs variety, not randomness.
struct Rng(u64);
impl Rng {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn random_history_equals_a_map(s: &dyn Store) {
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut rng = Rng(0x9e37_79b9_7f4a_7c15);
    for step in 0..300u32 {
        let name = format!("d{}/e{}/{}", rng.below(3), rng.below(3), rng.below(6));
        match rng.below(5) {
            0 | 1 => {
                let bytes = vec![step as u8; rng.below(5000) as usize];
                let put = s.put_new(&name, &[&bytes]).unwrap();
                assert_eq!(put == Put::Created, !model.contains_key(&name));
                model.entry(name).or_insert(bytes);
            }
            2 => {
                s.delete(&name).unwrap();
                model.remove(&name);
            }
            3 => assert_eq!(s.get(&name, Part::All).ok().as_ref(), model.get(&name)),
            _ => {
                let got = s.list(&name[..3], "", 1000).unwrap();
                let want: Vec<_> = model
                    .iter()
                    .filter(|(n, _)| n.starts_with(&name[..3]))
                    .map(|(n, b)| Entry { name: n.clone(), size: b.len() as u64 })
                    .collect();
                assert_eq!(got, want);
            }
        }
    }
}

/// Eight threads create the same names; each name has exactly one winner, and its bytes.
fn one_of_racing_creators_wins(s: Arc<dyn Store>) {
    const THREADS: usize = 8;
    const ROUNDS: usize = 12;
    let barrier = Arc::new(Barrier::new(THREADS));
    let runs: Vec<_> = (0..THREADS)
        .map(|me| {
            let (s, barrier) = (s.clone(), barrier.clone());
            std::thread::spawn(move || {
                (0..ROUNDS)
                    .map(|round| {
                        barrier.wait();
                        s.put_new(&format!("race/{round}/x"), &[&[me as u8; 3000]]).unwrap() == Put::Created
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let won: Vec<Vec<bool>> = runs.into_iter().map(|r| r.join().unwrap()).collect();
    for round in 0..ROUNDS {
        let winners: Vec<usize> = won.iter().enumerate().filter(|(_, w)| w[round]).map(|(t, _)| t).collect();
        assert_eq!(winners.len(), 1, "round {round}: winners {winners:?}");
        let got = s.get(&format!("race/{round}/x"), Part::All).unwrap();
        assert_eq!(got, [winners[0] as u8; 3000], "round {round}");
    }
}

/// While a writer creates, deletes and lists, a reader finds whole objects or none.
fn readers_never_see_half(s: Arc<dyn Store>) {
    const ROUNDS: u32 = 40;
    const LEN: usize = 100_000;
    let writer = {
        let s = s.clone();
        std::thread::spawn(move || {
            for round in 0..ROUNDS {
                let half = vec![round as u8; LEN / 2];
                assert_eq!(s.put_new(&format!("w/{round:04}"), &[&half, &half]).unwrap(), Put::Created);
                if round % 4 == 3 {
                    s.delete(&format!("w/{:04}", round - 1)).unwrap();
                }
            }
        })
    };
    loop {
        let finished = writer.is_finished();
        for entry in s.list("w/", "", 1000).unwrap() {
            assert_eq!(entry.size, LEN as u64, "{} is listed before it is whole", entry.name);
            match s.get(&entry.name, Part::All) {
                Ok(bytes) => assert!(bytes.len() == LEN && bytes.iter().all(|b| *b == bytes[0])),
                Err(e) => assert_eq!(e.kind, Kind::Gone, "{e}"),
            }
        }
        if finished {
            break;
        }
    }
    writer.join().unwrap();
    assert_eq!(s.list_all("w/").unwrap().len(), ROUNDS as usize * 3 / 4);
}

/// Each of many reads under way is answered once with its own bytes.
fn many_reads_at_once(s: Arc<dyn Store>) {
    let bytes: Vec<u8> = (0..60_000u32).flat_map(|i| i.to_be_bytes()).collect();
    s.put_new("many", &[&bytes]).unwrap();
    let (tx, rx) = std::sync::mpsc::channel();
    for i in 0..500u64 {
        let tx = tx.clone();
        let r = ByteRange::new(i * 401, 1 + i * 7);
        s.start_get("many", Part::Range(r), Box::new(move |got| tx.send((i, r, got)).unwrap()));
    }
    drop(tx);
    let mut seen = vec![false; 500];
    for (i, r, got) in rx {
        assert_eq!(got.unwrap(), bytes[r.start as usize..r.end() as usize]);
        assert!(!std::mem::replace(&mut seen[i as usize], true), "answered twice");
    }
    assert!(seen.into_iter().all(|s| s));
}
