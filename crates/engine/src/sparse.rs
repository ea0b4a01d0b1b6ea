//! A table whose values come to be when they are first asked for, and whose own memory does too: a table for 16 TiB is
//! made in microseconds. (A flat one, 5 MB of empty cells, took a tenth of the time from exec to the first byte.)

use std::sync::OnceLock;

/// Values of a group.
const GROUP: usize = 512;

type Group<T> = Box<[OnceLock<T>]>;

/// `len` values, none there at first; safe from any thread.
pub(crate) struct Sparse<T> {
    groups: Box<[OnceLock<Group<T>>]>,
    len: usize,
}

impl<T> Sparse<T> {
    pub fn new(len: usize) -> Self {
        Sparse { groups: (0..len.div_ceil(GROUP)).map(|_| OnceLock::new()).collect(), len }
    }
    /// Value `at`, if it came to be.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&T> {
        self.groups.get(at / GROUP)?.get()?.get(at % GROUP)?.get()
    }
    /// Value `at`, made if need be; `None` behind the end.
    #[inline]
    pub fn get_or_make(&self, at: usize, make: impl FnOnce() -> T) -> Option<&T> {
        match self.get(at) {
            None => self.make(at, make),
            there => there,
        }
    }
    // Apart, so that the way to what is there stays short: every request of a guest takes it.
    #[cold]
    fn make(&self, at: usize, make: impl FnOnce() -> T) -> Option<&T> {
        if at >= self.len {
            return None;
        }
        let group = self.groups[at / GROUP].get_or_init(|| (0..GROUP).map(|_| OnceLock::new()).collect());
        Some(group[at % GROUP].get_or_init(make))
    }
    /// All that came to be, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        let groups = (0..).step_by(GROUP).zip(&self.groups).filter_map(|(at, g)| Some((at, g.get()?)));
        groups.flat_map(|(first, g)| (first..).zip(g).filter_map(|(at, v)| Some((at, v.get()?))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_comes_to_be() {
        let table: Sparse<usize> = Sparse::new(1 << 20);
        assert_eq!((table.get(5), table.iter().count()), (None, 0));
        for at in [70_000, 0, GROUP - 1, GROUP, (1 << 20) - 1] {
            assert_eq!(table.get_or_make(at, || at), Some(&at));
            assert_eq!(table.get_or_make(at, || unreachable!("it is there")), Some(&at));
        }
        let all: Vec<_> = table.iter().map(|(at, v)| (at, *v)).collect();
        assert_eq!(all, [0, GROUP - 1, GROUP, 70_000, (1 << 20) - 1].map(|at| (at, at)));
        assert_eq!((table.get(1), table.get(1 << 20), table.get_or_make(1 << 20, || 1)), (None, None, None));
        assert_eq!(table.groups.iter().filter(|g| g.get().is_some()).count(), 4);
        // The last group may be short.
        let short: Sparse<u8> = Sparse::new(3);
        assert_eq!((short.get_or_make(3, || 1), short.get_or_make(2, || 1)), (None, Some(&1)));
    }
}
