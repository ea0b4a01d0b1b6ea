//! Which packs the store has, and how long they are: so that what is named unread is at least there. A list costs a request
//! for a thousand packs; reading what lies in them would cost the repository's size.
//!
//! Asked for once, when something of an earlier session is about to be named: packs do not grow, and what vanishes later is
//! damage like any other. 24 bytes a pack: 12 MiB for 16 TiB.

use super::super::core::Core;
use super::super::error::Result;
use super::super::pages::at;
use rekindle_core::repo::{Place, names};
use rekindle_core::volume::Uuid;
use rekindle_io::{Error, Kind};
use std::collections::HashSet;
use std::sync::Arc;

/// Entries asked for at once. Few under test, so that there is more than one page.
const PAGE: usize = if cfg!(test) { 3 } else { 1000 };

/// What the store has, as far as it was asked.
pub(super) struct Present {
    core: Arc<Core>,
    /// Packs and their bytes, by uuid.
    listed: Option<Vec<(Uuid, u64)>>,
    /// Packs of this session: theirs is an upload that either succeeds or fails the backup.
    own: HashSet<Uuid>,
    /// The log was told that something is missing; once is enough.
    told: bool,
}

impl Present {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Present { core, listed: None, own: HashSet::new(), told: false }
    }
    /// This session writes `pack`.
    pub(super) fn begin(&mut self, pack: Uuid) {
        self.own.insert(pack);
    }
    /// Whether the store has the bytes of `place`, whatever they are; an error if it cannot say.
    pub(super) fn has(&mut self, place: &Place) -> Result<bool> {
        if self.own.contains(&place.pack.held_in) {
            return Ok(true);
        }
        let listed = match &mut self.listed {
            Some(listed) => listed,
            none => none.insert(list(&self.core)?),
        };
        let end = u64::from(place.offset) + u64::from(place.stored);
        let found = listed.binary_search_by_key(&place.pack.held_in, |p| p.0);
        let has = found.is_ok_and(|i| listed[i].1 >= end);
        if !has && !std::mem::replace(&mut self.told, true) {
            let e = at(place, "it is missing or too short");
            tracing::warn!(error = %e, "the repository has lost data; what of it is still on the disk is stored anew");
        }
        Ok(has)
    }
}

/// All packs. A store that is not there (its config is gone too: not mounted, say) has lost nothing; it is away.
fn list(core: &Core) -> Result<Vec<(Uuid, u64)>> {
    let (mut packs, mut after) = (Vec::new(), String::new());
    loop {
        let page = core.store.list(names::PACKS, &after, PAGE)?;
        packs.extend(page.iter().filter_map(|e| Some((names::parse_pack(&e.name)?, e.size))));
        match page.last() {
            Some(last) if page.len() == PAGE => after.clone_from(&last.name),
            _ => break,
        }
    }
    if core.store.head(names::CONFIG)?.is_none() {
        let what = format!("{}: the repository is not there", core.store.place());
        return Err(Error::new(Kind::Unavailable, what).into());
    }
    packs.sort_unstable();
    Ok(packs)
}
