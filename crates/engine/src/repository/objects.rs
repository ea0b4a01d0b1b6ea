//! Objects of a store: reading whole ones, opening sealed ones, and the one primitive that changes anything, a create that
//! knows whether it won.

use super::error::{RepoError, Result};
use rekindle_core::repo::object::ObjectKind;
use rekindle_io::seal::{Keys, Sealer};
use rekindle_io::store::{Draft, Part, Put, Store, StoreExt};
use rekindle_io::{Error, Kind};
use std::sync::mpsc;
use std::time::Duration;

/// How a create ended, for certain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Created {
    /// The object is there and it is ours.
    Won,
    /// Another's object has the name. Its bytes, as far as they were read to find out.
    Lost(Vec<u8>),
}

/// How often an ambiguous answer is resolved by reading back before the error is passed on.
const ATTEMPTS: u32 = 5;
/// The first pause between attempts; doubled each time.
const PAUSE: Duration = if cfg!(test) { Duration::from_micros(1) } else { Duration::from_millis(10) };

/// Creates `name` and finds out who won. The bytes must carry something random of ours (a token, a nonce), so that equal
/// bytes mean our own attempt whose answer was lost. An ambiguous answer is never taken for another outcome: the object is
/// read back; if absent, the same bytes are tried again under the same name.
pub(super) fn create(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<Created> {
    let put = || store.put_new(name, &[bytes]);
    create_by(store, put, |store| Ok(store.get(name, Part::All)?), |theirs| theirs == bytes)
}

/// Creates a pack. Read back is only its tail: footer and sealed directory carry the pack's random name and nonce.
pub(super) fn create_pack(store: &dyn Store, name: &str, parts: &[&[u8]], tail: &[u8]) -> Result<Created> {
    let len = parts.iter().map(|p| p.len() as u64).sum();
    create_by(store, || store.put_new(name, parts), |s| tail_of(s, name, len, tail), |theirs| theirs == tail)
}

/// Ends a draft of a pack of `len` bytes. The bytes are not at hand for a second try: where the first one did not land, its
/// error is the end.
pub(super) fn finish_pack(
    store: &dyn Store,
    name: &str,
    draft: Box<dyn Draft + '_>,
    len: u64,
    tail: &[u8],
) -> Result<Created> {
    let (mut draft, mut failed) = (Some(draft), None);
    let finish = || match (draft.take(), &failed) {
        (Some(draft), _) => draft.finish().inspect_err(|e| failed = Some(e.clone())),
        (None, Some(e)) => Err(e.clone()),
        (None, None) => Ok(Put::Exists),
    };
    create_by(store, finish, |s| tail_of(s, name, len, tail), |theirs| theirs == tail)
}

/// The end of an object of `len` bytes; nothing of one that has another length.
fn tail_of(store: &dyn Store, name: &str, len: u64, tail: &[u8]) -> Result<Vec<u8>> {
    let gone = || Error::new(Kind::Gone, format!("{name}: no such object"));
    let size = store.head(name)?.ok_or_else(gone)?;
    let theirs = store.get(name, Part::Tail(tail.len() as u64))?;
    Ok(if size == len { theirs } else { Vec::new() })
}

fn create_by(
    store: &dyn Store,
    mut put: impl FnMut() -> rekindle_io::Result<Put>,
    read: impl Fn(&dyn Store) -> Result<Vec<u8>>,
    ours: impl Fn(&[u8]) -> bool,
) -> Result<Created> {
    let mut attempt = 0;
    loop {
        let error = match put() {
            Ok(Put::Created) => return Ok(Created::Won),
            Ok(Put::Exists) => None,
            Err(e) if matches!(e.kind, Kind::Retry | Kind::Unavailable) => Some(e),
            Err(e) => return Err(e.into()),
        };
        match read(store) {
            Ok(theirs) if ours(&theirs) => return Ok(Created::Won),
            Ok(theirs) => return Ok(Created::Lost(theirs)),
            // Absent: the first try did not land, or not yet. The same bytes again are right in both cases.
            Err(RepoError::Store(e)) if passing(e.kind) && attempt < ATTEMPTS => (),
            Err(e) => return Err(error.map_or(e, RepoError::Store)),
        }
        std::thread::sleep(PAUSE * (1 << attempt));
        attempt += 1;
    }
}

/// Reading back told nothing yet: nothing is there, or the store did not answer.
fn passing(kind: Kind) -> bool {
    matches!(kind, Kind::Gone | Kind::Retry | Kind::Unavailable)
}

/// Seals and creates a small object.
pub(super) fn create_sealed(
    store: &dyn Store,
    keys: &Keys,
    sealer: &Sealer,
    kind: ObjectKind,
    name: &str,
    plain: &[u8],
) -> Result<Created> {
    create(store, name, &sealer.seal_object(keys.repository, kind, name, plain))
}

/// Opens the bytes of a small object.
pub(super) fn open_sealed(
    keys: &Keys,
    sealer: &Sealer,
    kind: ObjectKind,
    name: &str,
    stored: &[u8],
) -> Result<Vec<u8>> {
    sealer.open_object(keys.repository, kind, name, stored).map_err(|d| RepoError::damaged(name, 0, d.0))
}

/// Reads many objects at once, as far as the store can; results in the order of `names`. `None`: the object is gone.
pub(super) fn get_many(store: &dyn Store, names: &[String]) -> Vec<Result<Option<Vec<u8>>>> {
    let mut out: Vec<Result<Option<Vec<u8>>>> = Vec::with_capacity(names.len());
    for batch in names.chunks(64) {
        let waiting: Vec<_> = batch
            .iter()
            .map(|name| {
                let (tx, rx) = mpsc::sync_channel(1);
                // The receiver lives until the answer came.
                store.start_get(name, Part::All, Box::new(move |r| drop(tx.send(r))));
                rx
            })
            .collect();
        for (name, rx) in batch.iter().zip(waiting) {
            out.push(match rx.recv() {
                Ok(Ok(bytes)) => Ok(Some(bytes)),
                Ok(Err(e)) if e.kind == Kind::Gone => Ok(None),
                Ok(Err(e)) => Err(e.into()),
                Err(_) => Err(Error::new(Kind::Unavailable, format!("{name}: no answer")).into()),
            });
        }
    }
    out
}
