//! A few threads behind a queue, started at the first job. Closing finishes what is queued.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

struct State<J> {
    jobs: VecDeque<J>,
    threads: Vec<JoinHandle<()>>,
    closed: bool,
}

/// The queue.
pub(super) struct Queue<J> {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State<J>>,
    came: Condvar,
}

impl<J: Send + 'static> Queue<J> {
    pub(super) fn new(name: &'static str, threads_max: usize) -> Self {
        let state = State { jobs: VecDeque::new(), threads: Vec::new(), closed: false };
        Queue { name, threads_max, state: Mutex::new(state), came: Condvar::new() }
    }
    fn lock(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Queues a job. `spawn` starts one more thread that calls `work`; it is called while fewer than `threads_max` run.
    /// When no thread can be started at all the job comes back: the caller runs it itself.
    pub(super) fn push(
        &self,
        job: J,
        spawn: impl Fn(std::thread::Builder) -> std::io::Result<JoinHandle<()>>,
    ) -> Option<J> {
        let mut s = self.lock();
        if s.threads.len() < self.threads_max && !s.closed {
            match spawn(std::thread::Builder::new().name(self.name.into())) {
                Ok(t) => s.threads.push(t),
                Err(_) if s.threads.is_empty() => return Some(job),
                Err(_) => {}
            }
        }
        s.jobs.push_back(job);
        drop(s);
        self.came.notify_one();
        None
    }
    /// Nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }
    /// The loop of one thread: until closed and empty.
    pub(super) fn work(&self, run: impl Fn(J)) {
        loop {
            let mut s = self.lock();
            let job = loop {
                if let Some(j) = s.jobs.pop_front() {
                    break j;
                }
                if s.closed {
                    return;
                }
                s = self.came.wait(s).unwrap_or_else(PoisonError::into_inner);
            };
            drop(s);
            run(job);
        }
    }
    /// Finishes what is queued and ends the threads.
    pub(super) fn close(&self) {
        let threads = {
            let mut s = self.lock();
            s.closed = true;
            std::mem::take(&mut s.threads)
        };
        self.came.notify_all();
        for t in threads.into_iter().filter(|t| t.thread().id() != std::thread::current().id()) {
            // A panic of a worker was already reported by the panic hook.
            t.join().ok();
        }
    }
}
