//! The owner's side of the control socket: one thread a connection, a bounded number of them, one request each.

use super::{LINE_MAX, Message, Request};
use crate::errors::{Exit, Failure, Outcome};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Connections at a time: a `wait` holds one, so more than a handful is normal, more than this is a fault.
const CONNECTIONS_MAX: usize = 64;
/// A client that says nothing, or does not read, is dropped after this.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long answers may take when the owner ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Who answers requests.
pub trait Handler: Send + Sync {
    /// Answers one request; what is returned becomes the last line.
    fn handle(&self, request: Request, reply: &mut Reply) -> Outcome<Message>;
}

/// The way back to the client.
pub struct Reply {
    stream: UnixStream,
}

impl Reply {
    /// Sends a line; `false` when the client is gone.
    pub fn send(&mut self, message: &Message) -> bool {
        let mut line = serde_json::to_vec(message).expect("our types are always JSON");
        line.push(b'\n');
        self.stream.write_all(&line).is_ok()
    }
    /// The client hung up. Asks the socket without waiting.
    pub fn gone(&self) -> bool {
        let mut byte = [0u8; 1];
        let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
        matches!(rustix::net::recv(&self.stream, &mut byte[..], flags), Ok((_, 0)))
    }
}

/// A control socket being listened on.
pub struct ControlServer {
    path: PathBuf,
    listener: Arc<UnixListener>,
    running: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl ControlServer {
    /// Binds `path` and answers. The caller holds the owner lock, so a socket that lies there is left from a dead owner.
    pub fn start(path: &Path, handler: Arc<dyn Handler>) -> Outcome<ControlServer> {
        let cannot = |e: std::io::Error| {
            Failure::system(format!("cannot make the control socket {}", path.display()), &e)
        };
        if path.as_os_str().len() > 107 {
            return Err(Failure::usage(
                format!("the control socket {} cannot be made", path.display()),
                "the path of a Unix socket holds at most 107 bytes",
                "set REKINDLE_RUNTIME_DIR to a shorter path, or use a shorter name",
            ));
        }
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(cannot(e)),
            _ => {}
        }
        let listener = Arc::new(UnixListener::bind(path).map_err(cannot)?);
        let accepting = listener.clone();
        let running = Arc::new(AtomicUsize::new(0));
        let counting = running.clone();
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || accept(&accepting, &handler, &counting))
            .map_err(cannot)?;
        Ok(ControlServer { path: path.to_path_buf(), listener, running, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
        // Wakes the accept: a listener that was shut down answers with an error.
        let _ = rustix::net::shutdown(&*self.listener, rustix::net::Shutdown::Both);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
        // Whoever asked us to end is still owed the answer.
        let begun = std::time::Instant::now();
        while self.running.load(Ordering::Acquire) > 0 && begun.elapsed() < LAST_WORDS {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn accept(listener: &UnixListener, handler: &Arc<dyn Handler>, running: &Arc<AtomicUsize>) {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            // EINVAL: shut down by us. Anything else (too many files) passes; a pause keeps it from spinning.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => return,
            Err(e) => {
                tracing::warn!("control socket: {e}");
                std::thread::sleep(Duration::from_millis(100));
                continue;
            }
        };
        if running.fetch_add(1, Ordering::AcqRel) >= CONNECTIONS_MAX {
            running.fetch_sub(1, Ordering::AcqRel);
            let mut reply = Reply { stream };
            reply.send(&Message::ExitError(too_many().to_json()));
            continue;
        }
        let (handler, counted) = (handler.clone(), Counted(running.clone()));
        let spawned = std::thread::Builder::new().name("control-conn".into()).spawn(move || {
            let _counted = counted;
            converse(stream, &*handler);
        });
        if let Err(e) = spawned {
            tracing::warn!("control socket: cannot start a thread: {e}");
        }
    }
}

/// A connection that is counted until it ends, however it ends.
struct Counted(Arc<AtomicUsize>);
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn converse(stream: UnixStream, handler: &dyn Handler) {
    let mut reply = match stream.try_clone() {
        Ok(stream) => Reply { stream },
        Err(_) => return,
    };
    let last = match allowed(&stream).and_then(|()| request(&stream)) {
        Ok(request) => handler.handle(request, &mut reply),
        Err(failure) => Err(failure),
    };
    reply.send(&last.unwrap_or_else(|f| Message::ExitError(f.to_json())));
}

/// Only the same user and root may steer: the socket's mode alone would depend on the umask of whoever made the folder.
fn allowed(stream: &UnixStream) -> Outcome {
    let cannot = |e| Failure::system("cannot learn who is at the control socket", &std::io::Error::from(e));
    let peer = rustix::net::sockopt::socket_peercred(stream).map_err(cannot)?;
    let ours = rustix::process::geteuid();
    if peer.uid == ours || peer.uid.is_root() {
        return Ok(());
    }
    Err(Failure::refused(
        "this owner does not answer you",
        format!("it runs as user {}, you are user {}", ours.as_raw(), peer.uid.as_raw()),
        "run the command as the same user or as root",
    ))
}

fn request(stream: &UnixStream) -> Outcome<Request> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::usage("the owner did not understand the request", why, "use the same version on both sides")
    };
    let _ = stream.set_read_timeout(Some(PATIENCE));
    let _ = stream.set_write_timeout(Some(PATIENCE));
    let mut line = Vec::new();
    let mut reader = BufReader::new(stream.take(LINE_MAX as u64));
    reader.read_until(b'\n', &mut line).map_err(|e| bad(&e))?;
    if line.last() != Some(&b'\n') {
        return Err(bad(&"the line is too long or was cut off"));
    }
    serde_json::from_slice(&line).map_err(|e| bad(&e))
}

fn too_many() -> Failure {
    Failure::new(
        Exit::Busy,
        "the owner answers no more connections",
        format!("{CONNECTIONS_MAX} are open"),
        "end some of the `rekindle wait` or `status --watch` that run",
    )
}
