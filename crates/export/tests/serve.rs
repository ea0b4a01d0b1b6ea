//! The server through our own client: every mode, every command, answers now, late and mixed; ends of all kinds.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use rekindle_core::nbd::Mode;
use rekindle_core::nbd::wire::*;
use rekindle_export::nbd::client::{Ask, Client, ClientError, ClientOptions, Content};
use rekindle_export::nbd::{Listen, Server, ServerOptions, Structured};
use rekindle_io::Kind;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const MODES: [Mode; 3] = [Mode::Simple, Mode::Structured, Mode::Extended];
const MIB: u64 = 1 << 20;

fn errno(r: Result<Content, ClientError>) -> u32 {
    match r {
        Err(ClientError::Refused { errno, .. }) => errno,
        Err(other) => panic!("expected an error of the server, got {other}"),
        Ok(_) => panic!("expected an error of the server, got success"),
    }
}

/// Writes, zeros and reads pipelined at random places against a plain model.
fn compare_with_model(mode: Mode, manner: Manner) {
    let disk = Disk::new(4 * MIB);
    disk.manner(manner);
    let w = world(&disk);
    let mut c = w.client(mode);
    let mut model = vec![0u8; 4 << 20];
    let mut seed = 0x1234_5678_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    for round in 0..40u64 {
        // Places of one round do not overlap, so that their order does not matter.
        let mut reads = Vec::new();
        for i in 0..random(24) {
            let offset = i * 128 * 1024 + random(64) * 512;
            let len = (1 + random(128)) * 512;
            let at = offset as usize..(offset + len) as usize;
            match random(4) {
                0 => {
                    let data: Vec<u8> = at.clone().map(|b| pattern(b as u64 + round)).collect();
                    c.submit(offset, Ask::Write { data: &data, fua: round % 2 == 0 }).unwrap();
                    model[at].copy_from_slice(&data);
                }
                1 => {
                    c.submit(offset, Ask::Zero { len, fua: false, no_hole: true, fast: false }).unwrap();
                    model[at].fill(0);
                }
                _ => {
                    let cookie = c.submit(offset, Ask::Read { len: len as u32, whole: false }).unwrap();
                    reads.push((cookie, at));
                }
            }
        }
        while let Some(reply) = c.reap().unwrap() {
            let content = reply.result.unwrap();
            if let Some((_, at)) = reads.iter().find(|(cookie, _)| *cookie == reply.cookie) {
                assert!(content.data == model[at.clone()], "{mode:?} {manner:?} round {round} {at:?}");
            }
        }
        c.flush().unwrap();
    }
    c.close().unwrap();
    assert!(*disk.bytes.lock().unwrap() == model, "{mode:?} {manner:?}");
}

#[test]
fn every_mode_and_manner_equals_the_model() {
    for mode in MODES {
        for manner in [Manner::Now, Manner::Late, Manner::Mixed] {
            compare_with_model(mode, manner);
        }
    }
}

#[test]
fn large_requests_arrive_whole() {
    for (mode, manner) in MODES.into_iter().zip([Manner::Now, Manner::Late, Manner::Mixed]) {
        let disk = Disk::new(48 * MIB);
        disk.manner(manner);
        let w = world(&disk);
        let mut c = w.client(mode);
        // Around the bounds of a batch, of a piece, of a whole read, and the announced maximum.
        for len in [64 << 10, (64 << 10) + 512, 1 << 20, (1 << 20) + 512, 4 << 20, (4 << 20) + 512, 32 << 20]
        {
            let data: Vec<u8> = (0..len as u64).map(|b| pattern(b + len as u64)).collect();
            c.write(512, &data).unwrap();
            assert!(c.read(512, len).unwrap() == data, "{mode:?} {len}");
            assert!(disk.bytes.lock().unwrap()[512..512 + len as usize] == data[..], "{mode:?} {len}");
        }
        let longer = vec![1; (32 << 20) + 512];
        assert_eq!(errno(c.call(0, Ask::Write { data: &longer, fua: false })), 22);
        let want = if mode == Mode::Simple { 22 } else { 75 };
        assert_eq!(errno(c.call(0, Ask::Read { len: (32 << 20) + 512, whole: false })), want);
        assert_eq!(c.read(0, 512).unwrap(), vec![0; 512], "the connection goes on");
    }
}

#[test]
fn commands_reach_the_device_with_their_flags() {
    for mode in MODES {
        let disk = Disk::new(MIB);
        disk.fill_pattern();
        let w = world(&disk);
        let mut c = w.client(mode);
        c.call(0, Ask::Write { data: &[7; 512], fua: true }).unwrap();
        c.call(4096, Ask::Trim { len: 4096, fua: true }).unwrap();
        c.call(8192, Ask::Zero { len: 4096, fua: true, no_hole: true, fast: false }).unwrap();
        c.call(65536, Ask::Zero { len: 65536, fua: false, no_hole: false, fast: true }).unwrap();
        c.call(0, Ask::Cache { len: MIB }).unwrap();
        c.flush().unwrap();
        assert_eq!(disk.fua.load(Ordering::Relaxed), 3);
        assert_eq!(disk.trims.load(Ordering::Relaxed), 1);
        assert_eq!(disk.caches.load(Ordering::Relaxed), 1);
        assert_eq!(disk.flushes.load(Ordering::Relaxed), 1);
        assert_eq!(*disk.zeroes.lock().unwrap(), [(8192, 4096, true, false), (65536, 65536, false, true)]);
        disk.slow_zero.store(true, Ordering::Relaxed);
        let fast = Ask::Zero { len: 512, fua: false, no_hole: false, fast: true };
        assert_eq!(errno(c.call(0, fast)), 95);
    }
}

#[test]
fn block_status_tells_holes() {
    for mode in [Mode::Structured, Mode::Extended] {
        let disk = Disk::new(MIB);
        disk.bytes.lock().unwrap()[64 << 10..128 << 10].fill(1);
        let w = world(&disk);
        let mut c = w.client(mode);
        let runs = c.call(0, Ask::BlockStatus { len: MIB, one: false }).unwrap().status;
        let runs: Vec<_> = runs.iter().map(|r| (r.len, r.flags)).collect();
        assert_eq!(runs, [(64 << 10, 3), (64 << 10, 0), (MIB - (128 << 10), 3)]);
        let one = c.call(512, Ask::BlockStatus { len: MIB - 512, one: true }).unwrap().status;
        assert_eq!(one.iter().map(|r| (r.len, r.flags)).collect::<Vec<_>>(), [((64 << 10) - 512, 3)]);
    }
    let w = world(&Disk::new(MIB));
    assert_eq!(errno(w.client(Mode::Simple).call(0, Ask::BlockStatus { len: 512, one: false })), 22);
}

#[test]
fn wrong_requests_are_refused_and_the_connection_goes_on() {
    for mode in MODES {
        let disk = Disk::new(MIB);
        let w = world(&disk);
        let mut c = w.client(mode);
        let data = [0; 512];
        let raw = |flags, kind, len| Ask::Raw { flags, kind, len };
        let cases = [
            (MIB, Ask::Read { len: 512, whole: false }, 22),
            (MIB - 512, Ask::Read { len: 1024, whole: false }, 22),
            (u64::MAX - 511, Ask::Read { len: 512, whole: false }, 22),
            (MIB, Ask::Write { data: &data, fua: false }, 28),
            (u64::MAX - 511, Ask::Write { data: &data, fua: false }, 28),
            (MIB, Ask::Zero { len: 512, fua: false, no_hole: false, fast: false }, 28),
            (MIB, Ask::Trim { len: 512, fua: false }, 22),
            (1, Ask::Read { len: 512, whole: false }, 22),
            (0, Ask::Read { len: 511, whole: false }, 22),
            (0, Ask::Write { data: &data[..100], fua: false }, 22),
            (0, raw(0, 99, 512), 22),
            (0, raw(0x8000, CMD_READ, 512), 22),
            (0, raw(CMD_FLAG_FAST_ZERO, CMD_TRIM, 512), 22),
            (0, raw(CMD_FLAG_NO_HOLE, CMD_READ, 512), 22),
            (0, raw(CMD_FLAG_DF, CMD_FLUSH, 0), 22),
        ];
        for (offset, ask, want) in cases {
            assert_eq!(errno(c.call(offset, ask)), want, "{mode:?} {offset} {ask:?}");
        }
        assert_eq!(disk.seen.load(Ordering::Relaxed), 0, "none reached the device");
        for ask in [
            Ask::Read { len: 0, whole: false },
            Ask::Write { data: &[], fua: true },
            Ask::Trim { len: 0, fua: false },
            Ask::Zero { len: 0, fua: false, no_hole: false, fast: false },
            Ask::Cache { len: 0 },
            raw(CMD_FLAG_FUA, CMD_FLUSH, 0),
        ] {
            c.call(0, ask).unwrap();
        }
        c.write(0, &data).unwrap();
    }
}

#[test]
fn what_was_not_offered_is_refused() {
    // nbdkit 1.32 aborts on a fast zero it did not offer.
    let disk = Disk::with(MIB, |i| (i.fast_zero, i.trim) = (false, false));
    let w = world(&disk);
    let mut c = w.client(Mode::Structured);
    assert_eq!(c.granted().flags & (FLAG_SEND_FAST_ZERO | FLAG_SEND_TRIM), 0);
    assert_eq!(errno(c.call(0, Ask::Zero { len: 512, fua: false, no_hole: false, fast: true })), 22);
    assert_eq!(errno(c.call(0, Ask::Trim { len: 512, fua: false })), 22);
    c.call(0, Ask::Zero { len: 512, fua: false, no_hole: false, fast: false }).unwrap();

    let disk = Disk::with(MIB, |i| i.read_only = true);
    let w = world(&disk);
    for mode in MODES {
        let mut c = w.client(mode);
        assert_ne!(c.granted().flags & FLAG_READ_ONLY, 0);
        for ask in [
            Ask::Write { data: &[0; 4096], fua: false },
            Ask::Trim { len: 512, fua: false },
            Ask::Zero { len: 512, fua: false, no_hole: false, fast: false },
        ] {
            assert_eq!(errno(c.call(0, ask)), 1);
        }
        let big = vec![0; 3 << 20];
        assert_eq!(errno(c.call(0, Ask::Write { data: &big, fua: false })), 1);
        c.read(0, 512).unwrap();
        c.flush().unwrap();
    }
}

#[test]
fn device_errors_become_error_numbers() {
    for (kind, want) in [
        (Kind::Full, 28),
        (Kind::ReadOnly, 1),
        (Kind::Failed, 5),
        (Kind::Corrupt, 5),
        (Kind::Unavailable, 5),
        (Kind::Cancelled, 108),
        (Kind::Unsupported, 22),
    ] {
        let disk = Disk::new(8 * MIB);
        disk.manner(Manner::Failing(kind));
        let w = world(&disk);
        for mode in MODES {
            let mut c = w.client(mode);
            assert_eq!(errno(c.call(0, Ask::Read { len: 512, whole: false })), want);
            assert_eq!(errno(c.call(0, Ask::Read { len: 5 << 20, whole: false })), want);
            assert_eq!(errno(c.call(0, Ask::Write { data: &[0; 512], fua: false })), want);
            assert_eq!(errno(c.call(0, Ask::Write { data: &vec![0; 3 << 20], fua: false })), want);
            assert_eq!(errno(c.call(0, Ask::Flush)), want);
        }
    }
}

#[test]
fn a_read_that_may_not_be_fragmented_is_one_chunk() {
    let disk = Disk::new(16 * MIB);
    disk.fill_pattern();
    let w = world(&disk);
    let mut c = w.client(Mode::Structured);
    assert_eq!(c.call(0, Ask::Read { len: 4 << 20, whole: true }).unwrap().chunks, 1);
    assert_eq!(errno(c.call(0, Ask::Read { len: 8 << 20, whole: true })), 75);
    assert_eq!(c.call(0, Ask::Read { len: 8 << 20, whole: false }).unwrap().chunks, 8);
}

#[test]
fn tcp_works_and_the_empty_name_is_the_default_export() {
    let disk = Disk::new(MIB);
    disk.fill_pattern();
    let w = world_with(&disk, |o| o.listen = vec![Listen::Tcp("127.0.0.1:0".parse().unwrap())]);
    let mut c = w.client_of("", Mode::Extended);
    assert_eq!(c.read(4096, 4096).unwrap(), (4096..8192).map(pattern).collect::<Vec<_>>());
    let refused = |name: &str| {
        let options = ClientOptions { export: name.into(), ..Default::default() };
        assert!(matches!(Client::connect(&w.at, &options), Err(ClientError::Dial(_))));
    };
    refused("no");
    w.server.add(export("second", &disk)).unwrap();
    refused("");
    assert!(w.server.remove("second"));
    w.client_of("", Mode::Simple);
}

#[test]
fn late_requests_are_bounded() {
    let disk = Disk::new(64 * MIB);
    disk.manner(Manner::Stalled);
    let w = world_with(&disk, |o| o.bounds.late_requests = 16);
    let mut c = w.client(Mode::Simple);
    for i in 0..100 {
        c.submit(i * 4096, Ask::Read { len: 4096, whole: false }).unwrap();
    }
    let reader = std::thread::spawn(move || {
        let mut n = 0;
        while let Some(r) = c.reap().unwrap() {
            r.result.unwrap();
            n += 1;
        }
        n
    });
    eventually("the bound is reached", || disk.seen.load(Ordering::Relaxed) >= 16);
    std::thread::sleep(Duration::from_millis(50));
    // A batch that was begun below the bound may go over it.
    assert!(disk.seen.load(Ordering::Relaxed) < 16 + 8);
    disk.release();
    assert_eq!(reader.join().unwrap(), 100);
}

#[test]
fn late_bytes_of_all_connections_are_bounded_together() {
    let disk = Disk::new(64 * MIB);
    disk.manner(Manner::Stalled);
    let w = world_with(&disk, |o| o.bounds.late_bytes_total = 2 << 20);
    let readers: Vec<_> = (0..4)
        .map(|_| {
            let mut c = w.client(Mode::Simple);
            for i in 0..8 {
                c.submit(i * MIB, Ask::Read { len: 1 << 20, whole: false }).unwrap();
            }
            std::thread::spawn(move || while c.reap().unwrap().is_some() {})
        })
        .collect();
    eventually("the bound is reached", || disk.seen.load(Ordering::Relaxed) >= 2);
    std::thread::sleep(Duration::from_millis(50));
    // Beyond the bound each connection may have 1 MiB, and the batch it had begun.
    assert!(disk.seen.load(Ordering::Relaxed) <= 2 + 2 * 4);
    disk.release();
    readers.into_iter().for_each(|r| r.join().unwrap());
    assert_eq!(disk.seen.load(Ordering::Relaxed), 32);
}

#[test]
fn a_client_that_vanishes_takes_its_waiting_writes_along() {
    let disk = Disk::new(MIB);
    disk.manner(Manner::Stalled);
    let w = world(&disk);
    let mut c = w.client(Mode::Simple);
    for i in 0..4 {
        c.submit(i * 4096, Ask::Write { data: &[1; 4096], fua: false }).unwrap();
    }
    let reaper = std::thread::spawn(move || {
        // Sends, then waits for an answer that never comes until the socket is cut below.
        let _ = c.reap();
    });
    eventually("the device has them", || disk.seen.load(Ordering::Relaxed) == 4);
    assert_eq!(w.server.connections("disk"), 1);
    // Cut from the server's side with no grace: the same path as a vanished client.
    let t = Instant::now();
    assert!(w.server.stop(Duration::ZERO));
    assert!(t.elapsed() < Duration::from_secs(15));
    reaper.join().unwrap();
    disk.release();
    eventually("they are dropped", || disk.dropped.load(Ordering::Relaxed) == 4);
    assert!(disk.bytes.lock().unwrap().iter().all(|b| *b == 0));
}

#[test]
fn a_dropped_client_is_noticed_while_its_requests_are_stalled() {
    let disk = Disk::new(MIB);
    disk.manner(Manner::Stalled);
    // The bound makes the connection stop reading, so that only looking at the socket can tell.
    let w = world_with(&disk, |o| o.bounds.late_requests = 2);
    let mut c = w.client(Mode::Simple);
    for i in 0..200 {
        c.submit(i * 512, Ask::Write { data: &[1; 512], fua: false }).unwrap();
    }
    let _ = c.submit(0, Ask::Write { data: &[1; 65536], fua: false });
    eventually("the device has some", || disk.seen.load(Ordering::Relaxed) >= 2);
    drop(c);
    eventually("the connection is gone", || w.server.connections("disk") == 0);
    disk.release();
    eventually("they are dropped", || disk.dropped.load(Ordering::Relaxed) >= 2);
}

#[test]
fn a_goodbye_waits_for_what_runs() {
    let disk = Disk::new(MIB);
    disk.manner(Manner::Late);
    let w = world(&disk);
    let mut c = w.client(Mode::Simple);
    for i in 0..32 {
        c.submit(i * 4096, Ask::Write { data: &[9; 4096], fua: false }).unwrap();
    }
    c.close().unwrap();
    assert_eq!(disk.dropped.load(Ordering::Relaxed), 0);
    assert_eq!(disk.bytes.lock().unwrap().iter().filter(|b| **b == 9).count(), 32 * 4096);
}

#[test]
fn a_removed_export_ends_softly() {
    let disk = Disk::new(MIB);
    disk.manner(Manner::Stalled);
    let w = world(&disk);
    w.server
        .add(rekindle_export::nbd::ExportSpec { is_default: false, ..export("other", &Disk::new(MIB)) })
        .unwrap();
    let mut other = w.client_of("other", Mode::Simple);
    let mut c = w.client(Mode::Structured);
    c.submit(0, Ask::Read { len: 512, whole: false }).unwrap();
    let reader = std::thread::spawn(move || (c.reap().unwrap().unwrap().result.unwrap().data.len(), c));
    eventually("the device has it", || disk.seen.load(Ordering::Relaxed) == 1);
    let release = std::thread::spawn({
        let disk = disk.clone();
        move || {
            std::thread::sleep(Duration::from_millis(100));
            disk.release();
        }
    });
    assert!(w.server.remove("disk"), "nobody is left inside the device");
    release.join().unwrap();
    let (len, mut c) = reader.join().unwrap();
    assert_eq!(len, 512, "what ran was answered");
    assert!(c.read(0, 512).is_err(), "the connection is closed");
    let gone = ClientOptions { export: "disk".into(), ..Default::default() };
    assert!(matches!(Client::connect(&w.at, &gone), Err(ClientError::Dial(_))));
    other.read(0, 512).unwrap();
    assert!(w.server.add(export("other", &disk)).is_err(), "the name is taken");
    w.server.add(export("disk", &Disk::new(2 * MIB))).unwrap();
    assert_eq!(w.client(Mode::Simple).granted().size, 2 * MIB);
}

#[test]
fn sockets_are_private_replaced_when_stale_and_removed() {
    use std::os::unix::fs::PermissionsExt;
    let w = world(&Disk::new(MIB));
    let path = w.socket();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let again = ServerOptions { listen: vec![w.at.clone()], ..Default::default() };
    assert!(Server::start(again.clone()).is_err(), "another server answers");
    drop(w.server);
    assert!(!path.exists());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a stale socket");
    drop(Server::start(again.clone()).unwrap());
    std::fs::write(&path, "a file").unwrap();
    assert!(Server::start(again).is_err(), "not a socket");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
}

#[test]
fn the_policy_of_structured_replies() {
    let connect = |w: &World, block_status| {
        let options = ClientOptions {
            export: "disk".into(),
            mode: Mode::Structured,
            block_status,
            ..Default::default()
        };
        Client::connect(&w.at, &options).unwrap().granted().clone()
    };
    let never = world_with(&Disk::new(MIB), |o| o.structured = Structured::Never);
    assert_eq!(connect(&never, true).mode, Mode::Simple);
    let always = world_with(&Disk::new(MIB), |o| o.structured = Structured::Always);
    for _ in 0..3 {
        assert_eq!(connect(&always, false).mode, Mode::Structured);
    }
    let auto = world(&Disk::new(MIB));
    assert_eq!(connect(&auto, false).mode, Mode::Structured, "unknown client");
    assert_eq!(connect(&auto, false).mode, Mode::Simple, "it showed no need");
    assert_eq!(connect(&auto, true).mode, Mode::Simple, "the stated price");
    let auto = world(&Disk::new(MIB));
    assert!(connect(&auto, true).context.is_some());
    assert_eq!(connect(&auto, false).mode, Mode::Structured, "kept for good");
}

#[test]
fn a_large_read_that_fails_midway_never_passes_for_data() {
    for mode in MODES {
        let disk = Disk::new(16 * MIB);
        disk.manner(Manner::FailingFrom(6 * MIB));
        let w = world(&disk);
        let mut c = w.client(mode);
        c.read(0, 6 << 20).unwrap();
        let failed = c.call(0, Ask::Read { len: 8 << 20, whole: false });
        if mode == Mode::Simple {
            assert!(matches!(failed, Err(ClientError::Io(_))), "only a cut connection can say it");
        } else {
            assert_eq!(errno(failed), 5);
            c.read(0, 512).unwrap();
        }
        // Up to 4 MiB a simple reply can still say it.
        assert_eq!(errno(w.client(mode).call(4 * MIB, Ask::Read { len: 4 << 20, whole: false })), 5);
    }
}

#[test]
fn what_comes_after_the_end_was_announced_is_told_so() {
    let disk = Disk::new(16 * MIB);
    disk.manner(Manner::Stalled);
    let w = world(&disk);
    let mut c = w.client(Mode::Structured);
    // A large read keeps the connection's thread; what follows is received but not begun.
    c.submit(0, Ask::Read { len: 5 << 20, whole: false }).unwrap();
    let late = c.submit(0, Ask::Write { data: &[1; 512], fua: false }).unwrap();
    let reader = std::thread::spawn(move || {
        let mut results = Vec::new();
        while let Ok(Some(reply)) = c.reap() {
            results.push((reply.cookie, reply.result));
        }
        results
    });
    eventually("the device has the read", || disk.seen.load(Ordering::Relaxed) == 1);
    std::thread::sleep(Duration::from_millis(50));
    std::thread::scope(|s| {
        let removed = s.spawn(|| w.server.remove("disk"));
        std::thread::sleep(Duration::from_millis(100));
        disk.release();
        assert!(removed.join().unwrap());
    });
    let mut results = reader.join().unwrap();
    assert_eq!(results.len(), 2, "the read goes on, the write is answered");
    let (cookie, result) = results.pop().unwrap();
    assert_eq!((cookie, errno(result)), (late, 108));
    assert!(results.pop().unwrap().1.is_ok());
    assert!(disk.bytes.lock().unwrap().iter().all(|b| *b == 0));
}
