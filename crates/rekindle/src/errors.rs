//! What went wrong, why, and what to do about it: the one error a user meets.
//!
//! Every failure names its cause and a cure and carries the exit code scripts see (the numbers are a promise: 0, 1, 3,
//! 10 to 12 and 130 are restic's too). Errors of the ports come in with a kind, which decides the code and the usual cure.

use rekindle_io::Kind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The exit codes. Unknown is failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Exit {
    /// It failed.
    Failed = 1,
    /// The command line or configuration is wrong; nothing was done.
    Usage = 2,
    /// Done, with damage that was named.
    Damage = 3,
    /// There is no repository where one was expected.
    NoRepository = 10,
    /// Somebody else holds it.
    Busy = 11,
    /// The password or key file opens no key of the repository.
    WrongPassword = 12,
    /// The repository, store or owner cannot be reached.
    Unreachable = 13,
    /// Refused because data could be lost.
    Refused = 14,
    /// `wait` ran out of time.
    TimedOut = 124,
    /// Stopped by the user.
    Interrupted = 130,
}

impl Exit {
    /// The number the process ends with.
    pub fn code(self) -> u8 {
        self as u8
    }
    /// From a number that came over the control socket.
    pub fn from_code(code: u8) -> Exit {
        use Exit::*;
        [Usage, Damage, NoRepository, Busy, WrongPassword, Unreachable, Refused, TimedOut, Interrupted]
            .into_iter()
            .find(|e| e.code() == code)
            .unwrap_or(Failed)
    }
}

/// A failure as a person and a program see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// For the shell.
    pub exit: Exit,
    /// What could not be done, and to what.
    pub error: String,
    /// Why.
    pub cause: String,
    /// What to do now.
    pub cure: String,
}

/// Result of everything a verb does.
pub type Outcome<T = ()> = Result<T, Failure>;

/// The last line of `--json` output and of a control answer when something failed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExitError {
    /// The exit code of the process.
    pub code: u8,
    /// What could not be done, and to what.
    pub error: String,
    /// Why.
    pub cause: String,
    /// What to do now.
    pub cure: String,
}

impl Failure {
    /// A failure from its four parts.
    pub fn new(
        exit: Exit,
        error: impl Into<String>,
        cause: impl fmt::Display,
        cure: impl Into<String>,
    ) -> Failure {
        let (error, mut cause) = (error.into(), cause.to_string());
        // "cannot open x: x: No such file" says x once too often.
        if let Some((place, why)) = cause.split_once(": ")
            && error.ends_with(&format!(" {place}"))
        {
            cause = why.to_string();
        }
        Failure { exit, error, cause, cure: cure.into() }
    }
    /// The command line or configuration is wrong.
    pub fn usage(error: impl Into<String>, cause: impl fmt::Display, cure: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, error, cause, cure)
    }
    /// Refused because data could be lost.
    pub fn refused(error: impl Into<String>, cause: impl fmt::Display, cure: impl Into<String>) -> Failure {
        Failure::new(Exit::Refused, error, cause, cure)
    }
    /// The user stopped it.
    pub fn interrupted(what: impl fmt::Display) -> Failure {
        Failure::new(
            Exit::Interrupted,
            format!("{what} was interrupted"),
            "a signal asked to stop",
            "run the same command again; nothing acknowledged is lost",
        )
    }
    /// From an error of a port, while doing `error`.
    pub fn io(error: impl Into<String>, e: &rekindle_io::Error) -> Failure {
        let (exit, cure) = cure_of(e);
        Failure::new(exit, error, &e.what, cure)
    }
    /// From an error of the system, while doing `error` to `path`.
    pub fn system(error: impl Into<String>, e: &std::io::Error) -> Failure {
        let e = rekindle_io::Error::os("", e);
        let (exit, cure) = cure_of(&e);
        Failure::new(exit, error, e.what.trim_start_matches(": "), cure)
    }
    /// The same failure with another cure.
    pub fn cure(mut self, cure: impl Into<String>) -> Failure {
        self.cure = cure.into();
        self
    }
    /// The same failure with another exit code.
    pub fn exit(mut self, exit: Exit) -> Failure {
        self.exit = exit;
        self
    }
    /// As it goes into JSON.
    pub fn to_json(&self) -> ExitError {
        ExitError {
            code: self.exit.code(),
            error: self.error.clone(),
            cause: self.cause.clone(),
            cure: self.cure.clone(),
        }
    }
}

impl From<ExitError> for Failure {
    fn from(e: ExitError) -> Failure {
        Failure { exit: Exit::from_code(e.code), error: e.error, cause: e.cause, cure: e.cure }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)?;
        if !self.cause.is_empty() {
            write!(f, ": {}", self.cause)?;
        }
        if !self.cure.is_empty() {
            write!(f, "\n  {}", self.cure)?;
        }
        Ok(())
    }
}
impl std::error::Error for Failure {}

/// What helps against an error: some that no kind tells apart have nothing to do with a device.
fn cure_of(e: &rekindle_io::Error) -> (Exit, &'static str) {
    match (e.kind, e.os) {
        (Kind::Failed, Some(libc::ENOTDIR | libc::EISDIR | libc::ELOOP | libc::ENAMETOOLONG)) => {
            (Exit::Failed, "check the path")
        }
        (Kind::Failed, Some(libc::EMFILE | libc::ENFILE)) => (
            Exit::Failed,
            "raise the limit of open files (`ulimit -n`, LimitNOFILE=), or end what holds many",
        ),
        _ => usual_cure(e.kind),
    }
}

/// The exit code of a kind and what usually helps; call sites that know more say more with `cure`.
fn usual_cure(kind: Kind) -> (Exit, &'static str) {
    match kind {
        Kind::Retry => (Exit::Unreachable, "try again in a moment"),
        Kind::Unavailable => (
            Exit::Unreachable,
            "check that the store is mounted and reachable, then run the same command again",
        ),
        Kind::Fenced => (
            Exit::Refused,
            "another process took this over; look with `rekindle status` before doing anything",
        ),
        Kind::Corrupt => (
            Exit::Failed,
            "keep the damaged object for examination and use another snapshot (`rekindle timeline`)",
        ),
        Kind::Full => (Exit::Failed, "free some space on that file system and run the same command again"),
        Kind::Invalid => (Exit::Failed, "check the name, size and alignment that were asked for"),
        Kind::Gone => (Exit::Failed, "check the path or name"),
        Kind::Exists => (Exit::Failed, "choose another name, or remove what is there if it is not needed"),
        Kind::Busy => (Exit::Busy, "stop whoever uses it, or wait until it is free"),
        Kind::Failed => (
            Exit::Failed,
            "look at the kernel's messages (`dmesg`) for that device, then run the command again",
        ),
        Kind::Unsupported => (Exit::Failed, "use another file system or device for it"),
        Kind::ReadOnly => (Exit::Failed, "check its permissions and that it is not mounted read-only"),
        Kind::Cancelled => (Exit::Interrupted, "run the same command again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_the_promised_ones_and_come_back() {
        let all = [
            (Exit::Failed, 1),
            (Exit::Usage, 2),
            (Exit::Damage, 3),
            (Exit::NoRepository, 10),
            (Exit::Busy, 11),
            (Exit::WrongPassword, 12),
            (Exit::Unreachable, 13),
            (Exit::Refused, 14),
            (Exit::TimedOut, 124),
            (Exit::Interrupted, 130),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code);
            assert_eq!(Exit::from_code(code), exit);
        }
        assert_eq!(Exit::from_code(77), Exit::Failed);
    }

    #[test]
    fn a_place_is_named_once() {
        let said = |error: &str, cause: &str| Failure::new(Exit::Failed, error, cause, "").to_string();
        assert_eq!(said("cannot open ./x", "./x: No such file"), "cannot open ./x: No such file");
        assert_eq!(said("cannot open a./x", "./x: No such file"), "cannot open a./x: ./x: No such file");
        assert_eq!(said("cannot open y", "x: No such file"), "cannot open y: x: No such file");
    }

    #[test]
    fn a_wrong_path_is_not_blamed_on_a_device() {
        for (os, cure) in
            [(libc::ENOTDIR, "check the path"), (libc::EMFILE, "open files"), (libc::EIO, "dmesg")]
        {
            let e = std::io::Error::from_raw_os_error(os);
            assert!(Failure::system("cannot", &e).cure.contains(cure), "{e}");
            assert!(Failure::io("cannot", &rekindle_io::Error::os("x", &e)).cure.contains(cure), "{e}");
        }
    }

    #[test]
    fn every_kind_has_a_cure() {
        use Kind::*;
        for kind in [
            Retry,
            Unavailable,
            Fenced,
            Corrupt,
            Full,
            Invalid,
            Gone,
            Exists,
            Busy,
            Failed,
            Unsupported,
            ReadOnly,
            Cancelled,
        ] {
            let f = Failure::io("cannot do it", &rekindle_io::Error::new(kind, "because"));
            assert!(!f.cure.is_empty(), "{kind:?}");
            assert_eq!(f.to_string(), format!("cannot do it: because\n  {}", f.cure));
            assert_eq!(Failure::from(f.to_json()), f);
        }
    }
}
