//! Signals as events: blocked in every thread, taken by one thread that waits for them, so that no handler ever runs.

use crate::errors::{Failure, Outcome};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What was asked from outside, and by whom it can be waited for.
#[derive(Default, Debug)]
pub struct Asked {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, Debug)]
struct State {
    stop: bool,
    reload: bool,
}

impl Asked {
    /// Blocks SIGINT, SIGTERM and SIGHUP for the whole process (call it before any thread is started) and listens.
    /// A second SIGINT ends the process at once: whoever presses Ctrl-C twice does not want to wait.
    pub fn listen() -> Outcome<Arc<Asked>> {
        let cannot = |e: std::io::Error| Failure::system("cannot listen for signals", &e);
        let asked = Arc::new(Asked::default());
        let set = block().map_err(cannot)?;
        let telling = asked.clone();
        std::thread::Builder::new()
            .name("signals".into())
            .spawn(move || {
                let mut interrupts = 0;
                while let Some(signal) = wait(&set) {
                    tracing::info!(signal, "signal");
                    if signal == libc::SIGHUP {
                        telling.set(|s| s.reload = true);
                        continue;
                    }
                    interrupts += u32::from(signal == libc::SIGINT);
                    if interrupts > 1 {
                        std::process::exit(i32::from(crate::errors::Exit::Interrupted.code()));
                    }
                    telling.set(|s| s.stop = true);
                }
            })
            .map_err(cannot)?;
        Ok(asked)
    }
    /// Asks to stop, as SIGTERM would.
    pub fn stop(&self) {
        self.set(|s| s.stop = true);
    }
    /// Somebody asked to stop.
    pub fn stopping(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stop
    }
    /// SIGHUP came since the last call.
    pub fn take_reload(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut state.reload)
    }
    /// Waits until something is asked, at most `limit`; says whether to stop.
    pub fn wait(&self, limit: Duration) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, limit, |s| !s.stop && !s.reload)
            .unwrap_or_else(PoisonError::into_inner);
        state.stop
    }
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }
}

/// Blocks our signals in this thread and all it starts.
fn block() -> std::io::Result<libc::sigset_t> {
    // SAFETY: sigemptyset initialises the set before anything reads it; all pointers are to locals.
    unsafe {
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut set, signal);
        }
        match libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) {
            0 => Ok(set),
            e => Err(std::io::Error::from_raw_os_error(e)),
        }
    }
}

/// Waits for one of the set.
fn wait(set: &libc::sigset_t) -> Option<i32> {
    let mut signal = 0;
    // SAFETY: `set` was initialised by `block`, `signal` is a local.
    let failed = unsafe { libc::sigwait(set, &mut signal) };
    (failed == 0).then_some(signal)
}

/// Unblocks everything in a child before it becomes another program: a mask is inherited, and a program that cannot be
/// interrupted surprises. What else only a server of disks should be is taken back as well.
pub fn unblock_in(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: between fork and exec only async-signal-safe calls are made, on locals.
    unsafe {
        command.pre_exec(|| {
            let mut none = std::mem::zeroed::<libc::sigset_t>();
            libc::sigemptyset(&mut none);
            libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            // Inherited too, and meant for us alone; refused where it was never set.
            let _ = crate::serve::guard::io_flusher(false);
            Ok(())
        });
    }
}
