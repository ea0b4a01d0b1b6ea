//! The password or key of a repository: from a file, a command, the environment or a prompt, never from an argument,
//! where every user of the machine could read it.

use crate::cli::RepoArgs;
use crate::errors::{Failure, Outcome};
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use zeroize::Zeroizing;

/// Longest password or key file, in bytes.
const SECRET_MAX: u64 = 1 << 20;

/// A secret and how it is used.
pub enum Secret {
    /// Stretched with Argon2id.
    Password(Zeroizing<Vec<u8>>),
    /// Used as it is.
    Key(Zeroizing<Vec<u8>>),
}

/// Where a secret comes from. Fixed by command line, environment and configuration; nothing is read yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// The whole file is the key.
    KeyFile(PathBuf),
    /// The first line of the file is the password.
    PasswordFile(PathBuf),
    /// The first line of the command's output is the password.
    Command(String),
    /// REKINDLE_PASSWORD.
    Environment,
    /// Ask on the terminal.
    Prompt,
}

/// Finds the source: key file, password file, command, variable, prompt, the first that is given.
pub fn source(args: &RepoArgs) -> Outcome<Source> {
    match (&args.key_file, &args.password_file) {
        (Some(k), Some(p)) => Err(Failure::usage(
            "both a key file and a password file are given",
            format!("{} and {}", k.display(), p.display()),
            "give one of --key-file (REKINDLE_KEY_FILE) and --password-file (REKINDLE_PASSWORD_FILE)",
        )),
        (Some(k), None) => Ok(Source::KeyFile(k.clone())),
        (None, Some(p)) => Ok(Source::PasswordFile(p.clone())),
        (None, None) => Ok(match std::env::var("REKINDLE_PASSWORD_COMMAND") {
            Ok(c) if !c.is_empty() => Source::Command(c),
            _ if std::env::var_os("REKINDLE_PASSWORD").is_some() => Source::Environment,
            _ => Source::Prompt,
        }),
    }
}

impl Source {
    /// Reads the secret. `twice` asks a prompt for it again, for a new repository.
    pub fn read(&self, twice: bool) -> Outcome<Secret> {
        match self {
            Source::KeyFile(path) => file(path).map(Secret::Key),
            Source::PasswordFile(path) => {
                file(path).and_then(|s| first_line(s, &path.display())).map(Secret::Password)
            }
            Source::Command(command) => {
                run(command).and_then(|s| first_line(s, command)).map(Secret::Password)
            }
            Source::Environment => {
                let value = std::env::var_os("REKINDLE_PASSWORD").unwrap_or_default();
                let bytes = Zeroizing::new(std::os::unix::ffi::OsStringExt::into_vec(value));
                first_line(bytes, &"REKINDLE_PASSWORD").map(Secret::Password)
            }
            Source::Prompt => prompt(twice).map(Secret::Password),
        }
    }
}

fn file(path: &Path) -> Outcome<Zeroizing<Vec<u8>>> {
    let cannot =
        |e: &std::io::Error| Failure::system(format!("cannot read the secret in {}", path.display()), e);
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(path).map_err(|e| cannot(&e))?;
    opened.take(SECRET_MAX + 1).read_to_end(&mut bytes).map_err(|e| cannot(&e))?;
    if bytes.is_empty() || bytes.len() as u64 > SECRET_MAX {
        return Err(Failure::usage(
            format!("{} is no secret", path.display()),
            if bytes.is_empty() { "it is empty" } else { "it is over 1 MiB" },
            "name the file that holds the password or key",
        ));
    }
    Ok(bytes)
}

fn run(command: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    let output = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|e| Failure::system("cannot run the password command", &e))?;
    let bytes = Zeroizing::new(output.stdout);
    if output.status.success() {
        return Ok(bytes);
    }
    Err(Failure::new(
        crate::errors::Exit::Failed,
        "the password command failed",
        output.status,
        format!("run it by hand: {command}"),
    ))
}

fn first_line(bytes: Zeroizing<Vec<u8>>, place: &dyn std::fmt::Display) -> Outcome<Zeroizing<Vec<u8>>> {
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = Zeroizing::new(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
    if line.is_empty() {
        return Err(Failure::usage(
            "the password is empty",
            format!("the first line of {place} holds nothing"),
            "put the password there",
        ));
    }
    Ok(line)
}

fn prompt(twice: bool) -> Outcome<Zeroizing<Vec<u8>>> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "there is no password",
            "none is configured and there is no terminal to ask on",
            "use --password-file, --key-file, REKINDLE_PASSWORD_COMMAND or REKINDLE_PASSWORD_FILE",
        ));
    }
    let first = ask("password: ")?;
    if twice && *ask("again: ")? != *first {
        return Err(Failure::usage("the passwords differ", "they were typed differently", "try again"));
    }
    first_line(first, &"what was typed")
}

/// Asks on the terminal without echo.
fn ask(question: &str) -> Outcome<Zeroizing<Vec<u8>>> {
    use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
    let cannot = |e: std::io::Error| Failure::system("cannot ask for the password", &e);
    let terminal = std::fs::File::options().read(true).write(true).open("/dev/tty").map_err(cannot)?;
    let before = tcgetattr(&terminal).map_err(|e| cannot(e.into()))?;
    let mut silent = before.clone();
    silent.local_modes.remove(LocalModes::ECHO);
    silent.local_modes.insert(LocalModes::ECHONL);
    tcsetattr(&terminal, OptionalActions::Flush, &silent).map_err(|e| cannot(e.into()))?;
    let answer = (&terminal).write_all(question.as_bytes()).and_then(|()| line(&terminal));
    let _ = tcsetattr(&terminal, OptionalActions::Flush, &before);
    answer.map_err(cannot)
}

fn line(mut from: &std::fs::File) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let mut typed = Zeroizing::new(Vec::with_capacity(1024));
    let mut byte = [0];
    while from.read(&mut byte)? == 1 && byte[0] != b'\n' && typed.len() < 1024 {
        typed.push(byte[0]);
    }
    Ok(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_lines_and_keys() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |source: Source| match source.read(false) {
            Ok(Secret::Password(p)) => Ok(format!("password {}", String::from_utf8_lossy(&p))),
            Ok(Secret::Key(k)) => Ok(format!("key of {}", k.len())),
            Err(f) => Err(f.exit.code()),
        };
        std::fs::write(&path, "open sesame\r\nsecond line\n").unwrap();
        assert_eq!(read(Source::PasswordFile(path.clone())), Ok("password open sesame".into()));
        assert_eq!(read(Source::KeyFile(path.clone())), Ok("key of 25".into()));
        assert_eq!(read(Source::Command("printf 'a b\\nc'".into())), Ok("password a b".into()));
        assert_eq!(read(Source::Command("exit 3".into())), Err(1));
        std::fs::write(&path, "\n").unwrap();
        assert_eq!(read(Source::PasswordFile(path.clone())), Err(2));
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(Source::KeyFile(path)), Err(2));
        assert_eq!(read(Source::KeyFile(dir.path().join("none"))), Err(1));
    }
}
