//! The write log: records, segments, index, recovery; later the journal (DESIGN 6, 8).
