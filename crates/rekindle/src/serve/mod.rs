//! The process that serves sets: owner lock, control socket, schedules, the state table of sets.

pub mod backup;
pub mod backups;
pub mod calendar;
mod captive;
pub mod condition;
pub mod control;
pub mod counting;
pub mod exports;
pub mod guard;
mod hooks;
pub mod listen;
pub mod live;
pub mod notify;
pub mod owner;
mod probe;
pub mod process;
pub mod record;
pub mod restoring;
pub mod schedule;
pub mod set;
mod steer_restore;
pub mod steering;
mod usage;
mod watch;
