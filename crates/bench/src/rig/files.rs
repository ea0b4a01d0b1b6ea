//! Files in a known state. How a file was written decides the size of the page cache's folios, and with it what a later
//! small write costs, by up to ten times: every file here is made the same way, and reset before its cell.

use crate::Result;
use crate::nbd::load::Random;
use rustix::fs::{Advice, fadvise};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

const PIECE: usize = 64 << 10;

/// A new file of random bytes, written in pieces of 64 KiB, flushed, its cache dropped.
pub fn random(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut file = File::create(path)?;
    let mut piece = vec![0; PIECE];
    let mut left = bytes;
    while left > 0 {
        for word in piece.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        let len = left.min(PIECE as u64) as usize;
        file.write_all(&piece[..len])?;
        left -= len as u64;
    }
    file.sync_all()?;
    cold(path)
}

/// State "cold": everything on disk, nothing of it in the page cache.
pub fn cold(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}

/// State "warm": clean, then read once in order, so that folios are what readahead makes of them, whatever a former cell did.
pub fn warm(path: &Path) -> Result<()> {
    cold(path)?;
    let mut file = File::open(path)?;
    let mut piece = vec![0; PIECE];
    while file.read(&mut piece)? > 0 {}
    Ok(())
}
