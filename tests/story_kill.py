"""kill -9 at any moment loses no answered write.

Goal: the real processes, killed again and again under a write load: first while they serve, then while they restore (and
resume by the same command), then after the cutover. Every answered write is there afterwards, every byte never written is
the moment's.

Method: guests that keep books (tests/guests.py); between kills the whole disk is read and compared with the books.
"""

import random
import time

from guests import BLOCK, Books, connect, make_image, writers
from stage import MIB, Rekindle, Stage, expect, need, say, until

BLOCKS = 192 * MIB // BLOCK
HOLES = ((8192, 16384),)
KILLS = 4
SEED = 11


def load_and_kill(server, uri, books, rng, round_, settled=None):
    """Applies a load, kills the server at a random moment (not before `settled` answers true)."""
    guests = writers(uri, books, 4, round_)
    time.sleep(0.3 + rng.random() * 1.2)
    if settled:
        until(settled, "the restore to move on", 60)
    server.kill()
    for guest in guests:
        guest.finish()
    done = sum(g.writes for g in guests)
    expect(done > 0, "the guests wrote nothing")
    return done


def main():
    need("nbdinfo")
    with Stage("kill -9 at any moment loses no answered write") as stage:
        rekindle, rng = Rekindle(stage), random.Random(SEED)
        image, books = stage.path / "disk.raw", Books(BLOCKS, HOLES)
        make_image(image, BLOCKS, HOLES)
        socket = stage.path / "nbd.sock"
        uri, listen = f"nbd+unix:///shop?socket={socket}", ["--listen", f"unix:{socket}"]
        rekindle("init")

        def serve(path):
            server = rekindle.start("serve", "serve", "shop", path, *listen)
            rekindle("wait", "shop", "--for=live", "--timeout", "20s")
            return server

        def compare(where):
            disk = connect(uri)
            books.check_all(lambda offset, length: disk.pread(length, offset))
            disk.shutdown()
            say(f"{where}: every block is as the books say")

        for round_ in range(KILLS):
            server = serve(image)
            done = load_and_kill(server, uri, books, rng, round_)
            say(f"killed while serving, {done} writes answered")
            server = serve(image)
            compare("served again")
            server.kill()

        server = serve(image)
        rekindle("backup", "shop")
        server.kill()
        image.unlink()
        target = stage.path / "new.raw"
        for round_ in range(KILLS, 3 * KILLS):
            server = rekindle.start("restore", "restore", "shop@latest", "--to", target, *listen, "--limit", "12MiB/s")
            rekindle("wait", "shop", "--for=online", "--timeout", "30s")
            done = load_and_kill(server, uri, books, rng, round_)
            say(f"killed while restoring, {done} writes answered")
        server = rekindle.start("restore", "restore", "shop@latest", "--to", target, *listen, "--limit", "12MiB/s")
        rekindle("wait", "shop", "--for=online", "--timeout", "30s")
        compare("restoring again")
        guests = writers(uri, books, 4, 99)
        rekindle("tune", "shop", "--limit", "none")
        rekindle("wait", "shop", "--for=verified", "--timeout", "90s")
        rekindle("cutover", "shop")
        rekindle("wait", "shop", "--for=live", "--timeout", "60s")
        for guest in guests:
            guest.end()
        done = load_and_kill(server, uri, books, rng, 100)
        say(f"killed after the cutover, {done} writes answered")
        server = serve(target)
        compare("served from its new disk")
        rekindle("backup", "shop")
        expect(server.stop() == 0, f"the server did not stop cleanly: {server.output()}")
        with open(target, "rb") as disk:
            books.check_all(lambda offset, length: (disk.seek(offset), disk.read(length))[1])
        copy = stage.path / "copy.raw"
        rekindle("restore", "shop@latest", "--to", copy)
        with open(copy, "rb") as disk:
            books.check_all(lambda offset, length: (disk.seek(offset), disk.read(length))[1])
        say("the disk itself, and a copy from its last backup: every block as the books say")


if __name__ == "__main__":
    main()
