//! The synchronisation primitives of the protocols that shuttle explores: its own under the feature `shuttle`, else the
//! standard ones. (Shuttle's work only inside its scheduler, so the feature builds nothing but its tests.)

#[cfg(feature = "shuttle")]
pub(super) use shuttle::sync::{
    Condvar, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64},
};
use std::sync::PoisonError;
pub(super) use std::sync::atomic::Ordering::{Relaxed, SeqCst};
#[cfg(not(feature = "shuttle"))]
pub(super) use std::sync::{
    Condvar, Mutex, MutexGuard, RwLock,
    atomic::{AtomicBool, AtomicU8, AtomicU16, AtomicU64},
};

/// A lock whose holder panicked is taken over: what it guards is valid after every statement.
pub(super) fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
