//! A connected socket: plain blocking calls that survive signals and never raise SIGPIPE.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt};
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// A connected stream socket, Unix or TCP.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    unix: bool,
}

impl Socket {
    /// Takes over an accepted or connected socket.
    pub(crate) fn new(fd: OwnedFd, unix: bool) -> Self {
        let s = Socket { fd, unix };
        if !unix {
            // Replies are gathered already; waiting for more would only add latency. Errors here cost speed only.
            let _ = sockopt::set_tcp_nodelay(&s.fd, true);
            let _ = sockopt::set_socket_keepalive(&s.fd, true);
        }
        s
    }
    /// Room for a quarter MiB on its way, so that large replies need fewer wake-ups; as far as the system allows.
    pub(crate) fn widen(&self) {
        let _ = sockopt::set_socket_send_buffer_size(&self.fd, 512 << 10);
    }
    pub(crate) fn is_unix(&self) -> bool {
        self.unix
    }
    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.fd
    }
    /// Receives some bytes; 0 is the end. Tries `spin` times before it sleeps.
    pub(crate) fn recv(&self, buf: &mut [u8], spin: u32) -> io::Result<usize> {
        for _ in 0..spin {
            match recv(&self.fd, &mut *buf, RecvFlags::DONTWAIT) {
                Ok((_, n)) => return Ok(n),
                Err(Errno::AGAIN | Errno::INTR) => std::hint::spin_loop(),
                Err(e) => return Err(e.into()),
            }
        }
        loop {
            match recv(&self.fd, &mut *buf, RecvFlags::empty()) {
                Ok((_, n)) => return Ok(n),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    /// Receives what is there already; `None` when that is nothing.
    pub(crate) fn recv_now(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match recv(&self.fd, &mut *buf, RecvFlags::DONTWAIT) {
                Ok((_, n)) => return Ok(Some(n)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    /// Sends all of it.
    pub(crate) fn send(&self, mut parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut parts, 0); // empty ones would look like a send that made no progress
        while !parts.is_empty() {
            let n = match self.send_flags(parts, SendFlags::NOSIGNAL) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => n,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            IoSlice::advance_slices(&mut parts, n);
        }
        Ok(())
    }
    /// Sends what fits at once; `None` when nothing does.
    pub(crate) fn send_now(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self.send_flags(&[IoSlice::new(bytes)], SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(n) => Ok(Some(n)),
            Err(Errno::AGAIN | Errno::INTR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
    fn send_flags(&self, parts: &[IoSlice<'_>], flags: SendFlags) -> Result<usize, Errno> {
        sendmsg(&self.fd, parts, &mut SendAncillaryBuffer::default(), flags)
    }
    /// Limits (or, with `None`, no longer limits) how long one call may wait.
    pub(crate) fn set_patience(&self, limit: Option<Duration>) -> io::Result<()> {
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Recv, limit)?;
        sockopt::set_socket_timeout(&self.fd, sockopt::Timeout::Send, limit)?;
        Ok(())
    }
    /// Waits until something can be read (or, with `write`, also until something can be sent).
    pub(crate) fn wait(&self, write: bool, limit: Option<Duration>) -> io::Result<()> {
        let flags = if write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let limit = limit.and_then(|d| Timespec::try_from(d).ok());
        match poll(&mut [PollFd::new(&self.fd, flags)], limit.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
    /// The peer has closed (for TCP: has at least closed its sending half), as far as the kernel knows.
    pub(crate) fn hung_up(&self) -> bool {
        let flags = if self.unix { PollFlags::empty() } else { PollFlags::RDHUP };
        let mut fds = [PollFd::new(&self.fd, flags)];
        let gone = PollFlags::HUP | PollFlags::ERR | PollFlags::RDHUP;
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && fds[0].revents().intersects(gone)
    }
    /// Nothing more will be read: a blocked `recv` returns what is left, then the end.
    pub(crate) fn close_reading(&self) {
        let _ = shutdown(&self.fd, Shutdown::Read);
    }
    /// Nothing moves any more; every blocked call returns.
    pub(crate) fn close(&self) {
        let _ = shutdown(&self.fd, Shutdown::Both);
    }
}
