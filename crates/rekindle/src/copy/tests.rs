//! Copies of an image in memory: every byte, zeros as holes or zeros, in order, bounded, refused when wrong.

use super::*;
use rekindle_core::volume::{ExtentBytes, Geometry};
use rekindle_io::block::MemBlock;
use rekindle_io::holder::MemHolder;

const EXTENT: u64 = 1 << 16;

/// Extents 1 and 4 hold data, the last one is short.
fn image() -> Vec<u8> {
    let mut image = vec![0u8; 300 * EXTENT as usize + 512];
    for extent in [1usize, 4, 200, 300] {
        let at = extent * EXTENT as usize;
        let end = (at + EXTENT as usize).min(image.len());
        for (i, b) in image[at..end].iter_mut().enumerate() {
            *b = (i * 7 + extent) as u8 | 1;
        }
    }
    image
}

fn copy(image: &[u8]) -> Copy {
    let geometry = Geometry::new(image.len() as u64, ExtentBytes::DEFAULT, 512, 512).unwrap();
    let holder = MemHolder::from_bytes(geometry, image.to_vec());
    Copy { holder, limit: None, counters: Arc::default() }
}

#[test]
fn every_byte_arrives_whatever_lay_there() {
    let image = image();
    for fresh in [true, false] {
        let target = MemBlock::new(image.len() as u64);
        if !fresh {
            target.write_at(0, &vec![0xee; image.len()]).unwrap();
        }
        let c = copy(&image);
        c.to_block(&*target, fresh).unwrap();
        assert!(target.bytes() == image, "fresh: {fresh}");
        let written = if fresh { 3 * EXTENT + 512 } else { image.len() as u64 };
        assert_eq!(c.counters.written.load(Ordering::Relaxed), written);
        assert_eq!(c.counters.done.load(Ordering::Relaxed), image.len() as u64);
        assert_eq!(copy(&image).verify(&*target).unwrap(), 0);
        target.write_at(4 << 16, &[0; 512]).unwrap();
        target.write_at(9 << 16, &[1; 512]).unwrap();
        assert_eq!(copy(&image).verify(&*target).unwrap(), 2, "damage is found in data and in zeros");
    }
}

#[test]
fn a_stream_is_in_order() {
    let image = image();
    let mut out = Vec::new();
    copy(&image).to_stream(&mut out).unwrap();
    assert!(out == image);
}

#[test]
fn a_copy_that_is_told_to_stop_stops() {
    let image = image();
    let c = copy(&image);
    c.counters.stop.store(true, Ordering::Relaxed);
    let failure = c.to_block(&*MemBlock::new(image.len() as u64), true).unwrap_err();
    assert_eq!(failure.exit.code(), 130);
}
