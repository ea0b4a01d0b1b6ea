"""Guests that keep books: what was written where, which version was answered, which may have arrived.

Every 4 KiB block says which block and which version it is, so that any later reader can tell what it holds. Version 0 is
what the disk held at first.
"""

import hashlib
import random
import struct
import threading

import nbd

from stage import StoryFailed, expect

BLOCK = 4096


def content(block, version):
    """The bytes of a block: it says which it is; the rest is noise that does not compress, the same each time."""
    name = struct.pack("<QQ", block + 1, version)
    return name + hashlib.shake_128(name).digest(BLOCK - 16)


def make_image(path, blocks, holes=()):
    """An image of version-0 blocks; `holes` are ranges of blocks that stay holes."""
    with open(path, "wb") as image:
        image.truncate(blocks * BLOCK)
        for first in range(0, blocks, 256):
            if not any(lo <= first < hi for lo, hi in holes):
                image.seek(first * BLOCK)
                image.write(b"".join(content(b, 0) for b in range(first, min(first + 256, blocks))))


class Books:
    """What a disk must hold: for each block the version answered last and those that may have arrived since."""

    def __init__(self, blocks, holes=()):
        self.blocks, self.holes = blocks, holes
        self.answered, self.doubtful = {}, {}
        self.versions = 0
        self.lock = threading.Lock()

    def begin(self, block):
        with self.lock:
            self.versions += 1
            self.doubtful.setdefault(block, set()).add(self.versions)
            return self.versions

    def done(self, block, version):
        with self.lock:
            self.answered[block] = version
            # One writer a block at a time: everything older is overwritten.
            self.doubtful[block] = {v for v in self.doubtful[block] if v > version}

    def allowed(self, block):
        with self.lock:
            return {self.answered.get(block, 0)} | self.doubtful.get(block, set())

    def check(self, block, data):
        allowed = self.allowed(block)
        if any(data == content(block, v) for v in allowed if v > 0):
            return
        if 0 in allowed:
            hole = any(lo <= block < hi for lo, hi in self.holes)
            if data == (bytes(BLOCK) if hole else content(block, 0)):
                return
        raise StoryFailed(f"block {block} holds {struct.unpack('<QQ', data[:16])}, allowed are versions {sorted(allowed)}")

    def settle(self, block, data):
        """After a check: what is there is what was answered last."""
        with self.lock:
            found = struct.unpack("<QQ", data[:16])[1]
            if found:
                self.answered[block] = found
            self.doubtful.pop(block, None)

    def check_all(self, read, settle=True):
        """Reads the whole disk through `read(offset, length)`; afterwards nothing is doubtful."""
        for first in range(0, self.blocks, 256):
            count = min(256, self.blocks - first)
            data = bytes(read(first * BLOCK, count * BLOCK))
            for i in range(count):
                piece = data[i * BLOCK:(i + 1) * BLOCK]
                self.check(first + i, piece)
                if settle:
                    self.settle(first + i, piece)


def connect(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    return handle


class Writer(threading.Thread):
    """Writes its own share of the blocks (every `of`-th), reads some back, flushes now and then, until told to end or until
    the server dies under it."""

    def __init__(self, uri, books, share, of, seed, hot=4096):
        super().__init__(daemon=True)
        self.uri, self.books, self.share, self.of, self.hot = uri, books, share, of, hot
        self.random = random.Random(seed)
        self.writes, self.reads, self.trouble = 0, 0, None
        self.ending = threading.Event()
        self.start()

    def pick(self):
        span = self.hot if self.random.random() < 0.8 else self.books.blocks
        return min(self.random.randrange(span // self.of) * self.of + self.share, self.books.blocks - 1 - self.of)

    def run(self):
        try:
            self.work(connect(self.uri))
        except nbd.Error:
            pass  # the server died: that is the story
        except StoryFailed as trouble:
            self.trouble = trouble

    def work(self, disk):
        while not self.ending.is_set():
            block = self.pick() // self.of * self.of + self.share
            if self.random.random() < 0.3:
                data = bytes(disk.pread(BLOCK, block * BLOCK))
                self.books.check(block, data)
                self.reads += 1
                continue
            version = self.books.begin(block)
            disk.pwrite(content(block, version), block * BLOCK)
            self.books.done(block, version)
            self.writes += 1
            if self.writes % 50 == 0:
                disk.flush()

    def end(self):
        self.ending.set()
        self.finish()

    def finish(self):
        self.join(30)
        expect(not self.is_alive(), "a writer hangs")
        if self.trouble:
            raise self.trouble


def writers(uri, books, count, seed):
    return [Writer(uri, books, i, count, seed * 100 + i) for i in range(count)]
