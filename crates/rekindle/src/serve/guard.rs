//! What keeps a process that serves disks from waiting for itself when memory is short: if the kernel frees memory by
//! writing to one of our exports, or has swapped us out to one, whoever frees it waits for us and we for him.
//!
//! Best effort: each needs a right (CAP_SYS_RESOURCE; CAP_IPC_LOCK or no RLIMIT_MEMLOCK) and is left out without it, which
//! matters only to who swaps to, or writes much through, a disk that this machine serves to itself.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, getrlimit};

/// `linux/prctl.h`.
const PR_SET_IO_FLUSHER: libc::c_int = 57;

/// Before any thread is started: they inherit it.
pub fn arm() {
    io_flusher(true).unwrap_or_else(|e| tracing::info!("memory may be freed through our own exports: {e}"));
    // Under a limit later allocations would fail, which is worse than a page that is swapped out.
    if !may_lock() {
        return tracing::info!("memory is not locked: RLIMIT_MEMLOCK is limited");
    }
    // Pages are locked when they are touched: what is only reserved costs nothing. Nothing is mapped from files but the
    // program itself, so that all of it is within the bounds of docs/semantics.md.
    let all = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(all).unwrap_or_else(|e| tracing::info!("memory is not locked: {e}"));
}

/// Says to the kernel that this thread, and those it starts, are needed to free memory.
pub fn io_flusher(on: bool) -> std::io::Result<()> {
    // SAFETY: PR_SET_IO_FLUSHER takes integers and touches no memory of ours.
    match unsafe { libc::prctl(PR_SET_IO_FLUSHER, libc::c_ulong::from(on), 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

fn may_lock() -> bool {
    const CAP_IPC_LOCK: u32 = 14;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let effective = effective.and_then(|c| u64::from_str_radix(c.trim(), 16).ok()).unwrap_or(0);
    effective >> CAP_IPC_LOCK & 1 == 1 || getrlimit(Resource::Memlock).current.is_none()
}
