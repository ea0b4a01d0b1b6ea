//! A store in memory: for tests, and the plain model that other stores are compared with. Objects live as long as it
//! does; every operation is one step under one lock, so nothing is ever half there.

use super::{Entry, GetDone, Part, Put, Store, check_name};
use crate::{Error, Kind, Result};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Objects = BTreeMap<String, Arc<[u8]>>;

/// Objects in a map.
#[derive(Default)]
pub struct MemStore {
    objects: Mutex<Objects>,
}

impl MemStore {
    /// An empty store.
    pub fn new() -> Self {
        MemStore::default()
    }
    /// A second store with the same objects: the state at a crash, or a copy that then goes its own way.
    pub fn copy(&self) -> Self {
        MemStore { objects: Mutex::new(self.lock().clone()) }
    }
    /// Changes the bytes of an object behind the store's back, as a bad disk would. False if it does not exist.
    pub fn damage(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut objects = self.lock();
        let Some(object) = objects.get_mut(name) else { return false };
        let mut bytes = object.to_vec();
        change(&mut bytes);
        *object = bytes.into();
        true
    }
    /// Stored bytes of all objects.
    pub fn bytes(&self) -> u64 {
        self.lock().values().map(|o| o.len() as u64).sum()
    }
    // Every step leaves the map whole, so a panic elsewhere under the lock harms nothing.
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts `part` out of an object, with the errors the port promises.
pub(super) fn cut(name: &str, object: &[u8], part: Part) -> Result<Vec<u8>> {
    let len = object.len() as u64;
    let (start, end) = match part {
        Part::All => (0, len),
        Part::Tail(n) => (len - n.min(len), len),
        Part::Range(r) if r.start.checked_add(r.len).is_some_and(|end| end <= len) => (r.start, r.end()),
        Part::Range(r) => return Err(ends_early(name, len, r)),
    };
    Ok(object[start as usize..end as usize].to_vec())
}

pub(super) fn ends_early(name: &str, len: u64, r: rekindle_core::volume::ByteRange) -> Error {
    Error::new(
        Kind::Corrupt,
        format!(
            "{name}: the object ends at {len}, bytes {} to {} were expected",
            r.start,
            r.start.saturating_add(r.len)
        ),
    )
}

pub(super) fn gone(name: &str) -> Error {
    Error::new(Kind::Gone, format!("{name}: no such object"))
}

impl Store for MemStore {
    fn place(&self) -> String {
        "memory".into()
    }

    fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
        check_name(name)?;
        let bytes = parts.concat();
        let mut objects = self.lock();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        objects.insert(name.into(), bytes.into());
        Ok(Put::Created)
    }

    fn start_get(&self, name: &str, part: Part, done: GetDone) {
        let object = self.lock().get(name).cloned();
        done(check_name(name).and_then(|()| cut(name, &object.ok_or_else(|| gone(name))?, part)));
    }

    fn head(&self, name: &str) -> Result<Option<u64>> {
        check_name(name)?;
        Ok(self.lock().get(name).map(|o| o.len() as u64))
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>> {
        let objects = self.lock();
        let from = if after < prefix { Bound::Included(prefix) } else { Bound::Excluded(after) };
        Ok(objects
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(name, _)| name.starts_with(prefix))
            .take(limit)
            .map(|(name, o)| Entry { name: name.clone(), size: o.len() as u64 })
            .collect())
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.lock().remove(name);
        Ok(())
    }

    fn answers_inline(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        super::super::kit::check(&|| Arc::new(MemStore::new()));
    }

    #[test]
    fn copies_part_ways_and_damage_stays() {
        let a = MemStore::new();
        a.put_new("x", &[b"ab", b"c"]).unwrap();
        let b = a.copy();
        a.delete("x").unwrap();
        assert!(b.damage("x", |v| v[1] ^= 1) && !a.damage("x", |_| ()));
        assert_eq!(super::super::StoreExt::get(&b, "x", Part::All).unwrap(), b"acc");
        assert_eq!((a.bytes(), b.bytes()), (0, 3));
    }
}
