//! What every log folder must do, whatever it is made of.

use super::{LogDir, LogFile};
use crate::Kind;
use crate::fault::mix;
use std::sync::Arc;

/// Runs the whole kit; `make` gives a fresh empty folder each time. Panics at the first broken promise.
pub fn check<D: LogDir + ?Sized>(make: impl Fn() -> Arc<D>) {
    names(&*make());
    bytes(&*make());
    against_a_vector(&*make(), 1);
    against_a_vector(&*make(), 2);
}

fn read(f: &dyn LogFile, offset: u64, len: usize) -> Vec<u8> {
    let mut b = vec![0xee; len];
    f.read_at(offset, &mut b).expect("read");
    b
}

fn names<D: LogDir + ?Sized>(d: &D) {
    assert!(d.open("x").expect("open").is_none(), "an absent file opens as None");
    let x = d.create("x").expect("create");
    assert_eq!(d.create("x").map(drop).expect_err("taken").kind, Kind::Exists);
    x.write_at(0, &[b"old"]).expect("write");
    let y = d.create("y").expect("create");
    y.write_at(0, &[b"new"]).expect("write");
    d.replace("y", "x").expect("replace");
    d.sync_names().expect("sync_names");
    assert_eq!(read(&*d.open("x").expect("open").expect("there"), 0, 3), b"new");
    assert_eq!(read(&*x, 0, 3), b"old", "an open file outlives its name");
    assert_eq!(d.names().expect("names"), ["x"]);
    assert_eq!(d.replace("y", "x").expect_err("gone").kind, Kind::Gone);
    d.remove("x").expect("remove");
    d.remove("x").expect("removing an absent name is fine");
    assert!(d.names().expect("names").is_empty());
    for bad in ["", ".", "..", "a/b", "/a"] {
        assert_eq!(d.create(bad).map(drop).expect_err("not a name").kind, Kind::Invalid, "{bad:?}");
    }
    assert!(d.free_bytes().expect("free") > 0 && !d.place().is_empty());
}

fn bytes<D: LogDir + ?Sized>(d: &D) {
    let f = d.create("f").expect("create");
    assert_eq!(f.len().expect("len"), 0);
    f.write_at(10, &[b"ab", b"", b"cd"]).expect("write");
    assert_eq!(f.len().expect("len"), 14);
    assert_eq!(read(&*f, 8, 10), b"\0\0abcd\0\0\0\0", "gaps and what lies past the end read as zeros");
    f.set_len(12).expect("cut");
    f.set_len(20).expect("extend");
    assert_eq!(read(&*f, 10, 10), b"ab\0\0\0\0\0\0\0\0", "cut bytes do not come back");
    f.write_at(0, &[&[7; 20_000]]).expect("write");
    f.punch(4096, 8192).expect("punch");
    assert_eq!((read(&*f, 4095, 2), read(&*f, 12287, 2)), (vec![7, 0], vec![0, 7]));
    f.punch(1 << 40, 4096).expect("punching past the end is fine");
    assert_eq!(f.len().expect("len"), 20_000, "punching keeps the length");
    f.write_out(0, 20_000);
    f.write_out(1 << 40, 4096);
    assert_eq!(
        (f.len().expect("len"), read(&*f, 4095, 2)),
        (20_000, vec![7, 0]),
        "writing out changes nothing"
    );
    let next = |at| f.next_data(at).expect("next data");
    assert_eq!((next(0), next(19_999), next(20_000)), (Some(0), Some(19_999), None));
    assert!((4096..=12_288).contains(&next(4096).expect("7s follow")));
    f.sync().expect("sync");
    let again = d.open("f").expect("open").expect("there");
    again.write_at(0, &[b"z"]).expect("write");
    assert_eq!(read(&*f, 0, 1), b"z", "handles of one file see one file");
}

fn against_a_vector<D: LogDir + ?Sized>(d: &D, seed: u64) {
    let f = d.create("f").expect("create");
    let mut model: Vec<u8> = Vec::new();
    for n in 0..200 {
        let r = |k: u64| mix(seed * 1000 + n, k);
        let (at, len) = ((r(1) % 40_000) as usize, (r(2) % 9000) as usize);
        match r(0) % 8 {
            0..=4 => {
                let data: Vec<u8> = (0..len).map(|i| (i as u64 ^ r(3)) as u8).collect();
                let (a, b) = data.split_at(len / 3);
                f.write_at(at as u64, &[a, b]).expect("write");
                if len > 0 {
                    model.resize(model.len().max(at + len), 0);
                    model[at..at + len].copy_from_slice(&data);
                }
            }
            5 => {
                f.punch(at as u64, len as u64).expect("punch");
                let end = (at + len).min(model.len());
                model[at.min(end)..end].fill(0);
            }
            6 => {
                f.set_len(at as u64).expect("set_len");
                model.resize(at, 0);
            }
            _ => f.sync().expect("sync"),
        }
        assert_eq!(f.len().expect("len"), model.len() as u64, "after step {n}");
        assert!(read(&*f, 0, model.len()) == model, "after step {n}");
    }
}
