//! A command that runs while we serve (`serve --run`): it finds the NBD URI in `$uri`, its end is our end.

use super::steering::Shared;
use crate::errors::{Failure, Outcome};
use crate::signals;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The command.
pub struct Captive {
    process: OwnedFd,
    ended: Arc<Mutex<Option<ExitStatus>>>,
    waiting: JoinHandle<()>,
}

impl Captive {
    /// Starts it with `/bin/sh -c`. `$uri` is the first volume's; `$uri_VOLUME` each one's, other characters than letters
    /// and digits as `_`.
    pub fn start(command: &str, shared: &Arc<Shared>) -> Outcome<Captive> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", command]);
        let volumes = shared.sets.iter().flat_map(|s| &s.volumes);
        for (i, v) in volumes.enumerate() {
            let uri = shared.exports.uri(&v.export).unwrap_or_default();
            if i == 0 {
                shell.env("uri", &uri);
            }
            let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
            shell.env(format!("uri_{}", v.name.chars().map(plain).collect::<String>()), uri);
        }
        signals::unblock_in(&mut shell);
        let mut child = shell.spawn().map_err(|e| Failure::system(format!("cannot run `{command}`"), &e))?;
        let ended = Arc::new(Mutex::new(None));
        // A descriptor, not a number: it can never mean another process.
        let process = Pid::from_raw(child.id() as i32).ok_or(std::io::ErrorKind::NotFound.into());
        let process = process
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).map_err(std::io::Error::from))
            .map_err(|e| Failure::system(format!("cannot run `{command}`"), &e))?;
        let (telling, asked) = (ended.clone(), shared.asked.clone());
        let waiting = std::thread::Builder::new()
            .name("captive".into())
            .spawn(move || {
                let status = child.wait().ok();
                *telling.lock().unwrap_or_else(PoisonError::into_inner) = status;
                asked.stop();
            })
            .map_err(|e| Failure::system("cannot wait for the command", &e))?;
        Ok(Captive { process, ended, waiting })
    }
    /// Asks it to end, if it still runs: we were asked to.
    pub fn stop(&mut self) {
        // It fails when it has ended by itself, which is as good.
        let _ = pidfd_send_signal(&self.process, Signal::TERM);
    }
    /// How it ended: its exit code, or 128 and the signal, as a shell says it.
    pub fn code(self) -> u8 {
        use std::os::unix::process::ExitStatusExt;
        let _ = self.waiting.join();
        let status = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let code = status.map_or(1, |s| s.code().unwrap_or_else(|| 128 + s.signal().unwrap_or(0)));
        u8::try_from(code).unwrap_or(1)
    }
}
