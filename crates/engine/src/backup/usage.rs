//! The usage map beside a snapshot: written with a backup (changed pages only), read by a restore. Damage of it, and any
//! trouble with it, costs speed: it is a warning, never a failed backup.
//!
//! The repository keeps a payload for each 1,024 extents. Payload: u16 length and bytes of the map's summary (only on
//! payload 0, which exists whenever a map was stored; else the length is 0), then the map's page, if it has one.

use crate::repository::{Drill, Repository, Snapshot, SnapshotWriter, VolumeSlot};
use crate::usage::{Inherited, UsageMap};
use rekindle_core::bytes::{Reader, Writer};
use rekindle_core::usage::{
    Facts, Order, PAGE_EXTENTS, PageError, PageId, Ranker, Summary, decode_page, empty_page,
};
use rekindle_core::volume::{ExtentRange, ExtentSet, Uuid};
use rekindle_io::{Error, Kind, Result};
use std::sync::Arc;

/// Changed extents that are hinted to come early in a restore; more than that and changing says little.
const HINTED_MAX: u64 = 64 << 10;

fn wrap(summary: &[u8], page: &[u8]) -> Vec<u8> {
    let mut w = Writer::new();
    // A summary is about 140 bytes.
    w.u16(summary.len() as u16).raw(summary).raw(page);
    w.finish()
}

fn unwrap(payload: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut r = Reader::new(payload);
    let len = r.u16("summary").ok()?;
    let summary = r.take(len.into(), "summary").ok()?;
    Some((summary, r.rest()))
}

/// The usage map that a snapshot keeps of one volume.
pub struct Stored<'a> {
    snapshot: &'a Snapshot,
    volume: Option<String>,
    pages: u64,
}

impl<'a> Stored<'a> {
    /// Of the volume with this uuid; reads nothing.
    pub fn new(snapshot: &'a Snapshot, volume: Uuid) -> Self {
        let record = snapshot.volumes().iter().find(|v| v.uuid == volume);
        let pages = record.map_or(0, |v| v.geometry.extents().div_ceil(PAGE_EXTENTS as u64));
        Stored { snapshot, volume: record.map(|v| v.name.clone()), pages }
    }
    fn payload(&self, index: u64) -> Result<Option<Vec<u8>>> {
        match &self.volume {
            Some(name) if index < self.pages => Ok(self.snapshot.usage_page(name, index)?),
            _ => Ok(None),
        }
    }
    /// The map's summary; `None` if no map was stored.
    pub fn summary(&self) -> Result<Option<Vec<u8>>> {
        let payload = self.payload(0)?;
        Ok(payload.as_deref().and_then(unwrap).map(|(s, _)| s.to_vec()).filter(|s| !s.is_empty()))
    }
    /// Page `index` of the map.
    fn page(&self, index: u64) -> Result<Option<Vec<u8>>> {
        let payload = self.payload(index)?;
        Ok(payload.as_deref().and_then(unwrap).map(|(_, p)| p.to_vec()).filter(|p| !p.is_empty()))
    }
    /// The hot list: extents in restore order; empty if none was stored.
    pub fn hot_list(&self) -> Result<Vec<u64>> {
        self.volume.as_ref().map_or(Ok(Vec::new()), |name| Ok(self.snapshot.hot_list(name)?))
    }
    /// Calls `see` with every extent that a stored page names, as it was when the snapshot was taken. Gives the map's
    /// summary and how many pages could not be used. `Kind::Gone` if no map was stored.
    pub fn visit(&self, volume: Uuid, see: &mut dyn FnMut(u64, &Facts)) -> Result<(Summary, u64)> {
        let gone = || Error::new(Kind::Gone, "no usage map was stored with this snapshot");
        let bad = |e: PageError| Error::new(Kind::Corrupt, e.to_string());
        let summary = Summary::decode(volume, &self.summary()?.ok_or_else(gone)?).map_err(bad)?;
        let record = self.snapshot.volumes().iter().find(|v| v.uuid == volume).ok_or_else(gone)?;
        let (mut facts, mut damaged) = (empty_page(), 0);
        for index in 0..self.pages {
            let Some(bytes) = self.page(index)? else { continue };
            let id = PageId { volume, extent: record.geometry.extent, index };
            let Ok(head) = decode_page(&id, &bytes, &mut facts) else {
                damaged += 1;
                continue;
            };
            for (i, f) in facts.iter_mut().enumerate() {
                f.age(head.cold_starts, summary.cold_starts);
                let extent = index * PAGE_EXTENTS as u64 + i as u64;
                if extent < record.geometry.extents() && !f.is_empty() {
                    see(extent, f);
                }
            }
        }
        Ok((summary, damaged))
    }
    /// The newest drill of the volume that the map does not know yet, with its number: this moment's next start is likely to
    /// demand what that one did.
    pub fn newest_drill(&self, repo: &Repository, volume: Uuid) -> Result<Option<(u64, Drill)>> {
        let known = self.summary()?.and_then(|s| Summary::decode(volume, &s).ok()).map_or(0, |s| s.drill);
        let found = repo.newest_drill(volume, known)?;
        let record = self.snapshot.volumes().iter().find(|v| v.uuid == volume);
        // In other units it says nothing.
        let Some(v) = record else { return Ok(None) };
        Ok(found.filter(|(_, d)| v.geometry.extent == d.extent).map(|(number, mut drill)| {
            let extents = v.geometry.extents();
            drill.demanded.ranks.iter_mut().for_each(|(_, rank)| rank.retain(|e| *e < extents));
            (number, drill)
        }))
    }
    /// Lets `map` (new, not yet served) go on with this usage. Pages that cannot be read count as damaged. `Kind::Gone`
    /// if no map was stored.
    pub fn inherit(&self, map: &UsageMap, source: Uuid) -> Result<Inherited> {
        let gone = || Error::new(Kind::Gone, "no usage map was stored with this snapshot");
        let summary = self.summary()?.ok_or_else(gone)?;
        let mut unreadable = 0;
        let mut pages = (0..self.pages).filter_map(|index| {
            let page = self.page(index);
            unreadable += u64::from(page.is_err());
            page.ok().flatten().map(|page| (index, page))
        });
        let came = map.inherit(source, &summary, &mut pages)?;
        drop(pages);
        Ok(Inherited { damaged: came.damaged + unreadable, ..came })
    }
}

/// Lets the map of a volume take in what the newest drill of it demanded, unless it has. A hint: a failure is a warning.
pub(super) fn take_drill(repo: &Repository, volume: Uuid, map: &UsageMap, warnings: &mut Vec<String>) {
    let taken = repo.newest_drill(volume, map.summary().drill).map_err(Error::from).and_then(|found| {
        match found.filter(|(_, d)| d.extent == map.geometry().extent) {
            Some((number, drill)) => map.merge_drill(number, &drill.demanded),
            None => Ok(()),
        }
    });
    if let Err(e) = taken {
        warnings.push(format!("what the newest drill demanded is not in the usage map: {e}"));
    }
}

/// What a backup needs of the map of one volume: the order to read in, and what to store.
pub(super) struct Hints<'a> {
    map: Option<&'a Arc<UsageMap>>,
    parent: Option<Stored<'a>>,
    /// The summary that the parent keeps.
    known: Option<Vec<u8>>,
    /// Extents in restore order.
    hot: Vec<u64>,
}

impl<'a> Hints<'a> {
    /// Looks whether the map changed since the parent, and ranks it if so. `changed`: what the volume's tracking marked.
    pub fn new(
        map: Option<&'a Arc<UsageMap>>,
        parent: Option<Stored<'a>>,
        changed: &ExtentSet,
        warnings: &mut Vec<String>,
    ) -> Self {
        let mut hints = Hints { map, parent, known: None, hot: Vec::new() };
        if let Err(e) = hints.rank(changed) {
            hints.give_up(&e, warnings);
        }
        hints
    }
    /// Extents in the order a restore will want them; empty if the map is as in the parent, or there is none. Stores them
    /// too, so that nobody keeps them while the backup reads: they may be 8 MiB.
    pub fn store_order(
        &mut self,
        writer: &mut SnapshotWriter,
        slot: VolumeSlot,
        warnings: &mut Vec<String>,
    ) -> Vec<u64> {
        let hot = std::mem::take(&mut self.hot);
        if self.map.is_some()
            && let Err(e) = writer.hot_list(slot, &hot)
        {
            self.give_up(&e.into(), warnings);
        }
        hot
    }
    fn give_up(&mut self, e: &Error, warnings: &mut Vec<String>) {
        warnings.push(format!("the usage map is not stored with this snapshot: {e}"));
        self.map = None;
    }
    fn rank(&mut self, changed: &ExtentSet) -> Result<()> {
        let Some(map) = self.map else { return Ok(()) };
        // A parent's summary that cannot be read means that all pages are written.
        self.known = self.parent.as_ref().and_then(|p| p.summary().ok().flatten());
        if self.known.is_some() && !self.is_changed(map)? {
            // Nobody used the volume since the parent: its map and its hot list stay as they are.
            self.map = None;
            return Ok(());
        }
        let few = changed.count() <= HINTED_MAX;
        let hints: Vec<ExtentRange> = changed.ranges().take_while(|_| few).collect();
        self.hot = map.hot_list(Order::Auto, &hints, Ranker::LIMIT)?;
        Ok(())
    }
    fn is_changed(&self, map: &UsageMap) -> Result<bool> {
        let mut one = false;
        let looked = map.snapshot(self.known.as_deref(), &mut |_, _| {
            one = true;
            Err(Error::new(Kind::Cancelled, "one is enough"))
        });
        if one { Ok(true) } else { looked.map(|_| false) }
    }

    /// Hands changed pages to the writer, whose own failures come back at the commit.
    pub fn store(mut self, writer: &mut SnapshotWriter, slot: VolumeSlot, warnings: &mut Vec<String>) {
        if let Some(map) = self.map
            && let Err(e) = self.write(map, writer, slot)
        {
            self.give_up(&e, warnings);
        }
    }
    fn write(&self, map: &UsageMap, writer: &mut SnapshotWriter, slot: VolumeSlot) -> Result<()> {
        let mut first = None;
        let taken = map.snapshot(self.known.as_deref(), &mut |index, page| {
            if index == 0 {
                first = Some(page);
                return Ok(());
            }
            Ok(writer.usage_page(slot, index, &wrap(&[], &page))?)
        })?;
        // Page 0 may be as in the parent; its payload is not, because the summary lies there.
        let of_parent = || self.parent.as_ref().and_then(|p| p.page(0).ok().flatten());
        let first = if taken.is_whole { first } else { first.or_else(of_parent) };
        Ok(writer.usage_page(slot, 0, &wrap(&taken.summary, &first.unwrap_or_default()))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads() {
        assert_eq!(wrap(b"sum", b"page"), b"\x03\x00sumpage");
        assert_eq!(unwrap(b"\x03\x00sumpage"), Some((&b"sum"[..], &b"page"[..])));
        assert_eq!(unwrap(b"\x00\x00page"), Some((&b""[..], &b"page"[..])));
        assert_eq!((unwrap(b"\x09\x00sum"), unwrap(b"")), (None, None));
    }
}
