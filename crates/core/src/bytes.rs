//! A little-endian cursor pair for every on-disk layout: `Writer` appends, `Reader` takes with bounds checks.
//!
//! Sizes on disk are u64 little-endian. A layout is written once, beside its codec, with golden bytes in a test.

use std::fmt;

/// All of `bytes` are zero. Compares with the run before it, which the C library does far faster than a loop over bytes.
pub fn is_zero(bytes: &[u8]) -> bool {
    match bytes.split_first() {
        Some((first, rest)) => *first == 0 && *rest == bytes[..rest.len()],
        None => true,
    }
}

/// The bytes ended early or held something the layout does not allow. Names the field, for the error a user reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {}", self.0)
    }
}
impl std::error::Error for Malformed {}

/// Takes fields off the front of a slice; never reads past the end, never panics.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Reader { rest: bytes }
    }
    /// What has not been taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    /// Takes `n` bytes.
    pub fn take(&mut self, n: usize, field: &'static str) -> Result<&'a [u8], Malformed> {
        let (head, rest) = self.rest.split_at_checked(n).ok_or(Malformed(field))?;
        self.rest = rest;
        Ok(head)
    }
    /// Takes a fixed-size array.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], Malformed> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Malformed(field))?;
        self.rest = rest;
        Ok(*head)
    }
    /// Takes one byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Malformed> {
        Ok(self.array::<1>(field)?[0])
    }
    /// Takes a u16.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }
    /// Takes a u32.
    pub fn u32(&mut self, field: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }
    /// Takes a u64.
    pub fn u64(&mut self, field: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }
    /// Takes a string of at most `max` bytes, stored as u16 length and UTF-8.
    pub fn string(&mut self, max: usize, field: &'static str) -> Result<String, Malformed> {
        let len = self.u16(field)? as usize;
        if len > max {
            return Err(Malformed(field));
        }
        let raw = self.take(len, field)?;
        String::from_utf8(raw.to_vec()).map_err(|_| Malformed(field))
    }
    /// Fails unless everything was taken: trailing bytes are an error in every layout.
    pub fn end(&self, what: &'static str) -> Result<(), Malformed> {
        if self.rest.is_empty() { Ok(()) } else { Err(Malformed(what)) }
    }
}

/// Appends fields to a buffer.
#[derive(Default, Debug)]
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Writer::default()
    }
    /// Appends raw bytes.
    pub fn raw(&mut self, b: &[u8]) -> &mut Self {
        self.out.extend_from_slice(b);
        self
    }
    /// Appends one byte.
    pub fn u8(&mut self, v: u8) -> &mut Self {
        self.raw(&[v])
    }
    /// Appends a u16.
    pub fn u16(&mut self, v: u16) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    /// Appends a u32.
    pub fn u32(&mut self, v: u32) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    /// Appends a u64.
    pub fn u64(&mut self, v: u64) -> &mut Self {
        self.raw(&v.to_le_bytes())
    }
    /// Appends a string as u16 length and UTF-8. The caller has bounded it: more than 65,535 bytes is a bug.
    pub fn string(&mut self, s: &str) -> &mut Self {
        assert!(s.len() <= u16::MAX as usize, "string field over 64 KiB");
        self.u16(s.len() as u16).raw(s.as_bytes())
    }
    /// How much has been written.
    pub fn len(&self) -> usize {
        self.out.len()
    }
    /// Nothing written yet.
    pub fn is_empty(&self) -> bool {
        self.out.is_empty()
    }
    /// The bytes so far (to checksum them before the checksum is appended).
    pub fn bytes(&self) -> &[u8] {
        &self.out
    }
    /// The finished bytes.
    pub fn finish(self) -> Vec<u8> {
        self.out
    }
}

/// CRC-32C (Castagnoli) of `bytes`: the checksum of every layout that is not sealed.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_is_castagnoli() {
        // RFC 3720, B.4: 32 bytes of zero.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn reader_never_runs_past_the_end() {
        let mut w = Writer::new();
        w.u32(7).string("shop").u64(9);
        let b = w.finish();
        for cut in 0..b.len() {
            let mut r = Reader::new(&b[..cut]);
            let whole = (|| Ok::<_, Malformed>((r.u32("a")?, r.string(16, "b")?, r.u64("c")?)))();
            assert!(whole.is_err());
        }
        let mut r = Reader::new(&b);
        assert_eq!((r.u32("a"), r.string(16, "b").as_deref(), r.u64("c")), (Ok(7), Ok("shop"), Ok(9)));
        assert_eq!(r.end("x"), Ok(()));
    }
}
