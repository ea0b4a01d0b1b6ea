//! Names of sets and volumes, and what a command line word is: a path, a name, a disk of a set.

use crate::errors::{Failure, Outcome};
use std::path::PathBuf;

/// Whether `name` can name a set or a volume.
pub fn check(name: &str) -> Result<(), String> {
    rekindle_core::moment::check_name(name).map(drop).map_err(|e| e.to_string())
}

/// Like `check`, as the failure of a command.
pub fn set(name: &str) -> Outcome {
    check(name).map_err(|why| {
        Failure::usage(
            format!("`{name}` cannot be the name of a set"),
            why,
            "choose a name like `shop` or `db-1`",
        )
    })
}

/// A word on the command line that names a place on this machine: it begins with `/`, `./` or `../`.
pub fn is_path(word: &str) -> bool {
    word.starts_with('/') || word.starts_with("./") || word.starts_with("../")
}

/// `[VOL=]PATH`: a disk of a set. A path may hold `=` after its first `/`.
pub fn disk(word: &str) -> Outcome<(Option<String>, PathBuf)> {
    match word.split_once('=') {
        Some((volume, path)) if !volume.contains('/') => {
            check(volume).map_err(|why| {
                Failure::usage(
                    format!("`{volume}` cannot be the name of a volume"),
                    why,
                    "write VOL=PATH, as data=/dev/vg0/data",
                )
            })?;
            if path.is_empty() {
                return Err(Failure::usage(
                    format!("`{word}` names no path"),
                    "nothing follows the =",
                    "write VOL=PATH",
                ));
            }
            Ok((Some(volume.to_string()), path.into()))
        }
        _ if word.is_empty() => {
            Err(Failure::usage("a path is empty", "it names no disk", "write PATH or VOL=PATH"))
        }
        _ => Ok((None, word.into())),
    }
}

/// The disks of a set: one without a volume name, or several that all have one.
pub fn disks(set: &str, words: &[String]) -> Outcome<Vec<(String, PathBuf)>> {
    let parsed: Vec<_> = words.iter().map(|w| disk(w)).collect::<Outcome<_>>()?;
    if let [(None, path)] = &parsed[..] {
        return Ok(vec![(set.to_string(), path.clone())]);
    }
    let mut out: Vec<(String, PathBuf)> = Vec::with_capacity(parsed.len());
    for (volume, path) in parsed {
        let Some(volume) = volume else {
            return Err(Failure::usage(
                format!("{} has no volume name", path.display()),
                "several disks make one set, and each needs a name in it",
                "write VOL=PATH for each, as data=/dev/vg0/data wal=/dev/vg0/wal",
            ));
        };
        if out.iter().any(|(v, p)| *v == volume || *p == path) {
            return Err(Failure::usage(
                format!("{volume}={} is given twice", path.display()),
                "each disk of a set is one volume with its own name",
                "name each disk once",
            ));
        }
        out.push((volume, path));
    }
    Ok(out)
}

/// The export of a volume: `NAME/VOLUME`, or `NAME` alone for a lone disk.
pub fn export(set: &str, volume: &str, lone: bool) -> String {
    if lone && set == volume { set.to_string() } else { format!("{set}/{volume}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_of_a_set() {
        let words = |w: &[&str]| disks("shop", &w.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let pair = |a: &str, b: &str| (a.to_string(), PathBuf::from(b));
        assert_eq!(words(&["disk.raw"]).unwrap(), [pair("shop", "disk.raw")]);
        assert_eq!(words(&["/a=b"]).unwrap(), [pair("shop", "/a=b")]);
        assert_eq!(words(&["data=/a", "wal=./b"]).unwrap(), [pair("data", "/a"), pair("wal", "./b")]);
        assert_eq!(words(&["data=/a"]).unwrap(), [pair("data", "/a")]);
        for bad in [&["/a", "/b"][..], &["a=/x", "a=/y"], &["a=/x", "b=/x"], &["A b=/x"], &["a="], &[""]] {
            assert_eq!(words(bad).unwrap_err().exit.code(), 2, "{bad:?}");
        }
        assert_eq!(export("shop", "shop", true), "shop");
        assert_eq!(export("shop", "data", false), "shop/data");
        assert_eq!(export("shop", "data", true), "shop/data");
    }
}
