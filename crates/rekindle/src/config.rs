//! The configuration file a user writes: TOML, unknown keys refused by name with the line they stand on.

use crate::errors::{Failure, Outcome};
use crate::names;
use crate::serve::calendar::Calendar;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Read when `serve` gets no name and no `-c`.
pub const DEFAULT_PATH: &str = "/etc/rekindle/rekindle.toml";

/// The whole file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The repository of all sets.
    pub repo: Option<String>,
    /// First line of this file is the password.
    pub password_file: Option<PathBuf>,
    /// First line of this command's output is the password.
    pub password_command: Option<String>,
    /// The whole file is the key.
    pub key_file: Option<PathBuf>,
    /// Where the exports are served: `unix:/path` or `tcp:HOST:PORT`.
    pub listen: Option<String>,
    /// The sets.
    #[serde(default)]
    pub set: BTreeMap<String, SetConfig>,
}

/// One set.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetConfig {
    /// Its disks: a path for a lone disk, or a table of volume names and paths.
    pub volumes: Volumes,
    /// When to back up.
    #[serde(default, deserialize_with = "calendar")]
    pub backup: Option<Calendar>,
    /// Writes are refused.
    #[serde(default)]
    pub read_only: bool,
}

/// The disks of a set.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(untagged, expecting = "expected a path, or a table like { data = \"/dev/vg0/data\" }")]
pub enum Volumes {
    /// A lone disk: the volume is named as the set.
    Lone(PathBuf),
    /// Several.
    Several(BTreeMap<String, PathBuf>),
}

impl Volumes {
    /// Volume names and paths, in the set's order; a lone disk has the set's name.
    pub fn named(&self, set: &str) -> Vec<(String, PathBuf)> {
        match self {
            Volumes::Lone(path) => vec![(set.to_string(), path.clone())],
            Volumes::Several(map) => map.iter().map(|(n, p)| (n.clone(), p.clone())).collect(),
        }
    }
}

fn calendar<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Option<Calendar>, D::Error> {
    let text = String::deserialize(d)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Reads and checks a file.
pub fn read(path: &Path) -> Outcome<Config> {
    let text = std::fs::read_to_string(path).map_err(|e| {
        Failure::usage(
            format!("cannot read the configuration {}", path.display()),
            e,
            "name another with -c FILE, or serve a disk ad hoc: rekindle serve NAME PATH",
        )
    })?;
    parse(&text, path)
}

/// Checks a text; `path` is for messages.
pub fn parse(text: &str, path: &Path) -> Outcome<Config> {
    let config: Config = toml::from_str(text).map_err(|e| {
        let line = e.span().map_or(1, |s| text[..s.start.min(text.len())].matches('\n').count() + 1);
        wrong(path, Some(line), e.message())
    })?;
    check(&config).map_err(|why| wrong(path, None, &why))?;
    Ok(config)
}

fn check(config: &Config) -> Result<(), String> {
    if config.set.is_empty() {
        return Err("there is no set: add a [set.NAME] with volumes".into());
    }
    let ways = [config.password_file.is_some(), config.password_command.is_some(), config.key_file.is_some()];
    if ways.iter().filter(|w| **w).count() > 1 {
        return Err("give one of password_file, password_command and key_file".into());
    }
    let mut seen: BTreeMap<&Path, String> = BTreeMap::new();
    for (name, set) in &config.set {
        names::check(name).map_err(|why| format!("[set.{name}]: {why}"))?;
        if let Volumes::Several(map) = &set.volumes {
            if map.is_empty() {
                return Err(format!("[set.{name}]: volumes is empty"));
            }
            for volume in map.keys() {
                names::check(volume).map_err(|why| format!("[set.{name}] volume {volume}: {why}"))?;
            }
            for path in map.values() {
                if let Some(other) = seen.insert(path, name.clone()) {
                    return Err(format!("{} belongs to both {other} and {name}", path.display()));
                }
            }
        } else if let Volumes::Lone(path) = &set.volumes
            && let Some(other) = seen.insert(path, name.clone())
        {
            return Err(format!("{} belongs to both {other} and {name}", path.display()));
        }
        if set.backup.is_some() && config.repo.is_none() {
            return Err(format!("[set.{name}] has a backup schedule, but no repo is configured"));
        }
    }
    Ok(())
}

fn wrong(path: &Path, line: Option<usize>, why: &str) -> Failure {
    let place = match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    };
    Failure::usage(
        format!("the configuration is wrong at {place}"),
        why.trim().replace('\n', " "),
        "correct it, then check it with `rekindle serve -c FILE --check`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Outcome<Config> {
        parse(text, Path::new("rekindle.toml"))
    }

    #[test]
    fn a_whole_configuration() {
        let c = parsed(
            "repo = \"/srv/backup\"\npassword_command = \"cat /etc/key\"\n[set.shop]\n\
             volumes = { data = \"/dev/vg0/data\", wal = \"/dev/vg0/wal\" }\nbackup = \"*-*-* 02:00\"\n\
             [set.db]\nvolumes = \"/srv/db.raw\"\nread_only = true\n",
        )
        .unwrap();
        assert_eq!(c.set["db"].volumes.named("db"), [("db".to_string(), PathBuf::from("/srv/db.raw"))]);
        assert_eq!(c.set["shop"].volumes.named("shop")[1].0, "wal");
        assert_eq!(c.set["shop"].backup.as_ref().unwrap().to_string(), "*-*-* 02:00");
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let check = |text: &str, place: &str, why: &str| {
            let e = parsed(text).unwrap_err();
            assert_eq!(e.exit.code(), 2);
            assert!(e.error.ends_with(place), "{text}: {e}");
            assert!(e.cause.contains(why), "{text}: {e}");
        };
        check("repo = 5\n", "rekindle.toml:1", "expected a string");
        check(
            "repo = \"/r\"\nkeeep = 1\n",
            "rekindle.toml:2",
            "unknown field `keeep`, expected one of `repo`",
        );
        check("[set.a]\nvolumes = \"/d\"\njournal = \"/j\"\n", "rekindle.toml:3", "unknown field `journal`");
        check("[set.a]\nvolumes = 7\n", "rekindle.toml:2", "expected a path, or a table");
        check(
            "repo = \"/r\"\n[set.a]\nvolumes = \"/d\"\nbackup = \"25:00\"\n",
            "rekindle.toml:4",
            "the hour `25`",
        );
        check("[set.a]\nvolumes = \"/d\"\nbackup = \"daily\"\n", "rekindle.toml", "no repo is configured");
        check("", "rekindle.toml", "there is no set");
        check("[set.\"a b\"]\nvolumes = \"/d\"\n", "rekindle.toml", "[set.a b]: ");
        check(
            "[set.a]\nvolumes = \"/d\"\n[set.b]\nvolumes = \"/d\"\n",
            "rekindle.toml",
            "/d belongs to both a and b",
        );
        check("x = [\n", "rekindle.toml:1", "unclosed array");
        check(
            "password_file = \"/a\"\nkey_file = \"/b\"\n[set.a]\nvolumes = \"/d\"\n",
            "rekindle.toml",
            "give one of",
        );
    }
}
