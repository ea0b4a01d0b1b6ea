//! What every 4 KiB block of a disk should hold: 16 bytes of BLAKE3 each, in a file. A guest keeps it up to date with its
//! own writes, so that later any copy, file or export, can be proved against it byte for byte.

use super::wire::{Connection, Target};
use crate::{Result, fail};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Bytes an entry speaks for.
pub const BLOCK: u64 = 4096;
const ENTRY: usize = 16;
const CHUNK: u64 = 256 << 10;

/// The expected content of a disk.
pub struct Oracle {
    path: PathBuf,
    entries: Vec<[u8; ENTRY]>,
}

/// Something to compare: a file or an export.
pub enum Subject {
    /// A file or a device.
    File(File, u64),
    /// An export.
    Export(Connection),
}

impl Subject {
    /// Opens what `place` names: a socket is an export (its default one, or `export`), all else a file.
    pub fn open(place: &Path, export: &str, patience: Duration) -> Result<Self> {
        use std::os::unix::fs::FileTypeExt;
        let is_socket = std::fs::metadata(place).is_ok_and(|m| m.file_type().is_socket());
        if is_socket {
            let target = Target { export: export.to_owned(), ..Target::new(place) };
            return Ok(Subject::Export(Connection::open_within(&target, patience)?));
        }
        let file = File::open(place).map_err(|e| format!("{}: {e}", place.display()))?;
        let size = rustix::fs::seek(&file, rustix::fs::SeekFrom::End(0))?;
        Ok(Subject::File(file, size))
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        match self {
            Subject::File(_, size) => *size,
            Subject::Export(connection) => connection.size,
        }
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<()> {
        match self {
            Subject::File(file, _) => Ok(file.read_exact_at(buf, offset)?),
            Subject::Export(connection) => connection.read(offset, buf),
        }
    }

    /// Calls `each` with the number and the bytes of every block.
    fn blocks(&mut self, mut each: impl FnMut(usize, &[u8])) -> Result<()> {
        let mut buf = vec![0; CHUNK as usize];
        let mut at = 0;
        while at < self.size() {
            let len = CHUNK.min(self.size() - at);
            let piece = &mut buf[..len as usize];
            self.read(at, piece)?;
            for (i, block) in piece.chunks(BLOCK as usize).enumerate() {
                each((at / BLOCK) as usize + i, block);
            }
            at += len;
        }
        Ok(())
    }
}

fn entry(block: &[u8]) -> [u8; ENTRY] {
    let mut short = [0; ENTRY];
    short.copy_from_slice(&blake3::hash(block).as_bytes()[..ENTRY]);
    short
}

impl Oracle {
    /// Reads all of `subject` and believes it.
    pub fn learn(path: &Path, subject: &mut Subject) -> Result<Self> {
        let mut entries = Vec::new();
        subject.blocks(|_, block| entries.push(entry(block)))?;
        let oracle = Oracle { path: path.to_owned(), entries };
        oracle.save()?;
        Ok(oracle)
    }

    /// Loads what was saved.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = std::fs::read(path)?;
        let (entries, rest) = bytes.as_chunks::<ENTRY>();
        if !rest.is_empty() {
            return fail(format!("{}: cut in the middle of an entry", path.display()));
        }
        Ok(Oracle { path: path.to_owned(), entries: entries.to_vec() })
    }

    /// Saves it where it came from.
    pub fn save(&self) -> Result<()> {
        Ok(std::fs::write(&self.path, self.entries.as_flattened())?)
    }

    /// The guest wrote `block` there.
    pub fn wrote(&mut self, block: u64, bytes: &[u8]) {
        self.entries[block as usize] = entry(bytes);
    }

    /// Whether `bytes` are what the block should hold.
    pub fn holds(&self, block: u64, bytes: &[u8]) -> bool {
        self.entries[block as usize] == entry(bytes)
    }

    /// Blocks of the disk.
    pub fn blocks(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Numbers of the blocks of `subject` that differ, at most 100 of them.
    pub fn compare(&self, subject: &mut Subject) -> Result<Vec<usize>> {
        let expected = self.blocks();
        if subject.size().div_ceil(BLOCK) != expected {
            return fail(format!("{} bytes long, expected {}", subject.size(), expected * BLOCK));
        }
        let mut wrong = Vec::new();
        subject.blocks(|i, block| {
            if wrong.len() < 100 && self.entries[i] != entry(block) {
                wrong.push(i);
            }
        })?;
        Ok(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_changed_byte_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (image, oracle) = (dir.path().join("disk"), dir.path().join("oracle"));
        std::fs::write(&image, vec![1u8; 600 << 10]).unwrap();
        let mut subject = Subject::open(&image, "", Duration::ZERO).unwrap();
        Oracle::learn(&oracle, &mut subject).unwrap();
        let mut known = Oracle::load(&oracle).unwrap();
        assert!(known.compare(&mut subject).unwrap().is_empty());
        let mut bytes = vec![1u8; 600 << 10];
        bytes[300 << 10] = 2;
        std::fs::write(&image, &bytes).unwrap();
        assert_eq!(known.compare(&mut subject).unwrap(), [75]);
        known.wrote(75, &bytes[300 << 10..304 << 10]);
        assert!(known.compare(&mut subject).unwrap().is_empty());
    }
}
