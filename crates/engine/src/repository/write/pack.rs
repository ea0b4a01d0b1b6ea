//! Laying frames into packs and uploading full ones.
//!
//! At most two pack buffers live at a time: one that fills, one that uploads. Without an upload thread (simulations, crash
//! tests) a full pack is uploaded on the caller's thread, so that every store operation has its place in one order.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::objects::{Created, create_pack};
use rekindle_core::repo::frame::{Compression, DIRECTORY_SLOT, FrameKind, FrameName, OVERHEAD};
use rekindle_core::repo::pack::{self, FOOTER, Footer, SLOTS_MAX, Slot};
use rekindle_core::repo::{Id, PackRef, PageRef, Place, names};
use rekindle_core::volume::Uuid;
use rekindle_io::random;
use rekindle_io::seal::{Sealer, compress};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// Default target size of a pack: half of the 64 MiB that suit object stores, because two buffers must fit in memory.
/// Packs of 16 MiB were measured: 30 MB less at the peak, and a third more time, because each is flushed.
pub const PACK_BYTES: usize = 32 << 20;
/// A pack's offsets are 32 bits and one frame goes over the target at most.
pub(super) const PACK_BYTES_MAX: usize = 256 << 20;

/// One finished pack on its way.
struct Finished {
    pack: Uuid,
    bytes: Vec<u8>,
    /// Sealed directory and footer.
    tail: Vec<u8>,
}

/// Where frames go.
pub(super) struct PackWriter {
    core: Arc<Core>,
    target: usize,
    pack: Uuid,
    buf: Vec<u8>,
    slots: Vec<Slot>,
    /// Scratch for compressed pages.
    scratch: Vec<u8>,
    uploader: Option<Uploader>,
    /// Packs begun, and bytes of them.
    pub packs: u64,
    pub bytes: u64,
}

impl PackWriter {
    pub(super) fn new(core: Arc<Core>, target: usize, background: bool) -> Self {
        let uploader = background.then(|| Uploader::start(core.clone())).flatten();
        PackWriter {
            core,
            target: target.clamp(1 << 10, PACK_BYTES_MAX),
            pack: Uuid::default(),
            buf: Vec::new(),
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
        let full = self.buf.len() + body.len() + OVERHEAD > self.target || self.slots.len() == SLOTS_MAX;
        if full && !self.slots.is_empty() {
            self.finish_pack()?;
        }
        if self.slots.is_empty() {
            self.begin();
        }
        let (slot, offset) = (self.slots.len() as u32, self.buf.len() as u32);
        let name = FrameName { repository: self.core.keys.repository, birth: self.pack, slot, kind, plain };
        let stored = sealer(&self.core, kind).seal_frame(&name, how, body, &mut self.buf);
        self.slots.push(Slot { kind, id, offset, stored, plain, moved_from: None });
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
    fn begin(&mut self) {
        self.pack = random::uuid();
        self.buf.clear();
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
            offset: self.buf.len() as u32,
            stored,
            plain: plain.len() as u32,
            pack: self.pack,
        };
        tail.extend_from_slice(&footer.encode());
        debug_assert_eq!(tail.len(), stored as usize + FOOTER);
        self.bytes += (self.buf.len() + tail.len()) as u64;
        self.slots.clear();
        let finished = Finished { pack: self.pack, bytes: std::mem::take(&mut self.buf), tail };
        match &mut self.uploader {
            None => {
                upload(&self.core, &finished)?;
                self.buf = finished.bytes;
            }
            Some(uploader) => self.buf = uploader.hand_over(finished)?,
        }
        Ok(())
    }
    /// Makes sure that a page this session wrote can be read back: closes its pack and waits for the upload. Rare (a leaf
    /// that is touched again after it was flushed), so it is not worth keeping pages in memory for.
    pub(super) fn readable(&mut self, page: &PageRef) -> Result<()> {
        if page.place.pack.birth == self.pack && !self.slots.is_empty() {
            self.finish_pack()?;
        }
        match &mut self.uploader {
            Some(u) if u.busy == Some(page.place.pack.birth) => self.buf = u.wait()?,
            _ => (),
        }
        Ok(())
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

fn upload(core: &Core, finished: &Finished) -> Result<()> {
    let name = names::pack(finished.pack);
    match create_pack(&*core.store, &name, &[&finished.bytes, &finished.tail], &finished.tail)? {
        Created::Won => Ok(()),
        // 128 random bits met another pack, or the store lies about creates: either way nothing may be named in it.
        Created::Lost(_) => Err(RepoError::Invalid(format!("the fresh name {name} was taken"))),
    }
}

/// A thread that uploads one pack while the next one fills.
struct Uploader {
    to: SyncSender<Finished>,
    back: Receiver<Result<Vec<u8>>>,
    thread: JoinHandle<()>,
    /// The pack that is on its way.
    busy: Option<Uuid>,
}

impl Uploader {
    fn start(core: Arc<Core>) -> Option<Self> {
        let (to, from) = sync_channel::<Finished>(1);
        let (answer, back) = sync_channel(1);
        let run = move || {
            for finished in from {
                let result = upload(&core, &finished).map(|()| finished.bytes);
                if answer.send(result).is_err() {
                    return;
                }
            }
        };
        // Without a thread packs go up on the caller's.
        let thread = std::thread::Builder::new().name("rk-upload".into()).spawn(run).ok()?;
        Some(Uploader { to, back, thread, busy: None })
    }
    fn lost() -> RepoError {
        RepoError::Invalid("the upload thread ended early".into())
    }
    /// Waits for the pack before, gives its buffer back for the next one, and sends this one off.
    fn hand_over(&mut self, finished: Finished) -> Result<Vec<u8>> {
        let spare = if self.busy.is_some() { self.wait()? } else { Vec::new() };
        let pack = finished.pack;
        self.to.send(finished).map_err(|_| Self::lost())?;
        self.busy = Some(pack);
        Ok(spare)
    }
    fn wait(&mut self) -> Result<Vec<u8>> {
        self.busy = None;
        self.back.recv().map_err(|_| Self::lost())?
    }
    fn finish(mut self) -> Result<()> {
        let last = if self.busy.is_some() { self.wait().map(drop) } else { Ok(()) };
        let Uploader { to, thread, .. } = self;
        drop(to);
        thread.join().map_err(|_| Self::lost())?;
        last
    }
}
