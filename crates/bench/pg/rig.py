"""What the PostgreSQL benchmarks share: links, reports, the database and its skewed load. Stands on tests/stage.py."""

import os
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from stage import BENCH, MIB, Attached, Postgres, Process, Rekindle, expect, run, say, until  # noqa: E402

# Heap pages hold 61 accounts. In both loads hot pages are scattered over the whole table.
PICK = {
    # A working set: a tenth of the pages gets 95 % of the load.
    "gauss": r"""
\set hot random_gaussian(0, :n - 1, 20)
\set page permute(:hot / 61, :n / 61)
\set aid 1 + :page * 61 + :hot % 61
""",
    # A heavy tail: single rows, Zipf 1.2. Most of what a minute asks for was never asked for before.
    "zipf": r"""
\set hot random_zipfian(1, :n, 1.2)
\set aid 1 + permute(:hot - 1, :n)
""",
}

LOAD = r"""
\set n 100000 * :scale - 100000 * :scale % 61
PICK
\set delta random(-5000, 5000)
BEGIN;
SELECT abalance FROM pgbench_accounts WHERE aid = :aid;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
END;
"""


class Link:
    """A network namespace behind a veth pair with a token bucket and a FIFO on both ends. Needs root."""

    def __init__(self, stage, rate, rtt_ms):
        self.stage, self.rate, self.rtt_ms = stage, rate, rtt_ms
        self.name, third = f"rkp{os.getpid()}", os.getpid() % 200
        self.near, self.address = f"10.214.{third}.1", f"10.214.{third}.2"
        name, ip = self.name, lambda *a: run("ip", *a)
        ip("netns", "add", name)
        stage.undo(lambda: run("ip", "netns", "del", name, check=False))
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{self.near}/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{self.address}/24", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")
        ip("-n", name, "link", "set", "lo", "up")
        burst = max(rate // 250, 32 << 10)
        queue = max(int(rate * rtt_ms / 1000 * 2), 256 << 10)
        shape = ["root", "tbf", "rate", f"{rate * 8}bit", "burst", burst, "limit", burst + queue]
        run("tc", "qdisc", "add", "dev", f"{name}a", *shape)
        run("tc", "-n", name, "qdisc", "add", "dev", f"{name}b", *shape)

    def start(self, name, *command):
        return Process(self.stage, name, "ip", "netns", "exec", self.name, *command)

    def store(self, repo, port=7700):
        """Our store server on the far side; returns what `-r` takes."""
        process = self.start("store", BENCH, "store-server", repo, f"0.0.0.0:{port}", self.rtt_ms)
        self.wait_for(port)
        return f"tcp://{self.address}:{port}", process

    def wait_for(self, port):
        import socket

        def answers():
            try:
                socket.create_connection((self.address, port), 1).close()
                return True
            except OSError:
                return False

        until(answers, f"port {port} behind the link")

    def __str__(self):
        return f"{self.rate / 1e6:g} MB/s, {self.rtt_ms} ms"


def write_load(stage, kind):
    path = stage.path / "load.sql"
    path.write_text(LOAD.replace("PICK", PICK[kind].strip()))
    path.chmod(0o644)
    return path


def build_database(stage, image, size, scale, cold=0):
    """A disk image with PostgreSQL and pgbench's tables on ext4, made through nbdkit: no tool under test has seen it. `cold`
    bytes of another file lie beside them, which nobody will read."""
    with open(image, "wb") as f:
        f.truncate(size)
    socket = stage.path / "build.sock"
    server = Process(stage, "nbdkit-build", "nbdkit", "-f", "-U", socket, "file", image)
    until(socket.exists, "nbdkit")
    disk = Attached(stage, f"nbd+unix:///?socket={socket}", stage.path / "mnt", make=True)
    postgres = Postgres(stage, stage.path / "mnt")
    postgres.init()
    if cold:
        with open("/dev/urandom", "rb") as random, open(stage.path / "mnt" / "archive", "wb") as file:
            for _ in range(cold // MIB):
                file.write(random.read(MIB))
    postgres.start()
    postgres.pgbench("-i", "-q", "-s", scale, seconds=600)
    postgres.sql("VACUUM ANALYZE")
    postgres.sql("CHECKPOINT")
    postgres.stop()
    disk.detach()
    server.kill()


def start_database(stage, uri, seconds=600, direct=False):
    """Attaches and starts; returns (disk, postgres, seconds until the first query was answered). `direct`: the file below
    the loop device is not cached, so that the export sees what the guest's own cache misses."""
    began = time.monotonic()
    disk = Attached(stage, uri, stage.path / "mnt")
    if direct:
        run("losetup", "--direct-io=on", disk.loop)
    postgres = Postgres(stage, stage.path / "mnt")
    postgres.start(seconds)
    postgres.sql("SELECT count(*) FROM pgbench_branches")
    return disk, postgres, time.monotonic() - began


def run_load(postgres, script, seconds, clients=4, scale=1, seed=None):
    """Applies the skewed load; returns transactions a second, one figure for each second."""
    log = postgres.stage.path / f"load{time.monotonic_ns()}"
    log.mkdir()
    os.chmod(log, 0o777)
    postgres.pgbench("-n", "-f", script, "-D", f"scale={scale}", "-c", clients, "-T", seconds, "--log",
                     *([] if seed is None else ["--random-seed", seed]),
                     "--log-prefix", log / "tx", "--aggregate-interval", 1, seconds=seconds + 120)
    counts = {}
    for part in log.glob("tx*"):
        for line in part.read_text().splitlines():
            stamp, count = line.split()[:2]
            counts[int(stamp)] = counts.get(int(stamp), 0) + int(count)
    return [counts[s] for s in sorted(counts)]


def show(values, decimals=1):
    if not values:
        return "-"
    middle = statistics.median(values)
    return f"{middle:.{decimals}f} [{min(values):.{decimals}f}-{max(values):.{decimals}f}]"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n"


def seconds_and(values, decimals=1):
    """As `show`; what was never reached in a round is told."""
    reached = [v for v in values if v is not None]
    never = len(values) - len(reached)
    return show(reached, decimals) + (f" (never: {never} of {len(values)})" if never and reached else "")


def goals(rows):
    """Targets: (what, "at least" or "at most", limit or None, values of the rounds, and whether they are the least they can be)."""
    lines = []
    for what, word, limit, values, *least in rows:
        middle = statistics.median(values) if values else None
        reached = middle is not None and limit and (middle >= limit if word == "at least" else middle <= limit)
        judged = "not measured" if middle is None else "-" if limit is None else "yes" if reached else "**no**"
        wanted = "none" if limit is None else f"{word} {limit:g}"
        lines.append([what, wanted, show(values, 2) + (" or more" if least and least[0] else ""), judged])
    return table(["target", "limit", "measured", "reached"], lines)


def options(parser, **scales):
    """Adds what every script takes, and options of which each scale has its own value: name=(full, brief, tiny)."""
    parser.add_argument("--out", type=Path, help="write the section into this file too")
    parser.add_argument("--brief", action="store_true", help="less of everything")
    parser.add_argument("--tiny", action="store_true", help="seconds only: is the harness alive?")
    for name in scales:
        parser.add_argument(f"--{name}", type=int)
    args = parser.parse_args()
    scale = 2 if args.tiny else 1 if args.brief else 0
    for name, values in scales.items():
        if getattr(args, name) is None:
            setattr(args, name, values[scale])
    return args


def report(body, out):
    print(body, flush=True)
    if out:
        out.write_text(body)


class SmallCache:
    """A guest with little memory: its page cache forgets the database's files every half second, so that shared_buffers
    (32 MB) is all it keeps. Its hot pages stay there and are never read again: what the disk sees says little of them."""

    def __init__(self, postgres):
        self.folder, self.ending = postgres.data / "base", threading.Event()
        self.thread = threading.Thread(target=self.forget, daemon=True)
        self.thread.start()

    def forget(self):
        while not self.ending.wait(0.5):
            for path in self.folder.rglob("*"):
                try:
                    with open(path, "rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                except OSError:
                    pass  # a folder, or a file that is gone

    def end(self):
        self.ending.set()
        self.thread.join()
