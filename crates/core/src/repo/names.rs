//! Names of objects. A name is made from fresh randomness or taken by create-if-absent, and never used for other bytes.
//!
//! ```text
//! config                       what the repository is
//! k/<slot>                     the master key, wrapped
//! d/<2 hex>/<pack>             packs
//! sets/<tag>/c/<seq>           commits of a set; seq is 16 hex digits, so names sort by it
//! sets/<tag>/k/<seq>           checkpoint: all live commits up to seq
//! sets/<tag>/f/<seq>           reserved: snapshot seq was forgotten (a tombstone: its number is never taken again)
//! s/<epoch>-<session>.open     a writer at work; .end its outcome, written once
//! h/<hold>                     a restore depends on a snapshot; .released when it no longer does
//! t/<volume>/<n>               what the start of a drill demanded; the highest number counts
//! e/<epoch>                    reserved: a collector's condemned set; .verdict, .done
//! i/<age>-<run>                dedup index, for writers only; newest first
//! p/ q/ r/                     reserved: readers' pins, quarantine, redirects of moved packs
//! ```

use crate::volume::Uuid;

/// The config.
pub const CONFIG: &str = "config";
/// Prefix of key slots.
pub const KEYS: &str = "k/";
/// Prefix of packs.
pub const PACKS: &str = "d/";
/// Prefix of sets.
pub const SETS: &str = "sets/";
/// Prefix of sessions.
pub const SESSIONS: &str = "s/";
/// Prefix of holds.
pub const HOLDS: &str = "h/";
/// Prefix of what drills demanded.
pub const DRILLS: &str = "t/";
/// Prefix of collector epochs.
pub const EPOCHS: &str = "e/";
/// Prefix of index runs.
pub const INDEX: &str = "i/";

/// A key slot.
pub fn key_slot(slot: Uuid) -> String {
    format!("{KEYS}{slot}")
}
/// A pack; spread over 256 folders.
pub fn pack(pack: Uuid) -> String {
    let hex = pack.to_string();
    format!("{PACKS}{}/{hex}", &hex[..2])
}
/// The pack that has this name; `None` if it is no pack's.
pub fn parse_pack(name: &str) -> Option<Uuid> {
    let uuid = name.rsplit_once('/')?.1.parse().ok()?;
    (pack(uuid) == name).then_some(uuid)
}
/// Prefix of a set's commits.
pub fn commits(tag: &str) -> String {
    format!("{SETS}{tag}/c/")
}
/// Prefix of a set's checkpoints.
pub fn checkpoints(tag: &str) -> String {
    format!("{SETS}{tag}/k/")
}
/// Prefix of a set's tombstones.
pub fn forgotten(tag: &str) -> String {
    format!("{SETS}{tag}/f/")
}
/// A number as names carry it.
pub fn number(n: u64) -> String {
    format!("{n:016x}")
}
/// The number at the end of a name (or before its first dot); `None` if there is none.
pub fn parse_number(name: &str, prefix: &str) -> Option<u64> {
    let part = name.strip_prefix(prefix)?.split(['.', '-']).next()?;
    let hex = part.len() == 16 && part.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if hex { u64::from_str_radix(part, 16).ok() } else { None }
}
/// A writer's session while it works.
pub fn session_open(epoch: u64, session: Uuid) -> String {
    format!("{SESSIONS}{}-{session}.open", number(epoch))
}
/// A writer's session's outcome.
pub fn session_end(epoch: u64, session: Uuid) -> String {
    format!("{SESSIONS}{}-{session}.end", number(epoch))
}
/// A hold.
pub fn hold(hold: Uuid) -> String {
    format!("{HOLDS}{hold}")
}
/// Prefix of what drills of a volume demanded.
pub fn drills(volume: Uuid) -> String {
    format!("{DRILLS}{volume}/")
}
/// A hold's end.
pub fn hold_released(hold: Uuid) -> String {
    format!("{HOLDS}{hold}.released")
}
/// A run of the dedup index, written at `time_ns`: names sort newest first, which decides only what is looked at first.
pub fn index_run(time_ns: u64, run: Uuid) -> String {
    format!("{INDEX}{}-{run}", number(u64::MAX - time_ns))
}
