//! Listening sockets, Unix and TCP.
//!
//! A Unix socket left behind by a server that died is recognised by a refused connect and replaced; one that answers
//! is somebody else's and stays. Its mode is set before it can be connected to (fchmod on the unbound socket: Linux
//! gives the file the mode of the socket's inode). It is removed at the end if it is still ours.

use super::Listen;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::{FileType, Mode, fchmod, lstat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    fd: OwnedFd,
    address: Listen,
    /// Device and inode of our socket file.
    file: Option<(u64, u64)>,
}

impl Listener {
    /// Binds and listens. `mode` is the mode of a Unix socket.
    pub(super) fn open(at: &Listen, mode: u32) -> io::Result<Listener> {
        match at {
            Listen::Unix(path) => unix(path, mode),
            Listen::Tcp(address) => {
                let l = TcpListener::bind(address)?;
                l.set_nonblocking(true)?;
                let address = Listen::Tcp(l.local_addr()?);
                Ok(Listener { fd: l.into(), address, file: None })
            }
        }
    }
    pub(super) fn address(&self) -> &Listen {
        &self.address
    }
    pub(super) fn is_unix(&self) -> bool {
        matches!(self.address, Listen::Unix(_))
    }
    /// The next connection; `None` when `wake` fired. Waits out a lack of descriptors.
    pub(super) fn accept(&self, wake: &Wake) -> io::Result<Option<OwnedFd>> {
        loop {
            let mut fds = [
                PollFd::new(&self.fd, PollFlags::IN),
                PollFd::from_borrowed_fd(wake.0.as_fd(), PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Err(rustix::io::Errno::INTR) => continue,
                r => r?,
            };
            if !fds[1].revents().is_empty() {
                return Ok(None);
            }
            match rustix::net::accept_with(&self.fd, SocketFlags::CLOEXEC) {
                Ok(fd) => return Ok(Some(fd)),
                Err(e) => match e {
                    rustix::io::Errno::AGAIN | rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED => {}
                    rustix::io::Errno::MFILE
                    | rustix::io::Errno::NFILE
                    | rustix::io::Errno::NOMEM
                    | rustix::io::Errno::NOBUFS => {
                        tracing::warn!("cannot accept: {e}; trying again");
                        std::thread::sleep(Duration::from_millis(100));
                    }
                    e => return Err(e.into()),
                },
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let (Listen::Unix(path), Some(ours)) = (&self.address, self.file)
            && lstat(path).is_ok_and(|s| (s.st_dev, s.st_ino) == ours)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn unix(path: &Path, mode: u32) -> io::Result<Listener> {
    replace_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&fd, Mode::from_raw_mode(mode))?;
    bind(&fd, &SocketAddrUnix::new(path)?)?;
    let s = lstat(path)?;
    listen(&fd, 128)?;
    Ok(Listener { fd, address: Listen::Unix(PathBuf::from(path)), file: Some((s.st_dev, s.st_ino)) })
}

/// Removes a socket nobody answers on. Anything else in the way is left alone.
fn replace_stale(path: &Path) -> io::Result<()> {
    let Ok(s) = lstat(path) else { return Ok(()) };
    if FileType::from_raw_mode(s.st_mode) != FileType::Socket {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{}: is not a socket", path.display()),
        ));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("{}: another server answers here", path.display()),
        )),
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(e) => Err(e),
    }
}

/// Ends every `accept` that watches it.
#[derive(Debug)]
pub(super) struct Wake(OwnedFd);

impl Wake {
    pub(super) fn new() -> io::Result<Wake> {
        Ok(Wake(eventfd(0, EventfdFlags::CLOEXEC)?))
    }
    pub(super) fn fire(&self) {
        // Cannot fail: the counter is far from its end.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}
