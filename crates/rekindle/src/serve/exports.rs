//! The NBD exports of this process: one server, an export for each volume, absent until its set is online.

use super::set::OwnedSet;
use crate::errors::{Exit, Failure, Outcome};
use rekindle_export::nbd::{ExportSpec, Listen, Server, ServerOptions};
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::Duration;

/// How long running requests may take when an export or the server goes away.
pub const GRACE: Duration = Duration::from_secs(5);

/// The server, until it is stopped.
pub struct Exports {
    server: RwLock<Option<Server>>,
    addresses: Vec<Listen>,
    shown: Mutex<HashSet<String>>,
    /// There is one volume in all: it is served under the empty name too.
    single: bool,
}

impl Exports {
    /// Listens; nothing is exported yet, and clients that come wait until `open`. `single`: there will be one volume in all.
    pub fn bind(listen: Vec<Listen>, single: bool) -> Outcome<Exports> {
        let shown: Vec<String> = listen.iter().map(ToString::to_string).collect();
        let options = ServerOptions { listen, grace: GRACE, ..ServerOptions::default() };
        let server = Server::bind(options).map_err(|e| {
            let failure = Failure::system(format!("cannot serve at {}", shown.join(" and ")), &e);
            match e.kind() {
                std::io::ErrorKind::AddrInUse => failure
                    .exit(Exit::Busy)
                    .cure("stop whoever listens there, or serve elsewhere with --listen"),
                _ => failure.cure("serve elsewhere with --listen"),
            }
        })?;
        let addresses = server.addresses().to_vec();
        Ok(Exports { server: RwLock::new(Some(server)), addresses, shown: Mutex::default(), single })
    }
    /// Lets clients in, once what is online is shown: a script that waits for the socket connects as soon as it sees it.
    pub fn open(&self) -> Outcome {
        let mut server = self.server.write().unwrap_or_else(PoisonError::into_inner);
        let Some(server) = server.as_mut() else { return Ok(()) };
        server.accept().map_err(|e| Failure::system("cannot let clients in", &e))
    }
    /// Where it listens.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }
    /// Shows all volumes of a set; those shown already stay.
    pub fn show(&self, set: &OwnedSet) -> Outcome {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner);
        let Some(server) = server.as_ref() else { return Ok(()) };
        for v in &set.volumes {
            let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
            if !shown.insert(v.export.clone()) {
                continue;
            }
            let spec = ExportSpec {
                name: v.export.clone(),
                description: format!("{} of {}", v.name, set.name),
                device: v.device.clone(),
                is_default: self.single,
            };
            server.add(spec).map_err(|e| Failure::system(format!("cannot export {}", v.export), &e))?;
        }
        Ok(())
    }
    /// Takes all volumes of a set away: their clients are ended softly, then cut.
    pub fn hide(&self, set: &OwnedSet) {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner);
        let Some(server) = server.as_ref() else { return };
        for v in &set.volumes {
            if self.shown.lock().unwrap_or_else(PoisonError::into_inner).remove(&v.export) {
                server.remove(&v.export);
            }
        }
    }
    /// The URI of an export, once it is shown, and its clients.
    pub fn served(&self, export: &str) -> (Option<String>, u64) {
        let server = self.server.read().unwrap_or_else(PoisonError::into_inner);
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).contains(export);
        match server.as_ref() {
            Some(server) if shown => (self.uri(export), server.connections(export) as u64),
            _ => (None, 0),
        }
    }
    /// The URIs of an export, one for each address.
    pub fn uris(&self, export: &str) -> Vec<String> {
        self.addresses.iter().map(|a| a.uri(export)).collect()
    }
    /// The first of them.
    pub fn uri(&self, export: &str) -> Option<String> {
        self.addresses.first().map(|a| a.uri(export))
    }
    /// No new clients; what runs is answered. False if a request was still inside a disk after the grace.
    pub fn stop(&self) -> bool {
        let server = self.server.write().unwrap_or_else(PoisonError::into_inner).take();
        server.is_none_or(|s| s.stop(GRACE))
    }
}
