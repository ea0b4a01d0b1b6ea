//! The protocol over a real socket, with an owner that only repeats what it hears.

use super::*;
use crate::errors::{Exit, Failure, Outcome};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

struct Parrot;

impl Handler for Parrot {
    fn handle(&self, request: Request, reply: &mut Reply) -> Outcome<Message> {
        match request {
            Request::Pause => {
                for text in ["one", "two"] {
                    reply.send(&Message::Event(Event { text: text.into(), ..Event::default() }));
                }
                Ok(Message::Summary(Summary { verb: "pause".into(), ..Summary::default() }))
            }
            Request::Wait { .. } => {
                while !reply.gone() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Failure::interrupted("wait"))
            }
            Request::Status => Ok(Message::Status(Status { name: "shop".into(), ..Status::default() })),
            _ => Err(Failure::new(Exit::Busy, "no", "because", "do")),
        }
    }
}

fn started() -> (tempfile::TempDir, PathBuf, ControlServer) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("shop.sock");
    let server = ControlServer::start(&path, Arc::new(Parrot)).unwrap();
    (dir, path, server)
}

#[test]
fn answers_come_in_order_and_failures_come_back_whole() {
    let (_dir, path, server) = started();
    let mut heard = Vec::new();
    let last = follow(&path, &Request::Pause, |m| heard.push(m.clone())).unwrap().unwrap();
    assert_eq!(heard.len(), 2);
    assert!(matches!(last, Message::Summary(s) if s.verb == "pause"));
    assert!(matches!(ask(&path, &Request::Status).unwrap(), Some(Message::Status(s)) if s.name == "shop"));
    let failure = ask(&path, &Request::Discard).unwrap_err();
    assert_eq!(failure, Failure::new(Exit::Busy, "no", "because", "do"));
    drop(server);
    assert!(!path.exists(), "a stopped owner leaves no socket");
    assert_eq!(ask(&path, &Request::Status).unwrap(), None);
}

#[test]
fn nobody_listening_is_no_failure_but_absence() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("gone.sock");
    assert_eq!(ask(&path, &Request::Status).unwrap(), None);
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert_eq!(ask(&path, &Request::Status).unwrap(), None, "a socket left from a dead owner");
    let _server = ControlServer::start(&path, Arc::new(Parrot)).expect("is taken over");
    assert!(ask(&path, &Request::Status).unwrap().is_some());
}

#[test]
fn nonsense_is_answered_and_bounded() {
    let (_dir, path, _server) = started();
    let check = |bytes: &[u8], why: &str| {
        let stream = UnixStream::connect(&path).unwrap();
        (&stream).write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        let message: Message = serde_json::from_str(&line).unwrap();
        assert!(
            matches!(&message, Message::ExitError(e) if e.code == 2 && e.cause.contains(why)),
            "{message:?}"
        );
    };
    check(b"{\"verb\":\"nothing\"}\n", "unknown variant");
    check(b"\xff\n", "");
    check(b"{\"verb\":\"status\"}", "cut off");
    check(b"", "cut off");
    check(&vec![b'x'; LINE_MAX], "too long");
}

#[test]
fn a_client_that_hangs_up_takes_its_wait_back() {
    let (_dir, path, server) = started();
    for _ in 0..80 {
        let stream = UnixStream::connect(&path).unwrap();
        (&stream).write_all(b"{\"verb\":\"wait\",\"for\":\"x\",\"timeout_ms\":null}\n").unwrap();
        drop(stream);
        std::thread::sleep(Duration::from_millis(3));
    }
    assert!(ask(&path, &Request::Status).unwrap().is_some(), "80 abandoned waits hold no place");
    drop(server);
}
