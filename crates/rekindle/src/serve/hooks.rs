//! The commands that bracket a backup's instant.

use crate::errors::Failure;
use crate::show::words;
use rekindle_engine::live::Hooks;
use rekindle_io::{Error, Kind, Result};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// `--pre-hook` and `--post-hook`, run with `/bin/sh -c`.
#[derive(Default, Debug)]
pub struct ShellHooks {
    /// Before; if it fails there is no backup.
    pre: Option<String>,
    /// After, whatever became of it.
    post: Option<String>,
    failed: AtomicBool,
}

impl ShellHooks {
    /// With these commands.
    pub fn new(pre: Option<String>, post: Option<String>) -> ShellHooks {
        ShellHooks { pre, post, failed: AtomicBool::new(false) }
    }
    /// A failure to take an instant: if the hook was it, the hook is what has to be looked at.
    pub fn explain(&self, f: Failure) -> Failure {
        match (&self.pre, self.failed.load(Relaxed)) {
            (Some(command), true) => f.cure(format!(
                "run it by hand, as the user who serves the set: sh -c {}; nothing was backed up",
                words::shell(command)
            )),
            _ => f,
        }
    }
}

/// The thaw may take this long; after it the guest is served in any case.
const POST_LIMIT: Duration = Duration::from_secs(30);

impl Hooks for ShellHooks {
    fn before(&self, limit: Duration) -> Result<()> {
        let Some(command) = &self.pre else { return Ok(()) };
        let failed = |why: String| {
            self.failed.store(true, Relaxed);
            Error::new(Kind::Failed, format!("the pre-hook `{command}` {why}"))
        };
        match run(command, limit) {
            Ok(Some(status)) if status.success() => Ok(()),
            Ok(Some(status)) => Err(failed(format!("failed: {status}"))),
            Ok(None) => Err(failed(format!("did not end within {limit:?}"))),
            Err(e) => Err(failed(format!("cannot be run: {e}"))),
        }
    }
    fn after(&self) {
        let Some(command) = &self.post else { return };
        match run(command, POST_LIMIT) {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => tracing::error!("the post-hook `{command}` failed: {status}"),
            Ok(None) => tracing::error!("the post-hook `{command}` did not end within {POST_LIMIT:?}"),
            Err(e) => tracing::error!("the post-hook `{command}` cannot be run: {e}"),
        }
    }
}

/// Runs a command; `None`: it took too long and was killed.
fn run(command: &str, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null());
    crate::signals::unblock_in(&mut shell);
    let mut child: Child = shell.spawn()?;
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_that_fails_or_hangs_calls_the_backup_off() {
        let pre = |c: &str| ShellHooks::new(Some(c.into()), None);
        assert!(pre("true").before(Duration::from_secs(5)).is_ok());
        assert!(ShellHooks::default().before(Duration::ZERO).is_ok());
        assert!(pre("exit 3").before(Duration::from_secs(5)).unwrap_err().what.contains("exit status: 3"));
        let begun = Instant::now();
        assert!(pre("exec sleep 60").before(Duration::from_millis(20)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(10));
    }
}
