//! A verb's side of the control socket.

use super::{LINE_MAX, Message, Request};
use crate::errors::{Exit, Failure, Outcome};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

/// Asks the owner at `socket`, hands each message but the last to `each`, returns the last.
/// `None` if no owner listens there. An `exit_error` comes back as the failure it is.
pub fn follow(socket: &Path, request: &Request, mut each: impl FnMut(&Message)) -> Outcome<Option<Message>> {
    let Some(stream) = connect(socket)? else { return Ok(None) };
    let lost = |e: &dyn std::fmt::Display| {
        Failure::new(
            Exit::Unreachable,
            format!("lost the owner at {}", socket.display()),
            e,
            "look with `rekindle status`; if it is gone, start it again",
        )
    };
    let mut line = serde_json::to_vec(request).expect("our types are always JSON");
    line.push(b'\n');
    (&stream).write_all(&line).map_err(|e| lost(&e))?;
    let mut reader = BufReader::new(&stream);
    loop {
        let message = read(&mut reader).map_err(|e| lost(&e))?;
        match message {
            Message::ExitError(e) => return Err(e.into()),
            Message::Summary(_) => return Ok(Some(message)),
            // The whole answer to `status` is one status message.
            Message::Status(_) if *request == Request::Status => return Ok(Some(message)),
            other => each(&other),
        }
    }
}

/// Like `follow` for requests whose only message is the last.
pub fn ask(socket: &Path, request: &Request) -> Outcome<Option<Message>> {
    follow(socket, request, |_| ())
}

fn connect(socket: &Path) -> Outcome<Option<UnixStream>> {
    match UnixStream::connect(socket) {
        Ok(stream) => Ok(Some(stream)),
        // Refused: the file is left from an owner that died.
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Ok(None),
        Err(e) => Err(Failure::system(format!("cannot reach the owner at {}", socket.display()), &e)
            .exit(Exit::Unreachable)
            .cure("run the command as the user that serves the set, or as root")),
    }
}

fn read(reader: &mut BufReader<&UnixStream>) -> std::io::Result<Message> {
    let mut line = Vec::new();
    reader.take(LINE_MAX as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|e| std::io::Error::new(ErrorKind::InvalidData, e))
}
