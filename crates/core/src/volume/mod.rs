//! What a volume is: geometry, extents, ranges and sets of them, identities, generations.

mod extent_set;
mod geometry;
mod ids;
mod range;

pub use extent_set::ExtentSet;
pub use geometry::{ExtentBytes, Geometry, GeometryError};
pub use ids::{Generation, Uuid};
pub use range::{ByteRange, ExtentRange};
