//! What a beginning leaves that was cut short before its record made it a restore: a folder for the state, and files that
//! hold nothing but holes and the label. Nothing is lost with them, so the same command begins again without asking.
//! Devices are not looked at: behind a label may lie what nobody gave consent for.

use super::state::{StatePlace, beside, pointed_to};
use crate::serve::live::LABEL;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Behind a label nothing but stamps lies in so many bytes, until the hand-over.
const HEAD: u64 = 1 << 20;

/// The file at `path` is a destination that the beginning of a restore in `place` left.
pub fn is_left_over(place: &StatePlace, path: &Path) -> bool {
    let never_begun = place.path.is_dir() && matches!(place.look(), Ok(None));
    never_begun && holds_nothing(place, path).unwrap_or(false)
}

fn holds_nothing(place: &StatePlace, path: &Path) -> std::io::Result<bool> {
    let file = File::open(path)?;
    let mut head = vec![0; HEAD.min(file.metadata()?.len()) as usize];
    file.read_exact_at(&mut head, 0)?;
    // A file system that knows of no holes says that all is data, and is believed.
    let data = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(head.len() as u64));
    if data != Err(rustix::io::Errno::NXIO) {
        return Ok(false);
    }
    // The label of another restore may be all there is of it, with what a guest wrote in a state that lies elsewhere.
    let ours = || beside(path) == place.path || pointed_to(path).as_ref() == Some(&place.path);
    Ok(head.iter().all(|b| *b == 0) || (head.starts_with(LABEL) && ours()))
}
