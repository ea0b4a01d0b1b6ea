//! From plain extent to frame and back: compression, AEAD; keys in memory; a small pool for the slow part (zstd).

mod aead;
mod compress;
mod frame;
mod keys;
mod pool;
mod secret;

pub use aead::NotAuthentic;
pub use compress::{compress, decompress};
pub use frame::{Damaged, Sealer};
pub use keys::{Credential, CredentialError, Keys, Master};
pub use pool::{CompressPool, Compressed};
pub use secret::Secret;
