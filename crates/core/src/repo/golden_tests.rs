//! Golden bytes of every layout: a change of any of them is a change of the format and needs a new version of it.
//! `REKINDLE_BLESS=1 cargo test` writes the files anew.

use super::commit::{Checkpoint, Commit, VolumeRecord};
use super::drill::{self, Drill};
use super::frame::{Compression, FrameName, Method};
use super::hold::{Hold, HoldOwner, ReleaseReason, Released};
use super::hot_list::{HotHead, decode_chunk, encode_chunk};
use super::index::{self, IndexEntry};
use super::key_slot::{KdfCost, KeySlot, SlotKind};
use super::manifest::{Child, Inner, Leaf, Patch, decode_ids, encode_ids};
use super::object::{self, ObjectKind};
use super::pack::{self, Footer, Slot};
use super::session::{SessionEnd, SessionOpen};
use super::{Cipher, Config, FrameKind, Id, IdKey, PackRef, PageRef, Place};
use crate::bytes::Malformed;
use crate::usage::Demanded;
use crate::volume::{ExtentBytes, Generation, Geometry, Uuid};
use std::fmt::Debug;

/// Compares with the file, and lets nothing but these very bytes decode: cut and extended ones are malformed.
fn golden<T: PartialEq + Debug, E: Debug>(
    name: &str,
    value: &T,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, E>,
) {
    same(name, bytes);
    assert_eq!(decode(bytes).unwrap(), *value, "{name} reads back");
    for cut in 0..bytes.len() {
        assert!(decode(&bytes[..cut]).is_err(), "{name} cut at {cut}");
    }
    assert!(decode(&[bytes, &[0]].concat()).is_err(), "{name} with a byte more");
    // Whatever is flipped, a decoder answers; it neither panics nor allocates without bound.
    for bit in 0..bytes.len() * 8 {
        let mut other = bytes.to_vec();
        other[bit / 8] ^= 1 << (bit % 8);
        let _ = decode(&other);
    }
}

fn same(name: &str, bytes: &[u8]) {
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let lines: Vec<&str> = hex.as_bytes().chunks(64).map(|c| std::str::from_utf8(c).unwrap()).collect();
    let text = lines.join("\n") + "\n";
    let path = format!("{}/src/repo/golden/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("REKINDLE_BLESS").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), text, "layout {name} changed");
}

fn uuid(n: u8) -> Uuid {
    Uuid([n; 16])
}
fn id(n: u8) -> Id {
    Id([n; 32])
}
fn place(pack: u8, slot: u32, offset: u32, stored: u32) -> Place {
    Place { pack: PackRef::at_birth(uuid(pack)), slot, offset, stored }
}
fn page(n: u8) -> PageRef {
    PageRef { place: place(n, 3, 4096, 700), plain: 1500 }
}
fn moved() -> Place {
    Place { pack: PackRef { birth: uuid(4), held_in: uuid(5) }, slot: 9, offset: 64, stored: 1000 }
}

#[test]
fn manifest_pages() {
    let mut leaf = Leaf::zeros(20);
    leaf.set(0, Some(place(1, 0, 64, 30_000)));
    leaf.set(1, Some(place(1, 1, 30_064, 31_000)));
    leaf.set(9, Some(moved()));
    leaf.set(19, Some(place(1, 7, 900, 65_577)));
    leaf.ids = Some(page(1));
    golden("leaf", &leaf, &leaf.encode(), Leaf::decode);
    assert_eq!(leaf.tidy(), leaf);

    let ids = vec![id(1), id(2), id(3)];
    golden("ids", &ids, &encode_ids(&ids), decode_ids);

    let entries = vec![(0, None), (3, Some((place(6, 2, 64, 500), id(8)))), (1023, Some((moved(), id(9))))];
    let patch = Patch { base: page(2), entries };
    golden("patch", &patch, &patch.encode(), Patch::decode);

    let mut inner = Inner::empty(1, 10);
    inner.children[2] = Some(Child { page: page(3), id: id(4), extents: 1024, bytes: 30 << 20 });
    inner.children[9] = Some(Child { page: page(5), id: id(6), extents: 1, bytes: 99 });
    golden("inner", &inner, &inner.encode(), Inner::decode);

    let chunk = vec![77, 3, 4, 5, 1_000_000];
    golden("hot-chunk", &chunk, &encode_chunk(&chunk), |b| decode_chunk(b, 1_000_001));
    assert!(decode_chunk(&encode_chunk(&chunk), 1_000_000).is_err(), "behind the end");
    let head = HotHead { extents: 5, chunks: vec![page(7)] };
    golden("hot-head", &head, &head.encode(), HotHead::decode);
}

#[test]
fn packs() {
    same("pack-header", &pack::header(uuid(1), uuid(2)));
    assert_eq!(pack::read_header(&pack::header(uuid(1), uuid(2))), Ok((uuid(1), uuid(2))));
    let footer = Footer { slots: 2, offset: 5000, stored: 141, plain: 100, pack: uuid(2) };
    golden("pack-footer", &footer, &footer.encode(), Footer::decode);
    let slots = vec![
        Slot { kind: FrameKind::Data, id: id(1), offset: 64, stored: 3000, plain: 65_536, moved_from: None },
        Slot {
            kind: FrameKind::Page,
            id: id(2),
            offset: 3064,
            stored: 90,
            plain: 200,
            moved_from: Some((uuid(4), 9)),
        },
    ];
    golden("directory", &slots, &pack::encode_directory(&slots), pack::decode_directory);
    let name =
        FrameName { repository: uuid(1), birth: uuid(2), slot: 7, kind: FrameKind::Data, plain: 65_536 };
    same(
        "frame-associated",
        &name.associated(Method { compression: Compression::Zstd, cipher: Cipher::Xaes }),
    );
}

fn commit() -> Commit {
    let volume = VolumeRecord {
        name: "data".into(),
        uuid: uuid(10),
        tracking: uuid(11),
        generation: Generation(12),
        geometry: Geometry::new(1 << 40, ExtentBytes::DEFAULT, 512, 4096).unwrap(),
        root: Some(page(13)),
        root_id: id(14),
        stored_extents: 15,
        stored_bytes: 16,
        changed_extents: 17,
        new_bytes: 18,
        usage: None,
        hot_list: Some(page(19)),
    };
    let empty =
        VolumeRecord { name: "wal".into(), root: None, root_id: Id::ZERO, hot_list: None, ..volume.clone() };
    Commit {
        set: "shop".into(),
        snapshot: uuid(1),
        token: uuid(2),
        role_epoch: 3,
        time_ns: 4,
        parent: Some(uuid(5)),
        origin: None,
        tags: vec!["nightly".into()],
        host: "db1".into(),
        tool: "rekindle 0.1.0".into(),
        volumes: vec![volume, empty],
    }
}

#[test]
fn objects() {
    golden("commit", &commit(), &commit().encode(), Commit::decode);
    let checkpoint = Checkpoint { commits: vec![(1, commit()), (3, Commit { parent: None, ..commit() })] };
    golden("checkpoint", &checkpoint, &checkpoint.encode(), Checkpoint::decode);
    let open = SessionOpen {
        set_tag: "3f".into(),
        host: "db1".into(),
        time_ns: 1,
        parents: vec![uuid(2)],
        token: uuid(3),
    };
    golden("session-open", &open, &open.encode(), SessionOpen::decode);
    for (name, end) in [
        (
            "session-commit",
            SessionEnd::Commit { token: uuid(1), set_tag: "3f".into(), commit: Box::new(commit()) },
        ),
        ("session-aborted", SessionEnd::Aborted(uuid(1))),
        ("session-fenced", SessionEnd::Fenced(uuid(1))),
    ] {
        golden(name, &end, &end.encode(), SessionEnd::decode);
    }
    let owner =
        HoldOwner { host: "db1".into(), restore: "shop".into(), restore_uuid: uuid(4), pid: 5, time_ns: 6 };
    let hold = Hold { set_tag: "3f".into(), snapshot: uuid(3), owner, token: uuid(7) };
    golden("hold", &hold, &hold.encode(), Hold::decode);
    let released = Released { reason: ReleaseReason::Operator, time_ns: 1, token: uuid(2) };
    golden("hold-released", &released, &released.encode(), Released::decode);
    let mut demanded = Demanded::default();
    (demanded.ranks[0], demanded.ranks[14]) = ((5, vec![0, 1, 300]), (60_000, vec![2, 1_000_000]));
    let drill = Drill {
        snapshot: uuid(1),
        host: "db1".into(),
        time_ns: 2,
        extent: ExtentBytes::DEFAULT,
        demanded,
        token: uuid(3),
    };
    golden("drill", &drill, &drill.encode(), Drill::decode);
    let greedy = Demanded { ranks: std::array::from_fn(|_| (1, (0..drill::EXTENTS_MAX / 15 + 1).collect())) };
    assert!(Drill::decode(&Drill { demanded: greedy, ..drill }.encode()).is_err(), "bounded");
    let run = vec![
        IndexEntry { prefix: [1; 16], plain: 65_536, place: place(2, 3, 64, 500) },
        IndexEntry { prefix: [9; 16], plain: 512, place: moved() },
    ];
    let decode = |bytes: &[u8]| {
        let mut all = Vec::new();
        index::decode(bytes, &mut |entry| all.push(entry)).map(|()| all)
    };
    golden("index", &run, &index::encode(&run), decode);
    let head =
        object::head(ObjectKind::Hold, Method { compression: Compression::Raw, cipher: Cipher::Xaes }, 77);
    same("object-associated", &object::associated(&head, uuid(1), "h/1"));
}

#[test]
fn config_and_keys() {
    let config = Config {
        format: 1,
        cipher: Cipher::Xaes,
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        repository: uuid(1),
        token: uuid(2),
        created_ns: 3,
    };
    golden("config", &config, &config.encode(), Config::decode);
    let slot = KeySlot {
        kind: SlotKind::Passphrase,
        cost: KdfCost::DEFAULT,
        salt: [1; 16],
        check: [2; 16],
        created_ns: 3,
        label: "desk".into(),
        nonce: [4; 24],
        wrapped: [5; 32],
        tag: [6; 16],
    };
    golden("key-slot", &slot, &slot.encode(), KeySlot::decode);
    let greedy = KeySlot { cost: KdfCost { memory_kib: 1 << 30, ..KdfCost::DEFAULT }, ..slot };
    assert_eq!(
        KeySlot::decode(&greedy.encode()),
        Err(Malformed("kdf")),
        "a forged slot must not eat all memory"
    );
}

/// Ids and the tag of a set: what they hash is format too.
#[test]
fn ids() {
    let key = IdKey::new([1; 32]);
    let extent: Vec<u8> = (0..65_536u32).map(|i| (i >> 8) as u8).collect();
    let whole = key.extent(&extent, 65_536);
    let short = key.extent(&extent[..20_000], 65_536);
    let all = [whole.0, short.0, key.node(whole, Id::ZERO).0, key.opaque(b"page").0].concat();
    same("extent-ids", &all);
    assert_eq!(key.set_tag("shop").len(), 32);
    same("set-tag", key.set_tag("shop").as_bytes());
}
