//! A thread that brings packs to the store while they fill.
//!
//! A pack comes in pieces of about a megabyte. A store that takes drafts gets each piece at once: then a few pieces are all
//! the memory there is, and the disk writes while the extents are still being compressed. Any other store gets its packs
//! whole, and one fills while another goes up.
//!
//! The buffers bound the memory: the writer waits for an empty one. After a failure the thread ends; whoever hands over,
//! waits or finishes next hears why.

use super::super::core::Core;
use super::super::error::{RepoError, Result};
use super::super::objects::{Created, create_pack, finish_pack};
use rekindle_core::repo::names;
use rekindle_core::volume::Uuid;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Bytes handed over at once; a piece is longer by less than a frame.
pub(super) const PIECE_BYTES: usize = 1 << 20;
/// Buffers where the store takes drafts.
const PIECES: usize = 4;

/// Part of a pack; its parts come in order, and all of them before the next pack's.
pub(super) struct Piece {
    pub pack: Uuid,
    pub bytes: Vec<u8>,
    /// The pack ends here: its sealed directory and footer.
    pub tail: Option<Vec<u8>>,
}

/// Uploads a whole pack on this thread.
pub(super) fn upload(core: &Core, pack: &Uuid, parts: &[&[u8]], tail: &[u8]) -> Result<()> {
    let name = names::pack(*pack);
    let parts = [parts, &[tail]].concat();
    settled(&name, create_pack(&*core.store, &name, &parts, tail)?)
}

fn settled(name: &str, created: Created) -> Result<()> {
    match created {
        Created::Won => Ok(()),
        // 128 random bits met another pack, or the store lies about creates: either way nothing may be named in it.
        Created::Lost(_) => Err(RepoError::Invalid(format!("the fresh name {name} was taken"))),
    }
}

fn lost() -> RepoError {
    RepoError::Invalid("the upload thread ended early".into())
}

/// The thread, seen from the writer.
pub(super) struct Uploader {
    to: Sender<Piece>,
    /// Empty buffers.
    spare: Receiver<Vec<u8>>,
    /// How each pack ended, in order.
    ended: Receiver<Result<()>>,
    thread: JoinHandle<()>,
    /// Packs whose end is not known yet, oldest first.
    under_way: VecDeque<Uuid>,
}

impl Uploader {
    /// For packs of about `target` bytes. `None`: without a thread packs go up on the caller's.
    pub(super) fn start(core: Arc<Core>, target: usize) -> Option<Self> {
        let (to, from) = channel();
        let (give_back, spare) = channel();
        let (tell, ended) = channel();
        // One is being filled by the writer.
        (1..PIECES).for_each(|_| drop(give_back.send(Vec::new())));
        let mut work = Work { core, from, give_back, target, whole: false };
        let run = move || {
            while let Ok(first) = work.from.recv() {
                let result = work.pack(first);
                let failed = result.is_err();
                if tell.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("rk-upload".into()).spawn(run).ok()?;
        Some(Uploader { to, spare, ended, thread, under_way: VecDeque::new() })
    }
    /// Sends a piece off and gives an empty buffer for the next one.
    pub(super) fn hand_over(&mut self, piece: Piece) -> Result<Vec<u8>> {
        if piece.tail.is_some() {
            self.under_way.push_back(piece.pack);
        }
        if self.to.send(piece).is_ok()
            && let Ok(mut buf) = self.spare.recv()
        {
            buf.clear();
            return Ok(buf);
        }
        // The thread ended: one of the packs says why.
        loop {
            self.ended.recv().map_err(|_| lost())??;
        }
    }
    /// Waits until a pack is in the store, if it is on its way there.
    pub(super) fn wait_for(&mut self, pack: Uuid) -> Result<()> {
        while self.under_way.contains(&pack) {
            self.ended.recv().map_err(|_| lost())??;
            self.under_way.pop_front();
        }
        Ok(())
    }
    /// Waits until everything is in the store.
    pub(super) fn finish(mut self) -> Result<()> {
        if let Some(last) = self.under_way.back().copied() {
            self.wait_for(last)?;
        }
        drop(self.to);
        self.thread.join().map_err(|_| lost())
    }
}

/// The thread's own.
struct Work {
    core: Arc<Core>,
    from: Receiver<Piece>,
    give_back: Sender<Vec<u8>>,
    target: usize,
    /// The store takes whole objects, and there are buffers for two.
    whole: bool,
}

impl Work {
    fn pack(&mut self, first: Piece) -> Result<()> {
        let core = self.core.clone();
        let name = names::pack(first.pack);
        let Some(mut draft) = core.store.begin(&name)? else { return self.whole_pack(first) };
        let (mut piece, mut len) = (first, 0);
        loop {
            let tail = piece.tail.as_deref().unwrap_or_default();
            draft.write(&[&piece.bytes, tail])?;
            len += (piece.bytes.len() + tail.len()) as u64;
            // The writer may be gone.
            let _ = self.give_back.send(piece.bytes);
            if let Some(tail) = piece.tail {
                return settled(&name, finish_pack(&*core.store, &name, draft, len, &tail)?);
            }
            piece = self.next()?;
        }
    }
    fn whole_pack(&mut self, first: Piece) -> Result<()> {
        if !std::mem::replace(&mut self.whole, true) {
            let buffers = 2 * (self.target / PIECE_BYTES + 2);
            (PIECES..buffers).for_each(|_| drop(self.give_back.send(Vec::new())));
        }
        let mut pieces = vec![first];
        while pieces.last().is_some_and(|p| p.tail.is_none()) {
            pieces.push(self.next()?);
        }
        let parts: Vec<&[u8]> = pieces.iter().map(|p| p.bytes.as_slice()).collect();
        let tail = pieces.last().and_then(|p| p.tail.as_deref()).unwrap_or_default();
        upload(&self.core, &pieces[0].pack, &parts, tail)?;
        pieces.into_iter().for_each(|p| drop(self.give_back.send(p.bytes)));
        Ok(())
    }
    fn next(&self) -> Result<Piece> {
        self.from.recv().map_err(|_| RepoError::Invalid("the pack was given up".into()))
    }
}
