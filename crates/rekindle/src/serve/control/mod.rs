//! The control protocol: what a verb says to the process that serves a set, and what it hears back.
//!
//! JSON lines over the Unix socket `NAME.sock` in the runtime directory. The client sends one [`Request`] line and reads
//! [`Message`] lines until a `summary` or an `exit_error` ends the answer; closing the connection early takes the
//! request back where that is possible (a `wait` ends, a backup stops). A line is at most [`LINE_MAX`] bytes; the
//! server answers the same user (and root) only, which the kernel vouches for.
//!
//! The same messages are what verbs print under `--json`: one vocabulary for people's programs and for our own.

mod client;
mod message;
mod request;
mod server;
mod status;

pub use client::{ask, follow};
pub use message::{
    BackupSummary, CutoverSummary, Event, Message, Progress, RestoreSummary, Status, Summary, UsageRows,
};
pub use request::{BackupRequest, First, RepositoryAccess, Request, Tune};
pub use server::{ControlServer, Handler, Reply};
pub use status::{
    BackupStatus, Damage, DamagedRange, Interrupted, RestoreStatus, SetStatus, State, Trouble, VolumeStatus,
};

/// Longest line either side accepts, in bytes: a status of a set with hundreds of volumes fits.
pub const LINE_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_read_as_documented() {
        let check = |text: &str, want: Request| {
            let got: Request = serde_json::from_str(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(got, want);
            let back = serde_json::to_string(&want).unwrap();
            assert_eq!(serde_json::from_str::<Request>(&back).unwrap(), want);
        };
        check(r#"{"verb":"status"}"#, Request::Status);
        check(
            r#"{"verb":"wait","for":"usage=90%","timeout_ms":500}"#,
            Request::Wait { r#for: "usage=90%".into(), timeout_ms: Some(500) },
        );
        check(
            r#"{"verb":"tune","limit":1000,"weight":null,"first":[],"online_now":false}"#,
            Request::Tune(Tune { limit: Some(1000), ..Tune::default() }),
        );
        check(
            r#"{"verb":"backup","repository":null,"tags":["a"],"pre_hook":null,"post_hook":null}"#,
            Request::Backup(BackupRequest { tags: vec!["a".into()], ..BackupRequest::default() }),
        );
        for bad in [r#"{"verb":"format_disk"}"#, r#"{"verb":"wait"}"#, r#"{"verb":"stop"} x"#, ""] {
            assert!(serde_json::from_str::<Request>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn messages_are_flat_lines() {
        let m = Message::Event(Event { name: "shop".into(), event: "online".into(), ..Event::default() });
        assert_eq!(
            serde_json::to_string(&m).unwrap(),
            r#"{"message_type":"event","time":"","name":"shop","event":"online","text":""}"#
        );
        let e = Message::ExitError(crate::errors::Failure::interrupted("backup").to_json());
        let back: Message = serde_json::from_str(&serde_json::to_string(&e).unwrap()).unwrap();
        assert_eq!(back, e);
    }

    #[test]
    fn states_read_alike_everywhere() {
        for s in [State::Live, State::Opening, State::Verified, State::Failed, State::Interrupted] {
            assert_eq!(serde_json::to_string(&s).unwrap(), format!("\"{}\"", s.word()));
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod over_a_socket;
