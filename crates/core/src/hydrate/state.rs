//! The claim byte: where an extent of a restoring volume lives, and who may put older bytes there (invariant 3).
//!
//! One byte per extent, kept in an atomic by the engine; here are the encoding and the legal steps, as pure functions
//! from byte to byte, so that a compare-and-swap loop is all that is left to write (and to explore by interleavings).
//!
//! | part | bits | meaning |
//! |---|---|---|
//! | place | 0-1 | `ABSENT` 0: only the holder has it. `ZERO` 1: reads as zeros, the medium may hold anything. `LOCAL` 2: the destination has it |
//! | `FETCHING` | 2 | somebody asked the holder: a mark for single flight, **no claim**; nobody waits because of it |
//! | `FILLING` | 3 | **the claim**: exactly one of fill, mover, merge may look, read or merge, and write; never held across a fetch |
//! | `OVER` | 4 | overlay mode: the overlay holds the extent, newer than `place`, which then speaks of the destination only |
//!
//! One could draw {free, FETCHING, FILLING} as three values. Here mark and claim are two bits, so that a mover which claims
//! an extent while a fetch is under way does not wipe the mark: releasing would forget the fetch, and a second one
//! would start. What is durable are place and `OVER` (three bits); marks and claims die with the process.
//!
//! A guest write never looks at this byte: on a restoring volume it goes to the write log only. Whoever holds the claim
//! looks at the byte *and the log* again before writing: what was true when the fetch began may be old.

/// Where the extent's base bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Place {
    /// Only the holder has it.
    Absent,
    /// Reads as zeros; the medium may hold anything.
    Zero,
    /// The destination holds it.
    Local,
}

/// The state of one extent: the byte and its legal steps.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(u8);

const PLACE: u8 = 0b11;
const FETCHING: u8 = 1 << 2;
const FILLING: u8 = 1 << 3;
const OVER: u8 = 1 << 4;

impl State {
    /// Only the holder has it, nobody is at it: how every stored extent begins. The byte 0, so fresh tables are right.
    pub const ABSENT: State = State(0);
    /// Reads as zeros, nobody is at it.
    pub const ZERO: State = State(1);
    /// On the destination, nobody is at it.
    pub const LOCAL: State = State(2);

    /// From a stored byte; `None` for a byte no state has.
    pub const fn from_bits(bits: u8) -> Option<State> {
        if bits & PLACE == PLACE || bits & !(PLACE | FETCHING | FILLING | OVER) != 0 {
            return None;
        }
        Some(State(bits))
    }
    /// The byte.
    pub const fn bits(self) -> u8 {
        self.0
    }
    /// The three bits that survive a restart: place, and `OVER` as bit 2.
    pub const fn durable(self) -> u8 {
        self.0 & PLACE | (self.0 & OVER) >> 2
    }
    /// From the three durable bits; `None` for a pattern no state has.
    pub const fn from_durable(bits: u8) -> Option<State> {
        if bits > 0b111 || bits & PLACE == PLACE {
            return None;
        }
        Some(State(bits & PLACE | (bits & 0b100) << 2))
    }
    /// Where the base bytes are.
    pub const fn place(self) -> Place {
        match self.0 & PLACE {
            0 => Place::Absent,
            1 => Place::Zero,
            _ => Place::Local,
        }
    }
    /// Somebody asked the holder for it.
    pub const fn is_fetching(self) -> bool {
        self.0 & FETCHING != 0
    }
    /// Somebody holds the claim.
    pub const fn is_claimed(self) -> bool {
        self.0 & FILLING != 0
    }
    /// The overlay holds it.
    pub const fn is_over(self) -> bool {
        self.0 & OVER != 0
    }
    /// A read needs the holder for it (unless the log has all bytes).
    pub const fn needs_holder(self) -> bool {
        self.0 & (PLACE | OVER) == 0
    }

    /// Marks a fetch; `None` if one is under way or nothing is to be fetched: then do not ask again.
    #[must_use]
    pub const fn fetch(self) -> Option<State> {
        if self.is_fetching() || !matches!(self.place(), Place::Absent) {
            return None;
        }
        Some(State(self.0 | FETCHING))
    }
    /// The fetch ended, came to nothing or is no longer wanted.
    #[must_use]
    pub const fn fetched(self) -> State {
        State(self.0 & !FETCHING)
    }
    /// Takes the claim; `None` while another holds it: wait, its work is local and short.
    #[must_use]
    pub const fn claim(self) -> Option<State> {
        if self.is_claimed() { None } else { Some(State(self.0 | FILLING)) }
    }
    /// Ends the claim; the base bytes are now at `place`. Anything but absent ends single flight too: a fetch that still
    /// comes finds nothing to fill.
    ///
    /// # Panics
    /// When nobody holds the claim: a release without a claim means that two wrote.
    #[must_use]
    pub const fn release(self, place: Place) -> State {
        assert!(self.is_claimed(), "an extent was released that nobody had claimed");
        let rest = self.0 & (OVER | FETCHING);
        match place {
            Place::Absent => State(rest),
            Place::Zero => State(rest & OVER | 1),
            Place::Local => State(rest & OVER | 2),
        }
    }
    /// Sets or clears `OVER`; only under the claim.
    ///
    /// # Panics
    /// When nobody holds the claim.
    #[must_use]
    pub const fn set_over(self, over: bool) -> State {
        assert!(self.is_claimed(), "the overlay bit changed without a claim");
        if over { State(self.0 | OVER) } else { State(self.0 & !OVER) }
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.place())?;
        let marks =
            [(self.is_fetching(), "FETCHING"), (self.is_claimed(), "FILLING"), (self.is_over(), "OVER")];
        marks.iter().filter(|m| m.0).try_for_each(|m| write!(f, "+{}", m.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> impl Iterator<Item = State> {
        (0..=255).filter_map(State::from_bits)
    }

    #[test]
    fn the_encoding_is_golden() {
        assert_eq!((State::ABSENT.bits(), State::ZERO.bits(), State::LOCAL.bits()), (0, 1, 2));
        assert_eq!(State::ABSENT.fetch().unwrap().bits(), 4);
        assert_eq!(State::LOCAL.claim().unwrap().bits(), 10);
        assert_eq!(State::LOCAL.claim().unwrap().set_over(true).release(Place::Local).bits(), 18);
        assert_eq!(all().count(), 24, "three places, three independent bits");
        assert_eq!(format!("{:?}", State::from_bits(29)), "Some(Zero+FETCHING+FILLING+OVER)");
    }

    #[test]
    fn every_step_keeps_the_rules() {
        for s in all() {
            assert_eq!(s.claim().is_some(), !s.is_claimed(), "{s:?}: one claim at a time");
            assert_eq!(
                s.fetch().is_some(),
                s.place() == Place::Absent && !s.is_fetching(),
                "{s:?}: single flight"
            );
            let durable = State::from_durable(s.durable()).unwrap();
            assert_eq!((durable.place(), durable.is_over()), (s.place(), s.is_over()));
            assert!(!durable.is_claimed() && !durable.is_fetching(), "claims die with the process");
            if let Some(claimed) = s.claim() {
                assert_eq!(claimed.is_fetching(), s.is_fetching(), "{s:?}: a claim does not forget a fetch");
                assert_eq!(claimed.release(Place::Absent), s.release_model(Place::Absent));
                for place in [Place::Zero, Place::Local] {
                    let done = claimed.release(place);
                    assert_eq!((done.place(), done.is_claimed(), done.is_fetching()), (place, false, false));
                    assert_eq!(done.is_over(), s.is_over());
                }
            }
        }
        assert!(State::from_durable(3).is_none() && State::from_durable(7).is_none());
    }

    impl State {
        fn release_model(self, place: Place) -> State {
            let mut out = State(self.0 & (OVER | FETCHING));
            out.0 |= place as u8;
            out
        }
    }

    #[test]
    #[should_panic(expected = "nobody had claimed")]
    fn a_release_without_a_claim_is_a_bug() {
        let _ = State::ABSENT.release(Place::Local);
    }
}
