//! What can be wrong with a repository, in the words a user is told.

use rekindle_core::volume::Uuid;
use rekindle_io::{Error, Kind};

/// An error of the repository.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RepoError {
    /// Nothing of ours here.
    #[error("{place} is not a repository")]
    NotARepository {
        /// Where was looked.
        place: String,
    },
    /// `init` found one.
    #[error("{place} is a repository already")]
    AlreadyARepository {
        /// Where.
        place: String,
    },
    /// Written by a newer program.
    #[error(
        "the repository has format {found} (features {features:#x}); this program knows format {known}: use a newer one"
    )]
    NewerFormat {
        /// Its format.
        found: u16,
        /// Feature bits not known here.
        features: u64,
        /// The newest format known here.
        known: u16,
    },
    /// May be read, not written: has features this program does not know.
    #[error("the repository has features this program does not know; it can be read, not written")]
    ReadOnly,
    /// No key slot opens with this credential.
    #[error("wrong password or key file")]
    WrongKey,
    /// Encrypted and no credential was given.
    #[error("the repository is encrypted: a password or key file is needed")]
    KeyNeeded,
    /// A credential was given and the repository says it is not encrypted: perhaps it is not the one that was meant.
    #[error("the repository is not encrypted, but a password or key file was given: is it the right one?")]
    NotEncrypted,
    /// The credential could never open anything.
    #[error("{0}")]
    Credential(&'static str),
    /// The last key cannot be removed.
    #[error("this is the only key: without it nobody could read the repository")]
    LastKey,
    /// Bytes are not what was written.
    #[error("{object} is damaged at byte {offset}: {what}")]
    Damaged {
        /// Name of the object.
        object: String,
        /// First byte of the damaged part.
        offset: u64,
        /// What was found.
        what: String,
    },
    /// No such snapshot.
    #[error("no snapshot {wanted}")]
    NoSnapshot {
        /// What was asked for.
        wanted: String,
    },
    /// More than one snapshot begins so.
    #[error("{wanted} is the beginning of several snapshots: give more digits")]
    Ambiguous {
        /// What was asked for.
        wanted: String,
    },
    /// A snapshot has no such volume.
    #[error("snapshot {snapshot} has no volume {volume}")]
    NoVolume {
        /// The snapshot.
        snapshot: Uuid,
        /// What was asked for.
        volume: String,
    },
    /// A collector went on without this writer: nothing was committed; begin again.
    #[error(
        "a collection ended this backup's session while it was silent; nothing was committed, run it again"
    )]
    Fenced,
    /// The caller broke the writer's contract.
    #[error("{0}")]
    Invalid(String),
    /// The store failed.
    #[error("{0}")]
    Store(#[from] Error),
}

/// Result of the repository.
pub type Result<T, E = RepoError> = std::result::Result<T, E>;

impl RepoError {
    /// Damage of `object` at `offset`.
    pub fn damaged(object: impl Into<String>, offset: u64, what: impl Into<String>) -> Self {
        RepoError::Damaged { object: object.into(), offset, what: what.into() }
    }
    /// What was asked for is not to be had any more: waiting does not bring it back.
    pub fn is_loss(&self) -> bool {
        matches!(self, RepoError::Damaged { .. }) || matches!(self, RepoError::Store(e) if e.is_loss())
    }
    /// The caller's next move.
    pub fn kind(&self) -> Kind {
        match self {
            RepoError::NotARepository { .. } | RepoError::NoSnapshot { .. } | RepoError::NoVolume { .. } => {
                Kind::Gone
            }
            RepoError::AlreadyARepository { .. } => Kind::Exists,
            RepoError::NewerFormat { .. } => Kind::Unsupported,
            RepoError::ReadOnly => Kind::ReadOnly,
            RepoError::Damaged { .. } => Kind::Corrupt,
            RepoError::Fenced => Kind::Fenced,
            RepoError::Store(e) => e.kind,
            RepoError::WrongKey
            | RepoError::KeyNeeded
            | RepoError::NotEncrypted
            | RepoError::Credential(_)
            | RepoError::LastKey
            | RepoError::Ambiguous { .. }
            | RepoError::Invalid(_) => Kind::Invalid,
        }
    }
}

impl From<RepoError> for Error {
    fn from(e: RepoError) -> Self {
        match e {
            RepoError::Store(e) => e,
            RepoError::Damaged { ref object, .. } => {
                Error { object: Some(object.as_str().into()), ..Error::new(e.kind(), e.to_string()) }
            }
            other => Error::new(other.kind(), other.to_string()),
        }
    }
}
