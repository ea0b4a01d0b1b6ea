//! A repository with a damaged object: goal, everything else is restored, what is lost is named in bytes to people and to
//! programs, and nothing waits for ever; method, the real binary, one flipped byte or one pack taken away.

#![allow(clippy::unwrap_used)] // a test: to fail here is the point

mod kit;
use kit::{Running, Sandbox, data, read};
use rekindle_export::nbd::Listen;
use rekindle_export::nbd::client::{Client, ClientOptions};
use std::path::PathBuf;

const SIZE: usize = 6 << 20;
const EXTENT: usize = 64 << 10;

/// A repository with one snapshot of `db`, the bytes of it, and the pack that holds them.
fn lost(s: &Sandbox) -> (Vec<u8>, PathBuf) {
    s.ok(&["init"]);
    let mut bytes = data(SIZE, 1);
    bytes[1 << 20..3 << 20].fill(0);
    let path = s.file("lost.raw", &bytes);
    s.ok(&["backup", &path, "--as", "db"]);
    std::fs::remove_file(path).unwrap();
    let folders = std::fs::read_dir(s.path("repo/d")).unwrap().map(|f| f.unwrap().path());
    let packs = folders.flat_map(|f| std::fs::read_dir(f).unwrap().map(|p| p.unwrap().path()));
    (bytes, packs.max_by_key(|p| p.metadata().unwrap().len()).unwrap())
}

fn writable(pack: &PathBuf) {
    let mut writable = pack.metadata().unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut writable, 0o644);
    std::fs::set_permissions(pack, writable).unwrap();
}

/// Flips a byte in the midst: one extent is lost.
fn flip(pack: &PathBuf) {
    let mut bytes = read(pack.clone());
    let at = bytes.len() / 2;
    bytes[at] ^= 0x40;
    writable(pack);
    std::fs::write(pack, bytes).unwrap();
}

fn online(s: &Sandbox) -> (Running, Client) {
    let listen = format!("unix:{}", s.text("n.sock"));
    let mut r = s.start(&["restore", "db@latest", "--to", "new.raw", "--listen", &listen]);
    r.says("nbd+unix");
    let options = ClientOptions { export: "db".into(), ..ClientOptions::default() };
    (r, Client::connect(&Listen::Unix(s.path("n.sock")), &options).unwrap())
}

#[test]
fn a_damaged_extent_of_an_online_restore_is_named_and_healed_by_the_guest() {
    let s = Sandbox::new();
    let (mut bytes, pack) = lost(&s);
    flip(&pack);
    let object = pack.file_name().unwrap().to_str().unwrap();
    let (mut r, mut c) = online(&s);
    // Ends by itself, with the code that says what it is.
    let wait = ["wait", "db", "--for=verified", "--timeout", "60s"];
    let said = s.fails(3, &wait);
    assert!(said.contains(object) && said.contains("64 KiB of db at byte"), "{said}");
    let (code, messages) = s.messages(&wait);
    let last = messages.last().unwrap();
    assert_eq!((code, &last["message_type"], &last["code"]), (3, &"exit_error".into(), &3.into()), "{last}");
    let status = s.json(&["status", "db"]);
    let damage = &status[0]["restore"]["damage"];
    assert_eq!(
        (&status[0]["state"], &damage["bytes"], &damage["rest_complete"]),
        (&"online".into(), &EXTENT.into(), &true.into())
    );
    let range = &damage["ranges"][0];
    assert!(range["volume"] == "db" && range["object"].as_str().unwrap().ends_with(object), "{damage}");
    let text = s.ok(&["status", "db"]);
    assert!(
        text.contains("online, damaged") && text.contains(object) && text.contains("rekindle resume db"),
        "{text}"
    );
    assert!(s.ok(&["status"]).contains("online, damaged"));
    let said = s.fails(14, &["cutover", "db"]);
    assert!(said.contains("not whole") && said.contains(object), "{said}");
    assert!(s.ok(&["cutover", "db", "-n"]).contains("refused"));
    // That extent alone is an error, until the guest has written all of it.
    let at = usize::try_from(range["start"].as_u64().unwrap()).unwrap();
    for e in (0..SIZE).step_by(EXTENT) {
        let got = c.read(e as u64, EXTENT as u32);
        assert!(if e == at { got.is_err() } else { got.unwrap() == bytes[e..e + EXTENT] }, "{e}");
    }
    bytes[at..at + EXTENT].fill(7);
    c.write(at as u64, &bytes[at..at + EXTENT]).unwrap();
    s.ok(&wait);
    assert!(s.json(&["status", "db"])[0]["restore"]["damage"].is_null());
    s.ok(&["cutover", "db"]);
    drop(c);
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0, "{}", r.said());
    assert!(read(s.path("new.raw")) == bytes);
}

#[test]
fn what_cannot_be_compared_any_more_is_not_waited_for() {
    let s = Sandbox::new();
    let (bytes, pack) = lost(&s);
    let listen = format!("unix:{}", s.text("n.sock"));
    let begin = |more: &str| {
        let mut r = s.start(&["restore", "db@latest", "--to", "new.raw", "--listen", &listen, more]);
        r.says("nbd+unix");
        r
    };
    let mut r = begin("--no-verify");
    s.ok(&["wait", "db", "--for=complete", "--timeout", "60s"]);
    let said = s.fails(1, &["wait", "db", "--for=verified", "--timeout", "60s"]);
    assert!(said.contains("rekindle tune db --verify"), "{said}");
    // Complete, and then the repository loses what it compares with: nobody has read that yet.
    let whole = read(pack.clone());
    let damaged: Vec<u8> = whole.iter().map(|b| b ^ 0x40).collect();
    writable(&pack);
    std::fs::write(&pack, damaged).unwrap();
    assert!(s.ok(&["tune", "db", "--verify", "-n"]).contains("would read back"));
    s.ok(&["tune", "db", "--verify"]);
    let wait = ["wait", "db", "--for=verified", "--timeout", "60s"];
    let said = s.fails(3, &wait);
    let object = pack.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(object) && said.contains("cutover db --no-verify"), "{said}");
    let status = &s.json(&["status", "db"])[0];
    assert_eq!(
        (&status["state"], &status["restore"]["damage"]),
        (&"complete".into(), &serde_json::Value::Null)
    );
    let uncompared = &status["restore"]["uncompared"];
    assert!(uncompared["rest_complete"] == true && uncompared["bytes"].as_u64().unwrap() > 0, "{status}");
    assert!(s.ok(&["status", "db"]).contains("could not be compared"));
    let said = s.fails(14, &["cutover", "db"]);
    assert!(said.contains("cannot be verified in whole"), "{said}");
    // Gone on with, it is as it was asked last; once the object is back all is compared.
    r.signal(libc::SIGTERM);
    r.end();
    std::fs::write(&pack, whole).unwrap();
    let mut r = begin("--no-verify");
    s.fails(1, &wait);
    r.signal(libc::SIGTERM);
    r.end();
    let mut r = begin("--verify");
    s.ok(&wait);
    s.ok(&["cutover", "db"]);
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0);
    assert!(read(s.path("new.raw")) == bytes);
}

#[test]
fn a_lost_pack_that_is_put_back_is_asked_for_again() {
    let s = Sandbox::new();
    let (bytes, pack) = lost(&s);
    std::fs::rename(&pack, s.path("away")).unwrap();
    let (mut r, c) = online(&s);
    s.fails(3, &["wait", "db", "--for=complete", "--timeout", "60s"]);
    // So small a snapshot is one pack: what it says of zeros is lost too.
    let damage = &s.json(&["status", "db"])[0]["restore"]["damage"];
    assert_eq!((&damage["bytes"], damage["ranges"].as_array().unwrap().len()), (&SIZE.into(), 1), "{damage}");
    std::fs::rename(s.path("away"), &pack).unwrap();
    s.ok(&["resume", "db"]);
    s.ok(&["wait", "db", "--for=verified", "--timeout", "60s"]);
    s.ok(&["cutover", "db"]);
    drop(c);
    r.signal(libc::SIGTERM);
    assert_eq!(r.end(), 0);
    assert!(read(s.path("new.raw")) == bytes);
}

#[test]
fn a_plain_copy_restores_what_can_be_had_and_goes_on_later() {
    let s = Sandbox::new();
    let (bytes, pack) = lost(&s);
    let whole = read(pack.clone());
    flip(&pack);
    let object = pack.file_name().unwrap().to_str().unwrap();
    let restore = ["restore", "db", "--to", "new.raw"];
    let ran = s.run(&restore);
    assert_eq!(ran.code, 3, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("64 KiB of db at byte") && ran.out.contains(object), "{}", ran.out);
    assert!(!s.path("new.raw").exists(), "not taken for whole");
    // Again, for programs: nothing but the damaged extent (and the edges) is asked for.
    let (code, messages) = s.messages(&restore);
    let done = &messages.last().unwrap()["restore"];
    let (damage, range) = (&done["damage"], &done["damage"]["ranges"][0]);
    assert_eq!((code, &damage["bytes"], &damage["more_ranges"]), (3, &EXTENT.into(), &0.into()), "{done}");
    assert!(range["volume"] == "db" && range["object"].as_str().unwrap().ends_with(object), "{damage}");
    assert!(done["fetched_bytes"].as_u64().unwrap() < 3 << 20, "{done}");
    let at = usize::try_from(range["start"].as_u64().unwrap()).unwrap();
    let mut want = bytes.clone();
    want[at..at + EXTENT].fill(0);
    assert!(read(&s.partials("new.raw")[0]) == want, "everything else is there, zeros in its place");
    // The repository loses more, even what says where everything is: what was saved stays.
    std::fs::rename(&pack, s.path("aside")).unwrap();
    assert_eq!(s.run(&restore).code, 3);
    assert!(read(&s.partials("new.raw")[0]) == want, "what an earlier copy saved may be all there is");
    // So it does if the store fails in a way that is no loss.
    std::os::unix::fs::symlink(&pack, &pack).unwrap();
    let failed = s.run(&restore);
    assert!(failed.code == 1 || failed.code == 3, "{}{}", failed.out, failed.err);
    assert!(read(&s.partials("new.raw")[0]) == want, "{}", failed.err);
    std::fs::remove_file(&pack).and_then(|()| std::fs::rename(s.path("aside"), &pack)).unwrap();
    // To a pipe nothing can be said but by stopping.
    let said = s.fails(1, &["restore", "db", "--to", "-"]);
    assert!(said.contains(object) && said.contains("to a file"), "{said}");
    std::fs::write(&pack, whole).unwrap();
    s.ok(&restore);
    assert!(read(s.path("new.raw")) == bytes && s.partials("new.raw").is_empty());
}
