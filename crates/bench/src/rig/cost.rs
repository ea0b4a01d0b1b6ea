//! What a program cost from exec to exit: wall time, processor time, largest memory.

use crate::{Result, fail};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The cost of one run.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From exec to exit.
    pub wall: Duration,
    /// User and system time of it and the children it waited for, seconds.
    pub cpu: f64,
    /// Largest resident memory of one process, bytes.
    pub memory: u64,
}

/// Runs to the end; anything but exit code 0 is an error with what it said.
pub fn run(command: &mut Command) -> Result<Cost> {
    let log = tempfile::NamedTempFile::new()?;
    command.stdin(Stdio::null()).stdout(Stdio::from(log.reopen()?)).stderr(Stdio::from(log.reopen()?));
    let began = Instant::now();
    let child = command.spawn().map_err(|e| format!("{}: {e}", command.get_program().display()))?;
    let (status, usage) = wait(child.id())?;
    let wall = began.elapsed();
    if status != 0 {
        let said = std::fs::read_to_string(log.path()).unwrap_or_default();
        return fail(format!("{command:?}: wait status {status:#x}\n{said}"));
    }
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 / 1e6;
    let memory = u64::try_from(usage.ru_maxrss)? * 1024;
    Ok(Cost { wall, cpu: seconds(usage.ru_utime) + seconds(usage.ru_stime), memory })
}

/// Waits for a child of this process and takes its accounts; std's `wait` would throw them away.
fn wait(pid: u32) -> Result<(i32, libc::rusage)> {
    let mut status = 0;
    // SAFETY: rusage is plain numbers; all zeros is a value of it.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live, writable values of the right types, and nobody else waits for this child.
        let got = unsafe { libc::wait4(libc::pid_t::try_from(pid)?, &raw mut status, 0, &raw mut usage) };
        if got >= 0 {
            return Ok((status, usage));
        }
        let error = std::io::Error::last_os_error();
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error.into());
        }
    }
}

/// Bytes a file or folder takes on disk.
pub fn stored(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(path)?;
    let mut total = meta.blocks() * 512;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            total += stored(&entry?.path())?;
        }
    }
    Ok(total)
}

/// Sum of the lengths of all files in a folder.
pub fn bytes(path: &Path) -> Result<u64> {
    let meta = std::fs::symlink_metadata(path)?;
    if !meta.is_dir() {
        return Ok(meta.len());
    }
    std::fs::read_dir(path)?.map(|entry| bytes(&entry?.path())).sum()
}

/// Everything written to the file system of `path` is on its disk.
pub fn sync(path: &Path) -> Result<()> {
    Ok(rustix::fs::syncfs(std::fs::File::open(path)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_and_failures_are_told() {
        let cost =
            run(Command::new("sh").args(["-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"])).unwrap();
        assert!(cost.cpu > 0.0 && cost.memory > 100_000, "{cost:?}");
        let error = run(Command::new("sh").args(["-c", "echo because >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("because"), "{error}");
    }
}
