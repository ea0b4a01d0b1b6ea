//! The repository format: frames, packs, manifest tree, commits, keys, sessions. Layouts and pure decisions only;
//! sealing is in `io::seal`, stores and threads are in `engine::repository`. The prose is in docs/format.
//!
//! Rules that every layout here keeps:
//! - A decoder takes authenticated bytes but trusts none of them: each length is bounded, trailing bytes are an error.
//! - One value has one encoding, so equal content gives equal bytes and equal bytes can be shared.
//! - What could grow later has a kind byte with reserved values; an unknown kind is an error, never skipped.

pub mod commit;
pub mod config;
pub mod drill;
pub mod frame;
pub mod hold;
pub mod hot_list;
pub mod id;
pub mod index;
pub mod key_slot;
pub mod manifest;
pub mod names;
pub mod object;
pub mod pack;
pub mod place;
pub mod session;
mod varint;

#[cfg(test)]
mod golden_tests;

pub use commit::{Checkpoint, Commit, VolumeRecord};
pub use config::{Cipher, Config};
pub use drill::Drill;
pub use frame::FrameKind;
pub use hold::{Hold, HoldOwner};
pub use id::{Id, IdKey};
pub use place::{PackRef, PageRef, Place};
