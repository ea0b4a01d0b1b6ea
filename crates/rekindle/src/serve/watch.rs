//! What the process says by itself while it serves: how filling goes, and each state a restore reaches.

use super::control::{Message, State};
use super::steer_restore::event;
use super::steering::Shared;
use crate::progress::Shown;
use std::collections::BTreeMap;

/// What was said last.
#[derive(Default)]
pub struct Watch {
    states: BTreeMap<String, State>,
    shown: BTreeMap<String, Shown>,
}

impl Watch {
    /// Looks at every set and says what is new.
    pub fn look(&mut self, shared: &Shared) {
        for set in &shared.sets {
            let state = set.state();
            let before = self.states.insert(set.name.clone(), state);
            let shown =
                self.shown.entry(set.name.clone()).or_insert_with(|| Shown::new(shared.out, &set.name));
            // A disk may fail before the first look.
            if before.map_or(state == State::Failed, |b| b != state) && state != State::Opening {
                shown.clear();
                let mut told = event(&set.name, state, None, Vec::new());
                if let Some(f) = set.failed().filter(|_| state == State::Failed) {
                    let text = format!("{}: {}; {}", f.error, f.cause, f.cure);
                    tracing::error!(set = set.name, "{text}");
                    told.text = text;
                }
                let told = Message::Event(told);
                shared.out.message(&told);
                shared.out.announce(format!("{:<9} {}", state.word(), set.name));
            }
            match set.progress() {
                Some(p) if !state_speaks(state) => shown.show(&p),
                _ => shown.clear(),
            }
        }
    }
    /// Leaves a clean line.
    pub fn end(&mut self) {
        self.shown.clear();
    }
}

/// States in which nothing is to be expected by waiting.
fn state_speaks(state: State) -> bool {
    matches!(state, State::Live | State::Verified | State::Failed | State::Merging)
}
