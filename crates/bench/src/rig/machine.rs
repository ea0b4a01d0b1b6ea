//! Facts about the machine, and what processes cost.

use crate::Result;
use std::fs;

/// Processor time of a process and all its threads, also of those that have ended, seconds.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: it writes the clock's number through a pointer to a live local.
    let failed = unsafe { libc::clock_getcpuclockid(libc::pid_t::try_from(pid)?, &raw mut clock) };
    if failed != 0 {
        return Err(std::io::Error::from_raw_os_error(failed).into());
    }
    // SAFETY: it writes one timespec through a pointer to a live local.
    match unsafe { libc::clock_gettime(clock, &raw mut time) } {
        0 => Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

/// Largest resident memory so far, bytes.
pub fn peak_memory(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).ok_or("no VmHWM")?;
    Ok(line.split_whitespace().nth(1).ok_or("no VmHWM")?.parse::<u64>()? * 1024)
}

/// One line for a report: processor, memory, kernel, file system.
pub fn describe() -> String {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: u64 = meminfo.split_whitespace().nth(1).and_then(|w| w.parse().ok()).unwrap_or(0);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{cores} cores ({}), {} GiB of memory, Linux {}",
        model.trim_start_matches([':', '\t', ' ']),
        kib >> 20,
        kernel.split('-').next().unwrap_or("").trim()
    )
}

/// Processes that wanted to run during the last minute: what else this machine was doing, when read before a run.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(f64::NAN)
}

/// Version line of a program, or "absent".
pub fn version(program: &str, argument: &str) -> String {
    let Ok(out) = std::process::Command::new(program).arg(argument).output() else { return "absent".into() };
    let text = String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    text.lines().next().unwrap_or("absent").to_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_cost_something() {
        let me = std::process::id();
        let before = super::cpu_seconds(me).unwrap();
        std::thread::spawn(|| (0..3_000_000u64).fold(0, |a, b| std::hint::black_box(a ^ b))).join().unwrap();
        assert!(
            super::cpu_seconds(me).unwrap() > before,
            "the thread that ended counts, be it for a millisecond"
        );
        // Above the largest number the kernel gives.
        assert!(super::cpu_seconds(5_000_000).is_err());
        assert!(super::peak_memory(std::process::id()).unwrap() > 1 << 20);
        assert!(super::describe().contains("cores"));
        assert!(super::load() >= 0.0);
    }
}
