//! Where exports are served: `unix:/PATH` or `tcp:HOST:PORT`, and how that is said to people.

use crate::errors::{Failure, Outcome};
use crate::places;
use rekindle_export::nbd::Listen;
use std::net::ToSocketAddrs;
use std::path::PathBuf;

/// All addresses of a command line; without any, a Unix socket of that name in the runtime directory.
pub fn addresses(words: &[String], default_name: &str) -> Outcome<Vec<Listen>> {
    if words.is_empty() {
        return Ok(vec![Listen::Unix(places::runtime_dir()?.join(format!("{default_name}.sock")))]);
    }
    words.iter().map(|w| address(w)).collect()
}

/// One address.
pub fn address(word: &str) -> Outcome<Listen> {
    let bad = |why: &dyn std::fmt::Display| {
        Failure::usage(
            format!("cannot serve at `{word}`"),
            why,
            "write unix:/PATH or tcp:HOST:PORT, as unix:/run/rekindle/nbd.sock or tcp:127.0.0.1:10809",
        )
    };
    if let Some(path) = word.strip_prefix("unix:") {
        let path = PathBuf::from(path);
        return match path.as_os_str().len() {
            0 => Err(bad(&"it has no path")),
            108.. => Err(bad(&"the path of a Unix socket holds at most 107 bytes")),
            _ => std::path::absolute(&path).map(Listen::Unix).map_err(|e| bad(&e)),
        };
    }
    let Some(host) = word.strip_prefix("tcp:") else {
        return Err(bad(&"it begins with neither unix: nor tcp:"));
    };
    let mut found = host.to_socket_addrs().map_err(|e| bad(&e))?;
    found.next().map(Listen::Tcp).ok_or_else(|| bad(&"that host has no address"))
}

/// An address as `--listen` takes it.
pub fn word(address: &Listen) -> String {
    match address {
        Listen::Unix(path) => format!("unix:{}", path.display()),
        Listen::Tcp(address) => format!("tcp:{address}"),
    }
}

/// A warning when anybody on the network could read and write the disks.
pub fn exposed(listen: &[Listen]) -> Option<String> {
    let open = listen.iter().find_map(|l| match l {
        Listen::Tcp(a) if !a.ip().is_loopback() => Some(a),
        _ => None,
    })?;
    Some(format!(
        "{open} can be reached by others and NBD without TLS asks for no password: keep it inside a network you trust"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(address("unix:/run/x.sock").unwrap(), Listen::Unix("/run/x.sock".into()));
        assert_eq!(address("tcp:127.0.0.1:10809").unwrap(), Listen::Tcp("127.0.0.1:10809".parse().unwrap()));
        for same in ["unix:/run/x.sock", "tcp:127.0.0.1:10809", "tcp:[::1]:10809"] {
            assert_eq!(word(&address(same).unwrap()), same);
        }
        for bad in ["", "/run/x", "unix:", "tcp:", "tcp:127.0.0.1", "tcp:127.0.0.1:99999", "udp:1.2.3.4:5"] {
            assert_eq!(address(bad).unwrap_err().exit.code(), 2, "{bad}");
        }
        assert_eq!(address(&format!("unix:/{}", "x".repeat(120))).unwrap_err().exit.code(), 2);
    }

    #[test]
    fn what_others_can_reach_is_warned_about() {
        let warn = |s: &str| exposed(&[address(s).unwrap()]).is_some();
        assert!(!warn("unix:/x") && !warn("tcp:127.0.0.1:1") && !warn("tcp:[::1]:1"));
        assert!(warn("tcp:0.0.0.0:1") && warn("tcp:192.0.2.7:1"));
    }
}
