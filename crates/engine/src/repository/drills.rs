//! What drills demanded: kept by whoever throws one away, read by the next restore and the next backup. See core::repo::drill.

use super::core::Core;
use super::error::{RepoError, Result};
use super::objects::{Created, create_sealed, open_sealed};
use rekindle_core::repo::object::ObjectKind;
use rekindle_core::repo::{Drill, names};
use rekindle_core::volume::Uuid;
use rekindle_io::store::{Part, StoreExt};

impl Core {
    fn newest_number(&self, prefix: &str) -> Result<u64> {
        let list = self.store.list_all(prefix)?;
        Ok(list.iter().filter_map(|e| names::parse_number(&e.name, prefix)).max().unwrap_or(0))
    }
    /// Keeps a drill of `volume` under a number above `after` and above all others; gives the number.
    pub(super) fn keep_drill(&self, volume: Uuid, after: u64, drill: &Drill) -> Result<u64> {
        let prefix = names::drills(volume);
        let mut number = self.newest_number(&prefix)?.max(after);
        loop {
            number = number
                .checked_add(1)
                .ok_or_else(|| RepoError::Invalid(format!("no number is left below {prefix}")))?;
            let name = prefix.clone() + &names::number(number);
            let (kind, meta) = (ObjectKind::Drill, &self.keys.meta);
            match create_sealed(&*self.store, &self.keys, meta, kind, &name, &drill.encode())? {
                Created::Won => return Ok(number),
                Created::Lost(_) => {}
            }
        }
    }
    /// The newest drill of `volume`, if its number is above `after`.
    pub(super) fn newest_drill(&self, volume: Uuid, after: u64) -> Result<Option<(u64, Drill)>> {
        let prefix = names::drills(volume);
        let number = self.newest_number(&prefix)?;
        if number <= after {
            return Ok(None);
        }
        let name = prefix + &names::number(number);
        let stored = self.store.get(&name, Part::All)?;
        let plain = open_sealed(&self.keys, &self.keys.meta, ObjectKind::Drill, &name, &stored)?;
        let drill = Drill::decode(&plain).map_err(|m| RepoError::damaged(&name, 0, m.0))?;
        Ok(Some((number, drill)))
    }
}
