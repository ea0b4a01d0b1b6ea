//! A store over a TCP socket: our own small server in front of any store, and its client. It is the remote store of
//! the benchmarks (latency added by the server, bandwidth by a real queue in the kernel) and takes the code path that
//! every remote store takes: many reads under way, answered later, from another thread.
//!
//! No authentication and no encryption of its own: repositories are sealed before they get here; the socket belongs on
//! a loopback, a private network, or in a tunnel.
//!
//! The client has two lanes with a connection each, one for reads and one for changes, so that no read waits behind a
//! pack on its way up. A lane is a sending thread (it connects when needed) and a receiving one. When a connection
//! ends, what was under way on it is answered `Kind::Unavailable`, ambiguous for a create as the port says; the next
//! request connects again. The lane never repeats anything on its own.

mod lane;
mod server;
#[cfg(test)]
mod tests;
mod wire;

pub use server::{ServerOptions, StoreServer};

use super::{Entry, GetDone, Part, Put, Store, check_name};
use crate::{Error, Kind, Result};
use lane::Lane;
use rekindle_core::bytes::Malformed;
use std::sync::mpsc;
use wire::Ask;

/// Entries asked for in one request.
const LIST_MAX: usize = 10_000;

/// The client.
pub struct TcpStore {
    address: String,
    reads: Lane,
    changes: Lane,
}

impl TcpStore {
    /// From `tcp://host:port`. Does not connect yet: a store that is away is an error of the first request, not of the
    /// opening.
    pub fn open(url: &str) -> Result<Self> {
        let address = url.strip_prefix("tcp://").unwrap_or_default().trim_end_matches('/').to_string();
        let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if port.and_then(|p| p.parse::<u16>().ok()).is_none_or(|p| p == 0) {
            return Err(Error::new(
                Kind::Invalid,
                format!("{url:?} is no store: tcp://HOST:PORT was expected"),
            ));
        }
        let lane = |name: &str| {
            Lane::start(name, address.clone())
                .map_err(|e| Error::os("cannot start a thread for the store", &e))
        };
        Ok(TcpStore { reads: lane("store-reads")?, changes: lane("store-changes")?, address })
    }

    /// Asks and waits for the body of the reply.
    fn ask<T>(&self, lane: &Lane, ask: Ask, decode: impl FnOnce(&[u8]) -> Result<T, Malformed>) -> Result<T> {
        let (tx, rx) = mpsc::sync_channel(1);
        lane.send(
            ask,
            Box::new(move |reply| {
                // The receiver waits below.
                let _ = tx.send(reply);
            }),
        );
        let body =
            rx.recv().unwrap_or_else(|_| Err(Error::new(Kind::Unavailable, "the store's thread ended")))?;
        decode(&body).map_err(|m| Error::new(Kind::Corrupt, format!("{}: {m} in a reply", self.place())))
    }
}

impl Store for TcpStore {
    fn place(&self) -> String {
        format!("tcp://{}", self.address)
    }

    fn put_new(&self, name: &str, parts: &[&[u8]]) -> Result<Put> {
        check_name(name)?;
        self.ask(&self.changes, Ask::Put(name.into(), parts.concat()), wire::decode_put)
    }

    fn start_get(&self, name: &str, part: Part, done: GetDone) {
        if let Err(e) = check_name(name) {
            return done(Err(e));
        }
        let shown = name.to_string();
        let check = move |reply: Result<Vec<u8>>| {
            let bytes = reply?;
            let short = match part {
                Part::Range(r) => bytes.len() as u64 != r.len,
                Part::Tail(n) => bytes.len() as u64 > n,
                Part::All => false,
            };
            if short {
                let what = format!("{shown}: {} bytes came, {part:?} was asked for", bytes.len());
                return Err(Error::new(Kind::Corrupt, what));
            }
            Ok(bytes)
        };
        self.reads.send(Ask::Get(name.into(), part), Box::new(move |reply| done(check(reply))));
    }

    fn head(&self, name: &str) -> Result<Option<u64>> {
        check_name(name)?;
        self.ask(&self.reads, Ask::Head(name.into()), wire::decode_head)
    }

    fn list(&self, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let want = (limit - all.len()).min(LIST_MAX);
            let after = all.last().map_or(after, |e| &e.name).to_string();
            let ask = Ask::List { prefix: prefix.into(), after, limit: want as u32 };
            let page = self.ask(&self.reads, ask, wire::decode_list)?;
            let last = page.len() < want;
            all.extend(page);
            if last || all.len() >= limit {
                return Ok(all);
            }
        }
    }

    fn delete(&self, name: &str) -> Result<()> {
        check_name(name)?;
        self.ask(&self.changes, Ask::Delete(name.into()), |_| Ok(()))
    }

    fn answers_inline(&self) -> bool {
        false
    }
}
