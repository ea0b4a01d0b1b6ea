//! Clients that break every rule. Whatever one does, the server lives, holds no more than its bounds, hands nothing
//! unsound to a device, and serves everybody else.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use proptest::prelude::*;
use rekindle_core::nbd::wire::*;
use rekindle_core::nbd::{Mode, Negotiation, RawRequest};
use rekindle_export::nbd::client::Ask;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

/// Panics of the server's threads in this process, whichever test caused them.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn watch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = std::thread::current().name().is_some_and(|n| n.starts_with("nbd"));
            let on_purpose = info.payload().downcast_ref::<&str>() == Some(&"on purpose");
            if ours && !on_purpose {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            if !on_purpose {
                before(info);
            }
        }));
    });
}

fn raw(w: &World) -> UnixStream {
    let s = UnixStream::connect(w.socket()).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    s
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    [&OPTION_MAGIC.to_be_bytes()[..], &kind.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

/// Everything a well-behaved client says until it is served.
fn hello(mode: Mode) -> Vec<u8> {
    let query = [&1u32.to_be_bytes()[..], &named(BASE_ALLOCATION, &[])].concat();
    let mut s = 3u32.to_be_bytes().to_vec();
    match mode {
        Mode::Simple => {}
        Mode::Structured => s.extend(option(OPT_STRUCTURED_REPLY, &[])),
        Mode::Extended => s.extend(option(OPT_EXTENDED_HEADERS, &[])),
    }
    if mode != Mode::Simple {
        s.extend(option(OPT_SET_META_CONTEXT, &named("disk", &query)));
    }
    s.extend(option(OPT_GO, &named("disk", &[0, 1, 0, 3])));
    s
}

fn request(mode: Mode, kind: u16, flags: u16, offset: u64, len: u64) -> Vec<u8> {
    let mut out = Vec::new();
    RawRequest { flags, kind, cookie: 7, offset, len }.encode(mode, &mut out);
    out
}

/// The connection ends without us closing it; what came before is returned.
fn until_end(mut s: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    match s.read_to_end(&mut all) {
        Ok(_) => {}
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("the server did not close: {e}"),
    }
    all
}

/// A good client is served, nothing unsound reached the device, no thread of the server panicked.
fn still_well(w: &World, disk: &Disk) {
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        w.client(mode).read(0, 4096).unwrap();
    }
    assert_eq!(disk.violations.load(Ordering::Relaxed), 0);
    assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    eventually("nobody is left", || w.server.connections("disk") == 0);
}

#[test]
fn a_negotiation_cut_at_any_byte_costs_nothing() {
    watch_panics();
    let disk = Disk::new(MIB);
    let w = world(&disk);
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let hello = hello(mode);
        for cut in 0..=hello.len() {
            let mut s = raw(&w);
            s.write_all(&hello[..cut]).unwrap();
            if cut % 2 == 0 {
                drop(s); // with the greeting unread: a reset
            } else {
                s.shutdown(Shutdown::Write).unwrap();
                assert!(until_end(&s).starts_with(&Negotiation::greeting()));
            }
        }
    }
    still_well(&w, &disk);
}

#[test]
fn a_request_cut_at_any_byte_is_not_carried_out() {
    watch_panics();
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let disk = Disk::new(MIB);
        let w = world(&disk);
        let write = [request(mode, CMD_WRITE, 0, 0, 512), vec![0xee; 512]].concat();
        let stream = [hello(mode), write].concat();
        for cut in hello(mode).len()..stream.len() {
            let mut s = raw(&w);
            s.write_all(&stream[..cut]).unwrap();
            s.shutdown(Shutdown::Write).unwrap();
            until_end(&s);
        }
        assert!(disk.bytes.lock().unwrap().iter().all(|b| *b == 0));
        still_well(&w, &disk);
    }
}

#[test]
fn bad_magic_ends_the_connection() {
    watch_panics();
    let disk = Disk::new(MIB);
    let w = world(&disk);
    let wrong = [
        [&3u32.to_be_bytes()[..], &[0; 16]].concat(),
        u32::MAX.to_be_bytes().to_vec(),
        [&3u32.to_be_bytes()[..], &OPTION_MAGIC.to_be_bytes(), &[0, 0, 0, 7], &[0xff; 4]].concat(),
        [hello(Mode::Simple), vec![0; 28]].concat(),
        [hello(Mode::Simple), request(Mode::Extended, CMD_READ, 0, 0, 512)].concat(),
        [hello(Mode::Extended), request(Mode::Simple, CMD_READ, 0, 0, 512)].concat(),
        [hello(Mode::Simple), request(Mode::Simple, CMD_WRITE, 0, 0, u64::from(u32::MAX))].concat(),
        [hello(Mode::Extended), request(Mode::Extended, CMD_WRITE, 0, 0, u64::MAX)].concat(),
        [hello(Mode::Extended), request(Mode::Extended, CMD_TRIM, CMD_FLAG_PAYLOAD_LEN, 0, 1 << 40)].concat(),
    ];
    for bytes in wrong {
        let mut s = raw(&w);
        s.write_all(&bytes).unwrap();
        until_end(&s);
    }
    still_well(&w, &disk);
}

#[test]
fn an_oversized_write_is_swallowed_and_refused() {
    watch_panics();
    let disk = Disk::new(64 * MIB);
    let w = world(&disk);
    for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
        let mut c = w.client(mode);
        let data = vec![1; 48 << 20];
        let e = c.call(0, Ask::Write { data: &data, fua: false }).unwrap_err();
        assert!(e.to_string().contains("error 22"), "{e}");
        c.write(0, &[2; 512]).unwrap();
    }
    // An extended client may hang a payload on anything; it is not taken for requests.
    let mut s = raw(&w);
    let status = request(Mode::Extended, CMD_BLOCK_STATUS, CMD_FLAG_PAYLOAD_LEN, 0, 4096);
    let goodbye = request(Mode::Extended, CMD_DISC, 0, 0, 0);
    s.write_all(&[hello(Mode::Extended), status, vec![0; 4096], goodbye].concat()).unwrap();
    let all = until_end(&s);
    assert!(all.windows(4).any(|w| w == EXTENDED_REPLY_MAGIC.to_be_bytes()), "it was answered");
    still_well(&w, &disk);
}

#[test]
fn who_stalls_in_negotiation_is_cut() {
    watch_panics();
    let disk = Disk::new(MIB);
    let w = world_with(&disk, |o| o.bounds.negotiation = Duration::from_millis(300));
    let began = Instant::now();
    let silent = raw(&w);
    let dripping = {
        let mut s = raw(&w);
        std::thread::spawn(move || {
            for byte in hello(Mode::Structured) {
                if s.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    until_end(&silent);
    dripping.join().unwrap();
    assert!(began.elapsed() < Duration::from_secs(15), "a byte now and then does not extend the limit");
    // Options without end, answers never read: the send is limited, too.
    let mut storm = raw(&w);
    let _ = storm.write_all(&[&3u32.to_be_bytes()[..], &option(OPT_LIST, &[]).repeat(1000)].concat());
    let _ = storm.write_all(&option(OPT_LIST, &[]).repeat(100));
    until_end(&storm);
    still_well(&w, &disk);
}

#[test]
fn too_many_connections_are_turned_away() {
    watch_panics();
    let disk = Disk::new(MIB);
    let w = world_with(&disk, |o| o.bounds.connections = 4);
    let held: Vec<_> = (0..4).map(|_| raw(&w)).collect();
    for mut s in &held {
        s.read_exact(&mut [0; GREETING_LEN]).unwrap();
    }
    assert!(until_end(&raw(&w)).is_empty(), "not even a greeting");
    drop(held);
    eventually("there is room again", || {
        let mut s = raw(&w);
        s.read_exact(&mut [0; GREETING_LEN]).is_ok()
    });
    still_well(&w, &disk);
}

#[test]
fn who_never_reads_blocks_nobody_and_no_stop() {
    watch_panics();
    for manner in [Manner::Now, Manner::Late] {
        let disk = Disk::new(64 * MIB);
        disk.manner(manner);
        let w = world(&disk);
        let deaf = raw(&w);
        let mut writer = deaf.try_clone().unwrap();
        let flood = std::thread::spawn(move || {
            let reads = request(Mode::Simple, CMD_READ, 0, 0, 65536).repeat(1000);
            let mut all = hello(Mode::Simple);
            while writer.write_all(&all).is_ok() {
                all.clone_from(&reads);
            }
        });
        eventually("it is being served", || disk.seen.load(Ordering::Relaxed) > 8);
        std::thread::sleep(Duration::from_millis(50));
        let seen = disk.seen.load(Ordering::Relaxed);
        assert!(seen < 8 + 512, "reading stopped: {seen}");
        let mut good = w.client(Mode::Structured);
        good.read(0, 4096).unwrap();
        let began = Instant::now();
        assert!(w.server.stop(Duration::from_millis(200)));
        assert!(began.elapsed() < Duration::from_secs(15));
        flood.join().unwrap();
        assert_eq!(PANICS.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_goodbye_without_waiting_loses_nothing() {
    watch_panics();
    let disk = Disk::new(MIB);
    disk.manner(Manner::Stalled);
    let w = world(&disk);
    let write = |i: u64| [request(Mode::Simple, CMD_WRITE, 0, i * 4096, 4096), vec![7; 4096]].concat();
    let writes: Vec<u8> = (0..8).flat_map(write).collect();
    let mut s = raw(&w);
    s.write_all(&[hello(Mode::Simple), writes, request(Mode::Simple, CMD_DISC, 0, 0, 0)].concat()).unwrap();
    eventually("the device has them", || disk.seen.load(Ordering::Relaxed) == 8);
    drop(s);
    std::thread::sleep(Duration::from_millis(300));
    disk.release();
    eventually("they are written", || {
        disk.bytes.lock().unwrap().iter().filter(|b| **b == 7).count() == 8 * 4096
    });
    disk.manner(Manner::Now);
    still_well(&w, &disk);
}

#[test]
fn a_device_that_panics_takes_one_connection_along() {
    watch_panics();
    let disk = Disk::new(MIB);
    disk.manner(Manner::Panicking);
    let w = world(&disk);
    let mut c = w.client(Mode::Simple);
    assert!(c.read(0, 512).is_err());
    disk.manner(Manner::Now);
    still_well(&w, &disk);
}

/// One thing a client might send in the transmission phase, well-formed or not.
fn a_message(mode: Mode) -> impl Strategy<Value = Vec<u8>> {
    let offset = prop_oneof![(0u64..2100).prop_map(|b| b * 512), any::<u64>(), Just(MIB - 512)];
    let len = prop_oneof![4 => (0u64..200).prop_map(|b| b * 512), 1 => 0u64..3000, 1 => Just(5 << 20)];
    let flags = prop_oneof![6 => Just(0u16), 3 => 0u16..64, 1 => any::<u16>()];
    let kind = prop_oneof![9 => 0u16..8, 1 => any::<u16>()];
    let twist = proptest::option::weighted(0.03, (any::<prop::sample::Index>(), 1u8..));
    (kind, flags, offset, len, twist).prop_map(move |(kind, flags, offset, len, twist)| {
        let raw = RawRequest { flags, kind, cookie: offset ^ len, offset, len };
        let mut out = Vec::new();
        raw.encode(mode, &mut out);
        out.resize(out.len() + raw.payload_len(mode).min(6 << 20) as usize, 0xab);
        if let Some((at, x)) = twist {
            let at = at.index(out.len());
            out[at] ^= x;
        }
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 50, failure_persistence: None, ..ProptestConfig::default() })]

    /// Streams near the protocol, cut anywhere, with answers now, late and mixed: the server answers or closes.
    #[test]
    fn streams_near_the_protocol_do_no_harm(
        (mode, messages) in prop_oneof![Just(Mode::Simple), Just(Mode::Structured), Just(Mode::Extended)]
            .prop_flat_map(|m| (Just(m), proptest::collection::vec(a_message(m), 1..40))),
        late: bool, read_only: bool, cut: prop::sample::Index, goodbye: bool,
    ) {
        watch_panics();
        let disk = Disk::with(MIB, |i| i.read_only = read_only);
        disk.manner(if late { Manner::Mixed } else { Manner::Now });
        let w = world(&disk);
        let s = raw(&w);
        let mut stream = [hello(mode), messages.concat()].concat();
        if goodbye {
            stream.extend(request(mode, CMD_DISC, 0, 0, 0));
        } else {
            stream.truncate(cut.index(stream.len() + 1));
        }
        let mut writer = s.try_clone().unwrap();
        let sender = std::thread::spawn(move || {
            let _ = writer.write_all(&stream);
            let _ = writer.shutdown(Shutdown::Write);
        });
        until_end(&s);
        sender.join().unwrap();
        still_well(&w, &disk);
    }
}
