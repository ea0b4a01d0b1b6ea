//! A disk image with a real file system and real files: those of this machine, so that compression and duplicates are what
//! they are in life.

use super::cost;
use crate::nbd::load::Random;
use crate::{Result, fail};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

/// Makes an ext4 image of `bytes` at `path`, about five sixths full of the machine's installed files. Needs mke2fs, no root.
pub fn real(path: &Path, bytes: u64) -> Result<()> {
    let home = path.parent().unwrap_or(Path::new("."));
    let tree = home.join("tree");
    std::fs::create_dir_all(&tree)?;
    let list = home.join("files");
    write_list(&list, bytes / 6 * 5)?;
    let copy =
        "tar -cf - --files-from=\"$1\" --ignore-failed-read 2>/dev/null | tar -xf - -C \"$2\" 2>/dev/null";
    cost::run(Command::new("sh").args(["-c", copy, "sh"]).arg(&list).arg(&tree))?;
    std::fs::remove_file(&list)?;
    let mut make = Command::new("mke2fs");
    make.args(["-q", "-t", "ext4", "-E", "lazy_itable_init=0", "-b", "4096", "-i", "6144", "-d"])
        .arg(&tree)
        .arg(path);
    make.arg(format!("{}k", bytes >> 10));
    make.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    let made = cost::run(&mut make);
    std::fs::remove_dir_all(&tree)?;
    made?;
    Ok(())
}

/// Readable files under /usr, in the order of the names, up to so many bytes together.
fn write_list(list: &Path, most: u64) -> Result<()> {
    let find = "find /usr -xdev -type f -readable -size -32M -printf '%s\\t%p\\n' 2>/dev/null | sort -k2";
    let out = Command::new("sh").args(["-c", find]).output()?;
    let mut file = File::create(list)?;
    let mut total = 0;
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Some((size, name)) = line.split_once('\t') else { continue };
        total += size.parse::<u64>()?.next_multiple_of(4096) + 512;
        if total > most {
            return Ok(());
        }
        writeln!(file, "{name}")?;
    }
    if total == 0 { fail("no file under /usr can be read") } else { Ok(()) }
}

/// The changes of a day: runs of blocks rewritten at random places, `share` of the disk in all. Calls `write` for each.
pub fn changes(
    bytes: u64,
    share: f64,
    seed: u64,
    mut write: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    const RUN: usize = 16 << 10;
    let mut random = Random::new(seed);
    let mut left = (bytes as f64 * share) as u64 / RUN as u64;
    while left > 0 {
        let at = random.below(bytes / RUN as u64) * RUN as u64;
        let run: Vec<u8> =
            (0..RUN / 8).flat_map(|_| (random.next() & 0x3F3F_3F3F_3F3F_3F3F).to_le_bytes()).collect();
        write(at, &run)?;
        left -= 1;
    }
    Ok(())
}

/// The same on a file at rest.
pub fn change_file(path: &Path, share: f64, seed: u64) -> Result<()> {
    let file = File::options().write(true).open(path)?;
    let bytes = file.metadata()?.len();
    changes(bytes, share, seed, |at, run| Ok(file.write_all_at(run, at)?))?;
    Ok(file.sync_all()?)
}
