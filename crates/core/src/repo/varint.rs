//! Variable-length integers inside pages: LEB128, zigzag for signed differences. Only the shortest form is legal.

use crate::bytes::{Malformed, Reader, Writer};

/// Appends `v` in as few groups of seven bits as it needs.
pub fn put(w: &mut Writer, mut v: u64) {
    while v >= 0x80 {
        w.u8(v as u8 | 0x80);
        v >>= 7;
    }
    w.u8(v as u8);
}

/// Takes an unsigned integer; a longer form than needed is malformed, so that one value has one encoding.
pub fn get(r: &mut Reader<'_>, field: &'static str) -> Result<u64, Malformed> {
    let mut v = 0u64;
    for shift in (0..64).step_by(7) {
        let b = r.u8(field)?;
        let bits = u64::from(b & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(Malformed(field));
        }
        v |= bits << shift;
        if b & 0x80 == 0 {
            return if b == 0 && shift > 0 { Err(Malformed(field)) } else { Ok(v) };
        }
    }
    Err(Malformed(field))
}

/// Takes an unsigned integer that must fit in 32 bits.
pub fn get_u32(r: &mut Reader<'_>, field: &'static str) -> Result<u32, Malformed> {
    u32::try_from(get(r, field)?).map_err(|_| Malformed(field))
}

/// Appends a signed difference.
pub fn put_signed(w: &mut Writer, v: i64) {
    put(w, ((v << 1) ^ (v >> 63)) as u64);
}

/// Takes a signed difference.
pub fn get_signed(r: &mut Reader<'_>, field: &'static str) -> Result<i64, Malformed> {
    let z = get(r, field)?;
    Ok(((z >> 1) as i64) ^ -((z & 1) as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_one_encoding() {
        for v in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut w = Writer::new();
            put(&mut w, v);
            put_signed(&mut w, v as i64);
            let b = w.finish();
            let mut r = Reader::new(&b);
            assert_eq!((get(&mut r, "v"), get_signed(&mut r, "s")), (Ok(v), Ok(v as i64)));
            r.end("x").unwrap();
        }
        assert!(get(&mut Reader::new(&[0x80, 0x00]), "long form").is_err());
        assert!(get(&mut Reader::new(&[0xff; 11]), "too long").is_err());
        assert!(get(&mut Reader::new(&[0x80]), "cut").is_err());
    }
}
