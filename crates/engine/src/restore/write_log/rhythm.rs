//! When the next FLUSH comes: a guest that waits for what it wrote (a database's log, a journal) writes as often before each.

/// Counts writes between flushes.
#[derive(Default)]
pub(super) struct Rhythm {
    since: u64,
    usual: u64,
}

impl Rhythm {
    /// The guest wrote.
    pub fn appended(&mut self) {
        self.since += 1;
    }
    /// The log is flushed.
    pub fn flushed(&mut self) {
        // Nothing was written, nothing is learnt: a flush of our own, or a second one of the guest.
        if self.since > 0 {
            self.usual = std::mem::take(&mut self.since);
        }
    }
    /// There were as many writes as before the last flush: once between two flushes, and never for a guest that does not flush.
    pub fn is_due(&self) -> bool {
        self.since > 0 && self.since == self.usual
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flush_is_due_after_as_many_writes_as_before_the_last() {
        let mut r = Rhythm::default();
        let mut due = |writes: usize| -> Vec<bool> {
            let seen = (0..writes).map(|_| {
                r.appended();
                r.is_due()
            });
            let seen = seen.collect();
            r.flushed();
            assert!(!r.is_due());
            seen
        };
        assert_eq!(due(1), [false], "nothing is known yet");
        assert_eq!(due(1), [true]);
        assert!(due(0).is_empty());
        assert_eq!(
            due(3),
            [true, false, false],
            "a flush without writes says nothing; a wrong guess is made once"
        );
        assert_eq!(due(3), [false, false, true]);
    }
}
