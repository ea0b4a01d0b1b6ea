//! A small pool for zstd, which is 85 % of a backup's work. Jobs go in and results come out in the same order, so that
//! packs are laid down in the order the caller chose (hottest first). Sealing is fifteen times cheaper and stays with the
//! caller, because the birth name is known only when the frame gets its place.

use super::compress::compress;
use rekindle_core::repo::frame::Compression;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

/// A compressed extent.
pub struct Compressed {
    /// How.
    pub how: Compression,
    /// The body of the frame to be.
    pub body: Vec<u8>,
}

enum Job {
    Waiting(Vec<u8>),
    Running,
    Done(Compressed),
}

#[derive(Default)]
struct State {
    /// In order of submission; the front is the next result.
    jobs: VecDeque<Job>,
    /// Number of the job at the front.
    front: u64,
    /// Number of the next job a worker takes.
    next: u64,
    stop: bool,
    /// Buffers to use again.
    spare: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

/// Worker threads that compress, in order. Dropping it ends them.
pub struct CompressPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// Jobs that are in and not out yet.
    depth: usize,
}

/// Buffers kept for reuse.
const SPARE_MAX: usize = 32;

impl CompressPool {
    /// With `threads` workers; with none, `take` does the work on the caller's thread (simulations, tests).
    pub fn new(threads: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |i| {
            let shared = shared.clone();
            let name = format!("rk-zstd-{i}");
            // A thread that cannot be started is not needed: `take` helps out.
            std::thread::Builder::new().name(name).spawn(move || work(&shared)).ok()
        };
        let threads = (0..threads).filter_map(start).collect();
        CompressPool { shared, threads, depth: 0 }
    }
    /// Jobs in the pool.
    pub fn depth(&self) -> usize {
        self.depth
    }
    /// Hands in a copy of `plain`.
    pub fn submit(&mut self, plain: &[u8]) {
        let mut state = lock(&self.shared.state);
        let mut buf = state.spare.pop().unwrap_or_default();
        buf.clear();
        buf.extend_from_slice(plain);
        state.jobs.push_back(Job::Waiting(buf));
        drop(state);
        self.depth += 1;
        self.shared.work.notify_one();
    }
    /// The oldest job's result if it is done; with `wait`, waits for it. `None` if the pool is empty.
    pub fn take(&mut self, wait: bool) -> Option<Compressed> {
        let mut state = lock(&self.shared.state);
        loop {
            match state.jobs.front()? {
                Job::Done(_) => break,
                _ if !wait => return None,
                Job::Waiting(_) => {
                    // Nobody has begun it: the caller would only wait, so it does the work.
                    let (number, plain) = begin(&mut state)?;
                    drop(state);
                    state = finish(&self.shared, number, plain);
                }
                Job::Running => {
                    state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
        let job = state.jobs.pop_front();
        state.front += 1;
        self.depth -= 1;
        match job {
            Some(Job::Done(c)) => Some(c),
            _ => None,
        }
    }
    /// Gives a buffer back.
    pub fn recycle(&self, body: Vec<u8>) {
        let mut state = lock(&self.shared.state);
        if state.spare.len() < SPARE_MAX {
            state.spare.push(body);
        }
    }
}

impl Drop for CompressPool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.work.notify_all();
        self.threads.drain(..).for_each(|t| drop(t.join()));
    }
}

/// A panic elsewhere leaves the queue whole: every change of it is one assignment.
fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the next waiting job.
fn begin(state: &mut State) -> Option<(u64, Vec<u8>)> {
    let number = state.next;
    let job = state.jobs.get_mut((number - state.front) as usize)?;
    let Job::Waiting(plain) = std::mem::replace(job, Job::Running) else {
        unreachable!("jobs begin in order, so the next one waits");
    };
    state.next += 1;
    Some((number, plain))
}

/// Compresses and files the result; gives the lock back taken.
fn finish(shared: &Shared, number: u64, plain: Vec<u8>) -> std::sync::MutexGuard<'_, State> {
    let mut body = lock(&shared.state).spare.pop().unwrap_or_default();
    let how = compress(&plain, &mut body);
    let mut state = lock(&shared.state);
    let i = (number - state.front) as usize;
    state.jobs[i] = Job::Done(Compressed { how, body });
    if state.spare.len() < SPARE_MAX {
        state.spare.push(plain);
    }
    if i == 0 {
        shared.done.notify_one();
    }
    state
}

fn work(shared: &Shared) {
    let mut state = lock(&shared.state);
    loop {
        match begin(&mut state) {
            Some((number, plain)) => {
                drop(state);
                state = finish(shared, number, plain);
            }
            None if state.stop => return,
            None => state = shared.work.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seal::decompress;

    #[test]
    fn results_come_in_order_for_any_number_of_threads() {
        for threads in [0, 1, 2, 3] {
            let mut pool = CompressPool::new(threads);
            let plain = |i: u32| (0..2000u32).map(|j| (j / 50 + i) as u8).collect::<Vec<u8>>();
            let mut out = 0;
            let mut check = |c: Compressed, pool: &CompressPool| {
                let mut buf = vec![0; 2000];
                decompress(c.how, &c.body, &mut buf).unwrap();
                assert_eq!(buf, plain(out));
                out += 1;
                pool.recycle(c.body);
            };
            for i in 0..200 {
                pool.submit(&plain(i));
                while let Some(c) = pool.take(pool.depth() > 8) {
                    check(c, &pool);
                }
            }
            while let Some(c) = pool.take(true) {
                check(c, &pool);
            }
            assert_eq!(out, 200);
        }
    }
}
