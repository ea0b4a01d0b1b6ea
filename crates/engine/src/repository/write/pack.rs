//! Laying frames into packs and uploading full ones.
//!
//! A pack goes to the upload thread in pieces, while it fills (`upload`). Without such a thread (simulations, crash tests) a
//! full pack is uploaded whole on the caller's thread, so that every store operation has its place in one order.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::pages::at;
use super::present::Present;
use super::upload::{PIECE_BYTES, Piece, Uploader, upload};
use rekindle_core::repo::frame::{Compression, DIRECTORY_SLOT, FrameKind, FrameName, OVERHEAD};
use rekindle_core::repo::pack::{self, FOOTER, Footer, SLOTS_MAX, Slot};
use rekindle_core::repo::{Id, PackRef, PageRef, Place};
use rekindle_core::volume::Uuid;
use rekindle_io::random;
use rekindle_io::seal::{Sealer, compress};
use std::sync::Arc;

/// Default target size of a pack: half of the 64 MiB that suit object stores, because a store that takes objects whole
/// needs two of them in memory.
pub const PACK_BYTES: usize = 32 << 20;
/// Frames of a pack at most: a directory, its sealed form and what is on the way to it are half a MiB each. It ends packs of
/// 64 KiB extents early that compress to less than a sixteenth.
const SLOTS: usize = 8 << 10;
const _: () = assert!(SLOTS <= SLOTS_MAX);
/// A pack's offsets are 32 bits and one frame goes over the target at most.
pub(super) const PACK_BYTES_MAX: usize = 256 << 20;

/// Where frames go.
pub(super) struct PackWriter {
    core: Arc<Core>,
    target: usize,
    pack: Uuid,
    /// What was not handed over yet of this pack, and how much was.
    buf: Vec<u8>,
    handed: usize,
    slots: Vec<Slot>,
    /// Scratch for compressed pages.
    scratch: Vec<u8>,
    uploader: Option<Uploader>,
    present: Present,
    /// Packs begun, and bytes of them.
    pub packs: u64,
    pub bytes: u64,
}

impl PackWriter {
    pub(super) fn new(core: Arc<Core>, target: usize, background: bool) -> Self {
        let target = target.clamp(1 << 10, PACK_BYTES_MAX);
        let uploader = background.then(|| Uploader::start(core.clone(), target)).flatten();
        PackWriter {
            present: Present::new(core.clone()),
            core,
            target,
            pack: Uuid::default(),
            buf: Vec::new(),
            handed: 0,
            slots: Vec::new(),
            scratch: Vec::new(),
            uploader,
            packs: 0,
            bytes: 0,
        }
    }
    /// Seals `body` (already made small by `how`) and lays it down.
    pub(super) fn append(
        &mut self,
        kind: FrameKind,
        id: Id,
        plain: u32,
        how: Compression,
        body: &[u8],
    ) -> Result<Place> {
        let full = self.len() + body.len() + OVERHEAD > self.target || self.slots.len() == SLOTS;
        if full && !self.slots.is_empty() {
            self.finish_pack()?;
        }
        if self.slots.is_empty() {
            self.begin();
        }
        let (slot, offset) = (self.slots.len() as u32, self.len() as u32);
        let name = FrameName { repository: self.core.keys.repository, birth: self.pack, slot, kind, plain };
        let stored = sealer(&self.core, kind).seal_frame(&name, how, body, &mut self.buf);
        self.slots.push(Slot { kind, id, offset, stored, plain, moved_from: None });
        if self.buf.len() >= PIECE_BYTES && self.uploader.is_some() {
            self.hand_over(None)?;
        }
        Ok(Place { pack: PackRef::at_birth(self.pack), slot, offset, stored })
    }
    /// Lays down a page of metadata.
    pub(super) fn append_page(&mut self, plain: &[u8]) -> Result<PageRef> {
        if plain.len() > super::super::pages::PAGE_PLAIN_MAX as usize {
            return Err(RepoError::Invalid(format!("a page of {} bytes is too large", plain.len())));
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let how = compress(plain, &mut scratch);
        let id = self.core.keys.ids.opaque(plain);
        let place = self.append(FrameKind::Page, id, plain.len() as u32, how, &scratch);
        self.scratch = scratch;
        Ok(PageRef { place: place?, plain: plain.len() as u32 })
    }
    /// Bytes of the pack so far.
    fn len(&self) -> usize {
        self.handed + self.buf.len()
    }
    fn begin(&mut self) {
        self.pack = random::uuid();
        self.present.begin(self.pack);
        self.buf.clear();
        self.handed = 0;
        self.buf.extend_from_slice(&pack::header(self.core.keys.repository, self.pack));
        self.packs += 1;
    }
    fn finish_pack(&mut self) -> Result<()> {
        let plain = pack::encode_directory(&self.slots);
        let how = compress(&plain, &mut self.scratch);
        let name = FrameName {
            repository: self.core.keys.repository,
            birth: self.pack,
            slot: DIRECTORY_SLOT,
            kind: FrameKind::Directory,
            plain: plain.len() as u32,
        };
        let mut tail = Vec::new();
        let stored = self.core.keys.meta.seal_frame(&name, how, &self.scratch, &mut tail);
        let footer = Footer {
            slots: self.slots.len() as u32,
            offset: self.len() as u32,
            stored,
            plain: plain.len() as u32,
            pack: self.pack,
        };
        tail.extend_from_slice(&footer.encode());
        debug_assert_eq!(tail.len(), stored as usize + FOOTER);
        self.bytes += (self.len() + tail.len()) as u64;
        self.slots.clear();
        self.hand_over(Some(tail))
    }
    /// What has gathered goes on its way; with its tail the pack is complete.
    fn hand_over(&mut self, tail: Option<Vec<u8>>) -> Result<()> {
        let piece = Piece { pack: self.pack, bytes: std::mem::take(&mut self.buf), tail };
        self.handed += piece.bytes.len();
        match &mut self.uploader {
            None => {
                upload(&self.core, &piece.pack, &[&piece.bytes], piece.tail.as_deref().unwrap_or_default())
            }
            Some(uploader) => uploader.hand_over(piece).map(|buf| self.buf = buf),
        }
    }
    /// Whether the store has what lies at `place`; what this session wrote, it has or the backup fails.
    pub(super) fn has(&mut self, place: &Place) -> Result<bool> {
        self.present.has(place)
    }
    /// The same, as an error.
    pub(super) fn must_have(&mut self, place: &Place) -> Result<()> {
        if self.has(place)? { Ok(()) } else { Err(at(place, "it is missing or too short")) }
    }
    /// Makes sure that a page this session wrote can be read back: closes its pack and waits for the upload. Rare (a leaf
    /// that is touched again after it was flushed), so it is not worth keeping pages in memory for.
    pub(super) fn readable(&mut self, page: &PageRef) -> Result<()> {
        if page.place.pack.birth == self.pack && !self.slots.is_empty() {
            self.finish_pack()?;
        }
        self.uploader.as_mut().map_or(Ok(()), |u| u.wait_for(page.place.pack.birth))
    }
    /// Finishes the last pack and waits until everything is durable.
    pub(super) fn finish(&mut self) -> Result<()> {
        if !self.slots.is_empty() {
            self.finish_pack()?;
        }
        self.buf = Vec::new();
        self.uploader.take().map_or(Ok(()), Uploader::finish)
    }
}

fn sealer(core: &Core, kind: FrameKind) -> &Sealer {
    if kind == FrameKind::Data { &core.keys.data } else { &core.keys.meta }
}
