//! Opening a repository as the command line, environment or configuration says.

use crate::cli::RepoArgs;
use crate::errors::{Exit, Failure, Outcome};
use crate::secret::{Secret, Source, source};
use crate::serve::control::RepositoryAccess;
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
    pub fn open(&self) -> Outcome<()> {
        Ok(())
    }
}
/// The place of `-r`: a directory.
pub fn place(repo: &str) -> Outcome<PathBuf> {
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
