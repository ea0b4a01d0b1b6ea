//! The store port: immutable objects under names. One primitive changes anything: create-if-absent of a fresh name.
//!
//! Completion-based for reads: a directory answers on the asking thread, a remote store from its own threads, many at a
//! time. Everything else is rare and blocks.
//!
//! Contract, checked by the conformance kit:
//! - `put_new`, and the end of a draft, is atomic and durable when answered: no reader ever sees half an object; of
//!   racing creators one wins.
//! - An object never changes. A name once used is never used again for other bytes.
//! - A name that [`check_name`] refuses is `Kind::Invalid` everywhere, so that no name works on one store only.
//! - `list` is complete and in byte order of names for everything created before the call and not deleted since.

mod blocking;
mod dir;
mod faulty;
pub mod kit;
mod mem;
mod name;
mod probe;
mod tcp;

pub use blocking::StoreExt;
pub use dir::DirStore;
pub use faulty::{Counts, Fault, FaultyStore, StoreOp};
pub use mem::MemStore;
pub use name::check_name;
pub use probe::{Probe, probe};
pub use tcp::{ServerOptions, StoreServer, TcpStore};

use crate::Result;
use rekindle_core::volume::ByteRange;

/// What `put_new` did. A time-out or a conflict is an error of `Kind::Retry` or `Kind::Unavailable`: ambiguous until
/// the object is read back and its token compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// The object is ours and durable.
    Created,
    /// Another object has the name (or ours, from an attempt whose answer was lost: read back to know).
    Exists,
}

/// A name and its size.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Full name, as [`check_name`] allows.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// Called once with the bytes of a ranged read, from any thread; must not block for long.
pub type GetDone = Box<dyn FnOnce(Result<Vec<u8>>) + Send>;

/// Which part of an object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Everything.
    All,
    /// Exactly these bytes; an object that ends before is `Kind::Corrupt`.
    Range(ByteRange),
    /// The last n bytes (or all, if shorter).
    Tail(u64),
}

/// An object on its way into a store, bytes in order. Dropped unfinished it never was.
pub trait Draft {
    /// Adds parts at the end. After a failure only dropping it is left.
    fn write(&mut self, parts: &[&[u8]]) -> Result<()>;
    /// Gives it its name, as `put_new` does.
    fn finish(self: Box<Self>) -> Result<Put>;
}

/// A store. Implementations: directory (`DirStore`), memory, remote over TCP (bench), S3 later, one that fails.
pub trait Store: Send + Sync {
    /// Where it is, for people: `/srv/backup`, `s3://bucket/prefix`.
    fn place(&self) -> String;
    /// Creates an object from parts laid end to end; atomic, durable when `Created` is returned.
    fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put>;
    /// Begins an object whose bytes come piece by piece, so that a large one needs no memory. `None`: this store takes
    /// objects whole.
    fn begin(&self, name: &str) -> Result<Option<Box<dyn Draft + '_>>> {
        check_name(name).map(|()| None)
    }
    /// Starts a read; `done` may be called before this returns. A missing object is `Kind::Gone`.
    fn start_get(&self, name: &str, part: Part, done: GetDone);
    /// Size of an object, `None` if absent.
    fn head(&self, name: &str) -> Result<Option<u64>>;
    /// Up to `limit` entries whose names begin with `prefix` (any string, empty: all) and are greater than `after`, in
    /// byte order. Fewer than `limit` means that there are no more.
    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>>;
    /// Removes an object; absent is fine. Durable when answered.
    fn delete(&self, name: &str) -> Result<()>;
    /// Reads are answered on the asking thread: a caller gains nothing by asking ahead from one thread.
    fn answers_inline(&self) -> bool;
}
