//! The directory of a pack: what lies in it, for whoever starts from the pack and not from a snapshot (dedup now; check,
//! collection and rebuilding of indexes later).

use super::core::Core;
use super::error::{RepoError, Result};
use rekindle_core::repo::frame::{DIRECTORY_SLOT, FrameKind, FrameName};
use rekindle_core::repo::names;
use rekindle_core::repo::pack::{self, FOOTER, Footer, Slot};
use rekindle_core::volume::{ByteRange, Uuid};
use rekindle_io::store::{Part, StoreExt};

/// The most a directory holds when opened: 65,536 slots of 70 bytes.
const PLAIN_MAX: u32 = 8 << 20;

impl Core {
    /// Reads the directory of `pack`: its footer, then the directory.
    pub(super) fn directory(&self, pack: Uuid) -> Result<Vec<Slot>> {
        let name = names::pack(pack);
        let tail = self.store.get(&name, Part::Tail(FOOTER as u64))?;
        let footer = Footer::decode(&tail).map_err(|m| RepoError::damaged(&name, 0, m.0))?;
        let damaged = |what: &str| RepoError::damaged(&name, footer.offset.into(), what);
        if footer.pack != pack || footer.plain > PLAIN_MAX {
            return Err(damaged("the footer is of another pack"));
        }
        let range = ByteRange::new(footer.offset.into(), footer.stored.into());
        let stored = self.store.get(&name, Part::Range(range))?;
        let frame = FrameName {
            repository: self.keys.repository,
            birth: pack,
            slot: DIRECTORY_SLOT,
            kind: FrameKind::Directory,
            plain: footer.plain,
        };
        let mut plain = vec![0; footer.plain as usize];
        self.keys.meta.open_frame(&frame, &stored, &mut plain).map_err(|d| damaged(d.0))?;
        let slots = pack::decode_directory(&plain).map_err(|m| damaged(m.0))?;
        if slots.len() == footer.slots as usize { Ok(slots) } else { Err(damaged("another number of slots")) }
    }
}
