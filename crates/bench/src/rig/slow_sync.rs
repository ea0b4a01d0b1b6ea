//! A disk whose flushes take their time. Where tests run, fdatasync often costs a tenth of a millisecond: it reaches no
//! medium, and flatters whoever flushes much. Here fsync, fdatasync and syncfs of chosen threads and of all processes they
//! start are held back by the kernel (a seccomp filter that asks us first) before they run, whatever the program is
//! written in: a preloaded library would miss every program that calls the kernel itself.

use crate::Result;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// The system calls that wait for the disk.
const HELD: [libc::c_long; 3] = [libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_syncfs];

/// What a flush of a modest solid-state disk takes, where it is more than that of the disk at hand.
pub const SLOW: Duration = Duration::from_millis(2);

/// Runs `body` on a thread of its own whose flushes, and those of every process it starts, take `delay` longer.
pub fn slowed<T: Send>(delay: Duration, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    if delay.is_zero() {
        return body();
    }
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || slow_down(delay).and_then(|()| body()).map_err(|e| e.to_string()));
        Ok(thread.join().map_err(|_| "a measuring thread died")??)
    })
}

/// Makes the flushes of the calling thread slow, and of all threads and processes it starts from now on.
fn slow_down(delay: Duration) -> Result<()> {
    let listener = hold_back().map_err(|e| format!("no slow flushes here: {e}"))?;
    std::thread::spawn(move || release(&listener, delay));
    Ok(())
}

/// The thread that started a process: some servers end when it does. It ends when this is dropped.
pub struct Starter(#[expect(dead_code, reason = "dropping it is its use")] mpsc::Sender<()>);

/// Starts a process whose flushes take `delay` longer.
pub fn spawn(delay: Duration, mut command: Command) -> Result<(Child, Starter)> {
    let (started, child) = mpsc::channel();
    let (starter, until) = mpsc::channel();
    std::thread::spawn(move || {
        let slow = if delay.is_zero() { Ok(()) } else { slow_down(delay) };
        let spawned = slow.and_then(|()| Ok(command.spawn()?)).map_err(|e| e.to_string());
        // Nobody waits for it any more, or nobody will ever: either way the thread may end.
        let _ = started.send(spawned);
        let _ = until.recv();
    });
    Ok((child.recv()??, Starter(starter)))
}

/// From now on the calling thread waits in its flushes until whoever holds the returned listener lets it go on.
fn hold_back() -> Result<OwnedFd> {
    let jump = |count: usize, nr: libc::c_long| libc::sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: (HELD.len() - count) as u8,
        jf: 0,
        k: nr as u32,
    };
    let ret = |k: u32| libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k };
    // The number of the system call is the first word of what a filter sees.
    let load = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    let mut program = vec![libc::sock_filter { code: load, jt: 0, jf: 0, k: 0 }];
    program.extend(HELD.iter().enumerate().map(|(count, nr)| jump(count, *nr)));
    program.extend([ret(libc::SECCOMP_RET_ALLOW), ret(libc::SECCOMP_RET_USER_NOTIF)]);
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: plain numbers as prctl(2) asks for; it concerns this thread and what it starts.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: `filter` points to a live program of the length it states, copied by the kernel before it returns.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const filter,
        )
    };
    if fd < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Lets each held call go on when its time has come, until nobody is left who could make one.
fn release(listener: &OwnedFd, delay: Duration) {
    // Waking up 50 us late, as is usual, would be a good part of what is measured.
    // SAFETY: plain numbers; it concerns this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    let mut held: VecDeque<(Instant, u64)> = VecDeque::new();
    loop {
        let wait = held.front().map(|(due, _)| due.saturating_duration_since(Instant::now()));
        let limit =
            wait.map(|w| Timespec { tv_sec: w.as_secs() as i64, tv_nsec: i64::from(w.subsec_nanos()) });
        let mut fds = [PollFd::new(listener, PollFlags::IN)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(0) => {}
            Ok(_) if fds[0].revents().contains(PollFlags::IN) => {
                held.extend(receive(listener).map(|id| (Instant::now() + delay, id)));
            }
            Ok(_) => return,
            Err(rustix::io::Errno::INTR) => {}
            // Closing the listener lets what is held fail, which the benchmark will report.
            Err(_) => return,
        }
        while let Some(&(due, id)) = held.front()
            && due <= Instant::now()
        {
            held.pop_front();
            go_on(listener, id);
        }
    }
}

/// The next held call; none when its thread was killed meanwhile.
fn receive(listener: &OwnedFd) -> Option<u64> {
    // SAFETY: plain numbers; all zeros is what the kernel asks for.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: `call` is live, writable and of the size that the request's number states.
    let got = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call) };
    (got == 0).then_some(call.id)
}

fn go_on(listener: &OwnedFd, id: u64) {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    let mut answer = libc::seccomp_notif_resp { id, val: 0, error: 0, flags };
    // SAFETY: as above. A failure means that the thread was killed while it waited.
    let _ = unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer) };
}

/// The delays to measure under: none, and that of a modest disk where this kernel lets us.
pub fn profiles() -> Vec<Duration> {
    let mut all = vec![Duration::ZERO];
    match slowed(SLOW, || Ok(())) {
        Ok(()) => all.push(SLOW),
        Err(error) => println!("left out: flushes of {} ms: {error}", SLOW.as_millis()),
    }
    all
}

/// As a table names a profile; nothing for the disk as it is.
pub fn name(delay: Duration) -> String {
    if delay.is_zero() { String::new() } else { format!(", flushes {} ms later", delay.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::cost;

    #[test]
    fn flushes_of_threads_and_processes_are_late_and_nothing_else_is() {
        let delay = Duration::from_millis(30);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let began = Instant::now();
        let (written, flushed, child) = slowed(delay, || {
            let file = std::fs::File::create(&path)?;
            file.set_len(4096)?;
            let written = began.elapsed();
            file.sync_data()?;
            let flushed = began.elapsed();
            // A program that is not ours: dd flushes once.
            let child = cost::run(
                Command::new("dd")
                    .args(["if=/dev/zero", "count=1", "conv=fdatasync"])
                    .arg(format!("of={}", path.display())),
            )?;
            Ok((written, flushed, child.wall))
        })
        .unwrap();
        assert!(flushed - written >= delay, "{flushed:?} {written:?}");
        assert!(child >= delay, "{child:?}");
        let began = Instant::now();
        slowed(Duration::ZERO, || Ok(std::fs::File::open(&path)?.sync_data()?)).unwrap();
        assert!(began.elapsed() < delay * 10);
    }
}
