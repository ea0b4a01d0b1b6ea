//! `diff A B`: the ranges that differ between two moments.

use super::moment;
use crate::cli::DiffArgs;
use crate::errors::{Failure, Outcome};
use crate::moments;
use crate::out::Out;
use crate::repositories::{Access, failure};
use crate::show::words;
use jiff::Zoned;
use rekindle_core::volume::{ExtentRange, Geometry};
use rekindle_engine::repository::Snapshot;
use rekindle_io::holder::Holder;
use schemars::JsonSchema;
use serde::Serialize;

/// What is printed under `--json`.
#[derive(Serialize, JsonSchema)]
pub struct Diff {
    /// The older moment.
    from: String,
    /// The newer moment.
    to: String,
    /// In the set's order.
    volumes: Vec<VolumeDiff>,
}

/// The difference of one volume.
#[derive(Serialize, JsonSchema)]
pub struct VolumeDiff {
    /// Inside its set.
    name: String,
    /// Bytes of extents that differ.
    differing_bytes: u64,
    /// Bytes of the volume.
    size_bytes: u64,
    /// `[start, length]` in bytes; absent with `--summary`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ranges: Option<Vec<[u64; 2]>>,
}

/// Compares by the identities the repository keeps; no data is read.
pub fn run(args: &DiffArgs, out: Out) -> Outcome<u8> {
    let now = Zoned::now();
    let (from, to) = (moments::named(&args.from)?, moments::named(&args.to)?);
    let wanted = [moments::wanted(from.when.as_ref(), &now)?, moments::wanted(to.when.as_ref(), &now)?];
    let repository = Access::needed(&args.repo)?.open()?;
    let (a, b) = (moment::find(&repository, &from, &wanted[0])?, moment::find(&repository, &to, &wanted[1])?);
    let names: Vec<String> = moment::volumes(&b, &to)?.iter().map(|v| v.name.clone()).collect();
    let volumes = names.iter().map(|v| difference(&a, &b, v, !args.summary)).collect::<Outcome<Vec<_>>>()?;
    let shown = |s: &Snapshot| format!("{}@{}", s.info().commit.set, s.info().commit.snapshot.short());
    let diff = Diff { from: shown(&a), to: shown(&b), volumes };
    out.document(&diff);
    for v in &diff.volumes {
        for [start, len] in v.ranges.iter().flatten() {
            out.line(format!("{}\t{start}\t{len}", v.name));
        }
        let share = v.differing_bytes as f64 / v.size_bytes as f64;
        let text = format!(
            "{:<9} {} of {} differ ({}) between {} and {}",
            v.name,
            words::bytes(v.differing_bytes),
            words::bytes(v.size_bytes),
            words::percent(share),
            diff.from,
            diff.to
        );
        if args.summary { out.line(text) } else { out.note(text) }
    }
    Ok(0)
}

fn difference(a: &Snapshot, b: &Snapshot, volume: &str, ranges: bool) -> Outcome<VolumeDiff> {
    let cannot = format!("cannot compare {volume}");
    let (old, new) = (a.volume(volume), b.volume(volume));
    let (old, new) = (old.map_err(|e| failure(&cannot, &e))?, new.map_err(|e| failure(&cannot, &e))?);
    if old.geometry.extent != new.geometry.extent || old.geometry.size != new.geometry.size {
        return Err(Failure::usage(
            cannot,
            "its size or extent size changed between the two",
            "compare other moments",
        ));
    }
    if old.uuid != new.uuid {
        return Err(Failure::usage(
            cannot,
            "it was begun anew between the two (another disk, or its state directory was gone), so they share no history",
            "compare other moments, or restore both and compare those",
        ));
    }
    let geometry = new.geometry;
    let holder = b.holder(volume).map_err(|e| failure(&cannot, &e))?;
    let found = if a.info().commit.snapshot == b.info().commit.snapshot {
        Vec::new()
    } else {
        holder.difference(a.info().commit.snapshot).map_err(|e| Failure::io(&cannot, &e))?.extents
    };
    let joined = joined(&found);
    let bytes = |r: &ExtentRange| bytes_of(&geometry, r);
    Ok(VolumeDiff {
        name: volume.into(),
        differing_bytes: joined.iter().map(|r| bytes(r)[1]).sum(),
        size_bytes: geometry.size,
        ranges: ranges.then(|| joined.iter().map(bytes).collect()),
    })
}

fn bytes_of(g: &Geometry, r: &ExtentRange) -> [u64; 2] {
    let (start, end) = (r.start << g.extent.shift(), g.extent_bytes(r.end - 1).end());
    [start, end - start]
}

/// Neighbours joined.
fn joined(extents: &[u64]) -> Vec<ExtentRange> {
    let mut out: Vec<ExtentRange> = Vec::new();
    for &e in extents {
        match out.last_mut() {
            Some(last) if last.end == e => last.end += 1,
            _ => out.push(ExtentRange { start: e, end: e + 1 }),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_the_last_extent_is_short() {
        let r = joined(&[0, 1, 3, 7, 8]);
        assert_eq!(r.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [(0, 2), (3, 4), (7, 9)]);
        let g =
            Geometry::new((8 << 16) + 512, rekindle_core::volume::ExtentBytes::DEFAULT, 512, 512).unwrap();
        assert_eq!(bytes_of(&g, &r[2]), [7 << 16, (1 << 16) + 512]);
        assert!(joined(&[]).is_empty());
    }
}
