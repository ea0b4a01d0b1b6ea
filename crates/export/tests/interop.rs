//! The server with other people's clients: nbdinfo, nbdcopy, nbdsh, nbdfuse, nbdkit's nbd plugin, qemu-img, qemu-io, fio.
//!
//! Each test moves real bytes and compares them with the device behind the server. Answers come partly late, so that
//! every client also meets replies out of order. A missing program fails its test and names its package;
//! REKINDLE_TESTS_SKIP_MISSING=1 skips instead, aloud.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::*;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

fn sh(program: &str, args: &[&str]) -> String {
    run(Command::new(program).args(args))
}

/// A disk with data, a hole, and data.
fn sample(mib: u64) -> Arc<Disk> {
    let disk = Disk::new(mib * MIB);
    disk.fill_pattern();
    disk.bytes.lock().unwrap()[MIB as usize..(2 * MIB) as usize].fill(0);
    disk.manner(Manner::Mixed);
    disk
}

fn same(disk: &Disk, file: &Path) {
    assert!(std::fs::read(file).unwrap() == *disk.bytes.lock().unwrap(), "{} differs", file.display());
}

/// A program that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn nbdinfo_reads_size_abilities_list_and_map() {
    if !have("nbdinfo", "libnbd-bin") {
        return;
    }
    let w = world(&sample(4));
    let said = sh("nbdinfo", &[&w.uri()]);
    for line in [
        "export-size: 4194304 (4M)",
        "base:allocation",
        "can_fast_zero: true",
        "can_multi_conn: true",
        "can_df: true",
        "can_cache: true",
        "can_fua: true",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
        "using structured packets",
    ] {
        assert!(said.contains(line), "{line} is missing in\n{said}");
    }
    let list = sh("nbdinfo", &["--list", &w.at.uri("")]);
    assert!(list.contains("export=\"disk\"") && list.contains("the disk of a test"), "{list}");
    let map = sh("nbdinfo", &["--map", &w.uri()]);
    let map: Vec<Vec<&str>> = map.lines().map(|l| l.split_ascii_whitespace().collect()).collect();
    assert_eq!(
        map,
        [
            vec!["0", "1048576", "0", "data"],
            vec!["1048576", "1048576", "3", "hole,zero"],
            vec!["2097152", "2097152", "0", "data"]
        ]
    );
    assert!(sh("nbdinfo", &["--size", &w.uri()]).trim() == "4194304");
    let missing = Command::new("nbdinfo").arg(w.at.uri("missing")).output().unwrap();
    assert!(!missing.status.success());
}

#[test]
fn nbdcopy_copies_out_and_in_sparsely() {
    if !have("nbdcopy", "libnbd-bin") {
        return;
    }
    for tcp in [false, true] {
        let disk = sample(32);
        let w = world_with(&disk, |o| {
            if tcp {
                o.listen = vec![rekindle_export::nbd::Listen::Tcp("127.0.0.1:0".parse().unwrap())];
            }
        });
        let out = w.dir.path().join("out");
        let path = out.to_str().unwrap();
        sh("nbdcopy", &[&w.uri(), path]);
        same(&disk, &out);
        std::fs::write(&out, vec![0x5a; 32 << 20]).unwrap();
        sh("nbdcopy", &["--flush", "--connections=4", "--request-size=4194304", path, &w.uri()]);
        same(&disk, &out);
        assert!(disk.flushes.load(Ordering::Relaxed) > 0);
        // A sparse source over a full destination: zeroes go as WRITE_ZEROES or TRIM, and must arrive.
        std::fs::File::create(&out).unwrap().set_len(32 << 20).unwrap();
        sh("nbdcopy", &[path, &w.uri()]);
        assert!(disk.bytes.lock().unwrap().iter().all(|b| *b == 0));
        assert!(!disk.zeroes.lock().unwrap().is_empty() || disk.trims.load(Ordering::Relaxed) > 0);
    }
}

#[test]
fn nbdsh_drives_every_command() {
    if !have("nbdsh", "python3-libnbd") {
        return;
    }
    let disk = sample(4);
    let w = world(&disk);
    // Debian's Python modules belong to Debian's Python, whichever else comes first in the path.
    let path = format!("/usr/bin:{}", std::env::var("PATH").unwrap_or_default());
    let script = r#"
import errno
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri(URI)
assert h.get_size() == 4 << 20 and h.can_meta_context("base:allocation")
h.pwrite(b"a" * 4096, 0, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 0) == bytearray(b"a" * 4096)
assert h.pread(65536, 0, nbd.CMD_FLAG_DF)[:4096] == bytearray(b"a" * 4096)
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 4096, nbd.CMD_FLAG_FAST_ZERO)
h.trim(4096, 8192)
h.cache(65536, 0)
h.flush()
assert h.pread(12288, 0) == bytearray(12288)
runs = []
h.block_status(4 << 20, 0, lambda context, offset, entries, err: runs.extend(entries))
assert sum(runs[0::2]) == 4 << 20, runs
def fails(want, f):
    try:
        f()
    except nbd.Error as e:
        assert e.errnum == want, e
    else:
        assert False, "no error"
fails(errno.EINVAL, lambda: h.pread(512, 4 << 20))
fails(errno.ENOSPC, lambda: h.pwrite(bytes(512), 4 << 20))
fails(errno.EINVAL, lambda: h.pread(100, 0))
fails(errno.EINVAL, lambda: h.pread(512, 0, 1 << 14))
assert h.pread(512, 0) == bytearray(512)
h.shutdown()
"#;
    let script = format!("URI = {:?}{script}", w.uri());
    let out =
        Command::new("timeout").args(["60", "nbdsh", "-c", &script]).env("PATH", path).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    assert!(disk.fua.load(Ordering::Relaxed) >= 1 && disk.trims.load(Ordering::Relaxed) == 1);
    assert!(disk.caches.load(Ordering::Relaxed) == 1 && disk.flushes.load(Ordering::Relaxed) >= 1);
}

#[test]
fn nbdfuse_makes_it_a_file() {
    if !have("nbdfuse", "libnbd-bin") || !have("fusermount3", "fuse3") {
        return;
    }
    let disk = sample(8);
    let w = world(&disk);
    let mount = w.dir.path().join("mnt");
    std::fs::create_dir(&mount).unwrap();
    let file = mount.join("disk");
    let child = Command::new("nbdfuse").arg(&file).arg(w.uri()).stdout(Stdio::null()).spawn().unwrap();
    let _child = Running(child);
    let unmount = Unmount(mount);
    eventually("the file appears", || std::fs::metadata(&file).is_ok_and(|m| m.len() == 8 << 20));
    same(&disk, &file);
    {
        use std::os::unix::fs::FileExt;
        let f = std::fs::OpenOptions::new().read(true).write(true).open(&file).unwrap();
        f.write_all_at(&vec![0xa5; 3 << 20], 4096).unwrap();
        f.sync_all().unwrap();
        let mut back = vec![0; 3 << 20];
        f.read_exact_at(&mut back, 4096).unwrap();
        assert!(back.iter().all(|b| *b == 0xa5));
    }
    assert!(disk.flushes.load(Ordering::Relaxed) > 0, "fsync reached the device");
    assert!(disk.bytes.lock().unwrap()[4096..4096 + (3 << 20)].iter().all(|b| *b == 0xa5));
    drop(unmount);
}

/// Unmounts even when the test fails: a mount left behind would keep its directory.
struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("fusermount3").arg("-u").arg(&self.0).status();
    }
}

#[test]
fn nbdkit_relays_through_its_nbd_plugin() {
    if !have("nbdkit", "nbdkit") || !have("nbdcopy", "libnbd-bin") {
        return;
    }
    let disk = sample(16);
    let w = world(&disk);
    let relay = w.dir.path().join("relay.sock");
    let child = Command::new("nbdkit")
        .args(["-f", "-U", relay.to_str().unwrap(), "nbd", &format!("uri={}", w.uri()), "shared=true"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _child = Running(child);
    eventually("the relay listens", || relay.exists());
    let through = format!("nbd+unix:///?socket={}", relay.display());
    let out = w.dir.path().join("out");
    sh("nbdcopy", &[&through, out.to_str().unwrap()]);
    same(&disk, &out);
    std::fs::write(&out, vec![3; 16 << 20]).unwrap();
    sh("nbdcopy", &["--flush", out.to_str().unwrap(), &through]);
    same(&disk, &out);
    let map = sh("nbdinfo", &["--map", &through]);
    assert!(map.contains("data"), "{map}");
}

#[test]
fn qemu_img_converts_compares_and_maps() {
    if !have("qemu-img", "qemu-utils") {
        return;
    }
    let disk = sample(16);
    let w = world(&disk);
    let (raw, qcow) = (w.dir.path().join("out"), w.dir.path().join("out.qcow2"));
    let (raw_path, qcow_path) = (raw.to_str().unwrap(), qcow.to_str().unwrap());
    let uri = w.uri();
    sh("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, raw_path]);
    same(&disk, &raw);
    sh("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, qcow_path]);
    sh("qemu-img", &["compare", &uri, qcow_path]);
    let map = sh("qemu-img", &["map", "-f", "raw", "--output=json", &uri]);
    let hole =
        r#""start": 1048576, "length": 1048576, "depth": 0, "present": true, "zero": true, "data": false"#;
    assert!(map.contains(hole), "{map}");
    std::fs::write(&raw, vec![0x11; 16 << 20]).unwrap();
    sh("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", raw_path, &uri]);
    same(&disk, &raw);
    sh("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", qcow_path, &uri]);
    sh("qemu-img", &["compare", &uri, qcow_path]);
    assert!(sh("qemu-img", &["info", &uri]).contains("virtual size: 16 MiB"));
}

#[test]
fn qemu_io_writes_verifies_discards_and_aligns() {
    if !have("qemu-io", "qemu-utils") {
        return;
    }
    let disk = Disk::new(16 * MIB);
    disk.manner(Manner::Late);
    let w = world(&disk);
    let commands = [
        "write -P 7 0 8M",
        "read -P 7 0 8M",
        "write -f -P 8 512 512",
        // Smaller than a block: qemu reads, changes and writes because we announced the block.
        "write -P 9 1000 100",
        "read -P 9 1000 100",
        "read -P 8 512 488",
        "write -z -u 1M 1M",
        "write -z 2M 1M",
        "discard 3M 1M",
        "read -P 0 1M 3M",
        "aio_write -P 1 8M 1M",
        "aio_write -P 2 9M 1M",
        "aio_flush",
        "read -P 1 8M 1M",
        "read -P 2 9M 1M",
        "flush",
    ];
    let mut args = vec!["-f", "raw"];
    commands.iter().for_each(|c| args.extend(["-c", c]));
    let uri = w.uri();
    args.push(&uri);
    let said = sh("qemu-io", &args);
    assert!(!said.contains("Pattern verification failed") && !said.contains("error"), "{said}");
    assert!(disk.fua.load(Ordering::Relaxed) >= 1);
    assert_eq!(disk.bytes.lock().unwrap()[1000..1100], [9; 100]);
}

#[test]
fn fio_verifies_what_it_wrote() {
    if !have("fio", "fio") {
        return;
    }
    let engines = sh("fio", &["--enghelp"]);
    assert!(engines.contains("nbd"), "this fio has no nbd engine");
    let disk = Disk::new(16 * MIB);
    disk.manner(Manner::Mixed);
    let w = world(&disk);
    let uri = format!("--uri={}", w.uri());
    let job = [
        "--name=v",
        "--ioengine=nbd",
        &uri,
        "--rw=randrw",
        "--bssplit=512/30:4k/40:64k/20:256k/10",
        "--bs_unaligned=0",
        "--blockalign=512",
        "--size=8M",
        "--io_size=32M",
        "--iodepth=16",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--serialize_overlap=1",
        "--fsync=50",
        "--thread",
    ];
    sh("fio", &job);
    assert!(disk.flushes.load(Ordering::Relaxed) > 0);
}
