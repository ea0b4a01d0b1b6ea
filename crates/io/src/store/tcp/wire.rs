//! The frames between [`super::TcpStore`] and [`super::StoreServer`]. Not a format that is kept: both ends are of one
//! version, and the greeting tells.
//!
//! Both ways: length (u32, of what follows), id (u64), code (u8), body. The code of a request is its operation, that of
//! a reply 0 or a kind of error. Whatever does not fit ends the connection.

use super::super::{Entry, Part, Put};
use crate::{Error, Kind, Result};
use rekindle_core::bytes::{Malformed, Reader, Writer};
use rekindle_core::volume::ByteRange;
use std::io::{IoSlice, Read, Write};

/// Sent first by both ends.
pub(super) const GREETING: &[u8; 8] = b"rkstore1";
/// Largest frame: a pack and its name, with room.
pub(super) const FRAME_MAX: u32 = 160 << 20;
/// Bytes of id and code, which the length counts too.
const HEAD: u32 = 9;
/// Longest string in a frame: a name, or the text of an error.
const TEXT_MAX: usize = 4096;

/// A frame as it came.
pub(super) struct Frame {
    pub id: u64,
    pub code: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// Reads one; no more memory is taken than bytes came.
    pub fn read(from: &mut impl Read) -> std::io::Result<Frame> {
        let mut head = [0; 13];
        from.read_exact(&mut head)?;
        let mut r = Reader::new(&head);
        let mut fields = || Ok::<_, Malformed>((r.u32("length")?, r.u64("id")?, r.u8("code")?));
        let (len, id, code) = fields().map_err(bad)?;
        if !(HEAD..=FRAME_MAX).contains(&len) {
            return Err(bad(Malformed("frame length")));
        }
        let want = (len - HEAD) as usize;
        let mut body = Vec::with_capacity(want.min(1 << 20));
        from.take(want as u64).read_to_end(&mut body)?;
        if body.len() < want {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Frame { id, code, body })
    }
}

fn bad(m: Malformed) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, m)
}

/// Writes one frame, its body given in two parts.
pub(super) fn write_frame(to: &mut impl Write, id: u64, code: u8, body: [&[u8]; 2]) -> std::io::Result<()> {
    let len = u32::try_from(body[0].len() + body[1].len()).ok().and_then(|n| n.checked_add(HEAD));
    let len = len.filter(|n| *n <= FRAME_MAX).ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut w = Writer::new();
    w.u32(len).u64(id).u8(code);
    let head = w.finish();
    let mut slices = [IoSlice::new(&head), IoSlice::new(body[0]), IoSlice::new(body[1])];
    let mut left = &mut slices[..];
    IoSlice::advance_slices(&mut left, 0);
    while !left.is_empty() {
        match to.write_vectored(left) {
            Ok(0) => return Err(std::io::ErrorKind::WriteZero.into()),
            Ok(n) => IoSlice::advance_slices(&mut left, n),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ask {
    Put(String, Vec<u8>),
    Get(String, Part),
    Head(String),
    List { prefix: String, after: String, limit: u32 },
    Delete(String),
}

impl Ask {
    /// Code and body (in two parts, so that data is not copied again).
    pub fn encode(&self) -> (u8, Vec<u8>, &[u8]) {
        let mut w = Writer::new();
        let (code, data): (u8, &[u8]) = match self {
            Ask::Put(name, data) => {
                w.string(name);
                (1, data)
            }
            Ask::Get(name, part) => {
                let (tag, a, b) = match part {
                    Part::All => (0, 0, 0),
                    Part::Range(r) => (1, r.start, r.len),
                    Part::Tail(n) => (2, *n, 0),
                };
                w.string(name).u8(tag).u64(a).u64(b);
                (2, &[])
            }
            Ask::Head(name) => {
                w.string(name);
                (3, &[])
            }
            Ask::List { prefix, after, limit } => {
                w.string(prefix).string(after).u32(*limit);
                (4, &[])
            }
            Ask::Delete(name) => {
                w.string(name);
                (5, &[])
            }
        };
        (code, w.finish(), data)
    }

    pub fn decode(code: u8, body: &[u8]) -> Result<Ask, Malformed> {
        let mut r = Reader::new(body);
        let name = |r: &mut Reader<'_>| r.string(TEXT_MAX, "name");
        let ask = match code {
            1 => return Ok(Ask::Put(name(&mut r)?, r.rest().to_vec())),
            2 => {
                let (name, tag) = (name(&mut r)?, r.u8("part")?);
                let (a, b) = (r.u64("part")?, r.u64("part")?);
                let part = match tag {
                    0 => Part::All,
                    1 => Part::Range(ByteRange { start: a, len: b }),
                    2 => Part::Tail(a),
                    _ => return Err(Malformed("part")),
                };
                Ask::Get(name, part)
            }
            3 => Ask::Head(name(&mut r)?),
            4 => Ask::List { prefix: name(&mut r)?, after: name(&mut r)?, limit: r.u32("limit")? },
            5 => Ask::Delete(name(&mut r)?),
            _ => return Err(Malformed("operation")),
        };
        r.end("request")?;
        Ok(ask)
    }
}

/// The code of a kind; 0 is success.
const KINDS: [Kind; 13] = [
    Kind::Retry,
    Kind::Unavailable,
    Kind::Fenced,
    Kind::Corrupt,
    Kind::Full,
    Kind::Invalid,
    Kind::Gone,
    Kind::Exists,
    Kind::Busy,
    Kind::Failed,
    Kind::Unsupported,
    Kind::ReadOnly,
    Kind::Cancelled,
];

pub(super) fn encode_error(e: &Error) -> (u8, Vec<u8>) {
    let code = KINDS.iter().position(|k| *k == e.kind).map_or(1, |i| i as u8 + 1);
    // Cut at a character, so that what is left is text.
    let end = (0..=e.what.len().min(TEXT_MAX)).rev().find(|at| e.what.is_char_boundary(*at)).unwrap_or(0);
    let text = &e.what[..end];
    let mut w = Writer::new();
    w.string(text);
    (code, w.finish())
}

/// The body of a reply, or the error it carries.
pub(super) fn reply(frame: Frame) -> Result<Vec<u8>> {
    if frame.code == 0 {
        return Ok(frame.body);
    }
    let kind = KINDS.get(frame.code as usize - 1).copied().unwrap_or(Kind::Failed);
    let mut r = Reader::new(&frame.body);
    Err(Error::new(kind, r.string(TEXT_MAX, "error").unwrap_or_else(|_| "an error without words".into())))
}

pub(super) fn encode_put(put: Put) -> Vec<u8> {
    vec![u8::from(put == Put::Exists)]
}
pub(super) fn decode_put(body: &[u8]) -> Result<Put, Malformed> {
    let mut r = Reader::new(body);
    let put = match r.u8("put")? {
        0 => Put::Created,
        1 => Put::Exists,
        _ => return Err(Malformed("put")),
    };
    r.end("put").map(|()| put)
}

pub(super) fn encode_head(size: Option<u64>) -> Vec<u8> {
    let mut w = Writer::new();
    w.u8(u8::from(size.is_some())).u64(size.unwrap_or(0));
    w.finish()
}
pub(super) fn decode_head(body: &[u8]) -> Result<Option<u64>, Malformed> {
    let mut r = Reader::new(body);
    let (there, size) = (r.u8("head")?, r.u64("head")?);
    r.end("head").map(|()| (there != 0).then_some(size))
}

pub(super) fn encode_list(entries: &[Entry]) -> Vec<u8> {
    let mut w = Writer::new();
    for e in entries {
        w.string(&e.name).u64(e.size);
    }
    w.finish()
}
pub(super) fn decode_list(body: &[u8]) -> Result<Vec<Entry>, Malformed> {
    let mut r = Reader::new(body);
    let mut out = Vec::new();
    while !r.rest().is_empty() {
        out.push(Entry { name: r.string(TEXT_MAX, "name")?, size: r.u64("size")? });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask() -> impl Strategy<Value = Ask> {
        let name = "[a-z/]{0,40}";
        let part = prop_oneof![
            Just(Part::All),
            any::<u64>().prop_map(Part::Tail),
            any::<(u64, u64)>().prop_map(|(start, len)| Part::Range(ByteRange { start, len })),
        ];
        prop_oneof![
            (name, any::<Vec<u8>>()).prop_map(|(n, d)| Ask::Put(n, d)),
            (name, part).prop_map(|(n, p)| Ask::Get(n, p)),
            name.prop_map(Ask::Head),
            (name, name, any::<u32>()).prop_map(|(prefix, after, limit)| Ask::List { prefix, after, limit }),
            name.prop_map(Ask::Delete),
        ]
    }

    proptest! {
        #[test]
        fn what_is_asked_arrives(ask in ask(), id: u64) {
            let (code, head, data) = ask.encode();
            let mut wire = Vec::new();
            write_frame(&mut wire, id, code, [&head, data]).unwrap();
            let mut from = &wire[..];
            let frame = Frame::read(&mut from).unwrap();
            prop_assert!(from.is_empty());
            prop_assert_eq!((frame.id, Ask::decode(frame.code, &frame.body)), (id, Ok(ask)));
            // No shorter stretch of it is a frame.
            for cut in 0..wire.len().min(64) {
                prop_assert!(Frame::read(&mut &wire[..cut]).is_err());
            }
        }

        #[test]
        fn garbage_is_an_error_and_no_panic(bytes: Vec<u8>, code: u8) {
            let _ = (Frame::read(&mut &bytes[..]), Ask::decode(code, &bytes), decode_list(&bytes));
            let _ = (decode_put(&bytes), decode_head(&bytes), reply(Frame { id: 0, code, body: bytes }));
        }
    }

    #[test]
    fn every_kind_of_error_arrives() {
        for kind in KINDS {
            let (code, body) = encode_error(&Error::new(kind, "ü".repeat(5000)));
            let e = reply(Frame { id: 1, code, body }).unwrap_err();
            assert!(e.kind == kind && e.what.starts_with("üü"));
        }
    }
}
