//! What systemd is told (Type=notify): ready when every set is online, stopping, reloading, alive.
//!
//! Without NOTIFY_SOCKET all of this is silent.

use sd_notify::NotifyState;
use std::time::Duration;

/// Every set is online.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; `ready` ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(e) => tracing::warn!("cannot tell systemd about the reload: {e}"),
    }
}

/// Going down; with the time it may take, so that a last flush of a slow disk is not killed.
pub fn stopping(grace: Duration) {
    let usec = u32::try_from(grace.as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(usec)]);
}

/// Still alive, and what is going on.
pub fn alive(status: &str) {
    tell(&[NotifyState::Watchdog, NotifyState::Status(status)]);
}

/// How often `alive` must be called, if systemd watches.
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| limit / 2)
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(e) = sd_notify::notify(state) {
        tracing::warn!("cannot tell systemd: {e}");
    }
}
