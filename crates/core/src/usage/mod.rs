//! The usage map: which extents the guest uses, how, and what a cold start demands.

mod cold_start;
mod curve;
mod facts;
mod import;
mod metadata;
mod order;
mod page;
mod streams;

pub use cold_start::{ColdStart, Demanded, QUIET_MS, Trace};
pub use curve::{Bar, Coverage, Point};
pub use facts::{
    Decayed, FACTS_BYTES, Facts, LATE, RANKS, RATE_HALF_LIFE_TICKS, SCORE_HALF_LIFE_TICKS, TICK_MS, TRACE_MS,
    Touch,
};
pub use import::{Import, ImportError, Traced};
pub use metadata::{ReadAt, metadata_ranges};
pub use order::{Order, Ranker, UnknownOrder, without_weights};
pub use page::{
    PAGE_BYTES_MAX, PAGE_EXTENTS, PAGE_HEAD_BYTES, PageError, PageFacts, PageHead, PageId, SUMMARY_BYTES,
    SUMMARY_BYTES_1, Summary, decode_page, empty_page, encode_page, page_len, page_stamp,
};
pub use streams::{SCAN_EXTENTS, Streams};
