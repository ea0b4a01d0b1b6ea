//! The protocol against itself and against noise: what one side encodes the other decodes, arbitrary bytes never panic
//! nor grow anything beyond its bound, and no cut of the stream changes the result.

use super::reply::{self, Parsed, ReadPiece};
use super::wire::*;
use super::*;
use crate::volume::ByteRange;
use proptest::collection::vec;
use proptest::prelude::*;

struct Exports;

fn info(id: u64, name: &str) -> ExportInfo {
    let flags = FLAG_SEND_FLUSH | FLAG_CAN_MULTI_CONN;
    ExportInfo {
        id,
        name: name.into(),
        description: "a disk".into(),
        size: 1 << 30,
        block_min: 512,
        block_preferred: 4096,
        flags,
    }
}

impl Catalogue for Exports {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        match name {
            "" | "shop/data" => Some(info(1, "shop/data")),
            "shop/wal" => Some(info(2, "shop/wal")),
            _ => None,
        }
    }
    fn each(&self, tell: &mut dyn FnMut(&str, &str)) {
        tell("shop/data", "a disk");
        tell("shop/wal", "");
    }
}

/// Feeds a stream to a server in pieces cut at `cuts`; returns all it said, how it ended, and what it did not use.
fn negotiate_cut(stream: &[u8], cuts: &[usize], grant: bool) -> (Vec<u8>, Option<Step>, Vec<u8>) {
    let mut talk = Negotiation::new(Limits::DEFAULT, grant);
    let (mut out, mut input) = (Vec::new(), Vec::new());
    let mut ends: Vec<usize> = cuts.iter().map(|c| c % (stream.len() + 1)).collect();
    ends.push(stream.len());
    ends.sort_unstable();
    let mut at = 0;
    for end in ends {
        input.extend_from_slice(&stream[at..end]);
        at = end;
        loop {
            let before = out.len();
            let (took, step) = talk.step(&input, &Exports, &mut out);
            assert!(took <= input.len() && out.len() - before <= 8192, "one message, one bounded answer");
            input.drain(..took);
            match step {
                Step::More => {
                    assert!(took == 0 && input.len() < Limits::DEFAULT.option_bytes_max + OPTION_HEAD_LEN);
                    break;
                }
                Step::Again => assert!(took > 0, "progress"),
                end => {
                    input.extend_from_slice(&stream[at..]);
                    return (out, Some(end), input);
                }
            }
        }
    }
    (out, None, input)
}

fn option(kind: u32, data: &[u8]) -> Vec<u8> {
    let len = data.len() as u32;
    [&OPTION_MAGIC.to_be_bytes()[..], &kind.to_be_bytes(), &len.to_be_bytes(), data].concat()
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

fn queries(q: &[&str]) -> Vec<u8> {
    let each = q.iter().flat_map(|q| named(q, &[]));
    (q.len() as u32).to_be_bytes().into_iter().chain(each).collect()
}

/// Options as clients send them, and as they should not.
fn an_option() -> impl Strategy<Value = Vec<u8>> {
    let name = prop_oneof![
        Just(String::new()),
        Just("shop/data".to_owned()),
        Just("shop/wal".to_owned()),
        "[a-z]{0,8}",
        Just("x".repeat(5000))
    ];
    let go = (name.clone(), vec(any::<u16>(), 0..5), prop_oneof![Just(OPT_GO), Just(OPT_INFO)]).prop_map(
        |(n, i, o)| {
            let infos: Vec<u8> = (i.len() as u16)
                .to_be_bytes()
                .into_iter()
                .chain(i.iter().flat_map(|i| (i % 5).to_be_bytes()))
                .collect();
            option(o, &named(&n, &infos))
        },
    );
    let context = prop_oneof![Just(OPT_LIST_META_CONTEXT), Just(OPT_SET_META_CONTEXT)];
    let query = prop_oneof![Just("base:allocation"), Just("base:"), Just("qemu:x"), Just("")];
    let meta =
        (name.clone(), vec(query, 0..70), context).prop_map(|(n, q, o)| option(o, &named(&n, &queries(&q))));
    let plain = (1u32..14, vec(any::<u8>(), 0..40)).prop_map(|(o, d)| option(o, &d));
    let bare = prop_oneof![
        Just(OPT_LIST),
        Just(OPT_STRUCTURED_REPLY),
        Just(OPT_EXTENDED_HEADERS),
        Just(OPT_STARTTLS)
    ]
    .prop_map(|o| option(o, &[]));
    let export_name = name.prop_map(|n| option(OPT_EXPORT_NAME, n.as_bytes()));
    let long = (60_000usize..70_000).prop_map(|n| option(OPT_SET_META_CONTEXT, &vec![0; n]));
    prop_oneof![5 => go, 5 => meta, 2 => plain, 6 => bare, 1 => export_name, 1 => long]
}

/// A whole stream: flags, options, and sometimes damage.
fn a_stream() -> impl Strategy<Value = Vec<u8>> {
    let flags = prop_oneof![8 => Just(3u32), 2 => Just(1), 1 => Just(0), 1 => any::<u32>()];
    let damage = proptest::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
    (flags, vec(an_option(), 0..8), damage, vec(any::<u8>(), 0..60)).prop_map(
        |(flags, options, damage, tail)| {
            let mut s = flags.to_be_bytes().to_vec();
            options.iter().for_each(|o| s.extend_from_slice(o));
            s.extend_from_slice(&tail);
            if let Some((at, byte)) = damage {
                let at = at.index(s.len());
                s[at] ^= byte;
            }
            s
        },
    )
}

fn a_mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Simple), Just(Mode::Structured), Just(Mode::Extended)]
}

fn a_request() -> impl Strategy<Value = RawRequest> {
    let near = prop_oneof![
        Just(0u64),
        (0u64..64).prop_map(|b| b * 512),
        (0u64..64).prop_map(|b| (1 << 20) - b * 512),
        any::<u64>()
    ];
    let flags =
        prop_oneof![4 => Just(0u16), 3 => (0u16..6).prop_map(|b| 1 << b), 2 => 0u16..64, 1 => any::<u16>()];
    let len = prop_oneof![
        (0u64..2050).prop_map(|b| b * 512),
        any::<u32>().prop_map(u64::from),
        (0u64..3).prop_map(|d| (32 << 20) - 512 + d * 512)
    ];
    (flags, 0u16..10, any::<u64>(), near, len).prop_map(|(flags, kind, cookie, offset, len)| RawRequest {
        flags,
        kind,
        cookie,
        offset,
        len,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn negotiation_does_not_depend_on_cuts(s in a_stream(), cuts in vec(any::<usize>(), 0..20), grant: bool) {
        prop_assert_eq!(negotiate_cut(&s, &cuts, grant), negotiate_cut(&s, &[], grant));
    }

    #[test]
    fn noise_never_panics_the_server(s in vec(any::<u8>(), 0..300), cuts in vec(any::<usize>(), 0..5)) {
        negotiate_cut(&s, &cuts, true);
        let behind_flags = [&3u32.to_be_bytes()[..], &s].concat();
        negotiate_cut(&behind_flags, &cuts, true);
    }

    #[test]
    fn both_sides_agree(
        name in prop_oneof![Just(""), Just("shop/data"), Just("shop/wal"), Just("none")],
        mode in a_mode(), block_status: bool, grant: bool,
    ) {
        let mut dial = Dial::new(Wish { export: name.into(), mode, block_status }, Limits::DEFAULT);
        let mut talk = Negotiation::new(Limits::DEFAULT, grant);
        let (mut to_client, mut to_server) = (Negotiation::greeting().to_vec(), Vec::new());
        let (mut agreed, mut dialled) = (None, None);
        for _ in 0..100 {
            match dial.step(&to_client, &mut to_server) {
                Ok((took, got)) => { to_client.drain(..took); dialled = dialled.or(got); }
                Err(e) => {
                    prop_assert!(name == "none", "{e}");
                    return Ok(());
                }
            }
            if agreed.is_none() {
                let (took, step) = talk.step(&to_server, &Exports, &mut to_client);
                to_server.drain(..took);
                if let Step::Agreed(a) = step { agreed = Some(a) }
            }
        }
        let (a, d) = (agreed.unwrap(), dialled.unwrap());
        let want = if grant { mode } else { Mode::Simple };
        prop_assert_eq!((a.mode, d.mode), (want, want));
        prop_assert_eq!(a.block_status, block_status && want != Mode::Simple);
        prop_assert_eq!(d.context, a.block_status.then_some(BASE_ALLOCATION_ID));
        prop_assert_eq!((d.size, d.block), (a.export.size, [512, 4096, 32 << 20]));
        prop_assert_eq!(d.flags & FLAG_SEND_DF != 0, want != Mode::Simple);
        prop_assert_eq!(&a.export.name, if name.is_empty() { "shop/data" } else { name });
    }

    #[test]
    fn noise_never_panics_the_client(s in vec(any::<u8>(), 0..200), mode in a_mode(), greet: bool) {
        let mut dial = Dial::new(Wish { export: "x".into(), mode, block_status: true }, Limits::DEFAULT);
        let mut input = if greet { Negotiation::greeting().to_vec() } else { Vec::new() };
        input.extend_from_slice(&s);
        let mut out = Vec::new();
        while let Ok((took, None)) = dial.step(&input, &mut out) {
            if took == 0 { break }
            input.drain(..took);
        }
        for magic in [&[][..], &SIMPLE_REPLY_MAGIC.to_be_bytes(), &STRUCTURED_REPLY_MAGIC.to_be_bytes(),
            &EXTENDED_REPLY_MAGIC.to_be_bytes()] {
            let s = [magic, &s].concat();
            match Chunk::parse(&s, mode, &Limits::DEFAULT, |c| (c % 2 == 0).then_some(64)) {
                Ok(Parsed::Need(n)) => prop_assert!(n > s.len() && n <= (33 << 20)),
                Ok(Parsed::Whole(_, took)) => prop_assert!(took <= s.len()),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn requests_round_trip_and_show_only_when_whole(r in a_request(), mode in a_mode(), more in vec(any::<u8>(), 0..9)) {
        let mut bytes = Vec::new();
        r.encode(mode, &mut bytes);
        prop_assert_eq!(bytes.len(), mode.request_len());
        for cut in 0..bytes.len() {
            prop_assert_eq!(RawRequest::decode(&bytes[..cut], mode), Ok(None));
        }
        bytes.extend_from_slice(&more);
        prop_assert_eq!(RawRequest::decode(&bytes, mode), Ok(Some(r)));
        bytes[0] ^= 1;
        prop_assert!(RawRequest::decode(&bytes, mode).is_err());
    }

    /// What `check` lets through may be handed to a device without another look.
    #[test]
    fn accepted_requests_are_sound(
        r in a_request(), mode in a_mode(), read_only: bool, trim: bool, fast_zero: bool, block_status: bool,
    ) {
        let limits = Limits::DEFAULT;
        let t = Terms { mode, size: 1 << 20, block: 512, read_only, trim, fast_zero, block_status, limits };
        let Ok(command) = t.check(&r) else { return Ok(()) };
        if !matches!(command, Command::Flush | Command::Disconnect) {
            prop_assert!(r.offset.checked_add(r.len).is_some_and(|e| e <= t.size));
            prop_assert_eq!((r.offset | r.len) % 512, 0);
        }
        match command {
            Command::Write { .. } | Command::Zero { .. } => prop_assert!(!read_only),
            Command::Trim { .. } => prop_assert!(!read_only && trim),
            Command::BlockStatus { .. } => prop_assert!(block_status && r.len > 0),
            _ => {}
        }
        if let Command::Zero { fast, .. } = command { prop_assert!(!fast || fast_zero) }
        let known = CMD_FLAG_FUA | CMD_FLAG_NO_HOLE | CMD_FLAG_DF | CMD_FLAG_REQ_ONE | CMD_FLAG_FAST_ZERO | CMD_FLAG_PAYLOAD_LEN;
        prop_assert!(command == Command::Disconnect || r.flags & !known == 0);
    }

    #[test]
    fn replies_round_trip(
        mode in a_mode(), cookie: u64, offset in 0u64..1 << 40, data in vec(any::<u8>(), 0..200), message in ".{0,300}",
    ) {
        let whole = |bytes: &[u8], read: Option<usize>| match Chunk::parse(bytes, mode, &Limits::DEFAULT, |_| read) {
            Ok(Parsed::Whole(c, took)) if took == bytes.len() => {
                for cut in 0..took {
                    let part = Chunk::parse(&bytes[..cut], mode, &Limits::DEFAULT, |_| read);
                    assert!(matches!(part, Ok(Parsed::Need(n)) if n > cut && n <= took));
                }
                assert!(c.last && c.cookie == cookie);
                format!("{:?}", c.body)
            }
            other => panic!("{other:?}"),
        };
        let mut out = vec![0; reply::read_head_len(mode, data.len() as u64)];
        let piece = ReadPiece { cookie, request_offset: offset, offset, len: data.len() as u32, last: true };
        reply::put_read_head(mode, &mut out, piece);
        out.extend_from_slice(&data);
        let place = (mode != Mode::Simple).then_some(offset);
        let want = if mode != Mode::Simple && data.is_empty() {
            ChunkBody::None
        } else {
            ChunkBody::Data { offset: place, bytes: &data }
        };
        prop_assert_eq!(whole(&out, Some(data.len())), format!("{want:?}"));

        out.clear();
        reply::put_done(mode, &mut out, cookie, offset);
        prop_assert_eq!(whole(&out, None), format!("{:?}", ChunkBody::None));

        out.clear();
        reply::put_error(mode, &mut out, cookie, offset, Errno::Io, &message);
        let said = if mode == Mode::Simple { "" } else { reply::shortened(&message) };
        prop_assert_eq!(whole(&out, Some(512)), format!("{:?}", ChunkBody::Error { errno: 5, message: said }));

        if mode != Mode::Simple {
            out.clear();
            let runs = vec![Status { len: 4096, flags: 3 }, Status { len: 512, flags: 0 }];
            reply::put_status(mode, &mut out, cookie, offset, &runs);
            prop_assert_eq!(whole(&out, None), format!("{:?}", ChunkBody::Status { context: 1, runs }));
        }
    }

    /// Descriptors lie inside the range, are aligned, and call nothing a hole or zero that is not.
    #[test]
    fn descriptors_never_promise_too_much(
        pieces in vec((1u64..3000, any::<bool>(), any::<bool>()), 0..40), start in 0u64..20, len in 1u64..60, max in 1usize..20,
    ) {
        let range = ByteRange::new(start * 512, len * 512);
        let mut d = Descriptors::new(range, 512, max);
        let mut truth = Vec::new(); // flags of every byte
        let mut end = range.start;
        for (n, hole, zero) in pieces {
            end += n;
            truth.extend(std::iter::repeat_n(u32::from(hole) | u32::from(zero) << 1, n as usize));
            if !d.push(end, hole, zero) { break }
        }
        let runs = d.finish();
        prop_assert!(!runs.is_empty() && runs.len() <= max);
        let mut at = 0usize;
        for r in &runs {
            prop_assert!(r.len > 0 && r.len % 512 == 0);
            let bytes = truth.iter().chain(std::iter::repeat(&0)).skip(at).take(r.len as usize);
            prop_assert!(bytes.fold(3, |all, flags| all & flags) & r.flags == r.flags, "{:?}", &runs);
            at += r.len as usize;
        }
        prop_assert!(at as u64 <= range.len);
        prop_assert!(runs.windows(2).all(|w| w[0].flags != w[1].flags), "neighbours are joined");
    }
}

#[test]
fn golden_bytes() {
    let mut out = Vec::new();
    let r =
        RawRequest { flags: 1, kind: CMD_WRITE, cookie: 0x0102_0304_0506_0708, offset: 0x1000, len: 0x200 };
    r.encode(Mode::Structured, &mut out);
    assert_eq!(out[..8], [0x25, 0x60, 0x95, 0x13, 0, 1, 0, 1]);
    assert_eq!(out[8..], [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 2, 0]);
    out.clear();
    r.encode(Mode::Extended, &mut out);
    assert_eq!(
        (out.len(), &out[..4], &out[24..]),
        (32, &[0x21, 0xe4, 0x1c, 0x71][..], &[0, 0, 0, 0, 0, 0, 2, 0][..])
    );
    assert_eq!(reply::simple(1, 5), [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1]);
    let mut head = [0; 28];
    let piece = ReadPiece { cookie: 1, request_offset: 512, offset: 512, len: 512, last: true };
    reply::put_read_head(Mode::Structured, &mut head, piece);
    let want =
        [0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 2, 8, 0, 0, 0, 0, 0, 0, 2, 0];
    assert_eq!(head, want);
    assert_eq!(Negotiation::greeting(), *b"NBDMAGICIHAVEOPT\x00\x03");
}

/// The kinds of all option replies in a server's output.
fn kinds(mut out: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while !out.is_empty() {
        kinds.push(u32::from_be_bytes(out[12..16].try_into().unwrap()));
        let len = u32::from_be_bytes(out[16..20].try_into().unwrap()) as usize;
        out = &out[20 + len..];
    }
    kinds
}

#[test]
fn answers_to_options() {
    let check = |options: &[Vec<u8>], want: &[u32]| {
        let s = [&3u32.to_be_bytes()[..], &options.concat()].concat();
        let (out, _, _) = negotiate_cut(&s, &[], true);
        assert_eq!(kinds(&out), want, "{options:?}");
    };
    let structured = || option(OPT_STRUCTURED_REPLY, &[]);
    let set = |name: &str, q: &[&str]| option(OPT_SET_META_CONTEXT, &named(name, &queries(q)));
    let list = |name: &str, q: &[&str]| option(OPT_LIST_META_CONTEXT, &named(name, &queries(q)));
    check(&[option(99, b"abc")], &[REP_ERR_UNSUP]);
    check(&[option(OPT_STARTTLS, &[])], &[REP_ERR_UNSUP]);
    check(&[option(OPT_LIST, &[])], &[REP_SERVER, REP_SERVER, REP_ACK]);
    check(&[option(OPT_LIST, b"x")], &[REP_ERR_INVALID]);
    check(&[option(OPT_ABORT, &[])], &[REP_ACK]);
    check(&[option(OPT_GO, &named("none", &[0, 0]))], &[REP_ERR_UNKNOWN]);
    check(&[option(OPT_GO, &named("shop/wal", &[0]))], &[REP_ERR_INVALID]);
    check(&[option(OPT_GO, &named("shop/wal", &[0, 1, 0]))], &[REP_ERR_INVALID]);
    check(&[option(OPT_GO, &named("shop/wal", &[0, 0]))], &[REP_INFO, REP_INFO, REP_ACK]);
    check(
        &[option(OPT_INFO, &named("", &[0, 2, 0, 1, 0, 2]))],
        &[REP_INFO, REP_INFO, REP_INFO, REP_INFO, REP_ACK],
    );
    check(&[set("", &["base:allocation"])], &[REP_ERR_INVALID]);
    check(&[structured(), set("", &["base:allocation"])], &[REP_ACK, REP_META_CONTEXT, REP_ACK]);
    check(&[structured(), set("", &["base:"])], &[REP_ACK, REP_ACK]);
    check(&[structured(), set("none", &[])], &[REP_ACK, REP_ERR_UNKNOWN]);
    check(&[structured(), list("", &[])], &[REP_ACK, REP_META_CONTEXT, REP_ACK]);
    check(&[structured(), list("", &["base:"])], &[REP_ACK, REP_META_CONTEXT, REP_ACK]);
    check(&[structured(), list("", &["qemu:"])], &[REP_ACK, REP_ACK]);
    check(&[structured(), list("", &["x:"; 65])], &[REP_ACK, REP_ERR_TOO_BIG]);
    check(&[option(OPT_EXTENDED_HEADERS, &[]), structured()], &[REP_ACK, REP_ERR_EXT_HEADER_REQD]);
    check(&[structured(), option(OPT_EXTENDED_HEADERS, &[])], &[REP_ACK, REP_ACK]);
    check(&[option(OPT_INFO, &vec![0; 70_000]), option(OPT_LIST, b"x")], &[REP_ERR_TOO_BIG, REP_ERR_INVALID]);
}

#[test]
fn a_context_is_of_one_export_and_one_option() {
    let agreed = |options: &[Vec<u8>]| {
        let s = [&3u32.to_be_bytes()[..], &options.concat()].concat();
        match negotiate_cut(&s, &[], true).1 {
            Some(Step::Agreed(a)) => a.block_status,
            other => panic!("{other:?}"),
        }
    };
    let structured = option(OPT_STRUCTURED_REPLY, &[]);
    let set = |name: &str| option(OPT_SET_META_CONTEXT, &named(name, &queries(&["base:allocation"])));
    let go = |name: &str| option(OPT_GO, &named(name, &[0, 0]));
    assert!(agreed(&[structured.clone(), set("shop/wal"), go("shop/wal")]));
    assert!(agreed(&[structured.clone(), set(""), go("shop/data")]), "the default by both its names");
    assert!(!agreed(&[structured.clone(), set("shop/wal"), go("shop/data")]));
    assert!(!agreed(&[structured.clone(), set("shop/wal"), set("none"), go("shop/wal")]), "a failure resets");
    let too_long = option(OPT_SET_META_CONTEXT, &vec![0; 70_000]);
    assert!(!agreed(&[structured, set("shop/wal"), too_long, go("shop/wal")]), "this one, too");
}

#[test]
fn storms_are_cut() {
    let ends = |s: &[u8]| matches!(negotiate_cut(s, &[], true).1, Some(Step::Broken(_)));
    let flags = 3u32.to_be_bytes();
    let storm = option(OPT_LIST_META_CONTEXT, &[]).repeat(Limits::DEFAULT.options_max as usize);
    assert!(!ends(&[&flags[..], &storm].concat()));
    assert!(ends(&[&flags[..], &storm, &option(OPT_LIST_META_CONTEXT, &[])].concat()));
    let long = option(OPT_INFO, &vec![0; 65_537]).repeat(3);
    assert!(!ends(&[&flags[..], &long].concat()));
    let absurd =
        [&flags[..], &OPTION_MAGIC.to_be_bytes(), &OPT_GO.to_be_bytes(), &u32::MAX.to_be_bytes()].concat();
    assert!(ends(&absurd), "without waiting for 4 GiB of option data");
    assert!(ends(&7u32.to_be_bytes()), "unknown client flags");
    assert!(ends(&[&flags[..], &[0; 8]].concat()), "bad option magic, without waiting for more");
}

#[test]
fn export_name_is_the_old_way_in() {
    let run = |flags: u32, name: &str| {
        let s = [&flags.to_be_bytes()[..], &option(OPT_EXPORT_NAME, name.as_bytes())].concat();
        negotiate_cut(&s, &[], true)
    };
    let (out, end, _) = run(0, "shop/wal");
    assert!(out.len() == 134 && matches!(end, Some(Step::Agreed(a)) if a.mode == Mode::Simple));
    assert_eq!(run(3, "shop/wal").0.len(), 10);
    assert!(matches!(run(3, "none").1, Some(Step::Broken(_))));
    let other = [&0u32.to_be_bytes()[..], &option(OPT_LIST, &[])].concat();
    assert!(matches!(negotiate_cut(&other, &[], true).1, Some(Step::Broken(_))), "not fixed newstyle");
}

/// Every command with every set of flags under every offer, at a place that is fine: accepted exactly when offered.
#[test]
fn flags_and_commands_are_accepted_as_offered() {
    let limits = Limits::DEFAULT;
    for bits in 0..16u32 {
        let [read_only, trim, fast_zero, block_status] = [0, 1, 2, 3].map(|b| bits >> b & 1 == 1);
        for mode in [Mode::Simple, Mode::Structured, Mode::Extended] {
            let t =
                Terms { mode, size: 1 << 20, block: 512, read_only, trim, fast_zero, block_status, limits };
            for (kind, flags) in (0..10u16).flat_map(|k| (0..128u16).map(move |f| (k, f))) {
                let chunks = if mode == Mode::Simple { 0 } else { CMD_FLAG_DF };
                let payload = if mode == Mode::Extended { CMD_FLAG_PAYLOAD_LEN } else { 0 };
                let fast = if fast_zero { CMD_FLAG_FAST_ZERO } else { 0 };
                let allowed = match kind {
                    CMD_READ => Some(chunks),
                    CMD_WRITE if !read_only => Some(payload),
                    CMD_FLUSH | CMD_CACHE => Some(0),
                    CMD_TRIM if trim && !read_only => Some(0),
                    CMD_WRITE_ZEROES if !read_only => Some(CMD_FLAG_NO_HOLE | fast),
                    CMD_BLOCK_STATUS if block_status => Some(CMD_FLAG_REQ_ONE),
                    CMD_DISC => Some(u16::MAX),
                    _ => None,
                };
                let want = allowed.is_some_and(|a| flags & !(a | CMD_FLAG_FUA) == 0);
                let got = t.check(&RawRequest { flags, kind, cookie: 0, offset: 512, len: 512 });
                assert_eq!(got.is_ok(), want, "{kind} {flags:#b} {t:?}: {got:?}");
            }
        }
    }
}
