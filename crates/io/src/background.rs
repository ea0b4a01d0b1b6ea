//! Work that gives way to the guest.

/// Nice value of work in the background: about a tenth of a guest's share where both want the processor, all of it where
/// nobody else does.
const NICE: i32 = 10;

/// From now on this thread, and every thread it starts, runs only as far as the others leave it the processor. There is no
/// way back without privileges, so it is for threads that end with their work. Best effort: a refusal costs the guest
/// latency, nothing else.
///
/// Not for a thread that others wait for, such as one that closes a gate.
pub fn background() {
    // On Linux priorities belong to threads: "this process" is the calling thread, and threads inherit it.
    let _ = rustix::process::setpriority_process(None, NICE);
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_background_thread_hands_its_niceness_on_and_leaves_its_maker_alone() {
        let nice = || rustix::process::getpriority_process(None).expect("our own priority can be read");
        let before = nice();
        let of_a_child = std::thread::spawn(move || {
            super::background();
            std::thread::spawn(nice).join().expect("reads a number")
        });
        assert_eq!(of_a_child.join().expect("reads a number"), before.max(super::NICE));
        assert_eq!(nice(), before);
    }
}
