//! Restore volume: read path, write log, mover, fill, verification, hand-over.

mod claims;
mod pages;
mod target;
mod write_log;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Takes a lock. A panic elsewhere while it was held is a bug that was reported there; what the locks here protect is
/// kept consistent by assertions before anything is changed.
fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
