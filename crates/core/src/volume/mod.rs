//! What a volume is: geometry, extents, ranges, identities, generations.

mod geometry;
mod ids;
mod range;

pub use geometry::{ExtentBytes, Geometry, GeometryError};
pub use ids::{Generation, Uuid};
pub use range::{ByteRange, ExtentRange};
