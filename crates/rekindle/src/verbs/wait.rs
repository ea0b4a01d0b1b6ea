//! `wait NAME --for=STATE`: for scripts.

use super::status::nobody;
use super::steer;
use crate::cli::WaitArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::out::Out;
use crate::progress::Shown;
use crate::serve::condition::Condition;
use crate::serve::control::{Message, Request, follow};
use crate::serve::owner;
use crate::units;
use std::time::{Duration, Instant};

/// A script starts an owner and waits for it in the next line: so the owner may take this long to appear.
const APPEARS: Duration = Duration::from_secs(10);

/// Waits for the owner, then lets it wait for the state.
pub fn run(args: &WaitArgs, out: Out) -> Outcome<u8> {
    crate::names::set(&args.name)?;
    Condition::parse(&args.state)?;
    let timeout = args.timeout.as_deref().map(units::duration).transpose()?;
    let started = Instant::now();
    let socket = owner::socket(&args.name)?;
    loop {
        let left = timeout.map(|t| t.saturating_sub(started.elapsed()));
        let request = Request::Wait {
            r#for: args.state.clone(),
            timeout_ms: left.map(|l| u64::try_from(l.as_millis()).unwrap_or(u64::MAX)),
        };
        let mut shown = Shown::new(out, &args.name);
        if let Some(last) = follow(&socket, &request, |m| steer::message(m, &mut shown, out))? {
            drop(shown);
            if let Message::Summary(summary) = last {
                steer::tell(&summary, out);
            }
            return Ok(0);
        }
        if left.is_some_and(|l| l.is_zero()) {
            return Err(timed_out(&args.name, &args.state));
        }
        if started.elapsed() > APPEARS {
            return Err(nobody(&args.name));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The failure of a wait that took too long.
pub fn timed_out(name: &str, state: &str) -> Failure {
    Failure::new(
        Exit::TimedOut,
        format!("{name} did not become {state} in time"),
        "the time of --timeout is over",
        format!("wait again, or see what it is doing with `rekindle status {name}`"),
    )
}
