//! What mkfs.ext4 writes is metadata, nearly all of it: so nearly all of it must be among the ranges that come early.

use rekindle_core::usage::metadata_ranges;
use rekindle_core::volume::ByteRange;
use std::process::Command;

#[test]
fn what_mkfs_writes_comes_early() {
    for (block, size) in [("4096", 300 << 20), ("1024", 100 << 20)] {
        let path = std::env::temp_dir().join(format!("rekindle-ext4-{}-{block}", std::process::id()));
        std::fs::File::create(&path).and_then(|f| f.set_len(size)).expect("a sparse file");
        let made = Command::new("/usr/sbin/mkfs.ext4")
            .args(["-q", "-F", "-O", "^resize_inode", "-b", block])
            .arg(&path)
            .status();
        let image = std::fs::read(&path).expect("the image");
        let _ = std::fs::remove_file(&path);
        if !made.is_ok_and(|s| s.success()) {
            println!("skipped: mkfs.ext4 is not here, so there is no real file system to look at");
            return;
        }
        let ranges = metadata_ranges(size, &mut |at, buf| {
            buf.copy_from_slice(&image[at as usize..at as usize + buf.len()]);
            true
        });
        let covered = |at: u64| ranges.iter().any(|r| r.overlaps(&ByteRange::new(at, 4096)));
        let used = (0..size)
            .step_by(4096)
            .filter(|at| image[*at as usize..*at as usize + 4096].iter().any(|b| *b != 0));
        let (all, missed): (Vec<u64>, Vec<u64>) = {
            let all: Vec<u64> = used.collect();
            let missed = all.iter().copied().filter(|at| !covered(*at)).collect();
            (all, missed)
        };
        let early: u64 = ranges.iter().map(|r| r.len).sum();
        println!(
            "{block}-byte blocks: {} pages in use, {} not early, {early} bytes early",
            all.len(),
            missed.len()
        );
        // Directories, and superblock copies in a few groups, may come later.
        assert!(all.len() > 10 && missed.len() <= 10, "{missed:?}");
        assert!(early < size / 4, "early is not everything");
        let journal =
            (0..size).step_by(1024).find(|at| image[*at as usize..].starts_with(&[0xc0, 0x3b, 0x39, 0x98]));
        assert!(journal.is_some_and(covered), "the journal at {journal:?}");
    }
}
