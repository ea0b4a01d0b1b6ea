//! Waiting forms of the store port, for the places where waiting is right: opening, checks, tests.

use super::{Part, Store};
use crate::{Error, Kind, Result};
use std::sync::mpsc;

/// Waiting reads on any store.
pub trait StoreExt: Store {
    /// Reads and waits.
    fn get(&self, name: &str, part: Part) -> Result<Vec<u8>> {
        let (tx, rx) = mpsc::sync_channel(1);
        self.start_get(
            name,
            part,
            Box::new(move |r| {
                // The receiver lives until the answer is there; nobody else can have dropped it.
                let _ = tx.send(r);
            }),
        );
        rx.recv().unwrap_or_else(|_| {
            Err(Error::new(Kind::Unavailable, format!("{name}: the store dropped a read without an answer")))
        })
    }

    /// Every entry under `prefix`, however many requests that takes.
    fn list_all(&self, prefix: &str) -> Result<Vec<super::Entry>> {
        const PAGE: usize = 1000;
        let mut all: Vec<super::Entry> = Vec::new();
        loop {
            let after = all.last().map_or(String::new(), |e| e.name.clone());
            let page = self.list(prefix, &after, PAGE)?;
            let more = page.len() == PAGE;
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }
}
impl<S: Store + ?Sized> StoreExt for S {}
