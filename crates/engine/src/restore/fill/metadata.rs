//! Partition tables and file-system metadata of a moment: extents that come early where no usage map names any. A hint:
//! whatever cannot be read is left out. Costs a handful of fetches, a few thousand on a disk made to vex us.

use super::super::lock;
use rekindle_core::usage::metadata_ranges;
use rekindle_core::volume::ExtentRange;
use rekindle_io::holder::{FetchSink, Fetched, Holder, Urgency};
use rekindle_io::{Error, Kind, Result};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// More extents than this are not "first" any more (1 GiB at 64 KiB): the journal and tables of a very large file system.
const EARLY_MAX: u64 = 16_384;
/// One fetch may take ten seconds; whether to go on is asked in between.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: u32 = 100;

#[derive(Default)]
struct One {
    slot: Mutex<Option<Result<Fetched>>>,
    came: Condvar,
}
impl FetchSink for One {
    fn fetched(&self, _: u64, what: Result<Fetched>) {
        *lock(&self.slot) = Some(what);
        self.came.notify_all();
    }
}

/// Reads one extent straight from the holder.
fn fetch(holder: &Arc<dyn Holder>, extent: u64, out: &mut [u8], go_on: &dyn Fn() -> bool) -> Result<()> {
    let one = Arc::new(One::default());
    let sink: Arc<dyn FetchSink> = one.clone();
    holder.clone().fetch(&[extent], Urgency::Background, &sink);
    let mut slot = lock(&one.slot);
    for _ in 0..LOOKS {
        match slot.take() {
            Some(Ok(Fetched::Sealed(sealed))) => return sealed.open(out),
            Some(Ok(Fetched::Zero)) => {
                out.fill(0);
                return Ok(());
            }
            Some(Err(e)) => return Err(e),
            None if !go_on() => break,
            None => slot = one.came.wait_timeout(slot, LOOK).unwrap_or_else(PoisonError::into_inner).0,
        }
    }
    Err(Error::new(Kind::Unavailable, "the holder did not answer in time"))
}

/// What the moment keeps as metadata, in extents, ascending. `go_on` is asked before each fetch.
pub(super) fn metadata_extents(holder: &Arc<dyn Holder>, go_on: &dyn Fn() -> bool) -> Vec<ExtentRange> {
    let geometry = holder.geometry();
    // Neighbouring small reads (group descriptors) fall into the same extent.
    let mut last: Option<(u64, Vec<u8>)> = None;
    let ranges = metadata_ranges(geometry.size, &mut |at, buf| {
        let mut done = 0;
        while done < buf.len() {
            let extent = (at + done as u64) >> geometry.extent.shift();
            let bytes = geometry.extent_bytes(extent);
            if last.as_ref().is_none_or(|(e, _)| *e != extent) {
                let mut image = vec![0; bytes.len as usize];
                if !go_on() || fetch(holder, extent, &mut image, go_on).is_err() {
                    return false;
                }
                last = Some((extent, image));
            }
            let Some((_, image)) = &last else { return false };
            let from = (at + done as u64 - bytes.start) as usize;
            let n = (image.len() - from).min(buf.len() - done);
            buf[done..done + n].copy_from_slice(&image[from..from + n]);
            done += n;
        }
        true
    });
    let mut left = EARLY_MAX;
    let mut early: Vec<ExtentRange> = Vec::new();
    for range in ranges {
        let mut touched = geometry.touched(range);
        touched.start = touched.start.max(early.last().map_or(0, |l| l.end));
        touched.end = touched.end.min(touched.start + left);
        if touched.start < touched.end {
            left -= touched.count();
            early.push(touched);
        }
    }
    early
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::volume::{ExtentBytes, Geometry};
    use rekindle_io::holder::MemHolder;

    fn holder(image: Vec<u8>) -> Arc<MemHolder> {
        let g = Geometry::new(image.len() as u64, ExtentBytes::DEFAULT, 512, 512).unwrap();
        MemHolder::from_bytes(g, image)
    }
    fn extents(holder: &Arc<MemHolder>) -> Vec<u64> {
        let holder: Arc<dyn Holder> = holder.clone();
        metadata_extents(&holder, &|| true).iter().flat_map(|r| r.iter()).collect()
    }

    #[test]
    fn xfs_groups_log_and_both_ends() {
        let mut disk = vec![0; (8 << 20) + 512];
        disk[..4].copy_from_slice(b"XFSB");
        disk[4..8].copy_from_slice(&4096u32.to_be_bytes());
        disk[48..56].copy_from_slice(&(1u64 << 9 | 48).to_be_bytes());
        disk[84..88].copy_from_slice(&512u32.to_be_bytes());
        disk[88..92].copy_from_slice(&4u32.to_be_bytes());
        disk[96..100].copy_from_slice(&40u32.to_be_bytes());
        disk[124] = 9;
        let xfs = holder(disk);
        // Groups of 2 MiB begin at extents 0, 32, 64, 96; the log of 160 KiB is 192 KiB into the second.
        assert_eq!(extents(&xfs), [0, 32, 35, 36, 37, 64, 96, 127, 128]);
        xfs.answer_late(Duration::from_millis(1));
        assert_eq!(extents(&xfs).len(), 9);
        xfs.set_damaged(0, true);
        assert_eq!(extents(&xfs), [0, 127, 128], "unreadable: the two ends");
        assert_eq!(extents(&holder(vec![0; 512])), [0]);
    }
}
