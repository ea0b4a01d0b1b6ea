//! The holder port: whoever can give the bytes of one moment of one volume (repository now; journal, peer site,
//! foreign system, intermediary later). A restore volume reads from a holder and knows nothing else about the source.

pub mod kit;
mod mem;

pub use mem::MemHolder;

use crate::Result;
use rekindle_core::volume::{Geometry, Uuid};
use std::sync::Arc;

/// Who gives which moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The snapshot (or other moment) as its holder knows it; kept by copies.
    pub moment: Uuid,
    /// The volume's identity in its history.
    pub volume: Uuid,
    /// For people: `shop/data@3f9c2a1e in /srv/backup`.
    pub shown: String,
}

/// What a holder knows of one extent without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Presence {
    /// Reads as zeros; never fetched.
    Zero,
    /// Stored; `order` sorts extents into the holder's own cheap order (pack, then offset), `stored` is what a fetch
    /// moves, in bytes.
    Stored {
        /// Position in the holder's cheap order.
        order: u64,
        /// Bytes a fetch moves.
        stored: u32,
    },
}

/// Who waits for a fetch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Urgency {
    /// The guest waits.
    Demand,
    /// Hydration.
    Background,
}

/// Fetched but not yet opened: authenticated, decrypted and decompressed on the consumer's thread.
pub trait Sealed: Send {
    /// Opens into `out`, whose length is the extent's. Any doubt about a byte is `Kind::Corrupt`, naming object and offset.
    fn open(&self, out: &mut [u8]) -> Result<()>;
    /// Bytes that moved.
    fn stored(&self) -> u32;
}

/// What a fetch brought for one extent.
pub enum Fetched {
    /// Zeros.
    Zero,
    /// Sealed bytes.
    Sealed(Box<dyn Sealed>),
}

/// Where fetched extents go. Called from the holder's threads or the asking one; must not block for long.
pub trait FetchSink: Send + Sync {
    /// One extent came, or failed.
    fn fetched(&self, extent: u64, what: Result<Fetched>);
}

/// A difference to another moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// Extents that may differ, ascending.
    pub extents: Vec<u64>,
    /// The list is proven complete; else it is a hint and contents must be compared.
    pub trusted: bool,
}

/// A holder of one moment of one volume. Cheap to clone through `Arc`; safe from any thread.
pub trait Holder: Send + Sync {
    /// Who and what.
    fn identity(&self) -> Identity;
    /// The volume's shape at that moment.
    fn geometry(&self) -> Geometry;
    /// What is known of `count` extents from `first`, pushed in order. May read metadata (blocks).
    fn presence(&self, first: u64, count: u64, out: &mut Vec<Presence>) -> Result<()>;
    /// Starts fetching `extents`; each is answered once at the sink. Neighbours in the holder's order may share a request.
    fn fetch(self: Arc<Self>, extents: &[u64], urgency: Urgency, sink: &Arc<dyn FetchSink>);
    /// Whether `bytes` are what the moment holds in `extent`, told from identities alone; `None` if that takes a fetch.
    /// Verification asks this of every extent the guest did not write.
    fn check(&self, extent: u64, bytes: &[u8]) -> Result<Option<bool>> {
        let _ = (extent, bytes);
        Ok(None)
    }
    /// Extents that differ from `base`, if this holder knows it; `Kind::Gone` if not.
    fn difference(&self, base: Uuid) -> Result<Difference>;
    /// Fetches are answered on the asking thread: asking ahead from one thread gains nothing.
    fn answers_inline(&self) -> bool;
}
