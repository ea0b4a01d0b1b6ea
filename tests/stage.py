"""What the stories stand on: a temporary place, processes that end with the story, disks attached without kernel NBD,
and a PostgreSQL of the story's own. Python of the distribution, standard library only (and libnbd's binding).

Everything started or attached is registered with the stage and undone in reverse order when the story ends, however it
ends: a story leaves no process, mount or loop device behind.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
REKINDLE = os.environ.get("REKINDLE_BIN", str(REPOSITORY / "target/debug/rekindle"))
BENCH = os.environ.get("REKINDLE_BENCH_BIN", str(REPOSITORY / "target/debug/rekindle-bench"))
MIB = 1 << 20
BEGAN = time.monotonic()


class StoryFailed(Exception):
    """What the story says did not happen."""


def say(text):
    print(f"{time.monotonic() - BEGAN:7.1f} s  {text}", flush=True)


def expect(condition, text):
    if not condition:
        raise StoryFailed(text)


def skip(why):
    print(f"skipped: {why}", flush=True)
    sys.exit(77)


def need(*programs):
    """Skips aloud when a program is missing."""
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path
    missing = [p for p in programs if not shutil.which(p)]
    if missing:
        skip(f"not installed: {' '.join(missing)} (scripts/setup installs them)")


def need_root():
    """Loop devices and mounts: through sudo where that asks nothing, else skips aloud."""
    if os.geteuid() == 0:
        return
    if shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode == 0:
        os.execvp("sudo", ["sudo", "-n", "-E", sys.executable, *sys.argv])
    skip("needs root for loop devices and mounts")


def run(*command, check=True, timeout=120, **kw):
    """Runs to the end, returns the finished process with its text output."""
    kw.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=timeout, **kw)
    if check and done.returncode != 0:
        raise StoryFailed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def until(condition, what, seconds=30, every=0.02):
    """Waits for a condition; its value is returned. A story never sleeps for luck."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise StoryFailed(f"waited {seconds} s in vain for {what}")
        time.sleep(every)


class Process:
    """A long-running program; its output goes to a file that is shown when the story fails."""

    def __init__(self, stage, name, *command, env=None, user=None):
        self.name, self.log = name, stage.path / f"{name}.{len(stage.logs)}.log"
        stage.logs.append(self.log)
        out = open(self.log, "wb")
        command = [str(c) for c in command]
        self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, user=user,
                                      start_new_session=True)
        out.close()
        stage.undo(self.kill)

    def alive(self):
        return self.child.poll() is None

    def output(self):
        return self.log.read_text(errors="replace")

    def kill(self):
        """kill -9, of this process alone."""
        if self.alive():
            self.child.kill()
        self.child.wait()

    def stop(self, seconds=30):
        """Asks it to end; returns the exit code."""
        if self.alive():
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise StoryFailed(f"{self.name} did not stop in {seconds} s")


class Stage:
    """The place of a story, and what must be undone."""

    def __init__(self, title):
        self.path = Path(tempfile.mkdtemp(prefix="rekindle-story-", dir=os.environ.get("STORY_TMP", "/var/tmp")))
        os.chmod(self.path, 0o755)
        self.undone, self.logs = [], []
        print(f"story: {title}", flush=True)

    def undo(self, step):
        self.undone.append(step)

    def __enter__(self):
        # `timeout` ends a story with SIGTERM: still clean up.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit("out of time"))
        return self

    def __exit__(self, kind, error, trace):
        failed = kind is not None and not (kind is SystemExit and error.code in (0, None, 77))
        if failed:
            for log in self.logs:
                if log.exists():
                    tail = log.read_text(errors="replace").splitlines()[-25:]
                    print(f"--- {log.name}\n" + "\n".join(tail), flush=True)
        for step in reversed(self.undone):
            try:
                step()
            except Exception as trouble:  # the rest must still be undone
                print(f"undo: {trouble}", flush=True)
        shutil.rmtree(self.path, ignore_errors=True)
        if kind is not None and issubclass(kind, StoryFailed):
            print(f"FAILED: {error}", flush=True)
            sys.exit(1)
        if not failed and kind is None:
            say("the story holds")
        return False


class Attached:
    """An NBD export as a mounted ext4: nbdfuse makes it a file, loop a device of that. No kernel NBD needed."""

    def __init__(self, stage, uri, mountpoint, make=False):
        self.mountpoint = Path(mountpoint)
        self.fuse = stage.path / f"fuse{len(stage.undone)}"
        self.fuse.mkdir()
        self.loop = None
        self.process = Process(stage, "nbdfuse", "nbdfuse", self.fuse / "disk", uri)
        stage.undo(lambda: self.detach(lost=True))
        # Asking a FUSE mount that is not there yet is harmless: an empty folder.
        until(lambda: (self.fuse / "disk").exists() or not self.process.alive(), "nbdfuse")
        expect(self.process.alive(), f"nbdfuse ended: {self.process.output()}")
        self.loop = run("losetup", "--find", "--show", self.fuse / "disk").stdout.strip()
        if make:
            run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,nodiscard", self.loop)
        self.mountpoint.mkdir(exist_ok=True)
        run("mount", "-t", "ext4", "-o", "noatime", self.loop, self.mountpoint)

    def detach(self, lost=False):
        """Takes all of it away. `lost`: the disk below is gone, nothing can be written back."""
        if self.loop is None:
            return
        loop, self.loop = self.loop, None
        lazily = ["-l"] if lost else []

        def take_down():
            run("umount", *lazily, self.mountpoint, check=False)
            run("losetup", "-d", loop, check=False)
            if lost:
                self.process.kill()
            run("fusermount3", "-u", *(["-z"] if lost else []), self.fuse, check=False)
            return not self.process.alive()

        if lost:
            take_down()
        else:
            # Again and again: whatever looks at disks by itself may hold one of them for a moment.
            until(take_down, "nbdfuse to end", 60, every=0.5)
            attached = run("losetup", "-l", "-n", "-O", "NAME", check=False).stdout.split()
            expect(loop not in attached, f"{loop} is still attached")


class Rekindle:
    """The program under test, in a world of its own: runtime and state folders, a repository, a key file (which opens at
    once) or a password file."""

    def __init__(self, stage, secret="key", world=""):
        self.stage = stage
        self.repo = stage.path / "repo"
        self.env = dict(os.environ)
        runtime, state = stage.path / f"runtime{world}", stage.path / f"state{world}"
        for folder in (runtime, state):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.secret = stage.path / secret
        if not self.secret.exists():
            self.secret.write_bytes(os.urandom(32) if secret == "key" else b"correct horse battery staple\n")
        self.secret.chmod(0o600)
        self.env |= {
            "REKINDLE_REPO": str(self.repo),
            "REKINDLE_KEY_FILE" if secret == "key" else "REKINDLE_PASSWORD_FILE": str(self.secret),
            "REKINDLE_RUNTIME_DIR": str(runtime),
            "REKINDLE_STATE_DIR": str(state),
        }

    def __call__(self, *args, check=True, timeout=120):
        """A verb that runs to its end."""
        return run(REKINDLE, *args, check=check, timeout=timeout, env=self.env)

    def start(self, name, *args):
        """A verb that stays."""
        return Process(self.stage, name, REKINDLE, *args, env=self.env)

    def refused(self, *args, code, says):
        """A verb that must refuse with this exit code (or one of these) and name this cause."""
        done = self(*args, check=False)
        codes = code if isinstance(code, tuple) else (code,)
        expect(done.returncode in codes, f"{args}: exit {done.returncode}, expected {codes}: {done.stdout}{done.stderr}")
        for word in [says] if isinstance(says, str) else says:
            expect(word.lower() in done.stderr.lower(), f"{args}: does not say {word!r}: {done.stderr}")
        return done


class Postgres:
    """A cluster of the story's own, owned by the user postgres, with data checksums, durable to the letter."""

    BIN = Path("/usr/lib/postgresql/15/bin")

    def __init__(self, stage, mountpoint, port=54329):
        self.stage, self.data, self.port = stage, Path(mountpoint) / "pg", port
        self.sockets = stage.path / "pgsocket"
        self.sockets.mkdir(exist_ok=True)
        shutil.chown(self.sockets, "postgres")
        self.process = None

    def as_postgres(self, *command, **kw):
        return run("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", *command, cwd="/", **kw)

    def init(self):
        self.data.mkdir()
        shutil.chown(self.data, "postgres", "postgres")
        self.as_postgres(self.BIN / "initdb", "-k", "-A", "trust", "-U", "postgres", "-D", self.data, "--no-locale")
        with open(self.data / "postgresql.conf", "a") as conf:
            conf.write(f"unix_socket_directories = '{self.sockets}'\nlisten_addresses = ''\nport = {self.port}\n"
                       "fsync = on\nsynchronous_commit = on\nfull_page_writes = on\nshared_buffers = 32MB\n"
                       "checkpoint_timeout = 30s\nmax_wal_size = 128MB\nrestart_after_crash = off\n")
        # initdb syncs what it wrote itself; this file is ours.
        run("sync", "-f", self.data)

    def start(self, seconds=120):
        self.process = Process(self.stage, "postgres", "setpriv", "--reuid=postgres", "--regid=postgres",
                               "--init-groups", self.BIN / "postgres", "-D", self.data)
        ready = [str(self.BIN / "pg_isready"), "-q", "-h", str(self.sockets), "-p", str(self.port)]

        def up():
            expect(self.process.alive(), "postgres ended while starting")
            return subprocess.run(ready).returncode == 0

        until(up, "postgres to accept connections", seconds, every=0.05)

    def stop(self):
        self.process.child.send_signal(signal.SIGINT)  # fast shutdown
        expect(self.process.child.wait(90) == 0, "postgres did not stop cleanly")

    def lose(self):
        """The disk is gone below it: all that is left is to end it."""
        children = run("pgrep", "-P", str(self.process.child.pid), check=False).stdout.split()
        self.process.kill()
        for child in children:
            try:
                os.kill(int(child), signal.SIGKILL)
            except ProcessLookupError:
                pass

    def sql(self, text, seconds=120):
        return self.as_postgres(self.BIN / "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *self.where(), "-c", text,
                                timeout=seconds).stdout.strip()

    def where(self):
        return ["-h", self.sockets, "-p", self.port, "-U", "postgres", "-d", "postgres"]

    def pgbench(self, *args, seconds=180):
        return self.as_postgres(self.BIN / "pgbench", "-h", self.sockets, "-p", self.port, "-U", "postgres", *args,
                                "postgres", timeout=seconds)

    def pgbench_in_background(self, *args):
        return Process(self.stage, "pgbench", "setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups",
                       self.BIN / "pgbench", "-h", self.sockets, "-p", self.port, "-U", "postgres", *args, "postgres")


class Committer(threading.Thread):
    """Commits one row after another and remembers, outside the disk, which ones were acknowledged and when."""

    def __init__(self, postgres, worker):
        super().__init__(daemon=True)
        self.worker, self.acked, self.ending = worker, [], threading.Event()
        command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", Postgres.BIN / "psql", "-XAtq",
                   "-v", "ON_ERROR_STOP=1", *postgres.where()]
        self.psql = subprocess.Popen([str(c) for c in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                     stderr=subprocess.DEVNULL, text=True, bufsize=1, cwd="/")
        postgres.stage.undo(self.psql.kill)
        self.start()

    def run(self):
        number = 0
        try:
            while not self.ending.is_set():
                self.psql.stdin.write(f"INSERT INTO acked VALUES ({self.worker}, {number}, md5('{number}'));\n"
                                      f"\\echo {number}\n")
                if self.psql.stdout.readline().strip() != str(number):
                    return
                self.acked.append((time.monotonic(), number))
                number += 1
        except (BrokenPipeError, ValueError):
            return

    def end(self):
        self.ending.set()
        self.join(20)
        self.psql.kill()
        self.psql.wait()

    def before(self, moment):
        """How many rows were acknowledged before the moment: rows 0 to n-1."""
        return sum(1 for when, _ in list(self.acked) if when < moment)
