//! The facts file: one slot a page of 1,024 extents, and the summary in two slots that take turns.
//!
//! | offset | what |
//! |---|---|
//! | 0, 2048 | summary (the newer whole one counts) |
//! | 4096 + 20,480 x page | one encoded page, length in its head; never written = no facts |
//!
//! Nothing is ever synced for its own sake: a torn page fails its checksum and starts empty, a lost summary starts the
//! whole map empty, both say so. Speed is all that is lost (invariant 11).

use rekindle_core::bytes::is_zero;
use rekindle_core::usage::{
    PAGE_BYTES_MAX, PAGE_HEAD_BYTES, PageFacts, PageHead, PageId, SUMMARY_BYTES, SUMMARY_BYTES_1, Summary,
    decode_page, encode_page, page_len, page_stamp,
};
use rekindle_core::volume::{ExtentBytes, Uuid};
use rekindle_io::Result;
use rekindle_io::logfile::LogFile;
use std::collections::BTreeSet;
use std::sync::Arc;

const SUMMARY_SLOT: u64 = 2048;
const FIRST: u64 = 4096;
const SLOT: u64 = 20_480;
const _: () = assert!(PAGE_BYTES_MAX as u64 <= SLOT && SUMMARY_BYTES as u64 <= SUMMARY_SLOT);

/// What a slot held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Slot {
    /// Never written.
    Empty,
    /// A page.
    Page(PageHead),
    /// Torn, damaged or of something else: nothing is known.
    Damaged,
}

pub(super) struct FactsFile {
    file: Arc<dyn LogFile>,
    volume: Uuid,
    extent: ExtentBytes,
    pages: u64,
    turn: u64,
    buf: Vec<u8>,
    /// The slots written since the file was emptied; `None`: what an earlier run left is in it too.
    written: Option<BTreeSet<u64>>,
}

impl FactsFile {
    pub(super) fn new(file: Arc<dyn LogFile>, volume: Uuid, extent: ExtentBytes, pages: u64) -> Self {
        FactsFile { file, volume, extent, pages, turn: 0, buf: vec![0; PAGE_BYTES_MAX], written: None }
    }
    pub(super) fn pages(&self) -> u64 {
        self.pages
    }
    fn id(&self, index: u64) -> PageId {
        PageId { volume: self.volume, extent: self.extent, index }
    }
    /// The newer of the two summaries; `None`: neither is whole.
    pub(super) fn summary(&mut self) -> Result<Option<Summary>> {
        let mut newest: Option<Summary> = None;
        for turn in 0..2 {
            let mut bytes = [0; SUMMARY_BYTES];
            self.file.read_at(turn * SUMMARY_SLOT, &mut bytes)?;
            let versions = [&bytes[..], &bytes[..SUMMARY_BYTES_1]];
            let Some(s) = versions.iter().find_map(|b| Summary::decode(self.volume, b).ok()) else {
                continue;
            };
            if newest.is_none_or(|n| n.stamp < s.stamp) {
                (newest, self.turn) = (Some(s), 1 - turn);
            }
        }
        Ok(newest)
    }
    /// Writes a summary over the older one.
    pub(super) fn put_summary(&mut self, s: &Summary) -> Result<()> {
        self.file.write_at(self.turn * SUMMARY_SLOT, &[&s.encode()])?;
        self.turn = 1 - self.turn;
        Ok(())
    }
    /// Reads a page; anything but a whole page leaves `out` empty.
    pub(super) fn read(&mut self, index: u64, out: &mut PageFacts) -> Result<Slot> {
        let at = FIRST + index * SLOT;
        self.file.read_at(at, &mut self.buf)?;
        let head = &self.buf[..PAGE_HEAD_BYTES];
        let slot = if is_zero(head) {
            Slot::Empty
        } else {
            let len = page_len(head).unwrap_or(0).min(self.buf.len());
            decode_page(&self.id(index), &self.buf[..len], out).map_or(Slot::Damaged, Slot::Page)
        };
        if !matches!(slot, Slot::Page(_)) {
            out.fill(rekindle_core::usage::Facts::default());
        }
        Ok(slot)
    }
    /// Writes a page.
    pub(super) fn write(&mut self, index: u64, head: PageHead, facts: &PageFacts) -> Result<()> {
        if let Some(written) = &mut self.written {
            written.insert(index); // before the write: one that fails may have left something
        }
        let bytes = encode_page(&self.id(index), head, facts);
        self.file.write_at(FIRST + index * SLOT, &[&bytes])
    }
    /// The stamp of a page from its head alone; 0: no page, or none that can be read.
    pub(super) fn stamp(&self, index: u64) -> Result<u64> {
        let mut head = [0; PAGE_HEAD_BYTES];
        self.file.read_at(FIRST + index * SLOT, &mut head)?;
        Ok(page_stamp(&head).unwrap_or(0))
    }
    /// How many slots may hold something.
    pub(super) fn used(&self) -> Result<u64> {
        Ok(self.file.len()?.saturating_sub(FIRST).div_ceil(SLOT).min(self.pages))
    }
    /// The first slot from `from` on that may hold something. A file that began empty knows, of any other its file system
    /// does: nobody reads gigabytes of nothing while a guest starts.
    pub(super) fn next_written(&self, from: u64) -> Result<Option<u64>> {
        match &self.written {
            Some(written) => Ok(written.range(from..).next().copied()),
            None => {
                let data = self.file.next_data(FIRST + from * SLOT)?;
                Ok(data.map(|at| (at - FIRST) / SLOT).filter(|slot| *slot < self.pages))
            }
        }
    }
    /// Forgets everything.
    pub(super) fn clear(&mut self) -> Result<()> {
        self.turn = 0;
        self.file.set_len(0)?;
        self.written = Some(BTreeSet::new());
        Ok(())
    }
    pub(super) fn sync(&self) -> Result<()> {
        self.file.sync()
    }
}
