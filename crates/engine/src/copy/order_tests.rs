//! Goal: half a copy is not taken for a volume, whatever a power cut leaves; reading back says what it could not see. Method:
//! a device whose durable state is looked at whenever something is written, and one that cannot be read.

use super::*;
use crate::progress::Unwatched;
use rekindle_core::volume::{ByteRange, ExtentBytes};
use rekindle_io::block::{BlockExt, MemBlock};
use rekindle_io::fault::Crash;
use rekindle_io::holder::MemHolder;

const EXTENT: u64 = 16 << 10;
const SIZE: u64 = 200 * EXTENT;
const EDGE: u64 = 1 << 20;

/// Knows extents by their hashes; of this range it says instead that they are lost.
struct Known {
    image: Vec<u8>,
    lost: std::ops::Range<u64>,
}
impl Compare for Known {
    fn ids(&self, extents: ExtentRange) -> Result<Vec<Id>> {
        assert_eq!(extents.start / plan::LEAF, (extents.end - 1) / plan::LEAF, "a leaf at a time");
        if extents.iter().any(|e| self.lost.contains(&e)) {
            return Err(Error::new(Kind::Corrupt, "its ids are lost"));
        }
        assert!(extents.start < extents.end, "{extents:?} do not ascend");
        let of = |e: u64| self.id_of(&self.image[(e * EXTENT) as usize..][..EXTENT as usize]);
        Ok(extents.iter().map(of).collect())
    }
    fn id_of(&self, bytes: &[u8]) -> Id {
        Id(*blake3::hash(bytes).as_bytes())
    }
}

struct Device {
    disk: Arc<MemBlock>,
    image: Vec<u8>,
    fresh: bool,
    unreadable: bool,
}
impl Device {
    /// What must be durable before anything is written at `at`, and what must not be there yet.
    fn look(&self, at: u64) {
        let (size, edge, tail) = (SIZE as usize, EDGE as usize, (SIZE - EDGE) as usize);
        let behind = (edges::Edges::of(&geometry()).middle().end * EXTENT) as usize;
        for seed in 0..2 {
            let durable = self.disk.crash(Crash::Power { seed: seed + at }).bytes();
            let zero = |r: std::ops::Range<usize>| durable[r].iter().all(|b| *b == 0);
            let whole = |r: std::ops::Range<usize>| durable[r.clone()] == self.image[r];
            assert!(at < EDGE || zero(0..edge), "{at} is written before the head is gone, or after it came");
            assert!(at >= behind as u64 || at < EDGE || zero(tail..size), "{at} while there is a tail");
            assert!(at < behind as u64 || whole(edge..behind), "the tail comes before the rest is durable");
            assert!(at >= EDGE || whole(edge..size), "the head comes before the rest is durable");
        }
    }
}
impl Destination for Device {
    fn place(&self) -> String {
        "device".into()
    }
    fn is_fresh(&self) -> bool {
        self.fresh
    }
    fn read(&self, at: u64, buf: &mut [u8]) -> Result<()> {
        if self.unreadable {
            return Err(Error::new(Kind::Failed, "it cannot be read"));
        }
        self.disk.read_at(at, buf)
    }
    fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        if !self.fresh {
            self.look(at);
        }
        self.disk.write_at(at, bytes)
    }
    fn zero(&self, range: ByteRange) -> Result<()> {
        self.disk.zero_at(range.start, range.len)
    }
    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
    fn reads_medium(&self) -> bool {
        true
    }
}

fn geometry() -> Geometry {
    Geometry::new(SIZE, ExtentBytes::new(EXTENT).unwrap(), 512, 4096).unwrap()
}

fn world(fresh: bool, unreadable: bool) -> (Device, Arc<dyn Holder>) {
    let mem = MemHolder::from_pattern(geometry(), &[ExtentRange { start: 0, end: 200 }], 1);
    mem.store_backwards();
    let mut image = vec![0; SIZE as usize];
    image.chunks_mut(EXTENT as usize).zip(0..).for_each(|(bytes, e)| mem.truth(e, bytes));
    let disk = MemBlock::new(SIZE);
    if !fresh {
        disk.write_at(0, &vec![0xee; SIZE as usize]).and_then(|()| disk.flush()).unwrap();
    }
    (Device { disk, image, fresh, unreadable }, mem)
}

fn options(read_back: bool) -> CopyOptions {
    CopyOptions { threads: 2, patience: Duration::ZERO, limit: None, read_back }
}

#[test]
fn no_power_cut_leaves_half_a_copy_that_looks_like_a_volume() {
    let (to, holder) = world(false, false);
    copy(&holder, None, &to, &options(false), &Unwatched).unwrap();
    assert!(to.disk.bytes() == to.image);
}

#[test]
fn what_comes_backwards_is_read_back_whole() {
    let (to, holder) = world(true, false);
    let known = Known { image: to.image.clone(), lost: 0..0 };
    let report = copy(&holder, Some(&known), &to, &options(true), &Unwatched).unwrap();
    assert!(report.wrong == 0 && report.checked.contains(100));
    assert_eq!(verify(&geometry(), &known, &to, &report, &options(true), &Unwatched).unwrap(), 0);
}

#[test]
fn what_has_lost_its_ids_does_not_count_as_read_back() {
    let (to, holder) = world(true, false);
    let lost = Known { image: to.image.clone(), lost: 0..200 };
    let report = copy(&holder, Some(&lost), &to, &options(true), &Unwatched).unwrap();
    assert_eq!(report.checked.from(0).count(), 0);
    assert!(verify(&geometry(), &lost, &to, &report, &options(true), &Unwatched).unwrap_err().is_loss());
}

#[test]
fn a_destination_that_cannot_be_read_back_ends_the_copy() {
    let (to, holder) = world(true, true);
    let known = Known { image: to.image.clone(), lost: 0..0 };
    let e = copy(&holder, Some(&known), &to, &options(true), &Unwatched).unwrap_err();
    assert_eq!((e.kind, e.what.contains("cannot be read")), (Kind::Failed, true), "{e:?}");
}

/// Many leaves, rounds and readers: what has no ids in one leaf hinders nobody in the others.
#[test]
fn leaves_are_read_back_each_for_itself() {
    const EXTENTS: u64 = 2200;
    let g = Geometry::new(EXTENTS * EXTENT, ExtentBytes::new(EXTENT).unwrap(), 512, 4096).unwrap();
    let data = [ExtentRange { start: 1000, end: 1050 }, ExtentRange { start: 2040, end: 2100 }];
    let mem = MemHolder::from_pattern(g, &data, 1);
    let mut image = vec![0; g.size as usize];
    image.chunks_mut(EXTENT as usize).zip(0..).for_each(|(bytes, e)| mem.truth(e, bytes));
    let to = Device { disk: MemBlock::new(g.size), image: Vec::new(), fresh: true, unreadable: false };
    let known = Known { image, lost: 1000..1010 };
    let holder: Arc<dyn Holder> = mem;
    let report = copy(&holder, Some(&known), &to, &options(true), &Unwatched).unwrap();
    let checked: Vec<u64> = report.checked.from(0).collect();
    assert!((1024..1050).chain(2040..2100).all(|e| checked.contains(&e)), "{checked:?}");
    assert!(!(1000..1010).any(|e| checked.contains(&e)));
}
