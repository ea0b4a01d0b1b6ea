#!/usr/bin/env python3
"""Instant restore, as an application sees it: a PostgreSQL disk is lost; how long until the database answers, how long until
it is as fast as before, when is everything there.

Contestants, each over the same link with a real FIFO: rekindle (order of use), rekindle with linear order, rekindle's plain
restore and then a start, and QEMU's way (an overlay over NBD with copy-on-read and block-stream). Rounds interleaved. Root.
"""

import argparse
import json
import socket
import threading
import time

from rig import (MIB, Link, Postgres, Process, Rekindle, build_database, expect, report, run, run_load, say, show,
                 start_database, table, until, write_load)
from stage import Stage, need, need_root


class Contest:
    """One image, one repository with its usage map, one link."""

    def __init__(self, stage, args):
        self.stage, self.args = stage, args
        self.image = stage.path / "disk.raw"
        build_database(stage, self.image, args.mib * MIB, args.scale)
        self.rekindle = Rekindle(stage)
        self.rekindle("init")
        self.train()
        self.link = Link(stage, args.rate, args.rtt)
        self.repo, _ = self.link.store(self.rekindle.repo)

    def train(self):
        """The application runs on the served disk, then a backup is taken: its usage map knows this load."""
        where = self.stage.path / "train.sock"
        server = self.rekindle.start("serve", "serve", "shop", self.image, "--listen", f"unix:{where}")
        until(where.exists, "serve")
        disk, postgres, _ = start_database(self.stage, f"nbd+unix:///shop?socket={where}")
        self.script = write_load(self.stage, self.args.kind)
        tps = run_load(postgres, self.script, self.args.train, scale=self.args.scale)
        self.warm = sorted(tps)[len(tps) // 2]
        self.rekindle("backup", "shop", timeout=600)
        postgres.stop()
        disk.detach()
        server.stop()
        # What QEMU gets is the same moment.
        self.moment = self.stage.path / "moment.raw"
        self.rekindle("restore", "shop@latest", "--to", self.moment, timeout=600)
        say(f"trained: {self.warm} transactions a second when warm")

    def judge(self, uri, began, complete):
        """Starts the database on an export and applies the load; `complete()` tells when all bytes are there."""
        disk, postgres, _ = start_database(self.stage, uri)
        ready = time.monotonic() - began
        tps = run_load(postgres, self.script, self.args.load, scale=self.args.scale)
        finished = complete()
        postgres.stop()
        disk.detach()
        reached = {}
        for share in (0.5, 0.9):
            over = [i for i, t in enumerate(tps) if t >= share * self.warm]
            reached[share] = ready + over[0] + 1 if over else float("inf")
        lost = sum(max(0, self.warm - t) for t in tps) / self.warm + ready
        return {"ready": ready, "half": reached[0.5], "ninety": reached[0.9], "lost": lost, "complete": finished - began}

    def online(self, *more):
        """rekindle, online at once."""
        world, target = Rekindle(self.stage, world="2"), self.stage.path / "restored.raw"
        world.env["REKINDLE_REPO"] = self.repo
        where = self.stage.path / "restore.sock"
        began = time.monotonic()
        server = world.start("restore", "restore", "shop@latest", "--to", target, "--listen", f"unix:{where}",
                             "--no-verify", *more)
        until(lambda: where.exists(), "the export", 60, every=0.001)
        waiter = world.start("wait", "wait", "shop", "--for=complete", "--timeout", "60m")
        done = []

        def watch():
            waiter.child.wait()
            done.append(time.monotonic())

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()

        def finished():
            thread.join(3700)
            expect(waiter.child.returncode == 0, f"waiting for the fill failed: {waiter.output()}")
            return done[0]

        try:
            return self.judge(f"nbd+unix:///shop?socket={where}", began, finished)
        finally:
            world("discard", "shop", "--yes", "shop", check=False)
            server.kill()
            where.unlink(missing_ok=True)
            target.unlink(missing_ok=True)

    def plain(self):
        """rekindle's offline restore, then a start from the file."""
        world, target = Rekindle(self.stage, world="2"), self.stage.path / "restored.raw"
        world.env["REKINDLE_REPO"] = self.repo
        began = time.monotonic()
        world("restore", "shop@latest", "--to", target, timeout=3600)
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
        # The delay of the link, added where the bytes are, as our store server does.
        far = self.link.start("far", "nbdkit", "-f", "-r", "-p", port, "--filter=delay", "file", self.moment,
                              f"rdelay={self.link.rtt_ms}ms")
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
            return self.judge(f"nbd+unix:///shop?socket={where}", began, control.stream_ended)
        finally:
            server.kill()
            far.kill()
            for path in (overlay, where, qmp):
                path.unlink(missing_ok=True)


class Qmp:
    """The monitor of qemu-storage-daemon, and when the stream ended."""

    def __init__(self, path):
        until(path.exists, "the monitor")
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
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


CONTESTANTS = {
    "rekindle, order of use": lambda c: c.online(),
    "rekindle, linear order": lambda c: c.online("--order", "linear"),
    "rekindle, restore then start": lambda c: c.plain(),
    "QEMU overlay, copy-on-read, block-stream": lambda c: c.qemu(),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--kind", choices=("gauss", "zipf"), default="gauss", help="working set or heavy tail")
    parser.add_argument("--scale", type=int, default=40)
    parser.add_argument("--train", type=int, default=60, help="seconds of load before the backup")
    parser.add_argument("--load", type=int, default=60, help="seconds of load after each restore")
    parser.add_argument("--rate", type=int, default=12_600_000, help="bytes a second of the link")
    parser.add_argument("--rtt", type=int, default=20, help="round trip in milliseconds")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--name", default="instant", help="section of docs/benchmarks.md")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args()
    need_root()
    need("nbdfuse", "losetup", "qemu-storage-daemon", "nbdkit", str(Postgres.BIN / "postgres"))
    contestants = [(n, f) for n, f in CONTESTANTS.items() if args.only in n]
    found = {name: [] for name, _ in contestants}
    with Stage("instant restore of a PostgreSQL disk") as stage:
        contest = Contest(stage, args)
        for turn in range(args.rounds):
            for name, judge in contestants[turn % len(contestants):] + contestants[:turn % len(contestants)]:
                found[name].append(judge(contest))
                say(f"{name}: " + ", ".join(f"{k} {v:.1f}" for k, v in found[name][-1].items()))
        rows = [[name] + [show([f[k] for f in figures]) for k in ("ready", "half", "ninety", "lost", "complete")]
                for name, figures in found.items()]
        body = (f"{args.mib} MiB disk, pgbench scale {args.scale}, load {args.kind}, 4 clients, "
                f"{contest.warm} transactions a second when warm; link {contest.link}; {args.rounds} rounds. Lost: seconds of "
                f"warm throughput that were not delivered in the first {args.load} s after the start, the wait before it included."
                "\n\n" + table(["way", "application ready s", "50 % of warm s", "90 % of warm s", "lost s", "complete s"], rows))
        report(args.name, body, args.write)


if __name__ == "__main__":
    main()
