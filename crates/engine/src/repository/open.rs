//! Making, opening and unlocking a repository.

use super::core::Core;
use super::error::{RepoError, Result};
use super::objects::{Created, create};
use super::pages::PageCache;
use rekindle_core::repo::config::{ConfigError, FORMAT};
use rekindle_core::repo::key_slot::{KdfCost, KeySlot, SlotKind};
use rekindle_core::repo::{Cipher, Config, names};
use rekindle_core::volume::Uuid;
use rekindle_io::seal::{Credential, CredentialError, Keys, Master};
use rekindle_io::store::{Part, Store, StoreExt};
use rekindle_io::{Kind, random};
use std::sync::Arc;

/// How to make a repository.
#[derive(Clone, Debug)]
pub struct InitOptions {
    /// `None`: no encryption. The caller has said so aloud (`--no-encryption`).
    pub credential: Option<Credential>,
    /// Costs of a passphrase.
    pub cost: KdfCost,
    /// Now, nanoseconds since 1970.
    pub time_ns: u64,
    /// Label of the key slot, for people: who made it.
    pub label: String,
}

impl InitOptions {
    /// Encrypted under `credential` at the default cost; without one, not encrypted.
    pub fn new(credential: Option<Credential>, time_ns: u64) -> Self {
        InitOptions { credential, cost: KdfCost::DEFAULT, time_ns, label: String::new() }
    }
}

/// A key slot as `key list` shows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyInfo {
    /// Name of the slot.
    pub slot: Uuid,
    /// Passphrase or key file.
    pub kind: SlotKind,
    /// Label given when it was added.
    pub label: String,
    /// When, nanoseconds since 1970.
    pub created_ns: u64,
}

/// Default bound of decoded pages in memory.
pub(super) const PAGE_CACHE_BYTES: usize = 16 << 20;

impl From<CredentialError> for RepoError {
    fn from(e: CredentialError) -> Self {
        match e {
            CredentialError::WrongKey => RepoError::WrongKey,
            CredentialError::ShortKeyFile => {
                RepoError::Credential("a key file must hold at least 32 bytes, or 64 hex digits")
            }
            CredentialError::EmptyPassphrase => RepoError::Credential("the password is empty"),
            CredentialError::Kdf => {
                RepoError::Credential("the password could not be stretched: not enough memory?")
            }
        }
    }
}

/// Makes a repository. The key slot comes first, the config last: a repository without a key cannot come to be.
pub(super) fn init(store: Arc<dyn Store>, options: &InitOptions) -> Result<Core> {
    let already = |place| Err(RepoError::AlreadyARepository { place });
    if store.head(names::CONFIG)?.is_some() {
        return already(store.place());
    }
    let cipher = if options.credential.is_some() { Cipher::Xaes } else { Cipher::Checksum };
    let config = Config {
        format: FORMAT,
        cipher,
        compat: 0,
        ro_compat: 0,
        incompat: 0,
        repository: random::uuid(),
        token: random::uuid(),
        created_ns: options.time_ns,
    };
    let mut master = None;
    if let Some(credential) = &options.credential {
        credential.check()?;
        let fresh = Master::generate();
        let slot = random::uuid();
        let wrapped = fresh.wrap(credential, options.cost, &config, slot, options.time_ns, &options.label)?;
        create(&*store, &names::key_slot(slot), &wrapped.encode())?;
        master = Some(fresh);
    }
    match create(&*store, names::CONFIG, &config.encode())? {
        Created::Won => Ok(assemble(store, config, master, PAGE_CACHE_BYTES)),
        Created::Lost(_) => already(store.place()),
    }
}

fn assemble(store: Arc<dyn Store>, config: Config, master: Option<Master>, cache: usize) -> Core {
    let keys = match &master {
        Some(m) => Keys::new(&config, m),
        None => Keys::public(&config),
    };
    Core { store, config, keys, master, pages: PageCache::new(cache) }
}

/// Opens a repository: config, key slots, nothing else.
pub(super) fn open(store: Arc<dyn Store>, credential: Option<&Credential>, cache: usize) -> Result<Core> {
    let config = read_config(&*store)?;
    let master = match (config.cipher, credential) {
        (Cipher::Checksum, None) => None,
        (Cipher::Checksum, Some(_)) => return Err(RepoError::NotEncrypted),
        (Cipher::Xaes, None) => return Err(RepoError::KeyNeeded),
        (Cipher::Xaes, Some(c)) => Some(unlock(&*store, &config, c)?),
    };
    Ok(assemble(store, config, master, cache))
}

fn read_config(store: &dyn Store) -> Result<Config> {
    // Where key slots lie there was a repository: then the config is what is wrong.
    let none = |what| match has_slots(store) {
        true => RepoError::damaged(names::CONFIG, 0, what),
        false => RepoError::NotARepository { place: store.place() },
    };
    let bytes = match store.get(names::CONFIG, Part::All) {
        Ok(bytes) => bytes,
        Err(e) if e.kind == Kind::Gone => return Err(none("it is missing")),
        Err(e) => return Err(e.into()),
    };
    Config::decode(&bytes).map_err(|e| match e {
        ConfigError::NotARepository => none("it does not begin as one"),
        ConfigError::Damaged => RepoError::damaged(names::CONFIG, 0, "checksum does not match"),
        ConfigError::Newer { format, incompat } => {
            RepoError::NewerFormat { found: format, features: incompat, known: FORMAT }
        }
    })
}

fn has_slots(store: &dyn Store) -> bool {
    let slot = |name: &str| name.strip_prefix(names::KEYS).is_some_and(|n| n.parse::<Uuid>().is_ok());
    store.list_all(names::KEYS).is_ok_and(|found| found.iter().any(|e| slot(&e.name)))
}

type Slots = Vec<(Uuid, KeySlot)>;

/// All slots that can be read, and the first that cannot.
fn slots(store: &dyn Store) -> Result<(Slots, Option<RepoError>)> {
    let (mut good, mut bad) = (Vec::new(), None);
    for entry in store.list_all(names::KEYS)? {
        let Ok(uuid) = entry.name[names::KEYS.len()..].parse::<Uuid>() else { continue };
        match KeySlot::decode(&store.get(&entry.name, Part::All)?) {
            Ok(slot) => good.push((uuid, slot)),
            Err(m) => bad = bad.or(Some(RepoError::damaged(entry.name, 0, m.0))),
        }
    }
    Ok((good, bad))
}

fn unlock(store: &dyn Store, config: &Config, credential: &Credential) -> Result<Master> {
    credential.check()?;
    let (good, bad) = slots(store)?;
    if good.is_empty() && bad.is_none() {
        return Err(RepoError::damaged(names::KEYS, 0, "no key slot is there any more"));
    }
    for (uuid, slot) in good {
        match Master::unwrap(&slot, credential, config, uuid) {
            Err(CredentialError::WrongKey) => (),
            other => return Ok(other?),
        }
    }
    // With a damaged slot nobody can say that the credential is wrong.
    Err(bad.unwrap_or(RepoError::WrongKey))
}

impl Core {
    pub(super) fn keys_list(&self) -> Result<Vec<KeyInfo>> {
        let (good, _) = slots(&*self.store)?;
        let info = |(slot, s): (Uuid, KeySlot)| KeyInfo {
            slot,
            kind: s.kind,
            label: s.label,
            created_ns: s.created_ns,
        };
        Ok(good.into_iter().map(info).collect())
    }
    pub(super) fn key_add(
        &self,
        credential: &Credential,
        cost: KdfCost,
        time_ns: u64,
        label: &str,
    ) -> Result<Uuid> {
        credential.check()?;
        let master = self.master.as_ref().ok_or(RepoError::NotEncrypted)?;
        let slot = random::uuid();
        let wrapped = master.wrap(credential, cost, &self.config, slot, time_ns, label)?;
        create(&*self.store, &names::key_slot(slot), &wrapped.encode())?;
        Ok(slot)
    }
    pub(super) fn key_remove(&self, slot: Uuid) -> Result<()> {
        let (good, _) = slots(&*self.store)?;
        if good.iter().all(|(uuid, _)| *uuid == slot) {
            return Err(RepoError::LastKey);
        }
        Ok(self.store.delete(&names::key_slot(slot))?)
    }
}
