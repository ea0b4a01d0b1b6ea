//! The first object a reader looks at: `config`. Plain, because it says how everything else is sealed; its damage is found
//! by a checksum, its forgery by the key slots, which are bound to its bytes.
//!
//! ```text
//! "RKREPO01", u16 format, u8 cipher, 5 zero bytes, u64 compat, u64 ro_compat, u64 incompat, repository 16, token 16,
//! u64 created (ns since 1970), crc32c
//! ```

use crate::bytes::{Malformed, Reader, Writer, crc32c};
use crate::volume::Uuid;

/// The format this program writes.
pub const FORMAT: u16 = 1;
/// Features that a reader must know (a bit of `incompat` it does not know: refuse). None yet.
pub const INCOMPAT_KNOWN: u64 = 0;
/// Features that a writer must know (else open read-only). None yet.
pub const RO_COMPAT_KNOWN: u64 = 0;

/// How frames and objects are sealed, fixed for the whole repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Cipher {
    /// No secrecy and no defence against forgery: keyed BLAKE3 under a key anyone can derive finds damage, nothing more.
    Checksum = 0,
    /// XAES-256-GCM: authenticated encryption with 192-bit random nonces.
    Xaes = 1,
}

impl Cipher {
    /// The cipher stored as `b`.
    pub fn from_byte(b: u8) -> Result<Self, Malformed> {
        match b {
            0 => Ok(Cipher::Checksum),
            1 => Ok(Cipher::Xaes),
            _ => Err(Malformed("cipher")),
        }
    }
}

/// The repository's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Format version.
    pub format: u16,
    /// How everything is sealed.
    pub cipher: Cipher,
    /// Features that may be ignored.
    pub compat: u64,
    /// Features that writers must know.
    pub ro_compat: u64,
    /// Features that readers must know.
    pub incompat: u64,
    /// Identity of the repository.
    pub repository: Uuid,
    /// Random: who reads it back knows whether his create won.
    pub token: Uuid,
    /// Nanoseconds since 1970; for people.
    pub created_ns: u64,
}

/// Why a config cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// Does not begin as a repository does.
    NotARepository,
    /// Damaged.
    Damaged,
    /// Format or features this program does not know.
    Newer {
        /// What was found.
        format: u16,
        /// Unknown bits.
        incompat: u64,
    },
}

const MAGIC: &[u8; 8] = b"RKREPO01";

impl Config {
    /// As stored.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        w.raw(MAGIC).u16(self.format).u8(self.cipher as u8).raw(&[0; 5]);
        w.u64(self.compat).u64(self.ro_compat).u64(self.incompat);
        w.raw(&self.repository.0).raw(&self.token.0).u64(self.created_ns);
        let crc = crc32c(w.bytes());
        w.u32(crc);
        w.finish()
    }
    /// Reads and judges.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        if bytes.first_chunk::<8>() != Some(MAGIC) {
            return Err(ConfigError::NotARepository);
        }
        let config = Self::decode_fields(bytes).map_err(|Malformed(_)| ConfigError::Damaged);
        // The checksum comes last in every version, so that a newer format is told from damage.
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(ConfigError::Damaged)?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return Err(ConfigError::Damaged);
        }
        let format = u16::from_le_bytes([bytes[8], bytes[9]]);
        if format > FORMAT {
            return Err(ConfigError::Newer { format, incompat: 0 });
        }
        let config = config?;
        let unknown = config.incompat & !INCOMPAT_KNOWN;
        if unknown != 0 {
            return Err(ConfigError::Newer { format, incompat: unknown });
        }
        Ok(config)
    }
    fn decode_fields(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut r = Reader::new(bytes);
        r.take(8, "config")?;
        let format = r.u16("config")?;
        let cipher = Cipher::from_byte(r.u8("config")?)?;
        r.take(5, "config")?;
        let config = Config {
            format,
            cipher,
            compat: r.u64("config")?,
            ro_compat: r.u64("config")?,
            incompat: r.u64("config")?,
            repository: Uuid(r.array("config")?),
            token: Uuid(r.array("config")?),
            created_ns: r.u64("config")?,
        };
        r.u32("config")?;
        r.end("config")?;
        Ok(config)
    }
    /// Somebody who does not know all features may read but not write.
    pub fn writable(&self) -> bool {
        self.ro_compat & !RO_COMPAT_KNOWN == 0
    }
}
