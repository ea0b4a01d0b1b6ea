//! Differences between snapshots, and between a snapshot and bytes, against the images themselves.

use super::*;
use crate::copy::{DiffSummary, diff_bytes, diff_snapshots};
use rekindle_core::volume::{ByteRange, ExtentBytes, Geometry};
use rekindle_io::{Error, Kind, Result};

/// Ranges of whole extents in which two images differ; beyond its end an image is zero.
fn truth(a: &[u8], b: &[u8]) -> Vec<ByteRange> {
    let len = a.len().max(b.len());
    let padded = |image: &[u8]| [image, &vec![0; len - image.len()]].concat();
    let (a, b) = (padded(a), padded(b));
    let mut out: Vec<ByteRange> = Vec::new();
    for start in (0..len).step_by(EXTENT) {
        let end = (start + EXTENT).min(len);
        if a[start..end] == b[start..end] {
            continue;
        }
        match out.last_mut() {
            Some(last) if last.end() == start as u64 => last.len += (end - start) as u64,
            _ => out.push(ByteRange::new(start as u64, (end - start) as u64)),
        }
    }
    out
}

fn told(diff: impl FnOnce(&mut dyn FnMut(ByteRange) -> Result<()>) -> Result<DiffSummary>) -> Vec<ByteRange> {
    let mut ranges = Vec::new();
    let summary = diff(&mut |r| {
        ranges.push(r);
        Ok(())
    })
    .unwrap();
    let bytes = ranges.iter().map(|r| r.len).sum();
    assert_eq!(summary, DiffSummary { ranges: ranges.len() as u64, bytes });
    ranges
}

fn back_up(volume: &mut Volume, place: &Place, time: u64) -> Snapshot {
    let report =
        run(&Moment::of(std::slice::from_mut(volume)), &place.repo, &options(time, 0), &Unwatched).unwrap();
    place.repo.snapshot_of(report.snapshot)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn differences_are_those_of_the_images(
        first in prop::collection::vec((0..70usize, any::<u8>()), 0..40),
        second in prop::collection::vec((0..70usize, any::<u8>()), 0..12),
        grown in 0..3usize,
    ) {
        let place = place();
        let mut a = Volume::new("shop", 1, 70 * EXTENT - 512);
        first.iter().for_each(|(e, tag)| a.write(*e, *tag));
        let one = back_up(&mut a, &place, 1);
        let before = a.image.clone();
        second.iter().for_each(|(e, tag)| a.write(*e, *tag));
        let two = back_up(&mut a, &place, 2);
        let (h1, h2) = (one.holder("shop").unwrap(), two.holder("shop").unwrap());
        prop_assert_eq!(told(|each| diff_snapshots(&h1, &h2, &Unwatched, each)), truth(&before, &a.image));
        prop_assert_eq!(told(|each| diff_snapshots(&h2, &h2, &Unwatched, each)), []);
        // Another volume, perhaps larger: compared by id.
        let mut b = Volume::new("other", 2, (70 + grown) * EXTENT);
        b.image[..before.len()].copy_from_slice(&before);
        second.iter().for_each(|(e, tag)| b.write(*e, tag.wrapping_add(1)));
        let three = back_up(&mut b, &place, 3);
        let h3 = three.holder("other").unwrap();
        prop_assert_eq!(told(|each| diff_snapshots(&h1, &h3, &Unwatched, each)), truth(&before, &b.image));
        prop_assert_eq!(told(|each| diff_snapshots(&h3, &h1, &Unwatched, each)), truth(&before, &b.image));
        // The image as it is now against the first snapshot.
        let read = |at: u64, buf: &mut [u8]| {
            buf.copy_from_slice(&a.image[at as usize..][..buf.len()]);
            Ok(())
        };
        let got = told(|each| diff_bytes(&a.geometry, &*h1, &read, &Unwatched, each));
        prop_assert_eq!(got, truth(&before, &a.image));
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (here, there) = (place(), place());
    let mut v = Volume::new("shop", 1, 4 * EXTENT);
    v.write(1, 2);
    let one = back_up(&mut v, &here, 1).holder("shop").unwrap();
    let two = back_up(&mut v, &there, 1).holder("shop").unwrap();
    let none = &mut |_: ByteRange| -> Result<()> { Err(Error::new(Kind::Invalid, "told")) };
    let e = diff_snapshots(&one, &two, &Unwatched, none).unwrap_err();
    assert!(e.kind == Kind::Unsupported && e.what.contains("keys"), "{e}");
    let mut coarse = Volume::new("coarse", 3, 4 * EXTENT);
    coarse.geometry = Geometry::new(4 * EXTENT as u64, ExtentBytes::DEFAULT, 512, 4096).unwrap();
    coarse.begin_history(None);
    let three = back_up(&mut coarse, &here, 2).holder("coarse").unwrap();
    let e = diff_snapshots(&one, &three, &Unwatched, none).unwrap_err();
    assert!(e.kind == Kind::Unsupported && e.what.contains("size"), "{e}");
}
