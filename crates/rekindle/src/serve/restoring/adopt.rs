//! The live side of a hand-over: state folders as if the volumes had always been tracked from the moment on.

use super::Restoring;
use super::upkeep::MAP;
use crate::serve::record;
use rekindle_engine::live::{Adopted, Image, LiveOptions, LiveVolume};
use rekindle_engine::restore::{Adopt, Settling};
use rekindle_io::block::Block;
use rekindle_io::logfile::{LogDir, RealDir};
use rekindle_io::{Error, Kind, Result};
use std::sync::{Arc, Mutex, PoisonError};

/// Makes live volumes, and keeps them for the set they become.
pub(super) struct Adopting<'a> {
    pub restoring: &'a Restoring,
    pub made: Mutex<Vec<Arc<LiveVolume>>>,
}

impl Adopt for Adopting<'_> {
    fn adopt(&self, volumes: Vec<Settling>) -> Result<Vec<Arc<dyn Block>>> {
        let mut made = Vec::with_capacity(volumes.len());
        for (i, settling) in volumes.into_iter().enumerate() {
            made.push(self.one(i, settling).map_err(|e| e.at(&self.restoring.volumes[i].name))?);
        }
        let devices = made.iter().map(|v| v.clone() as Arc<dyn Block>).collect();
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
        Ok(devices)
    }
}

impl Adopting<'_> {
    fn one(&self, i: usize, s: Settling) -> Result<Arc<LiveVolume>> {
        let r = self.restoring;
        let folder =
            record::volume_folder(&r.name, &s.name).map_err(|f| Error::new(Kind::Failed, f.to_string()))?;
        let dir = RealDir::open(&folder)?;
        let block = r.volumes[i].block.clone();
        block.settle()?;
        let adopted = Adopted {
            name: s.name.clone(),
            uuid: s.volume,
            geometry: s.geometry,
            origin: s.origin,
            tracking: Some((s.tracking, s.generation)),
            changed: s.marks,
            image: block.facts()?,
        };
        move_map(&*dir);
        let options =
            LiveOptions { observer: Some(r.volumes[i].usage.clone()), ..LiveOptions::new(&s.name, dir) };
        LiveVolume::adopt(s.device, block, &adopted, &options)
    }
}

/// The restore's usage map becomes the volume's. Harmless if it is not there.
pub fn move_map(dir: &dyn LogDir) {
    let there = matches!(dir.open(MAP), Ok(Some(_)));
    if there && let Err(e) = dir.replace(MAP, "usage").and_then(|()| dir.sync_names()) {
        tracing::warn!("the usage map begins anew: {e}");
    }
}
