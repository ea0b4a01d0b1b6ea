"""Bad input, met with the real tools: an error that names cause and cure, an exit code that is not 0, and nothing lost.

Goal: what users do wrong, and what happens to disks behind our back, never costs a byte and is always explained. Method:
one case a function, each on a fresh stage; after a refusal the disk in question is compared with what it held.
"""

import filecmp
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

import nbd

from guests import BLOCK, connect, make_image
from stage import MIB, REKINDLE, Attached, Process, Rekindle, Stage, expect, need, need_root, run, say, until

BLOCKS = 32 * MIB // BLOCK
DONE, FAILED, USAGE, DAMAGE, NO_REPO, BUSY, PASSWORD, REFUSED, TIMED_OUT, INTERRUPTED = 0, 1, 2, 3, 10, 11, 12, 14, 124, 130


class Case:
    """A stage with an image, a repository, and the words to use them."""

    def __init__(self, stage):
        self.stage, self.path, self.rekindle = stage, stage.path, Rekindle(stage)
        self.image = stage.path / "disk.raw"
        make_image(self.image, BLOCKS)
        self.socket = stage.path / "nbd.sock"
        self.uri, self.listen = f"nbd+unix:///shop?socket={self.socket}", ["--listen", f"unix:{self.socket}"]
        self.rekindle("init")

    def serve(self, image=None, *more):
        server = self.rekindle.start("serve", "serve", "shop", image or self.image, *self.listen, *more)
        self.rekindle("wait", "shop", "--for=live", "--timeout", "20s")
        return server

    def restore(self, to, *more):
        server = self.rekindle.start("restore", "restore", "shop@latest", "--to", to, *self.listen, *more)
        self.rekindle("wait", "shop", "--for=online", "--timeout", "20s")
        return server

    def status(self):
        return json.loads(self.rekindle("--json", "status", "shop").stdout)[0]

    def backed_up(self):
        """A snapshot of the image, nothing running."""
        self.rekindle("backup", self.image, "--as", "shop")

    def newest_equals(self, image):
        copy = self.path / "compare.raw"
        copy.unlink(missing_ok=True)
        self.rekindle("restore", "shop@latest", "--to", copy)
        expect(filecmp.cmp(copy, image, shallow=False), "the newest snapshot is not the image")

    def loop(self, *options, size=32 * MIB):
        """A loop device of its own."""
        backing = self.path / f"loop{len(self.stage.undone)}"
        with open(backing, "wb") as f:
            f.truncate(size)
        device = run("losetup", "--find", "--show", *options, backing).stdout.strip()
        self.stage.undo(lambda: run("losetup", "-d", device, check=False))
        return device


def digest(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def an_image_in_use_by_qemu(c):
    held = Process(c.stage, "qemu-nbd", "qemu-nbd", "-f", "raw", "-t", "-k", c.path / "q", c.image)
    until((c.path / "q").exists, "qemu-nbd")
    c.rekindle.refused("serve", "shop", c.image, *c.listen, code=BUSY, says=str(c.image))
    held.kill()
    c.serve()


def qemu_cannot_take_an_image_that_is_served(c):
    c.serve()
    done = run("qemu-nbd", "-f", "raw", "-k", c.path / "q", c.image, check=False, timeout=10)
    expect(done.returncode != 0 and "lock" in done.stderr, f"QEMU took it: {done.stderr}")


def a_second_server_on_the_same_image(c):
    c.serve()
    c.rekindle.refused("serve", "other", c.image, "--listen", f"unix:{c.path}/o", code=BUSY, says=str(c.image))
    link = c.path / "link.raw"
    os.link(c.image, link)
    c.rekindle.refused("serve", "other", link, "--listen", f"unix:{c.path}/o", code=BUSY, says=str(link))


def a_second_server_of_the_same_set(c):
    c.serve()
    other = c.path / "other.raw"
    make_image(other, 256)
    c.rekindle.refused("serve", "shop", other, "--listen", f"unix:{c.path}/o", code=BUSY, says="shop")


def a_disk_that_cannot_be_written(c):
    device = c.loop("-r")
    c.rekindle.refused("serve", "shop", device, *c.listen, code=FAILED, says="read-only")
    c.serve(device, "--read-only")
    expect(connect(c.uri).is_read_only(), "the export claims to be writable")


def a_disk_written_by_others_while_we_were_away(c):
    c.serve().stop()
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    with open(c.image, "r+b") as f:
        f.seek(12345 * 512)
        f.write(b"behind our back")
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    c.newest_equals(c.image)


def a_disk_written_with_its_times_put_back(c):
    """mtime can be forged, ctime cannot."""
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    times = os.stat(c.image)
    with open(c.image, "r+b") as f:
        f.seek(999 * BLOCK)
        f.write(b"behind our back")
    os.utime(c.image, ns=(times.st_atime_ns, times.st_mtime_ns))
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    c.newest_equals(c.image)


def a_disk_that_grew(c):
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    with open(c.image, "ab") as f:
        f.write(b"".join(os.urandom(BLOCK) for _ in range(64)))
    before, now = BLOCKS * BLOCK, (BLOCKS + 64) * BLOCK
    grown = f"its size went from {before} to {now} bytes"
    expect(grown in c.rekindle("backup", "shop", "-n").stdout, "-n does not say what the growth means")
    server = c.serve()
    expect(grown in c.rekindle("backup", "shop", "-n").stdout, "-n does not say what the growth means, served")
    said = c.rekindle("backup", "shop").stdout
    expect(grown in said and "the first" not in said, said)
    server.stop()
    c.newest_equals(c.image)


def a_disk_that_shrank(c):
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    whole = c.path / "whole.raw"
    shutil.copyfile(c.image, whole)
    os.truncate(c.image, BLOCKS * BLOCK // 2)
    expect("cut short" in c.rekindle("backup", "shop", "-n").stdout, "-n does not say that it will be refused")
    c.rekindle.refused("serve", "shop", c.image, *c.listen, code=(FAILED, REFUSED), says=str(c.image))
    expect(os.path.getsize(c.image) == BLOCKS * BLOCK // 2, "the refused disk was touched")
    c.newest_equals(whole)


def a_state_directory_older_than_the_disk(c):
    state = c.path / "state"
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    shutil.copytree(state, c.path / "old-state", symlinks=True)
    server = c.serve()
    disk = connect(c.uri)
    disk.pwrite(b"x" * BLOCK, 5 * BLOCK)
    disk.shutdown()
    c.rekindle("backup", "shop")
    server.stop()
    shutil.rmtree(state)
    shutil.copytree(c.path / "old-state", state, symlinks=True)
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    c.newest_equals(c.image)


def no_state_directory_at_all(c):
    server = c.serve()
    c.rekindle("backup", "shop")
    server.stop()
    shutil.rmtree(c.path / "state")
    (c.path / "state").mkdir(mode=0o700)
    server = c.serve()
    disk = connect(c.uri)
    disk.pwrite(b"y" * BLOCK, 77 * BLOCK)
    disk.shutdown()
    c.rekindle("backup", "shop")
    server.stop()
    c.newest_equals(c.image)


def a_destination_with_larger_logical_blocks(c):
    c.backed_up()
    device = c.loop("-b", "4096")
    c.rekindle.refused("restore", "shop@latest", "--to", device, "--yes", "shop", code=(FAILED, REFUSED), says=[device, "4096"])
    c.rekindle.refused("restore", "shop@latest", "--to", device, "--yes", "shop", *c.listen, code=(FAILED, REFUSED), says=device)


def a_destination_that_is_too_small(c):
    c.backed_up()
    device = c.loop(size=31 * MIB)
    c.rekindle.refused("restore", "shop@latest", "--to", device, "--yes", "shop", code=(FAILED, REFUSED), says=device)


def a_destination_that_is_mounted(c):
    c.backed_up()
    device = c.loop(size=64 * MIB)
    run("mkfs.ext4", "-q", device)
    (c.path / "mnt").mkdir()
    run("mount", device, c.path / "mnt")
    c.stage.undo(lambda: run("umount", c.path / "mnt", check=False))
    (c.path / "mnt" / "precious").write_text("precious")
    c.rekindle.refused("restore", "shop@latest", "--to", device, "--yes", "shop", code=BUSY, says=device)
    expect((c.path / "mnt" / "precious").read_text() == "precious", "the mounted file system was harmed")


def a_destination_that_holds_data(c):
    """Without the name typed nothing is overwritten."""
    c.backed_up()
    before = digest(c.image)
    c.rekindle.refused("restore", "shop@latest", "--to", c.image, code=REFUSED, says=[str(c.image), "--yes"])
    c.rekindle.refused("restore", "shop@latest", "--to", c.image, *c.listen, code=REFUSED, says=str(c.image))
    expect(digest(c.image) == before, "the refused destination was harmed")


def a_destination_served_by_another_restore(c):
    c.backed_up()
    new = c.path / "new.raw"
    c.restore(new, "--limit", "2MiB/s")
    c.rekindle.refused("restore", "shop@latest", "--as", "again", "--to", new, "--listen", f"unix:{c.path}/o",
                       code=(BUSY, REFUSED), says=str(new))
    c.rekindle.refused("restore", "shop@latest", "--to", new, code=(BUSY, REFUSED), says=str(new))


def a_half_restored_disk_is_no_volume(c):
    c.backed_up()
    new = c.path / "new.raw"
    server = c.restore(new, "--limit", "2MiB/s")
    server.stop()
    c.rekindle.refused("serve", "other", new, *c.listen, code=REFUSED, says="restore")
    c.rekindle.refused("backup", new, "--as", "wrong", code=REFUSED, says="restore")


def a_destination_that_fills_up(c):
    """A file system with less room than the disk: the plain copy stops and says so; the guest of an online restore goes on
    where the bytes are or can be fetched."""
    c.backed_up()
    device = c.loop(size=24 * MIB)
    run("mkfs.ext4", "-q", "-m", "0", device)
    small = c.path / "small"
    small.mkdir()
    run("mount", device, small)
    c.stage.undo(lambda: run("umount", small, check=False))
    done = c.rekindle("restore", "shop@latest", "--to", small / "disk", check=False)
    expect(done.returncode in (FAILED, REFUSED) and "space" in done.stderr.lower(), f"{done.returncode}: {done.stderr}")
    # No room even to begin: nothing is left, so that the next attempt is the first.
    subprocess.run(["dd", "if=/dev/zero", f"of={small}/fill", "bs=64k"], capture_output=True)
    c.rekindle.refused("restore", "shop@latest", "--to", small / "disk", *c.listen, code=FAILED, says="space")
    left = sorted(p.name for p in small.iterdir())
    expect(left == ["fill", "lost+found"], f"left behind: {left}")
    with open(small / "fill", "wb") as full:
        full.truncate(0)
        done = subprocess.run([REKINDLE, "restore", "shop@latest", "--to", "-"], stdout=full, stderr=subprocess.PIPE,
                              env=c.rekindle.env, text=True)
    expect(done.returncode == FAILED and "free some space" in done.stderr, f"{done.returncode}: {done.stderr}")


def an_online_restore_short_of_room(c):
    """The plan warns, the guest is served, status says what helps, and room that is made is enough: no command."""
    c.backed_up()
    device = c.loop(size=80 * MIB)
    run("mkfs.ext4", "-q", "-m", "0", device)
    small = c.path / "small"
    small.mkdir()
    run("mount", device, small)
    c.stage.undo(lambda: run("umount", small, check=False))
    (small / "filler").write_bytes(bytes(38 * MIB))
    new = small / "new.raw"
    plan = c.rekindle("restore", "shop@latest", "--to", new, *c.listen, "-n").stdout
    expect("short " in plan and str(new) in plan, f"no warning: {plan}")
    c.restore(new)
    until(lambda: c.status()["restore"].get("trouble"), "the fill to stand still", 30)
    trouble = c.status()["restore"]["trouble"]
    expect("space" in trouble["cause"] and "free" in trouble["cure"], f"{trouble}")
    text = c.rekindle("status", "shop").stdout
    expect(trouble["cure"] in text, text)
    expect(bytes(connect(c.uri).pread(512, 31 * MIB)) == c.image.read_bytes()[31 * MIB:31 * MIB + 512], "not served")
    (small / "filler").unlink()
    c.rekindle("wait", "shop", "--for=verified", "--timeout", "30s")
    expect(not c.status()["restore"].get("trouble"), "still troubled")
    c.rekindle("cutover", "shop")


def an_interrupted_plain_restore(c):
    c.backed_up()
    copy = c.path / "copy.raw"
    running = c.rekindle.start("copy", "restore", "shop@latest", "--to", copy, "--limit", "4MiB/s")
    # Under its own name it appears when it is whole.

    def partials():
        return list(c.path.glob("copy.raw.*.partial"))

    until(lambda: any(os.stat(p).st_blocks > 4096 for p in partials()), "the copy to be under way")
    running.child.send_signal(signal.SIGINT)
    expect(running.child.wait(20) == INTERRUPTED, f"exit {running.child.returncode}: {running.output()}")
    expect(not copy.exists() and len(partials()) == 1, "half a copy has the name, or has to begin again")
    c.rekindle("restore", "shop@latest", "--to", copy)
    expect(not partials(), "the unfinished copy is left")
    expect(filecmp.cmp(copy, c.image, shallow=False), "the second attempt is not the image")


def an_interrupted_online_restore(c):
    c.backed_up()
    new = c.path / "new.raw"
    running = c.restore(new, "--limit", "4MiB/s")
    running.child.send_signal(signal.SIGINT)
    expect(running.child.wait(20) == INTERRUPTED, f"exit {running.child.returncode}: {running.output()}")
    c.restore(new)
    c.rekindle("wait", "shop", "--for=verified", "--timeout", "60s")
    c.rekindle("cutover", "shop")
    expect(filecmp.cmp(new, c.image, shallow=False), "the resumed restore is not the image")


def an_interrupted_backup(c):
    c.backed_up()
    for wait in (0.02, 0.05, 0.1, 0.2):
        with open(c.image, "r+b") as f:
            f.write(os.urandom(16 * MIB))
        running = c.rekindle.start("backup", "backup", c.image, "--as", "shop")
        time.sleep(wait)  # a moment of every kind; whichever it meets must be harmless
        running.child.send_signal(signal.SIGINT)
        expect(running.child.wait(20) in (INTERRUPTED, DONE), f"exit {running.child.returncode}: {running.output()}")
    c.backed_up()
    c.newest_equals(c.image)


def a_backup_killed_at_any_moment(c):
    c.backed_up()
    for wait in (0.01, 0.03, 0.06, 0.1, 0.15, 0.25):
        with open(c.image, "r+b") as f:
            f.write(os.urandom(16 * MIB))
        running = c.rekindle.start("backup", "backup", c.image, "--as", "shop")
        time.sleep(wait)
        running.kill()
        c.rekindle("timeline", "shop")
    c.backed_up()
    c.newest_equals(c.image)


def a_repository_that_fills_up(c):
    """The backup is given up with the cause; what was there stays; with room the next one works."""
    device = c.loop(size=48 * MIB)
    run("mkfs.ext4", "-q", "-m", "0", device)
    small = c.path / "small"
    small.mkdir()
    run("mount", device, small)
    c.stage.undo(lambda: run("umount", small, check=False))
    c.rekindle.env["REKINDLE_REPO"] = str(small / "repo")
    c.rekindle("init")
    with open(c.image, "r+b") as f:
        f.write(os.urandom(16 * MIB))
    c.backed_up()
    was = digest(c.image)
    with open(c.image, "r+b") as f:
        f.write(os.urandom(32 * MIB))
    done = c.rekindle("backup", c.image, "--as", "shop", check=False)
    expect(done.returncode == FAILED and "space" in done.stderr.lower(), f"{done.returncode}: {done.stderr}")
    copy = c.path / "copy.raw"
    c.rekindle("restore", "shop@latest", "--to", copy)
    expect(digest(copy) == was, "the snapshot that was there is harmed")


def wrong_secrets_and_no_repository(c):
    c.backed_up()
    locked = Rekindle(c.stage, "password")
    locked.env["REKINDLE_REPO"] = str(c.path / "locked")
    locked("init")
    locked("backup", c.image, "--as", "shop")
    locked.secret.write_text("wrong\n")
    c.rekindle.secret.write_bytes(os.urandom(32))
    for rekindle, word in ((locked, "password"), (c.rekindle, "key")):
        rekindle.refused("timeline", "shop", code=PASSWORD, says=word)
        rekindle.refused("restore", "shop@latest", "--to", c.path / "x", code=PASSWORD, says=word)
    expect(not (c.path / "x").exists(), "a refused restore left a file")
    c.rekindle.refused("timeline", "shop", "-r", c.path / "nothing", code=NO_REPO, says="nothing")
    (c.path / "folder").mkdir()
    (c.path / "folder" / "file").write_text("no repository")
    c.rekindle.refused("timeline", "shop", "-r", c.path / "folder", code=NO_REPO, says="folder")


def unknown_names(c):
    c.backed_up()
    for moment in ("shop@ffffffff", "shop@-9d", "nosuch@latest"):
        done = c.rekindle("restore", moment, "--to", c.path / "x", check=False)
        expect(done.returncode != 0 and done.stderr.strip(), f"{moment}: {done.returncode} {done.stderr}")
        expect(not (c.path / "x").exists(), f"{moment}: a refused restore left a file")
    c.rekindle.refused("wait", "nosuch", "--for=live", "--timeout", "1s", code=(FAILED, TIMED_OUT), says="nosuch")


def same_but_for(copy, image, ranges):
    """Equal outside the ranges, zeros inside."""
    want = bytearray(image.read_bytes())
    for r in ranges:
        want[r["start"]:r["start"] + r["bytes"]] = bytes(r["bytes"])
    return copy.read_bytes() == want


def damaged_packs(c):
    """Every kind of object, one flipped byte each: an error with a name, a correct disk, or one that is named as not whole
    and is correct but for the ranges it tells; never wrong bytes."""
    c.backed_up()
    objects = [p for p in c.rekindle.repo.rglob("*") if p.is_file() and p.stat().st_size]
    told = 0
    for path in objects:
        good = path.read_bytes()
        for place in (0, len(good) // 2, len(good) - 1):
            os.chmod(path, 0o644)
            path.write_bytes(good[:place] + bytes([good[place] ^ 0x40]) + good[place + 1:])
            copy = c.path / "copy.raw"
            copy.unlink(missing_ok=True)
            for left in c.path.glob("copy.raw.*.partial"):
                left.unlink()
            done = c.rekindle("--json", "restore", "shop@latest", "--to", copy, check=False)
            if done.returncode == 0:
                expect(filecmp.cmp(copy, c.image, shallow=False), f"{path.name} damaged at {place}: wrong bytes, exit 0")
            elif done.returncode == DAMAGE:
                damage = json.loads(done.stdout.splitlines()[-1])["restore"]["damage"]
                partial = next(c.path.glob("copy.raw.*.partial"))
                expect(not copy.exists() and same_but_for(partial, c.image, damage["ranges"]),
                       f"{path.name} damaged at {place}: wrong bytes beside {damage}")
                expect(all(path.name in r["object"] for r in damage["ranges"]), f"{path.name} is not named: {damage}")
                told += 1
            else:
                expect("exit_error" in done.stdout, f"{path.name} damaged at {place}: exit {done.returncode} without a word")
                told += 1
            path.write_bytes(good)
    expect(told > 0, "no damage was ever noticed")


def a_missing_pack(c):
    c.backed_up()
    packs = sorted((p for p in c.rekindle.repo.rglob("*") if p.is_file()), key=lambda p: -p.stat().st_size)
    packs[0].rename(c.path / "away")
    done = c.rekindle("restore", "shop@latest", "--to", c.path / "copy.raw", check=False)
    expect(done.returncode == DAMAGE and packs[0].name in done.stdout, f"{done.returncode}: {done.stdout}{done.stderr}")
    shutil.move(c.path / "away", packs[0])
    c.rekindle("restore", "shop@latest", "--to", c.path / "copy.raw")
    expect(filecmp.cmp(c.path / "copy.raw", c.image, shallow=False), "not whole when the pack was back")
    c.newest_equals(c.image)


def a_disk_whose_flush_fails(c):
    """A FUSE file of nbdkit whose flush fails once told to: the set is `failed`, everybody is told why and what to do, and
    after the restart it is live again."""
    need("nbdkit", "nbdfuse")
    sick, well, fuse = c.path / "sick", c.path / "sick.sock", c.path / "fuse"
    Process(c.stage, "nbdkit", "nbdkit", "-f", "-U", well, "eval", f"get_size=stat -c %s {c.image}",
            f"pread=dd if={c.image} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none", "can_write=exit 0",
            f"pwrite=dd of={c.image} oflag=seek_bytes conv=notrunc seek=$4 status=none", "can_flush=exit 0",
            f"flush=[ ! -e {sick} ] || {{ echo EIO sick >&2; exit 1; }}")
    until(well.exists, "nbdkit")
    fuse.mkdir()
    # Undone before nbdfuse is killed, so that nothing is left mounted.
    Process(c.stage, "nbdfuse", "nbdfuse", fuse / "disk", f"nbd+unix:///?socket={well}")
    c.stage.undo(lambda: run("fusermount3", "-u", "-z", fuse, check=False))
    disk = until(lambda: next(iter(fuse.glob("disk")), None), "nbdfuse")
    server = c.serve(disk)
    client = connect(c.uri)
    client.pwrite(b"x" * BLOCK, 0)
    client.flush()
    sick.touch()
    client.pwrite(b"y" * BLOCK, BLOCK)
    try:
        client.flush()
        expect(False, "the failed flush was answered as done")
    except nbd.Error:
        pass
    sick.unlink()  # the disk is well again, and still nothing may be written until it is opened anew
    status = json.loads(c.rekindle("status", "shop", "--json").stdout)[0]
    expect(status["state"] == "failed" and status["failure"]["code"] == FAILED, f"status: {status}")
    expect("flush" in status["failure"]["cause"] and "start" in status["failure"]["cure"], f"status: {status['failure']}")
    text = c.rekindle("status", "shop").stdout
    expect("shop  failed" in text and "cure " in text, text)
    for state in ("live", "online"):
        c.rekindle.refused("wait", "shop", f"--for={state}", "--timeout", "5s", code=FAILED, says=["failed", "dmesg"])
    until(lambda: "shop has failed" in server.output(), "the log to say it")
    server.stop()
    c.serve(disk).stop()


def a_repository_on_a_disk_that_is_served(c):
    """Through a loop device it is refused; over NBD nobody can know whose export it is, and a warning says so."""
    own, mount = c.path / "own.raw", c.path / "own"
    with open(own, "wb") as f:
        f.truncate(32 * MIB)
    run("mkfs.ext4", "-q", own)
    device = run("losetup", "--find", "--show", own).stdout.strip()
    c.stage.undo(lambda: run("losetup", "-d", device, check=False))
    mount.mkdir()
    run("mount", device, mount)
    c.stage.undo(lambda: run("umount", mount, check=False))
    c.rekindle("init", "-r", mount / "repo")
    server = c.serve(own)
    for more in ([], ["-n"]):
        c.rekindle.refused("backup", "shop", "-r", mount / "repo", *more, code=REFUSED, says=[str(own), "another disk"])
    server.stop()
    c.serve()
    need("nbdfuse")
    attached = Attached(c.stage, c.uri, c.path / "over", make=True)
    c.rekindle("init", "-r", c.path / "over" / "repo")
    said = c.rekindle("backup", "shop", "-r", c.path / "over" / "repo", "-n").stdout
    expect("nbdfuse" in said and "wait for the other" in said, said)
    expect("warning" not in c.rekindle("backup", "shop", "-n").stdout, "a repository elsewhere is warned about")
    attached.detach()


def a_fleece_without_room_while_the_guest_writes(c):
    """The file system of the state fills up with what the guest overwrites: the backup is given up with the cause, every
    write of the guest is done, and with the guest at rest the next backup is the disk."""
    blocks = 192 * MIB // BLOCK
    big = c.path / "big.raw"
    make_image(big, blocks)
    device, small = c.loop(size=24 * MIB), c.path / "small"
    run("mkfs.ext4", "-q", "-m", "0", device)
    small.mkdir(mode=0o700)
    run("mount", device, small)
    c.stage.undo(lambda: run("umount", small, check=False))
    c.rekindle.env["REKINDLE_STATE_DIR"] = str(small)
    server = c.serve(big)
    guest = connect(c.uri)
    step = 2 * MIB
    running = c.rekindle.start("backup", "backup", "shop")
    # From the end: the backup begins at the beginning.
    written = 0
    while running.alive():
        at = blocks * BLOCK - step * (1 + written % (blocks * BLOCK // step))
        guest.pwrite(bytes([1 + written % 250]) * step, at)
        written += 1
    code = running.child.wait()
    expect(code == FAILED and "overwrite" in running.output().lower(), f"exit {code}: {running.output()}")
    expect("space" in running.output().lower() or "kept for it" in running.output(), running.output())
    guest.flush()
    guest.shutdown()
    expect(json.loads(c.rekindle("status", "shop", "--json").stdout)[0]["state"] == "live", "the guest was harmed")
    c.rekindle("backup", "shop")
    server.stop()
    c.newest_equals(big)


def an_online_restore_to_a_block_device(c):
    """The destination is a real device: written through it while it fills, settled, its next backup incremental, and it
    holds what was written when it is read without us."""
    c.backed_up()
    device = c.loop(size=48 * MIB)
    server = c.restore(device, "--limit", "8MiB/s")
    guest = connect(c.uri)
    expect(guest.get_size() == 32 * MIB, "the export is not of the volume's size")
    guest.pwrite(b"n" * BLOCK, 7 * BLOCK)
    guest.flush()
    expect(bytes(guest.pread(BLOCK, 7 * BLOCK)) == b"n" * BLOCK, "what was written is not read")
    # A crash in the middle; the device alone says whose it is.
    server.kill()
    c.rekindle.refused("serve", "other", device, "--listen", f"unix:{c.path}/o", code=REFUSED, says="half-restored")
    server = c.restore(device, "--limit", "none")
    c.rekindle("wait", "shop", "--for=verified", "--timeout", "60s")
    guest = connect(c.uri)
    c.rekindle("cutover", "shop")
    guest.pwrite(b"m" * BLOCK, 4000 * BLOCK)
    guest.flush()
    guest.shutdown()
    done = json.loads(c.rekindle("backup", "shop", "--json").stdout.splitlines()[-1])["backup"]
    expect(done["read_bytes"] == 2 * 65536 and not done["compared"], f"not incremental: {done}")
    expect(server.stop() == 0, server.output())
    with open(c.image, "r+b") as f:
        for fill, block in ((b"n", 7), (b"m", 4000)):
            f.seek(block * BLOCK)
            f.write(fill * BLOCK)
    run("cmp", "-n", str(32 * MIB), device, c.image)
    c.newest_equals(c.image)


def clients_that_send_garbage(c):
    """Cut negotiations, wrong magics, absurd lengths: the server stays, and serves the others."""
    c.serve()
    other = connect(c.uri)
    option = struct.pack(">QII", 0x49484156454F5054, 7, 0xFFFFFFFF)
    request = struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, 0xFFFFFFFF)
    go = struct.pack(">QIII4sH", 0x49484156454F5054, 7, 10, 4, b"shop", 0)
    for bytes_ in (b"", b"\0" * 4, b"\0\0\0\1", os.urandom(4096), b"\0\0\0\3" + option, b"\0\0\0\3" + option[:9],
                   b"\0\0\0\3" + go, b"\0\0\0\3" + go + request, b"\0\0\0\3" + go + os.urandom(28),
                   b"\0\0\0\3" + go + struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 31) + os.urandom(65536),
                   b"\0\0\0\3" + go + struct.pack(">IHHQQI", 0x25609513, 0xFFFF, 0xFFFF, 1, 1 << 63, 512)):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(1)
        client.connect(str(c.socket))
        try:
            client.sendall(bytes_)
            client.shutdown(socket.SHUT_WR)
            while client.recv(65536):
                pass
        except (OSError, TimeoutError):
            pass
        client.close()
        expect(bytes(other.pread(512, 0)[:8]) == struct.pack("<Q", 1), "another client is not served any more")


def cases():
    """Every function of one parameter named `c`, in the order written."""
    functions = [f for f in globals().values() if getattr(f, "__module__", None) == __name__ and hasattr(f, "__code__")]
    return [f for f in functions if f.__code__.co_varnames[:f.__code__.co_argcount] == ("c",)]


def main():
    need_root()
    need("qemu-nbd", "losetup", "mkfs.ext4")
    chosen = [case for case in cases() if not sys.argv[1:] or any(a in case.__name__ for a in sys.argv[1:])]
    failed = []
    for case in chosen:
        try:
            with Stage(case.__name__.replace("_", " ")) as stage:
                case(Case(stage))
        except SystemExit as end:
            if end.code:
                failed.append(case.__name__)
        except Exception as trouble:
            print(f"FAILED: {type(trouble).__name__}: {trouble}")
            failed.append(case.__name__)
    say(f"{len(chosen) - len(failed)} of {len(chosen)} cases hold")
    if failed:
        sys.exit("failed: " + ", ".join(failed))


if __name__ == "__main__":
    main()
