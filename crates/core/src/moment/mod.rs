//! Places in a history: `NAME@WHEN` addresses and time lines; the units people type.

mod address;
mod units;

pub use address::{Address, AddressError, Named, When, check_name, is_marker};
pub use units::{UnitError, parse_duration, parse_rate, parse_size};
