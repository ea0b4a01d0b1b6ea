#!/usr/bin/env python3
"""Does the usage map predict what a cold restart asks for?

PostgreSQL runs on a served disk under a skewed load, in a guest whose cache is small, and a backup is taken. The same moment
is then started cold elsewhere, on a server that only records requests, under the same kind of load: what it read is what a
restore must bring. Judged is the order in which an idle fill of the snapshot copies: of the extents demanded, how many lie
within the first 1.25 (and 1.1) times their number. Fresh: the map of the first minute. Aged: the load went on long after.
After a drill: the same moment was restored to a throw-away file, the application started on it, and all of it discarded. Root.
"""

import argparse
import re

from rig import (BENCH, MIB, Postgres, Process, Rekindle, SmallCache, build_database, goals, options, report, run, run_load,
                 say, show, start_database, table, until, write_load)
from stage import Stage, need, need_root

EXTENT = 64 << 10
ORDERS = ("auto", "trace", "set", "score", "rate", "count", "linear")


class Study:
    def __init__(self, stage, args):
        self.stage, self.args = stage, args
        self.image = stage.path / "disk.raw"
        self.moment = stage.path / "moment.raw"
        self.script = write_load(stage, args.kind)
        self.rekindle = Rekindle(stage)

    def live(self, uri, seconds, seed):
        """The application on `uri` for so long, from a cold start to a clean stop."""
        disk, postgres, _ = start_database(self.stage, uri, direct=True)
        cache = SmallCache(postgres)
        run_load(postgres, self.script, seconds, scale=self.args.scale, seed=seed)
        return disk, postgres, cache

    def leave(self, disk, postgres, cache):
        cache.end()
        postgres.stop()
        disk.detach()

    def train(self, seconds, seed):
        """The application runs on the served disk; a backup is taken while it does. Its bytes become `moment`."""
        where = self.stage.path / "serve.sock"
        server = self.rekindle.start("serve", "serve", "shop", self.image, "--listen", f"unix:{where}")
        until(where.exists, "serve")
        guest = self.live(f"nbd+unix:///shop?socket={where}", seconds, seed)
        self.rekindle("backup", "shop", timeout=600)
        self.leave(*guest)
        server.stop()
        self.moment.unlink(missing_ok=True)
        self.rekindle("restore", "shop@latest", "--to", self.moment, timeout=600)

    def drill(self, seed):
        """The application on a throw-away restore of the moment; what its start read stays with the volume."""
        world, target = Rekindle(self.stage, world="2"), self.stage.path / "throwaway.raw"
        where = self.stage.path / "drill.sock"
        server = world.start("drill", "restore", "shop@latest", "--as", "drill", "--to", target, "--listen",
                             f"unix:{where}", "--no-verify")
        until(where.exists, "the drill")
        guest = self.live(f"nbd+unix:///drill?socket={where}", self.args.load, seed)
        self.leave(*guest)
        world("discard", "drill", "--yes", "drill")
        server.child.wait(60)
        target.unlink(missing_ok=True)

    def demanded(self, seed):
        """Extents read by a cold restart, in the order of the first read; what the guest wrote before it read is none."""
        log, where = self.stage.path / "requests.log", self.stage.path / "record.sock"
        server = Process(self.stage, "record", "nbdkit", "-f", "-U", where, "--filter=log", "--filter=cow", "file",
                         self.moment, f"logfile={log}")
        until(where.exists, "nbdkit")
        self.leave(*self.live(f"nbd+unix:///?socket={where}", self.args.load, seed))
        server.kill()
        where.unlink()
        first, written = {}, set()
        pattern = re.compile(r"(Read|Write) id=\d+ offset=0x([0-9a-f]+) count=0x([0-9a-f]+)")
        with open(log) as lines:
            for match in filter(None, map(pattern.search, lines)):
                offset, count = int(match[2], 16), int(match[3], 16)
                for extent in range(offset // EXTENT, (offset + count - 1) // EXTENT + 1):
                    if match[1] == "Write":
                        written.add(extent)
                    elif extent not in written:
                        first.setdefault(extent, len(first))
        log.unlink()
        return list(first)

    def judge(self, wanted, orders, *more):
        """For each order the share of `wanted` within the first 1.25 and 1.1 times their number, in percent."""
        shares = {}
        for by in orders:
            said = run(BENCH, "order", self.rekindle.repo, self.rekindle.secret, by, *more).stdout
            copied = [int(line) for line in said.split()]
            held = set(copied)
            asked = {e for e in wanted if e in held}  # zeros are never fetched
            shares[by] = [100 * len(asked & set(copied[:int(len(asked) * f)])) / max(1, len(asked)) for f in (1.25, 1.1)]
        return len(asked), len(copied), shares


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kind", choices=("gauss", "zipf"), default="gauss", help="working set or heavy tail")
    args = options(parser, mib=(3072, 1536, 256), scale=(40, 15, 2), cold=(1200, 600, 32), fresh=(60, 20, 3), aged=(150, 40, 3), load=(60, 20, 3),
                   rounds=(1, 1, 1))
    need_root()
    need("nbdfuse", "losetup", "nbdkit", str(Postgres.BIN / "postgres"))
    found, sizes = {}, []
    for turn in range(args.rounds):
        with Stage("does the usage map predict") as stage:
            study = Study(stage, args)
            build_database(stage, study.image, args.mib * MIB, args.scale, args.cold * MIB)
            study.rekindle("init")
            trainings = [("fresh", args.fresh), ("aged", args.aged)]
            for name, seconds in trainings[1:] if args.tiny else trainings:
                study.train(seconds, 10 * turn + 1)
                wanted = study.demanded(10 * turn + 2)
                asked, stored, shares = study.judge(wanted, ORDERS)
                sizes.append((name, asked, stored))
                if name == "aged":
                    study.drill(10 * turn + 3)
                    drilled = study.judge(wanted, ("auto", "trace"), "--drill")[2]
                    shares |= {f"{by}, after a drill": share for by, share in drilled.items()}
                for by, share in shares.items():
                    found.setdefault((name, by), []).append(share)
                say(f"{name}: {asked} of {stored} extents demanded; "
                    + ", ".join(f"{by} {s[0]:.0f}/{s[1]:.0f}" for by, s in shares.items()))
    at = lambda key, i: [share[i] for share in found[key]]
    rows = [[f"{name}, {by}", show(at((name, by), 0)), show(at((name, by), 1))] for name, by in found]
    targets = goals([
        ("aged map, auto: % of what is demanded within 1.25 x", "at least", 85, at(("aged", "auto"), 0)),
        ("after a drill, auto: % of what is demanded within 1.1 x", "at least", 90, at(("aged", "auto, after a drill"), 1)),
    ])
    demands = "; ".join(f"{name}: {asked} of {stored} extents" for name, asked, stored in sizes)
    report(f"{args.mib} MiB disk, PostgreSQL with pgbench scale {args.scale} beside {args.cold} MiB nobody reads, load "
           f"{args.kind} with 4 clients; the guest's cache is 32 MB of shared_buffers, its page cache of the database is "
           f"dropped twice a second (no memory cgroup) and nothing below it caches. Backups after {args.fresh} s and "
           f"{args.aged} s more, each with a cold start in front; the judged restart runs {args.load} s "
           f"with other random numbers; a drill as long, which is discarded. Demanded, of those that hold data: {demands}. {args.rounds} rounds.\n\n{targets}\n"
           + table(["map, order", "% within 1.25 x", "% within 1.1 x"], rows), args.out)


if __name__ == "__main__":
    main()
