//! Places in a history: `NAME@WHEN` addresses and time lines.
