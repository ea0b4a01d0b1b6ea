//! The write log as a format: records, segments, the table that names the segments, the index in memory, recovery.
//! The journal uses the same record. No I/O here: bytes in, bytes out.
//!
//! A set has one log. It is a row of segments, each a file written with zeros before use; records lie in them in the
//! order of their sequence and are never moved. After a crash the log is what `recover` says: records by sequence up to
//! the first gap. Everything behind it is void for good, because the table says where each kept segment ends and every
//! later record carries a newer incarnation.

mod index;
mod record;
mod recovery;
mod segment;

pub use index::{Frozen, Index, Piece, Source};
pub use record::{HEADER_BYTES, Kind, RECORD_DATA_MAX, Record};
pub use recovery::{Recovered, recover};
pub use segment::{SEGMENT_START, SegmentEntry, SegmentHeader, SegmentTable, fresh_block};
