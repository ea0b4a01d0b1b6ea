//! Keys: one random master key a repository, wrapped in slots; from it one derived key for each purpose.
//!
//! Data, metadata and commits have keys of their own, so that a collector can be given metadata and commits and no data.
//! Credentials can be added and removed without touching data: only slots are rewritten.

use super::aead::XaesKey;
use super::frame::Sealer;
use super::secret::Secret;
use crate::random;
use rekindle_core::repo::key_slot::{KdfCost, KeySlot, SlotKind};
use rekindle_core::repo::{Cipher, Config, IdKey};
use rekindle_core::volume::Uuid;
use zeroize::Zeroizing;

/// What a user opens an encrypted repository with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Stretched by Argon2id (64 MiB, about 150 ms).
    Passphrase(Secret),
    /// Content of a key file: 32 raw bytes or more, or 64 hex digits or more; not stretched.
    KeyFile(Secret),
}

/// Why a credential cannot be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CredentialError {
    /// A key file must hold at least 32 bytes, or 64 hex digits.
    ShortKeyFile,
    /// A passphrase of no characters.
    EmptyPassphrase,
    /// Argon2 could not run (memory).
    Kdf,
    /// The slot is not for this credential.
    WrongKey,
}

const PURPOSE: &str = "rekindle repository format 1 ";

fn derive(purpose: &str, material: &[u8]) -> Zeroizing<[u8; 32]> {
    Zeroizing::new(blake3::derive_key(&format!("{PURPOSE}{purpose}"), material))
}

impl Credential {
    fn kind(&self) -> SlotKind {
        match self {
            Credential::Passphrase(_) => SlotKind::Passphrase,
            Credential::KeyFile(_) => SlotKind::KeyFile,
        }
    }
    /// The key that wraps the master key.
    fn wrapping_key(&self, salt: &[u8; 16], cost: KdfCost) -> Result<Zeroizing<[u8; 32]>, CredentialError> {
        match self {
            Credential::Passphrase(p) if p.bytes().is_empty() => Err(CredentialError::EmptyPassphrase),
            Credential::Passphrase(p) => stretch(p.bytes(), salt, cost),
            Credential::KeyFile(content) => {
                let mut material = key_file_material(content.bytes())?;
                material.extend_from_slice(salt);
                Ok(derive("key file", &material))
            }
        }
    }
    /// Refuses what could never open a repository, before one is made with it.
    pub fn check(&self) -> Result<(), CredentialError> {
        match self {
            Credential::Passphrase(p) if p.bytes().is_empty() => Err(CredentialError::EmptyPassphrase),
            Credential::Passphrase(_) => Ok(()),
            Credential::KeyFile(c) => key_file_material(c.bytes()).map(drop),
        }
    }
}

fn stretch(
    passphrase: &[u8],
    salt: &[u8; 16],
    cost: KdfCost,
) -> Result<Zeroizing<[u8; 32]>, CredentialError> {
    let params = argon2::Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32))
        .map_err(|_| CredentialError::Kdf)?;
    let argon = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let mut out = Zeroizing::new([0; 32]);
    argon.hash_password_into(passphrase, salt, &mut *out).map_err(|_| CredentialError::Kdf)?;
    Ok(out)
}

/// Hex if it is hex (line end allowed), else the raw bytes.
fn key_file_material(content: &[u8]) -> Result<Zeroizing<Vec<u8>>, CredentialError> {
    let text = content.trim_ascii_end();
    let digit = |b: &u8| (*b as char).to_digit(16).map(|d| d as u8);
    if text.len() >= 64 && text.len().is_multiple_of(2) && text.iter().all(u8::is_ascii_hexdigit) {
        let nibbles = Zeroizing::new(text.iter().filter_map(digit).collect::<Vec<u8>>());
        return Ok(Zeroizing::new(nibbles.chunks(2).map(|p| p[0] << 4 | p[1]).collect()));
    }
    if content.len() < 32 {
        return Err(CredentialError::ShortKeyFile);
    }
    Ok(Zeroizing::new(content.to_vec()))
}

/// The master key; only this module sees its bytes.
pub struct Master(Zeroizing<[u8; 32]>);

impl Master {
    /// A fresh one.
    pub fn generate() -> Self {
        let mut key = Zeroizing::new([0; 32]);
        random::fill(&mut *key);
        Master(key)
    }
    fn check_value(&self) -> [u8; 16] {
        let mut out = [0; 16];
        out.copy_from_slice(&derive("key check", &*self.0)[..16]);
        out
    }
    /// Wraps it for `credential` in the slot `slot` of the repository with `config`.
    pub fn wrap(
        &self,
        credential: &Credential,
        cost: KdfCost,
        config: &Config,
        slot: Uuid,
        created_ns: u64,
        label: &str,
    ) -> Result<KeySlot, CredentialError> {
        let (mut salt, mut nonce) = ([0; 16], [0; 24]);
        random::fill(&mut salt);
        random::fill(&mut nonce);
        let mut out = KeySlot {
            kind: credential.kind(),
            cost,
            salt,
            check: self.check_value(),
            created_ns,
            label: label.chars().take(48).collect(),
            nonce,
            wrapped: *self.0,
            tag: [0; 16],
        };
        let key = XaesKey::new(&*credential.wrapping_key(&salt, cost)?);
        let aad = slot_aad(&out, config, slot);
        out.tag = key.seal(&nonce, &aad, &mut out.wrapped);
        Ok(out)
    }
    /// Opens a slot; `WrongKey` if it is not for this credential (or was forged).
    pub fn unwrap(
        slot: &KeySlot,
        credential: &Credential,
        config: &Config,
        name: Uuid,
    ) -> Result<Self, CredentialError> {
        if slot.kind != credential.kind() {
            return Err(CredentialError::WrongKey);
        }
        let key = XaesKey::new(&*credential.wrapping_key(&slot.salt, slot.cost)?);
        let mut master = Master(Zeroizing::new([0; 32]));
        key.open(&slot.nonce, &slot_aad(slot, config, name), &slot.wrapped, &slot.tag, &mut *master.0)
            .map_err(|_| CredentialError::WrongKey)?;
        // GCM does not commit to a key: two keys can open one slot. The check value settles which it was made with.
        if master.check_value() == slot.check { Ok(master) } else { Err(CredentialError::WrongKey) }
    }
}

/// A slot works in its own repository, under its own name, for the config it was made for, and for nothing else.
fn slot_aad(slot: &KeySlot, config: &Config, name: Uuid) -> Vec<u8> {
    let mut aad = slot.head();
    aad.extend_from_slice(&name.0);
    aad.extend_from_slice(blake3::hash(&config.encode()).as_bytes());
    aad
}

/// Everything derived from the master key, ready for use.
pub struct Keys {
    /// The repository: part of every seal.
    pub repository: Uuid,
    /// How everything is sealed.
    pub cipher: Cipher,
    /// Ids of content and tags of sets.
    pub ids: IdKey,
    /// Extents.
    pub data: Sealer,
    /// Pages, directories, sessions, holds, index.
    pub meta: Sealer,
    /// Commits and checkpoints.
    pub commits: Sealer,
}

impl Keys {
    /// Of an encrypted repository.
    pub fn new(config: &Config, master: &Master) -> Self {
        Self::derive_all(config, &*master.0)
    }
    /// Of a repository without encryption: anyone can derive them from its uuid; they find damage only.
    pub fn public(config: &Config) -> Self {
        Self::derive_all(config, &derive("no encryption", &config.repository.0)[..])
    }
    fn derive_all(config: &Config, root: &[u8]) -> Self {
        let sealer = |purpose: &str| Sealer::new(config.cipher, &derive(purpose, root));
        Keys {
            repository: config.repository,
            cipher: config.cipher,
            ids: IdKey::new(*derive("ids", root)),
            data: sealer("data"),
            meta: sealer("metadata"),
            commits: sealer("commits"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small, so that tests are quick; the default cost has a test of its own.
    const CHEAP: KdfCost = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };

    fn config() -> Config {
        Config {
            format: 1,
            cipher: Cipher::Xaes,
            compat: 0,
            ro_compat: 0,
            incompat: 0,
            repository: Uuid([1; 16]),
            token: Uuid([2; 16]),
            created_ns: 3,
        }
    }
    fn pass(s: &str) -> Credential {
        Credential::Passphrase(Secret::new(s.into()))
    }

    #[test]
    fn the_right_credential_opens_and_no_other() {
        let (master, c) = (Master::generate(), config());
        let file = Credential::KeyFile(Secret::new(vec![9; 32]));
        for right in [pass("correct horse"), file.clone()] {
            let slot = master.wrap(&right, CHEAP, &c, Uuid([4; 16]), 0, "host").unwrap();
            let slot = KeySlot::decode(&slot.encode()).unwrap();
            assert_eq!(*Master::unwrap(&slot, &right, &c, Uuid([4; 16])).unwrap().0, *master.0);
            let wrong = |cred: &Credential, c: &Config, name| {
                assert_eq!(Master::unwrap(&slot, cred, c, name).err(), Some(CredentialError::WrongKey));
            };
            wrong(&pass("correct hors"), &c, Uuid([4; 16]));
            wrong(&Credential::KeyFile(Secret::new(vec![8; 32])), &c, Uuid([4; 16]));
            wrong(&right, &c, Uuid([5; 16]));
            wrong(&right, &Config { cipher: Cipher::Checksum, ..config() }, Uuid([4; 16]));
        }
    }

    #[test]
    fn key_files_in_hex_and_raw() {
        let hex = "0123456789abcdef".repeat(4) + "\n";
        assert_eq!(key_file_material(hex.as_bytes()).unwrap()[..4], [0x01, 0x23, 0x45, 0x67]);
        assert_eq!(key_file_material(&[7; 40]).unwrap().len(), 40);
        assert_eq!(key_file_material(b"short").err(), Some(CredentialError::ShortKeyFile));
        assert_eq!(pass("").check(), Err(CredentialError::EmptyPassphrase));
    }

    /// RFC 9106's Argon2id is deterministic: a slot written today opens for ever. Known answer at the default cost.
    #[test]
    fn default_cost_known_answer() {
        let key = stretch(b"correct horse battery staple", &[7; 16], KdfCost::DEFAULT).unwrap();
        let hex: String = key.iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, include_str!("golden/argon2id.hex").trim());
    }

    #[test]
    fn nothing_secret_is_printed() {
        assert_eq!(format!("{:?}", pass("hunter2")), "Passphrase(Secret(..))");
    }
}
