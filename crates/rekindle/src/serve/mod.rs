//! The process that serves sets: owner lock, control socket, schedules, the state table of sets.

pub mod backup;
pub mod backups;
pub mod calendar;
mod captive;
pub mod condition;
pub mod control;
pub mod exports;
mod hooks;
pub mod listen;
pub mod live;
pub mod notify;
pub mod owner;
pub mod process;
pub mod record;
pub mod schedule;
pub mod set;
pub mod steering;
