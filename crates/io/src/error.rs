//! One error for all ports: the kind names the caller's next move, the rest is context for a person.

use std::fmt;

/// What the caller can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Try again: a passing fault of a store or peer.
    Retry,
    /// The holder or store cannot be reached; it may come back.
    Unavailable,
    /// Somebody else took over; stop.
    Fenced,
    /// Bytes are not what was written: damaged, forged or torn. Never served as data.
    Corrupt,
    /// No space (disk, log, fleece).
    Full,
    /// The request itself is wrong (range, alignment, size).
    Invalid,
    /// The object or file does not exist.
    Gone,
    /// It exists already (create-if-absent lost).
    Exists,
    /// Held by another process.
    Busy,
    /// The device failed a flush or a write and stays failed until reopened.
    Failed,
    /// This device or store cannot do that.
    Unsupported,
    /// Opened read-only.
    ReadOnly,
    /// The caller went away or asked to stop.
    Cancelled,
}

/// An error of a port.
#[derive(Clone)]
pub struct Error {
    /// The next move.
    pub kind: Kind,
    /// What happened to what, e.g. "pack 3f9c2a1e, slot 7: authentication failed".
    pub what: String,
    /// The system's code, when there is one.
    pub os: Option<i32>,
    /// The object of a store that is damaged, when it is known which.
    pub object: Option<Box<str>>,
}

/// Result of a port.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A new error.
    pub fn new(kind: Kind, what: impl Into<String>) -> Self {
        Error { kind, what: what.into(), os: None, object: None }
    }
    /// From a system error, with the file or object it happened to.
    pub fn os(what: impl Into<String>, e: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        let kind = match (e.kind(), e.raw_os_error()) {
            (K::NotFound, _) => Kind::Gone,
            (K::AlreadyExists, _) => Kind::Exists,
            (K::StorageFull | K::QuotaExceeded | K::FileTooLarge, _) => Kind::Full,
            (K::InvalidInput, _) => Kind::Invalid,
            (K::ReadOnlyFilesystem | K::PermissionDenied, _) => Kind::ReadOnly,
            (K::ResourceBusy | K::WouldBlock, _) => Kind::Busy,
            (K::Unsupported, _) => Kind::Unsupported,
            (
                K::ConnectionRefused | K::ConnectionReset | K::TimedOut | K::BrokenPipe | K::UnexpectedEof,
                _,
            ) => Kind::Unavailable,
            (_, Some(libc::EOPNOTSUPP)) => Kind::Unsupported,
            _ => Kind::Failed,
        };
        Error { kind, what: format!("{}: {e}", what.into()), os: e.raw_os_error(), object: None }
    }
    /// Bytes that a holder was asked for are not to be had: waiting does not help, bringing the object back does. A store
    /// that is away, or a device that failed, is something else.
    pub fn is_loss(&self) -> bool {
        matches!(self.kind, Kind::Corrupt | Kind::Gone | Kind::Invalid | Kind::Unsupported)
    }
    /// The same error with more context in front.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.what = format!("{place}: {}", self.what);
        self
    }
}
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.what)
    }
}
impl std::error::Error for Error {}
