//! What an owner tells of the usage it counts.

use super::control::{Message, Reply, UsageRows};
use super::set::OwnedSet;
use crate::errors::{Failure, Outcome};
use crate::show::usage::{UsageReport, UsageRow};
use rekindle_core::usage::{Coverage, Order};
use std::sync::Mutex;
use std::sync::PoisonError;

/// Rows of one message: a line stays well under its bound.
const ROWS: usize = 1024;

/// Sends a report for each volume asked for, its rows before it.
pub fn tell(
    set: &OwnedSet,
    volume: Option<&str>,
    by: &str,
    with_rows: bool,
    reply: &mut Reply,
) -> Outcome<Message> {
    let by: Order = by.parse().map_err(|e| {
        Failure::usage("the owner did not understand the request", e, "use the same version on both sides")
    })?;
    let maps = set.usage();
    if let Some(v) = volume.filter(|v| !maps.iter().any(|(n, _)| n == v)) {
        return Err(Failure::usage(
            format!("{} has no volume {v} whose usage is counted", set.name),
            format!("it has {}", maps.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>().join(", ")),
            format!("see `rekindle status {}`", set.name),
        ));
    }
    let reply = Mutex::new(reply);
    let send = |m: &Message| reply.lock().unwrap_or_else(PoisonError::into_inner).send(m);
    for (name, map) in maps.into_iter().filter(|(n, _)| volume.is_none_or(|v| v == n)) {
        let shown = format!("{}/{name}", set.name);
        let (summary, geometry) = (map.summary(), map.geometry());
        let mut coverage = Coverage::new(by, summary.tick);
        let mut rows = Vec::new();
        map.visit(&mut |extent, facts| {
            coverage.add(facts);
            if with_rows && !facts.is_empty() {
                rows.push(UsageRow::new(&geometry, extent, facts, summary.tick));
            }
            if rows.len() == ROWS {
                send(&Message::UsageRows(UsageRows {
                    volume: shown.clone(),
                    rows: std::mem::take(&mut rows),
                }));
            }
        })
        .map_err(|e| Failure::io(format!("cannot read the usage of {shown}"), &e))?;
        if !rows.is_empty() {
            send(&Message::UsageRows(UsageRows { volume: shown.clone(), rows }));
        }
        send(&Message::Usage(UsageReport::new(shown, by, &geometry, &coverage, &summary)));
    }
    Ok(crate::verbs::usage_done(&set.name))
}
