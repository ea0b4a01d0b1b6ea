//! How a fact becomes something to look at: sizes and times in words, tables, bars, curves, SVG.

pub mod bar;
pub mod curve;
pub mod damage;
pub mod drill;
pub mod snapshot;
pub mod status;
pub mod svg;
pub mod table;
pub mod usage;
pub mod words;
