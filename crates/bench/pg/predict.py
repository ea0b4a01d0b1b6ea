#!/usr/bin/env python3
"""Does the usage map predict what a cold restart asks for?

PostgreSQL runs on a served disk under a skewed load and a backup is taken. The same moment is then started cold elsewhere,
on a server that only records requests, under the same load for a minute: what it read is what a restore must bring. Judged
is the order in which an idle fill of the snapshot copies: of the extents demanded, how many lie within the first 1.25 (and
1.1) times their bytes. Fresh: the map of the first minutes. Aged: the load went on long after. Root.
"""

import argparse
import re

from rig import (BENCH, MIB, Postgres, Process, Rekindle, build_database, report, run, run_load, say, start_database,
                 table, until, write_load)
from stage import Stage, need, need_root

EXTENT = 64 << 10
ORDERS = ("auto", "trace", "score", "rate", "count", "linear")


def demanded(stage, image, script, args):
    """Extents read by a cold restart in its first minute, in the order of the first read."""
    log, where = stage.path / "requests.log", stage.path / "record.sock"
    server = Process(stage, "record", "nbdkit", "-f", "-U", where, "--filter=log", "--filter=cow", "file", image,
                     f"logfile={log}")
    until(where.exists, "nbdkit")
    disk, postgres, _ = start_database(stage, f"nbd+unix:///?socket={where}")
    run_load(postgres, script, args.load, scale=args.scale)
    postgres.stop()
    disk.detach()
    server.kill()
    where.unlink()
    first, written = {}, set()
    pattern = re.compile(r"(Read|Write) id=\d+ offset=0x([0-9a-f]+) count=0x([0-9a-f]+)")
    for line in log.read_text().splitlines():
        match = pattern.search(line)
        if not match:
            continue
        offset, count = int(match[2], 16), int(match[3], 16)
        for extent in range(offset // EXTENT, (offset + count - 1) // EXTENT + 1):
            if match[1] == "Write":
                written.add(extent)
            elif extent not in written:
                # What the guest wrote itself before it read it is nothing to be fetched.
                first.setdefault(extent, len(first))
    log.unlink()
    return list(first)


def order(rekindle, by):
    return [int(line) for line in run(BENCH, "order", rekindle.repo, rekindle.secret, by).stdout.split()]


def judge(rekindle, wanted):
    """For each order the share of `wanted` within the first 1.25 and 1.1 times their number."""
    shares = {}
    for by in ORDERS:
        copied = order(rekindle, by)
        held = set(copied)
        asked = [e for e in wanted if e in held]  # zeros are never fetched
        shares[by] = tuple(len(set(asked) & set(copied[:int(len(asked) * f)])) / len(asked) for f in (1.25, 1.1))
    return len(asked), len(copied), shares


def served(stage, rekindle, image):
    where = stage.path / "serve.sock"
    server = rekindle.start("serve", "serve", "shop", image, "--listen", f"unix:{where}")
    until(where.exists, "serve")
    return server, f"nbd+unix:///shop?socket={where}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=2048)
    parser.add_argument("--kind", choices=("gauss", "zipf"), default="gauss", help="working set or heavy tail")
    parser.add_argument("--scale", type=int, default=60)
    parser.add_argument("--fresh", type=int, default=60, help="seconds of load before the first backup")
    parser.add_argument("--aged", type=int, default=300, help="seconds of load more before the second")
    parser.add_argument("--load", type=int, default=60, help="seconds of the judged restart")
    parser.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    args = parser.parse_args()
    need_root()
    need("nbdfuse", "losetup", "nbdkit", str(Postgres.BIN / "postgres"))
    rows = []
    with Stage("does the usage map predict") as stage:
        image = stage.path / "disk.raw"
        build_database(stage, image, args.mib * MIB, args.scale)
        rekindle = Rekindle(stage)
        rekindle("init")
        server, uri = served(stage, rekindle, image)
        disk, postgres, _ = start_database(stage, uri)
        script = write_load(stage, args.kind)
        for name, seconds in (("fresh", args.fresh), ("aged", args.aged)):
            run_load(postgres, script, seconds, scale=args.scale)
            rekindle("backup", "shop", timeout=600)
            moment = stage.path / "moment.raw"
            moment.unlink(missing_ok=True)
            rekindle("restore", "shop@latest", "--to", moment, timeout=600)
            # The guest above goes idle while the restart is judged: one database at a time on this machine.
            postgres.stop()
            disk.detach()
            wanted = demanded(stage, moment, script, args)
            asked, stored, shares = judge(rekindle, wanted)
            say(f"{name}: {asked} of {stored} extents demanded; " + ", ".join(f"{k} {v[0]:.2f}" for k, v in shares.items()))
            rows += [[f"{name}, {by}", asked, f"{v[0] * 100:.1f}", f"{v[1] * 100:.1f}"] for by, v in shares.items()]
            if name == "fresh":
                disk, postgres, _ = start_database(stage, uri)
        body = (f"{args.mib} MiB disk, pgbench scale {args.scale}, load {args.kind}; {stored} extents hold data. "
                f"Backups after {args.fresh} s and {args.aged} s more; the judged restart runs {args.load} s.\n\n"
                + table(["map, order", "extents demanded", "% within 1.25 x", "% within 1.1 x"], rows))
        report("predict", body, args.write)


if __name__ == "__main__":
    main()
