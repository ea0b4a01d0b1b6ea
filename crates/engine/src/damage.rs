//! What a holder could not give because it is damaged: gathered while the work goes on without it, told as byte ranges.

use crate::extents::Extents;
use rekindle_core::volume::{ByteRange, Geometry};
use rekindle_io::Error;
use std::collections::BTreeMap;

/// Extents whose reasons are kept, for people: a lost pack of 64 MiB at 64 KiB, and a few more.
const REASONS_MAX: usize = 2048;

/// The damaged extents of one volume: exact however many there are (an eighth of a byte each), reasons of the first ones.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Damaged {
    extents: Extents,
    reasons: BTreeMap<u64, Reason>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Reason {
    object: Option<Box<str>>,
    what: String,
}

/// Damage of one volume.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// How many extents.
    pub extents: u64,
    /// How many bytes of the volume.
    pub bytes: u64,
    /// Which bytes: neighbours whose bytes lay in one object are one range. Ascending, and bounded.
    pub ranges: Vec<DamagedRange>,
    /// Ranges beyond that bound.
    pub more_ranges: u64,
}

/// Neighbouring bytes of a volume that cannot be had.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedRange {
    /// Which.
    pub range: ByteRange,
    /// The object of the store that is damaged, if known.
    pub object: Option<String>,
    /// What was found at the first extent of it; empty if that was not kept.
    pub why: String,
}

impl Damaged {
    /// Notes that `extent` cannot be had; true if that is news.
    pub fn add(&mut self, extent: u64, why: &Error) -> bool {
        let news = self.extents.insert(extent);
        if self.reasons.len() < REASONS_MAX || self.reasons.contains_key(&extent) {
            let reason = Reason { object: why.object.clone(), what: why.what.clone() };
            self.reasons.insert(extent, reason);
        }
        news
    }
    /// `extent` is not damaged.
    pub fn remove(&mut self, extent: u64) {
        self.extents.remove(extent);
        self.reasons.remove(&extent);
    }
    /// Nothing is known to be damaged.
    pub fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }
    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Damaged::default();
    }
    pub fn contains(&self, extent: u64) -> bool {
        self.extents.contains(extent)
    }
    /// All of them from `first` on, ascending.
    pub fn from(&self, first: u64) -> impl Iterator<Item = u64> + '_ {
        self.extents.from(first)
    }
    /// In bytes: those extents that `counts`, in at most `ranges_max` ranges.
    pub fn report(&self, geometry: &Geometry, ranges_max: usize, counts: impl Fn(u64) -> bool) -> Damage {
        let mut damage = Damage::default();
        let mut last: Option<(u64, Option<&str>)> = None;
        for extent in self.from(0).filter(|e| counts(*e)) {
            let (range, reason) = (geometry.extent_bytes(extent), self.reasons.get(&extent));
            let object = reason.and_then(|r| r.object.as_deref());
            damage.extents += 1;
            damage.bytes += range.len;
            // What is not known any more is taken for a part of what lies before it.
            let joins = last.is_some_and(|(e, o)| e + 1 == extent && (reason.is_none() || o == object));
            last = Some((extent, if joins { last.and_then(|l| l.1) } else { object }));
            let listed = damage.ranges.len();
            match damage.ranges.last_mut() {
                Some(l) if joins && damage.more_ranges == 0 => l.range.len += range.len,
                _ if joins => {}
                _ if listed == ranges_max => damage.more_ranges += 1,
                _ => damage.ranges.push(DamagedRange {
                    range,
                    object: object.map(str::to_string),
                    why: reason.map_or(String::new(), |r| r.what.clone()),
                }),
            }
        }
        damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rekindle_core::volume::ExtentBytes;
    use rekindle_io::Kind;

    fn lost(object: &str) -> Error {
        Error { object: Some(object.into()), ..Error::new(Kind::Corrupt, format!("{object} is damaged")) }
    }

    #[test]
    fn neighbours_of_one_object_are_one_range() {
        let g = Geometry::new((5000 << 16) - 512, ExtentBytes::DEFAULT, 512, 512).unwrap();
        let mut d = Damaged::default();
        for (extent, object) in [(64, "a"), (63, "a"), (65, "b"), (67, "b"), (2048, "b"), (4999, "c")] {
            assert!(d.add(extent, &lost(object)) && !d.add(extent, &lost(object)));
        }
        assert!(d.contains(2048) && !d.contains(66) && !d.contains(0));
        assert_eq!(d.from(65).collect::<Vec<_>>(), [65, 67, 2048, 4999]);
        let all = d.report(&g, 10, |_| true);
        assert_eq!((all.extents, all.bytes, all.more_ranges), (6, 6 * 65536 - 512, 0));
        let ranges: Vec<_> = all.ranges.iter().map(|r| (r.range.start >> 16, r.range.len)).collect();
        assert_eq!(ranges, [(63, 131072), (65, 65536), (67, 65536), (2048, 65536), (4999, 65024)]);
        assert_eq!((all.ranges[0].object.as_deref(), &*all.ranges[1].why), (Some("a"), "b is damaged"));
        let few = d.report(&g, 2, |e| e != 63);
        assert_eq!((few.extents, few.ranges.len(), few.more_ranges), (5, 2, 3));
        d.remove(64);
        d.remove(66);
        d.remove(4999);
        assert_eq!(d.from(0).collect::<Vec<_>>(), [63, 65, 67, 2048]);
        assert_eq!((d.extents.chunks(), d.reasons.len()), (2, 4));
        d.clear();
        assert_eq!(d.report(&g, 2, |_| true), Damage::default());
    }

    #[test]
    fn reasons_are_bounded_ranges_are_not_torn_by_that() {
        let g = Geometry::new(9000 << 16, ExtentBytes::DEFAULT, 512, 512).unwrap();
        let mut d = Damaged::default();
        (0..9000).for_each(|e| assert!(d.add(e, &lost("a"))));
        let all = d.report(&g, 10, |_| true);
        assert_eq!((all.extents, all.ranges.len(), d.reasons.len()), (9000, 1, REASONS_MAX));
    }
}
