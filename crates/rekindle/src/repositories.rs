//! Opening a repository as the command line, environment or configuration says.

use crate::cli::RepoArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::secret::{Secret, Source, source};
use crate::serve::control::RepositoryAccess;
use rekindle_core::repo::names;
use rekindle_engine::repository::{Credential, RepoError, Repository, Secret as RepositorySecret};
use rekindle_io::Kind;
use rekindle_io::store::{DirStore, Store, TcpStore};
use std::path::PathBuf;
use std::sync::Arc;

/// Where a repository is and how it is opened; nothing is opened or read yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// An absolute path.
    pub place: PathBuf,
    /// Where its password or key comes from.
    pub source: Source,
}

impl Access {
    /// What the command line and the environment say; `None` if they name no repository.
    pub fn given(args: &RepoArgs) -> Outcome<Option<Access>> {
        match &args.repo {
            Some(repo) => Ok(Some(Access { place: place(repo)?, source: source(args)? })),
            None => Ok(None),
        }
    }
    /// What they say, or the failure of a verb that needs a repository.
    pub fn needed(args: &RepoArgs) -> Outcome<Access> {
        Access::given(args)?.ok_or_else(|| {
            Failure::usage("no repository is named", "this needs one", "give -r REPO or set REKINDLE_REPO")
        })
    }
    /// From a configuration.
    pub fn configured(config: &crate::config::Config) -> Outcome<Option<Access>> {
        let Some(repo) = &config.repo else { return Ok(None) };
        let source = match (&config.key_file, &config.password_file, &config.password_command) {
            (Some(key), ..) => Source::KeyFile(key.clone()),
            (_, Some(file), _) => Source::PasswordFile(file.clone()),
            (_, _, Some(command)) => Source::Command(command.clone()),
            _ => source(&RepoArgs::default())?,
        };
        Ok(Some(Access { place: place(repo)?, source }))
    }
    /// Opens it. A prompt is shown only if the repository turns out to be encrypted.
    pub fn open(&self) -> Outcome<Repository> {
        let store = store(&self.place)?;
        if self.source == Source::Prompt {
            match Repository::open(store.clone(), None) {
                Err(RepoError::KeyNeeded) => {}
                other => return other.map_err(|e| self.failure(&e)),
            }
        }
        let credential = credential(self.source.read(false)?);
        Repository::open(store, Some(&credential)).map_err(|e| self.failure(&e))
    }
    /// As it goes to an owner: the secret is read here, where a prompt can be answered and files can be reached.
    pub fn to_request(&self) -> Outcome<RepositoryAccess> {
        let place = self.place.display().to_string();
        let mut request = RepositoryAccess { place, ..RepositoryAccess::default() };
        if self.is_encrypted()? {
            match self.source.read(false)? {
                Secret::Password(p) => request.password = Some(hex(&p)),
                Secret::Key(k) => request.key = Some(hex(&k)),
            }
        }
        Ok(request)
    }
    /// There is a repository, and whether it needs a password or key. Reads no secret.
    pub fn is_encrypted(&self) -> Outcome<bool> {
        match Repository::open(store(&self.place)?, None) {
            Ok(_) => Ok(false),
            Err(RepoError::KeyNeeded) => Ok(true),
            Err(e) => Err(self.failure(&e)),
        }
    }
    /// The failure of opening it without password or key.
    pub fn key_needed(&self) -> Failure {
        self.failure(&RepoError::KeyNeeded)
    }
    fn failure(&self, e: &RepoError) -> Failure {
        failure(format!("cannot open the repository {}", self.place.display()), e)
    }
}

/// Opens what a request names.
pub fn open_requested(request: &RepositoryAccess) -> Outcome<Repository> {
    let place = PathBuf::from(&request.place);
    let cannot = |e: &RepoError| failure(format!("cannot open the repository {}", request.place), e);
    let bad = || {
        Failure::usage(
            "the owner did not understand the request",
            "a secret is not hex",
            "use the same version on both sides",
        )
    };
    let secret = match (&request.password, &request.key) {
        (Some(p), _) => Some(Secret::Password(unhex(p).ok_or_else(bad)?)),
        (_, Some(k)) => Some(Secret::Key(unhex(k).ok_or_else(bad)?)),
        _ => None,
    };
    let credential = secret.map(credential);
    Repository::open(store(&place)?, credential.as_ref()).map_err(|e| cannot(&e))
}

/// The store of a repository that exists.
pub fn store(place: &std::path::Path) -> Outcome<Arc<dyn Store>> {
    if let Some(url) = place.to_str().filter(|p| p.starts_with(BENCH_STORE)) {
        let store = TcpStore::open(url);
        return match store {
            Ok(store) => Ok(Arc::new(store)),
            Err(e) => Err(Failure::io(format!("cannot open the repository {url}"), &e)),
        };
    }
    match DirStore::open(place) {
        Ok(store) => Ok(store),
        Err(e) if e.kind == Kind::Gone => Err(Failure::new(
            Exit::NoRepository,
            format!("there is no repository at {}", place.display()),
            "that directory does not exist",
            format!(
                "check the path and that it is mounted, or make one: rekindle init -r {}",
                place.display()
            ),
        )),
        Err(e) if e.kind == Kind::Invalid => Err(Failure::new(
            Exit::NoRepository,
            format!("there is no repository at {}", place.display()),
            &e.what,
            "check the path: a repository is a directory",
        )),
        Err(e) => Err(Failure::io(format!("cannot open the repository {}", place.display()), &e)),
    }
}

/// A directory behind the store server of the benchmarks (docs/benchmarks.md): no authentication of its own.
pub const BENCH_STORE: &str = "tcp://";

/// The place of `-r`: a directory.
pub fn place(repo: &str) -> Outcome<PathBuf> {
    if repo.starts_with(BENCH_STORE) {
        return Ok(PathBuf::from(repo));
    }
    if let Some((scheme, _)) = repo.split_once("://") {
        return Err(Failure::usage(
            format!("cannot use the repository {repo}"),
            format!("this version keeps repositories in directories, not behind {scheme}://"),
            "name a directory; a mounted network file system will do",
        ));
    }
    if repo.is_empty() {
        return Err(Failure::usage(
            "no repository is named",
            "the name is empty",
            "give -r REPO or set REKINDLE_REPO",
        ));
    }
    std::path::absolute(repo).map_err(|e| Failure::system(format!("cannot use the repository {repo}"), &e))
}

/// A secret as the repository takes it.
pub fn credential(secret: Secret) -> Credential {
    match secret {
        Secret::Password(p) => Credential::Passphrase(RepositorySecret::new(p.to_vec())),
        Secret::Key(k) => Credential::KeyFile(RepositorySecret::new(k.to_vec())),
    }
}

/// An error of the repository, while doing `error`.
pub fn failure(error: impl Into<String>, e: &RepoError) -> Failure {
    let (exit, cure) = match e {
        RepoError::NotARepository { place } => {
            (Exit::NoRepository, format!("check the path, or make a repository: rekindle init -r {place}"))
        }
        RepoError::AlreadyARepository { .. } => {
            (Exit::Failed, "use it as it is, or name another directory".to_string())
        }
        RepoError::NewerFormat { .. } => (Exit::Failed, "install a newer rekindle".into()),
        RepoError::ReadOnly => (Exit::Failed, "use a newer rekindle to write to it".into()),
        RepoError::WrongKey => {
            (Exit::WrongPassword, "check --password-file, --key-file or REKINDLE_PASSWORD_COMMAND".into())
        }
        RepoError::KeyNeeded => {
            (Exit::WrongPassword, "give --password-file, --key-file or REKINDLE_PASSWORD_COMMAND".into())
        }
        RepoError::NotEncrypted => {
            (Exit::WrongPassword, "check -r; if it is the right one, give no password and no key file".into())
        }
        RepoError::Credential(_) => (Exit::Usage, "use another password or key file".into()),
        RepoError::LastKey => (Exit::Refused, "add another key first".into()),
        RepoError::NoSnapshot { .. } | RepoError::NoVolume { .. } => {
            (Exit::Failed, "see what there is with `rekindle timeline`".into())
        }
        RepoError::Ambiguous { .. } => (Exit::Usage, "give more digits; see `rekindle timeline`".into()),
        RepoError::Fenced => (Exit::Failed, "run it again".into()),
        RepoError::Invalid(_) => (Exit::Failed, "check what was asked for".into()),
        RepoError::Damaged { object, .. } if object == names::CONFIG || object.starts_with(names::KEYS) => (
            Exit::Failed,
            "nothing opens without it: put it back from a copy of the repository; no other password or key helps".into(),
        ),
        RepoError::Damaged { .. } => (
            Exit::Failed,
            "keep the damaged object for examination; other snapshots may be whole (`rekindle timeline`)"
                .into(),
        ),
        RepoError::Store(e) => return Failure::io(error, e),
    };
    Failure::new(exit, error, e, cure)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<zeroize::Zeroizing<Vec<u8>>> {
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|d| d as u8)).collect();
    let digits = digits.filter(|d| d.len().is_multiple_of(2))?;
    Some(zeroize::Zeroizing::new(digits.chunks(2).map(|p| p[0] << 4 | p[1]).collect()))
}
