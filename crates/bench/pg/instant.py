#!/usr/bin/env python3
"""Instant restore, as an application sees it: a PostgreSQL disk is lost; how long until the database answers, how long until
it is as fast as before, when is everything there.

Contestants, each over the same link with a real FIFO: rekindle in its order of use, in linear order, on demand alone, with an
oracle's order (the trace of this very load), its plain restore and then a start, and QEMU's way (an overlay over NBD with
copy-on-read and block-stream). Rounds interleaved. Root.
"""

import argparse
import json
import socket
import threading
import time

import nbd

from rig import (MIB, Link, Postgres, Process, Rekindle, build_database, expect, goals, options, report, run, run_load, say,
                 seconds_and, start_database, table, until, write_load)
from stage import Stage, need, need_root

# Bytes a second, round trip in ms.
LINKS = {"25m": (25_000_000 // 8, 40), "100m": (12_600_000, 1), "1g": (125_000_000, 20), "10g": (1_250_000_000, 0.5)}
# How much sooner than QEMU's way, and than linear order, the application should be ready; than QEMU's way, 90 % of warm.
SOONER = {"25m": (None, None, 2), "100m": (5, 5, None), "1g": (5, 5, 4), "10g": (None, None, 1.5)}
# MiB of the disk, of them nobody's, seconds of load, rounds; each in full, brief, tiny. On a slow link all takes longer.
SIZES = {link: dict(mib=mib, cold=cold, load=load, rounds=rounds) for link, mib, cold, load, rounds in [
    ("25m", (1024, 1024, 256), (512, 128, 32), (120, 60, 5), (1, 1, 1)),
    ("100m", (2048, 2048, 256), (256, 256, 32), (20, 15, 3), (5, 1, 1)),
    ("1g", (3072, 2048, 256), (1536, 1024, 32), (20, 15, 3), (5, 1, 1)),
    ("10g", (3072, 2048, 256), (1536, 1024, 32), (20, 15, 3), (5, 1, 1)),
]}
# Judged loads all draw these numbers, so that there can be an oracle; training draws others.
SEED = 7


class Contest:
    """One image, one repository with its usage map, one link."""

    def __init__(self, stage, args):
        self.stage, self.args, self.again = stage, args, False
        self.image, self.moment = stage.path / "disk.raw", stage.path / "moment.raw"
        build_database(stage, self.image, args.mib * MIB, args.scale, cold=args.cold * MIB)
        self.script = write_load(stage, args.kind)
        self.rekindle = Rekindle(stage)
        self.rekindle("init")
        self.train()
        if args.oracle:
            self.teach_the_oracle()
        self.link = Link(stage, *LINKS[args.link])
        self.repo, _ = self.link.store(self.rekindle.repo)

    def served(self, world, name, image):
        where = self.stage.path / f"{name}.sock"
        server = world.start("serve", "serve", name, image, "--listen", f"unix:{where}")
        until(where.exists, "serve")
        return server, f"nbd+unix:///{name}?socket={where}"

    def train(self):
        """The application runs on the served disk, then a backup is taken: its usage map knows this load."""
        server, uri = self.served(self.rekindle, "shop", self.image)
        disk, postgres, _ = start_database(self.stage, uri)
        tps = run_load(postgres, self.script, self.args.train, scale=self.args.scale, seed=1)
        self.warm = sorted(tps)[len(tps) // 2]
        self.rekindle("backup", "shop", timeout=600)
        postgres.stop()
        disk.detach()
        server.stop()
        # What QEMU and the oracle get is the same moment.
        self.rekindle("restore", "shop@latest", "--to", self.moment, timeout=600)
        say(f"trained: {self.warm} transactions a second when warm")

    def teach_the_oracle(self):
        """The very load that will be judged runs on a copy; its bytes are put back, its usage map stays."""
        world, copy = Rekindle(self.stage, world="3"), self.stage.path / "oracle.raw"
        run("cp", "--sparse=always", self.moment, copy)
        server, uri = self.served(world, "oracle", copy)
        disk, postgres, _ = start_database(self.stage, uri)
        run_load(postgres, self.script, self.args.load, scale=self.args.scale, seed=SEED)
        postgres.stop()
        disk.detach()
        server.stop()
        run("cp", "--sparse=always", self.moment, copy)
        server, _ = self.served(world, "oracle", copy)
        world("backup", "oracle", timeout=600)
        server.stop()
        copy.unlink()

    def judge(self, uri, began, complete):
        """Reads a byte, starts the database on an export, applies the load; `complete()` tells when all bytes are there."""
        client = nbd.NBD()
        client.connect_uri(uri)
        client.pread(4096, 0)
        first = time.monotonic() - began
        client.shutdown()
        disk, postgres, _ = start_database(self.stage, uri)
        ready = time.monotonic() - began
        tps = run_load(postgres, self.script, self.args.load, scale=self.args.scale, seed=SEED)
        finished = complete()
        postgres.stop()
        disk.detach()
        found = {"first": first, "ready": ready, "complete": finished and finished - began}
        for share in (50, 90, 99):
            over = [i for i, t in enumerate(tps) if t * 100 >= share * self.warm]
            found[share] = ready + over[0] + 1 if over else None
        # The window opens with the command, so that everybody's is as long: a late start loses what it waited.
        window = self.args.load
        counted = tps[:max(0, int(window - ready))]
        found["lost"] = window - sum(min(self.warm, t) for t in counted) / self.warm
        return found

    def online(self, *more, moment="shop", on_demand=False):
        """rekindle, online at once."""
        world, target = Rekindle(self.stage, world="2"), self.stage.path / "restored.raw"
        world.env["REKINDLE_REPO"] = self.repo
        where = self.stage.path / "restore.sock"
        began = time.monotonic()
        server = world.start("restore", "restore", f"{moment}@latest", "--to", target, "--listen", f"unix:{where}",
                             "--no-verify", *more)
        until(lambda: where.exists(), "the export", 60, every=0.001)
        if on_demand:
            # The socket is there a moment before its owner can be steered.
            until(lambda: world("pause", moment, check=False).returncode == 0, "its owner")
        done = []

        def watch(waiter):
            waiter.child.wait()
            done.append(time.monotonic())

        def finished():
            if on_demand:
                return None
            thread.join(3700)
            expect(waiter.child.returncode == 0, f"waiting for the fill failed: {waiter.output()}")
            return done[0]

        if not on_demand:
            waiter = world.start("wait", "wait", moment, "--for=complete", "--timeout", "60m")
            thread = threading.Thread(target=watch, args=(waiter,), daemon=True)
            thread.start()
        try:
            return self.judge(f"nbd+unix:///{moment}?socket={where}", began, finished)
        finally:
            world("discard", moment, "--yes", moment, check=False)
            server.kill()
            where.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def plain(self):
        """rekindle's offline restore, then a start from the file."""
        world, target = Rekindle(self.stage, world="2"), self.stage.path / "restored.raw"
        world.env["REKINDLE_REPO"] = self.repo
        began = time.monotonic()
        world("restore", "shop@latest", "--to", target, "--no-verify", timeout=3600)
        finished = time.monotonic()
        where = self.stage.path / "plain.sock"
        server = Process(self.stage, "nbdkit", "nbdkit", "-f", "-U", where, "file", target)
        until(where.exists, "nbdkit")
        try:
            return self.judge(f"nbd+unix:///?socket={where}", began, lambda: finished)
        finally:
            server.kill()
            where.unlink()
            target.unlink()

    def qemu(self):
        """An overlay qcow2 over NBD, copy-on-read, block-stream."""
        port, overlay, where = 7710, self.stage.path / "overlay.qcow2", self.stage.path / "qemu.sock"
        qmp = self.stage.path / "qmp.sock"
        # The delay of the link, added where the bytes are, as our store server does; below a millisecond nbdkit has none.
        delay = int(self.link.rtt_ms)
        far = self.link.start("far", "nbdkit", "-f", "-r", "-p", port, *(["--filter=delay"] if delay else []), "file",
                              self.moment, *([f"rdelay={delay}ms"] if delay else []))
        self.link.wait_for(port)
        began = time.monotonic()
        run("qemu-img", "create", "-q", "-f", "qcow2", overlay, self.args.mib * MIB)
        server = Process(self.stage, "qsd", "qemu-storage-daemon",
                         "--blockdev", f"driver=nbd,node-name=far,server.type=inet,server.host={self.link.address},server.port={port},read-only=on",
                         "--blockdev", f"driver=file,node-name=file,filename={overlay},discard=unmap",
                         "--blockdev", "driver=qcow2,node-name=top,file=file,backing=far,discard=unmap",
                         "--blockdev", "driver=copy-on-read,node-name=cor,file=top",
                         "--nbd-server", f"addr.type=unix,addr.path={where},max-connections=16",
                         "--export", "type=nbd,id=shop,node-name=cor,name=shop,writable=on",
                         "--chardev", f"socket,id=qmp,path={qmp},server=on,wait=off", "--monitor", "chardev=qmp")
        until(where.exists, "qemu-storage-daemon", 30, every=0.001)
        control = Qmp(qmp)
        control("block-stream", {"job-id": "stream", "device": "top"})
        try:
            # Its end takes as long again as all else of a round, and is no target: once is enough.
            ended = (lambda: None) if self.again else control.stream_ended
            return self.judge(f"nbd+unix:///shop?socket={where}", began, ended)
        finally:
            server.kill()
            far.kill()
            for path in (overlay, where, qmp):
                path.unlink(missing_ok=True)


class Qmp:
    """The monitor of qemu-storage-daemon, and when the stream ended."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        # It is there a moment before it is listened to.
        until(lambda: path.exists() and self.socket.connect_ex(str(path)) == 0, "the monitor")
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self.answers, self.ended = [], []
        self("qmp_capabilities", read=True)
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def __call__(self, command, arguments=None, read=False):
        self.file.write(json.dumps({"execute": command, "arguments": arguments or {}}) + "\n")
        self.file.flush()
        if read:
            expect("return" in json.loads(self.file.readline()), f"{command} was refused")

    def listen(self):
        for line in self.file:
            event = json.loads(line)
            if event.get("event") == "BLOCK_JOB_COMPLETED":
                self.ended.append((time.monotonic(), event["data"].get("error")))
                return
            if "error" in event:
                self.ended.append((time.monotonic(), str(event["error"])))
                return

    def stream_ended(self):
        self.thread.join(3600)
        expect(self.ended and not self.ended[0][1], f"block-stream failed: {self.ended}")
        return self.ended[0][0]


USE, LINEAR, DEMAND = "rekindle, order of use", "rekindle, linear order", "rekindle, on demand alone"
ORACLE, PLAIN = "rekindle, an oracle's order", "rekindle, restore then start"
QEMU = "QEMU overlay, copy-on-read, block-stream"
CONTESTANTS = {
    USE: lambda c: c.online(),
    LINEAR: lambda c: c.online("--order", "linear"),
    DEMAND: lambda c: c.online(on_demand=True),
    ORACLE: lambda c: c.online(moment="oracle"),
    PLAIN: lambda c: c.plain(),
    QEMU: lambda c: c.qemu(),
}


def targets(found, link, load):
    def ratio(over, under, key):
        pairs = zip(found.get(over, []), found.get(under, []))
        return [a[key] / b[key] for a, b in pairs if a[key] is not None and b[key]]

    def sooner(over, under, key):
        """Who never reached it under the load would have needed longer than that lasted: the ratio is at least this."""
        pairs = list(zip(found.get(over, []), found.get(under, [])))
        values = [(a["ready"] + load if a[key] is None else a[key]) / b[key] for a, b in pairs if b[key]]
        return values, any(a[key] is None for a, b in pairs)

    ready_qemu, ready_linear, warm_qemu = SOONER[link]
    return goals([
        ("application ready: QEMU's way / rekindle", "at least", ready_qemu, ratio(QEMU, USE, "ready")),
        ("application ready: linear order / order of use", "at least", ready_linear, ratio(LINEAR, USE, "ready")),
        ("90 % of warm: QEMU's way / rekindle", "at least", warm_qemu, *sooner(QEMU, USE, 90)),
        ("throughput lost: order of use / linear order", "at most", 0.5, ratio(USE, LINEAR, "lost")),
        ("90 % of warm: order of use / oracle", "at most", 1.2, ratio(USE, ORACLE, 90)),
        ("complete, not verified: online / offline restore", "at most", 1.1, ratio(USE, PLAIN, "complete")),
    ])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--link", choices=LINKS, default="1g")
    parser.add_argument("--kind", choices=("gauss", "zipf"), default="gauss", help="working set or heavy tail")
    parser.add_argument("--only", default="", help="contestants whose name contains this")
    args = options(parser, scale=(15, 15, 2), train=(60, 20, 3), **SIZES[parser.parse_known_args()[0].link])
    need_root()
    need("nbdfuse", "losetup", "qemu-storage-daemon", "nbdkit", str(Postgres.BIN / "postgres"))
    contestants = [(n, f) for n, f in CONTESTANTS.items() if args.only in n and (args.only or not args.tiny or n in (USE, QEMU))]
    found = {name: [] for name, _ in contestants}
    args.oracle = ORACLE in found
    with Stage(f"instant restore of a PostgreSQL disk, {args.link}") as stage:
        contest = Contest(stage, args)
        for turn in range(args.rounds):
            first, contest.again = turn % len(contestants), turn > 0
            for name, judge in contestants[first:] + contestants[:first]:
                # A minute and more in which little happens, and no target: once is enough.
                if contest.again and name == DEMAND:
                    continue
                found[name].append(judge(contest))
                say(f"{name}: " + ", ".join(f"{k} {v:.1f}" for k, v in found[name][-1].items() if v is not None))
        keys = ("first", "ready", 50, 90, 99, "lost", "complete")
        rows = [[name] + [seconds_and([f[k] for f in figures], 2 if k == "first" else 1) for k in keys]
                for name, figures in found.items()]
        head = ["way", "first byte s", "application ready s", "50 % of warm s", "90 %", "99 %", "lost s", "complete s"]
        report(f"{args.mib} MiB disk, pgbench scale {args.scale} and {args.cold} MiB beside it that nobody reads and nothing compresses, load {args.kind}, 4 clients, {contest.warm} transactions a "
               f"second when warm (the median while training); link {contest.link}, tbf with a FIFO of twice what fills it, the "
               f"delay added by the store (none for QEMU below a millisecond); {args.rounds} rounds (on demand alone, and the end of QEMU's stream: one). Times from the "
               f"command; a share of warm is reached in the first second that has it. Lost: seconds of warm throughput not "
               f"delivered in the first {args.load} s after the command (five minutes would be the whole story)."
               f"\n\n{targets(found, args.link, args.load)}\n{table(head, rows)}", args.out)


if __name__ == "__main__":
    main()
