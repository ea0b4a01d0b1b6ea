//! The remote store against the kit, with latency, with breaking connections, and with garbage from the other side.

use super::super::{DirStore, Fault, FaultyStore, MemStore, StoreExt, kit, probe};
use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

fn serve(store: Arc<dyn Store>, delay_ms: u64) -> (StoreServer, TcpStore) {
    let options = ServerOptions { delay: Duration::from_millis(delay_ms) };
    let server = StoreServer::start(store, "127.0.0.1:0", options).unwrap();
    let client = TcpStore::open(&server.url()).unwrap();
    (server, client)
}

#[test]
fn conforms_over_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (next, servers) = (AtomicU32::new(0), Mutex::new(Vec::new()));
    kit::check(&|| {
        let at = dir.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
        let (server, client) = serve(DirStore::create(&at).unwrap(), 0);
        servers.lock().unwrap().push(server);
        Arc::new(client)
    });
}

#[test]
fn latency_is_paid_once_for_many() {
    let (_server, s) = serve(Arc::new(MemStore::new()), 40);
    s.put_new("a", &[&[5; 1 << 20]]).unwrap();
    let begin = Instant::now();
    let (tx, rx) = mpsc::channel();
    for i in 0..200u64 {
        let tx = tx.clone();
        let range = rekindle_core::volume::ByteRange::new(i * 4096, 4096);
        s.start_get("a", Part::Range(range), Box::new(move |r| tx.send(r.map(|b| b.len())).unwrap()));
    }
    assert!((0..200).all(|_| rx.recv().unwrap().is_ok_and(|n| n == 4096)));
    let took = begin.elapsed();
    // One by one they would take eight seconds.
    assert!(took >= Duration::from_millis(40) && took < Duration::from_secs(6), "{took:?}");
    assert!(!s.answers_inline() && probe(&s).unwrap().several_writers);
}

#[test]
fn a_broken_connection_answers_everything_and_comes_back() {
    let behind = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let (server, s) = serve(behind.clone(), 0);
    let s = Arc::new(s);
    s.put_new("a", &[b"1"]).unwrap();
    // One read is in the server, one create too; the network breaks.
    behind.set_delay(Duration::from_millis(100));
    let put = std::thread::spawn({
        let s = s.clone();
        move || s.put_new("b", &[b"2"])
    });
    let (tx, rx) = mpsc::channel();
    s.start_get("a", Part::All, Box::new(move |r| tx.send(r).unwrap()));
    std::thread::sleep(Duration::from_millis(30));
    server.disconnect_all();
    assert_eq!(rx.recv().unwrap().unwrap_err().kind, Kind::Unavailable);
    assert_eq!(put.join().unwrap().unwrap_err().kind, Kind::Unavailable);
    behind.set_delay(Duration::ZERO);
    assert_eq!(s.get("a", Part::All).unwrap(), b"1");
    // The create was ambiguous; its name says what became of it.
    assert_eq!(s.put_new("b", &[b"2"]).unwrap(), Put::Exists);
    let url = server.url();
    drop(server);
    let e = s.get("a", Part::All).unwrap_err();
    assert!(e.kind == Kind::Unavailable && e.what.contains(&url), "{e}");
    let again =
        StoreServer::start(behind, url.strip_prefix("tcp://").unwrap(), ServerOptions::default()).unwrap();
    assert_eq!(s.get("a", Part::All).unwrap(), b"1");
    drop(again);
}

#[test]
fn errors_keep_their_kind_and_words() {
    let behind = Arc::new(FaultyStore::new(Arc::new(MemStore::new())));
    let (_server, s) = serve(behind.clone(), 0);
    behind.fail_next(Fault::Error(Kind::Full));
    let e = s.put_new("a", &[b"1"]).unwrap_err();
    assert!(e.kind == Kind::Full && e.what.contains("planned"), "{e}");
    s.put_new("a", &[b"1234"]).unwrap();
    behind.fail_next(Fault::Truncate(1));
    let range = rekindle_core::volume::ByteRange::new(0, 4);
    assert_eq!(s.get("a", Part::Range(range)).unwrap_err().kind, Kind::Corrupt);
}

#[test]
fn the_server_survives_garbage() {
    let (server, s) = serve(Arc::new(MemStore::new()), 0);
    let address = server.url().strip_prefix("tcp://").unwrap().to_string();
    let mut frame = vec![0; 13];
    frame[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    let hello = wire::GREETING.to_vec();
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![],
        hello.clone(),
        [hello.clone(), frame].concat(),
        [hello, vec![0xff; 4000]].concat(),
    ] {
        let mut socket = TcpStream::connect(&address).unwrap();
        socket.write_all(&garbage).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        // A reset is as good an end as a close.
        let _ = socket.read_to_end(&mut rest);
    }
    assert_eq!(s.put_new("a", &[b"1"]).unwrap(), Put::Created);
}

#[test]
fn the_client_survives_garbage() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let s = TcpStore::open(&format!("tcp://{}", listener.local_addr().unwrap())).unwrap();
    let frame = |len: u32, id: u64| [&len.to_le_bytes()[..], &id.to_le_bytes(), &[0]].concat();
    let cases = [
        b"HTTP/1.1 400 no\r\n\r\n".to_vec(),
        vec![],
        frame(u32::MAX, 1),
        frame(9, 77),
        frame(500, 1),
        frame(3, 1),
    ];
    for (i, garbage) in cases.into_iter().enumerate() {
        std::thread::scope(|t| {
            t.spawn(|| {
                let (mut socket, _) = listener.accept().unwrap();
                let mut from = &socket;
                from.read_exact(&mut [0; 8]).unwrap();
                if i > 0 {
                    // First the question, so that the answer is not taken for nobody's.
                    (&socket).write_all(wire::GREETING).unwrap();
                    wire::Frame::read(&mut from).unwrap();
                }
                let _ = socket.write_all(&garbage);
            });
            assert_eq!(s.head("a").unwrap_err().kind, Kind::Unavailable, "case {i}");
        });
    }
    // A good frame with a body that is none.
    std::thread::scope(|t| {
        t.spawn(|| {
            let (mut socket, _) = listener.accept().unwrap();
            socket.write_all(wire::GREETING).unwrap();
            let mut from = &socket;
            from.read_exact(&mut [0; 8]).unwrap();
            let id = wire::Frame::read(&mut from).unwrap().id;
            socket.write_all(&frame(9, id)).unwrap();
        });
        assert_eq!(s.head("a").unwrap_err().kind, Kind::Corrupt);
    });
}

#[test]
fn urls() {
    for bad in [
        "",
        "tcp://",
        "tcp://host",
        "tcp://:80",
        "tcp://h:x",
        "tcp://h:0",
        "tcp://h:70000",
        "s3://h:1",
        "h:1",
    ] {
        assert_eq!(TcpStore::open(bad).err().map(|e| e.kind), Some(Kind::Invalid), "{bad}");
    }
    let s = TcpStore::open("tcp://[::1]:9000/").unwrap();
    assert_eq!(s.place(), "tcp://[::1]:9000");
}
