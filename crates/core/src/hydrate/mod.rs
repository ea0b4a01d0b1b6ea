//! Restoring: what to copy next, how fast, when to go online, how long it takes.

mod forecast;
mod link;
mod online;
mod round;
mod schedule;
mod state;
mod throttle;

pub use forecast::{Assumed, Forecast, Step, forecast, steps, stored_bytes, trace_steps};
pub use link::Link;
pub use online::{Online, Progress, Reason, Threshold, ThresholdError};
pub use schedule::{
    FIRST_MAX, NEIGHBOURS, Next, Outcome, PROMOTED_MAX, Pass, Rest, Schedule, SetSchedule, Source,
    TooManyFirst, WEIGHT, Wanted, neighbours,
};
pub use state::{Place, State};
pub use throttle::{PROBE, Throttle, WINDOW_MAX};
