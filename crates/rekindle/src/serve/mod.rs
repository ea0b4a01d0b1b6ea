//! The process that serves sets: owner lock, control socket, schedules, the state table of sets.

pub mod calendar;
pub mod condition;
pub mod control;
pub mod notify;
pub mod owner;
pub mod record;
pub mod schedule;
