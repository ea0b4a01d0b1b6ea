"""A database loses its disk twice and no acknowledged transaction.

Goal: PostgreSQL 15 on ext4 runs on a served volume; a backup is taken under load; the disk is destroyed; the database
starts on the restore volume while that still fills from a throttled repository, and commits new work. Every transaction
acknowledged before the backup and every one after the restore is there, checksums and indexes are clean. Then the same
again at once, from the incremental taken while the first restore was under way.

Method: rows are acknowledged to psql processes outside the disk, which remember them. The file system is real: nbdfuse
makes the export a file, loop makes that a device.
"""

import os
import time

from stage import (MIB, Attached, Committer, Postgres, Process, Rekindle, Stage, expect, need, need_root, run, say,
                   until)

SIZE = 1024 * MIB
WORKERS = 3
# Of what is stored, which is little: the fill has to last until the database has started and lost its disk again.
LIMIT = "256KiB/s"


class World:
    """What the story asks of the program under test."""

    def __init__(self, stage):
        self.stage, self.rekindle = stage, Rekindle(stage)
        self.socket = stage.path / "nbd.sock"
        self.server = None

    def uri(self):
        return f"nbd+unix:///shop?socket={self.socket}"

    def serve(self, image):
        self.rekindle("init")
        self.server = self.rekindle.start("serve", "serve", "shop", image, "--listen", f"unix:{self.socket}")
        self.rekindle("wait", "shop", "--for=live", "--timeout", "20s")

    def backup(self):
        return self.rekindle("backup", "shop").stdout

    def lose(self, image):
        """The disk dies under the server, and the server with it."""
        os.unlink(image)
        self.server.kill()

    def restore(self, image):
        self.server = self.rekindle.start("restore", "restore", "shop@latest", "--to", image, "--listen",
                                          f"unix:{self.socket}", "--limit", LIMIT)
        self.rekindle("wait", "shop", "--for=online", "--timeout", "20s")

    def filling(self):
        return "complete" not in self.rekindle("status", "shop", check=False).stdout

    def finish(self):
        self.rekindle("tune", "shop", "--limit", "none")
        self.rekindle("wait", "shop", "--for=verified", "--timeout", "120s", timeout=150)
        self.rekindle("cutover", "shop")
        self.rekindle("wait", "shop", "--for=live", "--timeout", "60s", timeout=90)


class StandIn(World):
    """The same story on nbdkit and copies of files: proves the story itself. STORY_STANDIN=1."""

    def __init__(self, stage):
        super().__init__(stage)
        self.copy = stage.path / "copy"

    def serve(self, image):
        self.image = image
        self.server = Process(self.stage, "nbdkit", "nbdkit", "-f", "-U", self.socket, "-e", "shop", "file", image)
        until(self.socket.exists, "nbdkit")

    def backup(self):
        run("kill", "-STOP", self.server.child.pid)
        run("cp", "--sparse=always", self.image, self.copy)
        run("kill", "-CONT", self.server.child.pid)
        return "copied"

    def restore(self, image):
        run("cp", "--sparse=always", self.copy, image)
        self.socket.unlink()
        self.serve(image)

    def filling(self):
        return True

    def finish(self):
        pass


def check_database(postgres, promised):
    """`promised`: (worker, rows) that must be there."""
    for worker, rows in promised:
        there = int(postgres.sql(f"SELECT count(*) FROM acked WHERE worker = {worker} AND n < {rows} AND h = md5(n::text)"))
        expect(there == rows, f"worker {worker}: {there} of {rows} acknowledged rows are there")
    sums = postgres.sql("SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),"
                        " (SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history)")
    expect(len(set(sums.split("|"))) == 1, f"the books do not balance: {sums}")


def check_to_the_bone(postgres):
    """Every heap against every index, then every page's checksum."""
    postgres.sql("CREATE EXTENSION IF NOT EXISTS amcheck")
    postgres.as_postgres(postgres.BIN / "pg_amcheck", "-h", postgres.sockets, "-p", postgres.port, "-U", "postgres",
                         "--heapallindexed", "-d", "postgres", timeout=180)
    postgres.stop()
    postgres.as_postgres(postgres.BIN / "pg_checksums", "--check", "-D", postgres.data, timeout=180)


def lose_everything(world, postgres, disk, image, loads):
    world.lose(image)
    postgres.lose()
    for load in loads:
        load.end() if isinstance(load, Committer) else load.kill()
    disk.detach(lost=True)


def work(postgres, first_worker):
    loads = [Committer(postgres, first_worker + i) for i in range(WORKERS)]
    return loads, postgres.pgbench_in_background("-n", "-c", "2", "-T", "600")


def backup_under_load(world, committers, seconds):
    time.sleep(seconds)  # a load, not a wait: there has to be something to lose
    promised_at = time.monotonic()
    promised = [(c.worker, c.before(promised_at)) for c in committers]
    expect(all(rows > 0 for _, rows in promised), "the load commits nothing")
    said = world.backup()
    say(f"backed up under load: {sum(rows for _, rows in promised)} acknowledged rows before it. {said.strip()[-200:]}")
    return promised


def restored(world, stage, mountpoint, image):
    began = time.monotonic()
    world.restore(image)
    online = time.monotonic() - began
    disk = Attached(stage, world.uri(), mountpoint)
    postgres = Postgres(stage, mountpoint)
    postgres.start()
    ready = time.monotonic() - began
    expect(world.filling(), "the restore was complete before the database was ready: nothing was proved")
    say(f"online after {online:.2f} s, PostgreSQL ready after {ready:.2f} s, still filling")
    return disk, postgres


def main():
    need_root()
    need("nbdfuse", "losetup", "mkfs.ext4", "setpriv", "pgrep", str(Postgres.BIN / "postgres"))
    with Stage("a database loses its disk twice and no acknowledged transaction") as stage:
        world = (StandIn if os.environ.get("STORY_STANDIN") else World)(stage)
        mountpoint, image = stage.path / "mnt", stage.path / "disk.raw"
        with open(image, "wb") as f:
            f.truncate(SIZE)
        world.serve(image)
        disk = Attached(stage, world.uri(), mountpoint, make=True)
        postgres = Postgres(stage, mountpoint)
        postgres.init()
        postgres.start()
        postgres.sql("CREATE TABLE acked (worker int, n int, h text, PRIMARY KEY (worker, n))")
        postgres.pgbench("-i", "-q", "-s", "12")
        say("the database runs on the served volume")

        committers, pgbench = work(postgres, 0)
        promised = backup_under_load(world, committers, 6)
        time.sleep(1)
        lose_everything(world, postgres, disk, image, [*committers, pgbench])
        say("the disk is gone")

        second = stage.path / "disk2.raw"
        disk, postgres = restored(world, stage, mountpoint, second)
        check_database(postgres, promised)
        committers, pgbench = work(postgres, 100)
        promised += backup_under_load(world, committers, 5)
        lose_everything(world, postgres, disk, second, [*committers, pgbench])
        say("the second disk is gone, before it was whole")

        third = stage.path / "disk3.raw"
        disk, postgres = restored(world, stage, mountpoint, third)
        check_database(postgres, promised)
        committers, pgbench = work(postgres, 200)
        time.sleep(4)
        world.finish()
        say("filled, verified, live again under load")
        time.sleep(2)
        for committer in committers:
            committer.end()
        pgbench.kill()
        check_database(postgres, promised + [(c.worker, len(c.acked)) for c in committers])
        check_to_the_bone(postgres)
        disk.detach()
        world.server.stop()


if __name__ == "__main__":
    main()
