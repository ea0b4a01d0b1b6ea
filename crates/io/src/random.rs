//! Random identities and nonces from the system.

use rekindle_core::volume::Uuid;

/// Fills `buf`. The system's generator does not fail once booted; if it does, going on would repeat nonces.
pub fn fill(buf: &mut [u8]) {
    getrandom::fill(buf).expect("the system's random generator failed; going on would repeat nonces");
}

/// A fresh identity.
pub fn uuid() -> Uuid {
    let mut b = [0; 16];
    fill(&mut b);
    Uuid(b)
}
