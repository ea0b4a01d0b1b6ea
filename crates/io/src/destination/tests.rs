//! Long aligned pieces, short and crooked ones, in every order: one file, whatever way each of them went.

use super::*;

const SIZE: u64 = (2 << 20) + 512;

/// A file whose file system opens it past the page cache and then refuses to use it so.
fn refusing(path: &Path) -> FileDestination {
    let made = FileDestination::create(path, SIZE).unwrap();
    made.past_cache.refuse();
    made
}

#[test]
fn pieces_of_all_kinds_make_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let made = FileDestination::create(&dir.path().join("direct"), SIZE).unwrap();
    for to in [made, refusing(&dir.path().join("buffered"))] {
        let mut want = vec![0; SIZE as usize];
        let mut buf = Aligned::new(1 << 20);
        // (at, from, len): long, short, at a crooked place, from crooked memory, up to the crooked end, over each other.
        let pieces = [
            (0, 0, 1 << 20),
            (1 << 20, 0, 64 << 10),
            ((1 << 20) + 512, 0, 256 << 10),
            (512 << 10, 4096, DIRECT_MIN),
            ((512 << 10) + 4096, 0, 4096),
            (1 << 20, 512, 256 << 10),
            (SIZE as usize - 4608, 0, 4608),
        ];
        for (tag, (at, from, len)) in (1..).zip(pieces) {
            buf[from..from + len].fill(tag);
            to.write(at as u64, &buf[from..from + len]).unwrap();
            want[at..at + len].fill(tag);
            // Both ways to read see what both ways to write wrote.
            let mut got = Aligned::new(SIZE.next_multiple_of(4096) as usize);
            let (whole, rest) = got[..SIZE as usize].split_at_mut(2 << 20);
            to.read(0, whole).unwrap();
            to.read(2 << 20, rest).unwrap();
            assert!(got[..SIZE as usize] == want, "piece {tag} of {}", to.place());
            assert!(std::fs::read(to.place()).unwrap() == want, "piece {tag} of {}", to.place());
        }
        to.flush().unwrap();
    }
}

#[test]
fn who_refuses_direct_io_is_served_through_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let mut to = FileDestination::create(&dir.path().join("a"), SIZE).unwrap();
    let mut buf = Aligned::new(1 << 20);
    buf.fill(9);
    let (_reader, pipe) = std::io::pipe().unwrap();
    to.past_cache = PastCache::through(File::from(std::os::fd::OwnedFd::from(pipe)));
    assert!(to.write(0, &buf).is_err() && to.read(0, &mut buf).is_err() && to.reads_medium());
    to.past_cache.refuse();
    assert!(!to.reads_medium());
    to.write(0, &buf).unwrap();
    assert!(std::fs::read(to.place()).unwrap()[..1 << 20].iter().all(|b| *b == 9));
}
