//! How many levels a tree has and which page covers which extents.

use super::super::id::{BLOCK_SHIFT, root_height};
use crate::volume::Geometry;

/// Extents in a leaf, children of an inner page.
pub const FAN: u64 = 1024;
const FAN_SHIFT: u32 = 10;

/// The shape of a volume's tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Extents of the volume.
    pub extents: u64,
    /// Level of the root page, at least 1.
    pub top: u32,
    /// Merkle height of an extent (0 = 16 KiB).
    pub extent_height: u32,
    root_height: u32,
}

impl Shape {
    /// The shape for a geometry.
    pub fn new(geometry: &Geometry) -> Self {
        let extents = geometry.extents();
        let mut top = 1;
        // Level `top` covers FAN^(top+1) extents; 64 bits of extents end the loop at level 5.
        while extents.div_ceil(FAN) > 1u64 << (FAN_SHIFT * top) {
            top += 1;
        }
        let extent_height = geometry.extent.shift() - BLOCK_SHIFT;
        Shape { extents, top, extent_height, root_height: root_height(geometry.size) }
    }
    /// Leaves of the volume.
    pub fn leaves(&self) -> u64 {
        self.extents.div_ceil(FAN)
    }
    /// Children (or extents, for level 0) that page `index` of `level` has: 1,024 except at the end.
    pub fn fan_at(&self, level: u32, index: u64) -> usize {
        let below = self.extents.div_ceil(1 << (FAN_SHIFT * level));
        below.saturating_sub(index * FAN).min(FAN) as usize
    }
    /// The page of `level` that covers `extent`.
    pub fn page_of(&self, level: u32, extent: u64) -> u64 {
        extent >> (FAN_SHIFT * (level + 1))
    }
    /// Merkle height that the ids of `level`'s children have, and how many levels a whole page folds.
    pub fn child_height(&self, level: u32) -> u32 {
        self.extent_height + FAN_SHIFT * level
    }
    /// Levels that a page folds its children's ids: 10, or what is left to the volume's root for the top page.
    pub fn fold_levels(&self, level: u32) -> u32 {
        if level == self.top { self.root_height - self.child_height(level) } else { FAN_SHIFT }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::ExtentBytes;

    #[test]
    fn levels_and_heights_fit_every_volume() {
        for shift in 14..=22u32 {
            let extent = ExtentBytes::new(1 << shift).unwrap();
            for size in
                [512u64, 1 << 20, 1 << 24, (1 << 32) + 512, 1 << 40, 16 << 40, (16 << 40) + 4096, 1 << 60]
            {
                let s = Shape::new(&Geometry::new(size, extent, 512, 4096).unwrap());
                assert!(s.leaves() <= 1u64 << (10 * s.top), "{size} {shift}: the root reaches every leaf");
                let fold = s.fold_levels(s.top);
                assert!(fold <= 10 && s.fan_at(s.top, 0) <= 1 << fold, "{size} {shift}: {s:?} folds {fold}");
                assert!(s.top == 1 || s.leaves() > 1u64 << (10 * (s.top - 1)), "no level too many");
            }
        }
        let tib = |n: u64| Shape::new(&Geometry::new(n << 40, ExtentBytes::DEFAULT, 512, 4096).unwrap());
        assert_eq!((tib(1).top, tib(16).top), (2, 2));
        assert_eq!((tib(1).fan_at(2, 0), tib(16).fan_at(2, 0)), (16, 256));
    }
}
