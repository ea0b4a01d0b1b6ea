//! Which names an object may have: what a directory, S3 and a URL all take unchanged, and nothing that could leave the
//! store's own place.

use crate::{Error, Kind, Result};

/// Longest name in bytes (S3 takes 1,024 including the prefix of the repository).
const NAME_MAX: usize = 512;
/// Longest part: what file systems take.
const PART_MAX: usize = 255;

/// Checks a name: parts of `[a-z0-9._-]` joined by `/`, none empty, none with a dot in front (`..`, NFS leftovers), the
/// first not `tmp` (where a directory store keeps what is not an object yet).
pub fn check_name(name: &str) -> Result<()> {
    let part_ok = |p: &str| {
        !p.is_empty()
            && p.len() <= PART_MAX
            && !p.starts_with('.')
            && p.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
    };
    if name.len() <= NAME_MAX && name.split('/').all(part_ok) && name.split('/').next() != Some("tmp") {
        return Ok(());
    }
    let shown: String = name.chars().take(80).collect();
    Err(Error::new(Kind::Invalid, format!("object name {shown:?} is not possible")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for good in ["a", "packs/3f/3f9c2a1e.pack", "v/0-1/x_y", "tmpx/a", "a/tmp", &"a".repeat(255)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        let deep = "a/".repeat(256) + "a";
        for bad in [
            "", "/", "/a", "a/", "a//b", "..", "a/../b", ".hidden", "a/.b", "A", "a b", "tmp", "tmp/a", "ü",
            "a\0", &long, &deep,
        ] {
            assert_eq!(check_name(bad).unwrap_err().kind, Kind::Invalid, "{bad}");
        }
    }
}
