//! Where the old bytes go while a backup reads: into memory first, from where the backup takes them before anything else;
//! what it does not take in time a thread of its own writes to one sparse file a volume, each extent at its own offset,
//! punched as the backup takes it. One budget of memory and one of the files for the whole set. It dies with the backup,
//! so nothing of it is synced.
//!
//! So the guest pays for a copy in memory, and waits only while memory is full and the file's disk is behind. It never
//! waits for the repository: what was named to the backup as urgent is read at once, and all else can be written out.
//! A file that is full while memory is, that fails, or whose disk takes nothing for seconds while a guest waits, gives up the
//! backup, never the guest.
//! (A file by offset needs no map; the price is the file system's largest file, 16 TiB on ext4: beyond, the backup is
//! given up when such an extent has to be written out.)

use super::bits::Bits;
use super::sync::{AtomicBool, Condvar, Mutex, MutexGuard, SeqCst, lock};
use rekindle_core::bytes::is_zero;
use rekindle_core::volume::{ByteRange, Geometry};
use rekindle_io::logfile::{LogDir, LogFile};
use rekindle_io::{Error, Kind, Result};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// One volume's file.
struct File {
    geometry: Geometry,
    name: String,
    file: Arc<dyn LogFile>,
    /// Extents whose old bytes lie in the file.
    holds: Bits,
}

/// A volume, by its place in the set, and an extent of it.
type Key = (usize, u64);

#[derive(Default)]
struct State {
    /// In memory, what is being written out included.
    kept: HashMap<Key, Arc<Vec<u8>>>,
    /// For each volume what neither the backup nor the file was asked to take, oldest first. May name what is not in
    /// memory any more.
    waiting: Vec<VecDeque<u64>>,
    /// Bytes of buffers that are kept or being filled.
    bytes: u64,
    /// Bytes for which guests wait.
    wanted: u64,
    /// Buffers that became free so far: as long as this grows, waiting has an end.
    freed: u64,
    spare: Vec<Vec<u8>>,
    /// Bytes in the files.
    written: u64,
    /// What lies in the files and nobody needs: the thread that writes gives it back, since a disk that hangs holds up
    /// whoever touches it.
    punches: Vec<(usize, ByteRange)>,
    /// Nothing more is written out.
    ended: bool,
    /// `write_out` returned.
    left: bool,
}

impl State {
    /// An extent that waits and is still in memory; `newest`: from the other end.
    fn next(&mut self, volume: usize, newest: bool) -> Option<u64> {
        loop {
            let waiting = &mut self.waiting[volume];
            let extent = if newest { waiting.pop_back() } else { waiting.pop_front() }?;
            if self.kept.contains_key(&(volume, extent)) {
                return Some(extent);
            }
        }
    }
    fn free(&mut self, buffer: Arc<Vec<u8>>) {
        self.bytes -= buffer.len() as u64;
        self.freed += 1;
        // Else somebody is just copying from it.
        self.spare.extend(Arc::into_inner(buffer));
    }
}

/// The old bytes and the fate of one backup.
pub(super) struct Fleece {
    dir: Arc<dyn LogDir>,
    files: Vec<File>,
    memory_max: u64,
    files_max: u64,
    room_limit: Duration,
    state: Mutex<State>,
    /// There is room in memory, or none is needed any more.
    room: Condvar,
    /// There is something to write out, or never will be.
    work: Condvar,
    given_up: AtomicBool,
    why: Mutex<Option<Error>>,
}

impl Fleece {
    /// For volumes of these names and shapes. At most `memory_max` bytes in memory (but always one extent), and
    /// `files_max` in the files. A guest that waited for `room_limit` while nothing became free waits no more.
    pub(super) fn create(
        dir: &Arc<dyn LogDir>,
        volumes: &[(String, Geometry)],
        memory_max: u64,
        files_max: u64,
        room_limit: Duration,
    ) -> Result<Fleece> {
        let mut fleece = Fleece {
            dir: dir.clone(),
            files: Vec::new(),
            memory_max,
            files_max,
            room_limit,
            state: Mutex::new(State { waiting: vec![VecDeque::new(); volumes.len()], ..State::default() }),
            room: Condvar::new(),
            work: Condvar::new(),
            given_up: AtomicBool::new(false),
            why: Mutex::new(None),
        };
        for (name, geometry) in volumes {
            // What an earlier process left is worth nothing.
            dir.remove(name)?;
            let (file, holds) = (dir.create(name)?, Bits::new(geometry.extents()));
            fleece.files.push(File { geometry: *geometry, name: name.clone(), file, holds });
        }
        Ok(fleece)
    }

    /// The backup stops, the guest never.
    pub(super) fn give_up(&self, e: Error) {
        lock(&self.why).get_or_insert(e);
        self.given_up.store(true, SeqCst);
        // Whoever looked before and waits since is woken.
        drop(lock(&self.state));
        self.room.notify_all();
    }
    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(SeqCst)
    }
    pub(super) fn check(&self) -> Result<()> {
        if !self.is_given_up() {
            return Ok(());
        }
        let why = lock(&self.why).clone();
        Err(why.unwrap_or_else(|| Error::new(Kind::Cancelled, "the backup was given up")))
    }

    /// Keeps an extent whose old bytes `fill` puts into the buffer it is given. Waits while there is no room; does
    /// nothing for a backup that was given up.
    pub(super) fn keep(
        &self,
        (volume, extent): Key,
        fill: impl FnOnce(&mut [u8]) -> Result<()>,
    ) -> Result<()> {
        let len = self.files[volume].geometry.extent_bytes(extent).len;
        let Some(mut buffer) = self.buffer(len) else { return Ok(()) };
        buffer.resize(len as usize, 0);
        let filled = fill(&mut buffer);
        let mut s = lock(&self.state);
        if filled.is_err() || is_zero(&buffer) {
            // Zeros take no room: what is kept and neither in memory nor in the file is zeros.
            s.free(Arc::new(buffer));
            drop(s);
            self.room.notify_all();
            return filled;
        }
        s.kept.insert((volume, extent), Arc::new(buffer));
        s.waiting[volume].push_back(extent);
        if self.is_work(&s) {
            self.work.notify_one();
        }
        Ok(())
    }
    fn buffer(&self, len: u64) -> Option<Vec<u8>> {
        let mut s = lock(&self.state);
        while s.bytes > 0 && s.bytes + len > self.memory_max {
            if self.is_given_up() || s.ended {
                return None;
            }
            s.wanted += len;
            self.work.notify_one();
            let freed = s.freed;
            let (after, is_late) = wait_for(&self.room, s, self.room_limit);
            s = after;
            s.wanted -= len;
            if is_late && s.freed == freed {
                drop(s);
                self.give_up(self.hangs());
                return None;
            }
        }
        s.bytes += len;
        Some(s.spare.pop().unwrap_or_default())
    }
    /// The oldest extent of a volume that is in memory and was not named before: read first, it makes room soonest.
    pub(super) fn urgent(&self, volume: usize) -> Option<u64> {
        lock(&self.state).next(volume, false)
    }
    /// The old bytes of an extent that was kept.
    pub(super) fn read(&self, (volume, extent): Key, out: &mut [u8]) -> Result<()> {
        // The guard goes before the copying.
        let in_memory = lock(&self.state).kept.get(&(volume, extent)).cloned();
        let file = &self.files[volume];
        if let Some(buffer) = in_memory {
            out.copy_from_slice(&buffer);
        } else if file.holds.get(extent) {
            let at = file.geometry.extent_bytes(extent).start;
            file.file.read_at(at, out).map_err(|e| e.at("reading what the guest overwrote"))?;
        } else {
            out.fill(0);
        }
        Ok(())
    }
    /// Nobody needs the old bytes of this extent any more, if there are any.
    pub(super) fn forget(&self, (volume, extent): Key) {
        let mut s = lock(&self.state);
        if let Some(buffer) = s.kept.remove(&(volume, extent)) {
            s.free(buffer);
            drop(s);
            self.room.notify_all();
        } else if self.files[volume].holds.clear(extent) {
            s.punches.push((volume, self.files[volume].geometry.extent_bytes(extent)));
            drop(s);
            self.work.notify_one();
        }
    }
    fn punch(&self, volume: usize, at: ByteRange) {
        // A hint: where it fails the room comes back when the file goes.
        if self.files[volume].file.punch(at.start, at.len).is_ok() {
            lock(&self.state).written -= at.len;
        }
    }

    /// Something is to be written out: a guest waits for room; or more than half of the memory is taken, and the files have
    /// room. (A full file ends the backup only when memory is full too.)
    fn is_work(&self, s: &State) -> bool {
        let is_waited_for = s.wanted > 0 && s.bytes + s.wanted > self.memory_max;
        let largest = self.files.iter().map(|f| f.geometry.extent.get()).max().unwrap_or(0);
        is_waited_for || (s.bytes * 2 > self.memory_max && s.written + largest <= self.files_max)
    }
    /// Writes out what does not fit into memory, until `end`. For a thread of its own.
    pub(super) fn write_out(&self) {
        let mut s = lock(&self.state);
        while !s.ended && !self.is_given_up() {
            if let Some((volume, at)) = s.punches.pop() {
                drop(s);
                self.punch(volume, at);
                s = lock(&self.state);
                continue;
            }
            let next = if self.is_work(&s) { self.next_out(&mut s) } else { None };
            match next {
                None => s = wait(&self.work, s),
                Some((key, buffer)) => {
                    drop(s);
                    if let Err(e) = self.write_one(key, buffer) {
                        self.give_up(e);
                    }
                    s = lock(&self.state);
                }
            }
        }
        s.left = true;
        drop(s);
        self.room.notify_all();
    }
    /// After `end`: waits until `write_out` returned, but not for a disk that hangs. Says whether it did.
    pub(super) fn has_left(&self) -> bool {
        // One that was given up had its time, or ends by itself at once.
        let limit = if self.is_given_up() { self.room_limit / 10 } else { self.room_limit };
        let mut s = lock(&self.state);
        while !s.left {
            let (after, is_late) = wait_for(&self.room, s, limit);
            s = after;
            if is_late && !s.left {
                tracing::warn!(
                    "the disk of {} does not answer: what was kept there for the backup goes when it does",
                    self.dir.place()
                );
                return false;
            }
        }
        true
    }
    /// The newest extent of the volume with the most: the backup begins with the oldest. When all were named to the
    /// backup, any: it may be slow to come for them.
    fn next_out(&self, s: &mut State) -> Option<(Key, Arc<Vec<u8>>)> {
        let longest = (0..self.files.len()).max_by_key(|v| s.waiting[*v].len())?;
        let waiting = s.next(longest, true).map(|extent| (longest, extent));
        let key = waiting.or_else(|| s.kept.keys().next().copied())?;
        let buffer = s.kept.get(&key).cloned()?;
        Some((key, buffer))
    }
    fn write_one(&self, key: Key, buffer: Arc<Vec<u8>>) -> Result<()> {
        let file = &self.files[key.0];
        let at = file.geometry.extent_bytes(key.1);
        {
            let mut s = lock(&self.state);
            s.written += at.len;
            if s.written > self.files_max {
                return Err(self.full());
            }
        }
        file.file.write_at(at.start, &[&buffer]).map_err(|e| e.at("keeping what the guest overwrites"))?;
        drop(buffer);
        let mut s = lock(&self.state);
        let Some(buffer) = s.kept.remove(&key) else {
            // The backup took it meanwhile.
            drop(s);
            self.punch(key.0, at);
            return Ok(());
        };
        file.holds.set(key.1);
        s.free(buffer);
        drop(s);
        self.room.notify_all();
        Ok(())
    }
    fn full(&self) -> Error {
        let what = format!(
            "the guest overwrote more than the {} MiB kept for it while the backup ran (in {}): give it more, or back up when less is written",
            self.files_max >> 20,
            self.dir.place()
        );
        Error::new(Kind::Full, what)
    }
    fn hangs(&self) -> Error {
        let what = format!(
            "the disk of {} took nothing of what the guest overwrites for {:?}: the guest goes on without the backup",
            self.dir.place(),
            self.room_limit
        );
        Error::new(Kind::Failed, what)
    }
    /// Nothing is kept or on its way to the file.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let s = lock(&self.state);
        s.bytes == 0 && s.kept.is_empty()
    }
    /// Bytes in the files, or on their way there.
    #[cfg(all(test, not(feature = "shuttle")))]
    pub(super) fn written(&self) -> u64 {
        lock(&self.state).written
    }
    /// As `written`, without what was given back and is not punched yet: the writer leaves that to the file's end.
    #[cfg(all(test, feature = "shuttle"))]
    pub(super) fn held(&self) -> u64 {
        let s = lock(&self.state);
        s.written - s.punches.iter().map(|(_, at)| at.len).sum::<u64>()
    }
    /// Nobody waits for room from now on, and `write_out` returns.
    pub(super) fn end(&self) {
        lock(&self.state).ended = true;
        self.room.notify_all();
        self.work.notify_all();
    }
}

fn wait<'a>(changed: &Condvar, s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
    changed.wait(s).unwrap_or_else(PoisonError::into_inner)
}

/// The same for at most `limit`, and whether that passed.
fn wait_for<'a>(
    changed: &Condvar,
    s: MutexGuard<'a, State>,
    limit: Duration,
) -> (MutexGuard<'a, State>, bool) {
    let (s, passed) = changed.wait_timeout(s, limit).unwrap_or_else(PoisonError::into_inner);
    (s, passed.timed_out())
}

impl Drop for Fleece {
    fn drop(&mut self) {
        for file in &self.files {
            if let Err(e) = self.dir.remove(&file.name) {
                tracing::warn!("{} in {} stays behind: {e}", file.name, self.dir.place());
            }
        }
    }
}
