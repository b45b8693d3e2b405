#: what    random reads, writes, appends, truncations, maps, holes, copies, renames and reopens of a few files, each
#: what    read compared with what it has to be (after Apple's fsx)
#: fast
#: needs   python3
"""Several descriptors of one file at once; what they show is compared with a bytearray after every step.

FSX_STEPS and FSX_SEED in the environment for more.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random

STEPS = int(os.environ.get("FSX_STEPS", "400"))
SEED = int(os.environ.get("FSX_SEED", "7"))
LIMIT = 400_000
PAGE = mmap.PAGESIZE


class File:
    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.chance = chance
        self.model = bytearray()
        self.fds = [os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)]
        self.said: list[str] = []

    def step(self) -> None:
        acts = [self.write, self.write, self.read, self.read, self.append, self.truncate, self.map_write, self.map_read]
        acts += [self.punch, self.extend, self.reopen, self.rename, self.copy_range, self.sync, self.whole]
        act = self.chance.choice(acts)
        self.said.append(act.__name__)
        self.said.append(str(act()))

    def fd(self) -> int:
        return self.chance.choice(self.fds)

    def data(self) -> bytes:
        return self.chance.randbytes(self.chance.choice((1, 7, 100, 4096, 5000, 30_000, 70_000)))

    def at(self) -> int:
        at = self.chance.randrange(LIMIT) if self.chance.random() < 0.2 else self.chance.randrange(len(self.model) + 1)
        return at // PAGE * PAGE if self.chance.random() < 0.2 else at

    def put(self, at: int, data: bytes) -> None:
        if at > len(self.model):
            self.model += bytes(at - len(self.model))
        self.model[at : at + len(data)] = data

    def write(self) -> str:
        at, data = self.at(), self.data()
        assert os.pwrite(self.fd(), data, at) == len(data)
        self.put(at, data)
        return f"{at} {len(data)}"

    def append(self) -> str:
        data = self.data()
        fd = os.open(self.name, os.O_WRONLY | os.O_APPEND)
        os.write(fd, data)
        if len(self.model) + len(data) > LIMIT * 2:
            os.ftruncate(fd, 1000)
            self.model = self.model[:1000]
        else:
            self.put(len(self.model), data)
        os.close(fd)
        return str(len(data))

    def read(self) -> str:
        at, size = self.at(), self.chance.choice((1, 100, 4096, 100_000))
        self.equal(os.pread(self.fd(), size, at), bytes(self.model[at : at + size]), at)
        return f"{at} {size}"

    def truncate(self) -> str:
        size = self.at()
        if self.chance.random() < 0.5:
            os.ftruncate(self.fd(), size)
        else:
            os.truncate(self.name, size)
        self.model = self.model[:size] + bytes(max(0, size - len(self.model)))
        return str(size)

    def extend(self) -> str:
        at, size = self.at(), self.chance.randrange(1, 20_000)
        os.posix_fallocate(self.fd(), at, size)
        self.put(at + size, b"") if at + size > len(self.model) else None
        return f"{at} {size}"

    def punch(self) -> str:
        at, size = self.at(), self.chance.randrange(1, 50_000)
        data = bytes(max(0, min(size, len(self.model) - at)))
        os.pwrite(self.fd(), data, at) if data else None
        self.put(at, data) if data else None
        return f"{at} {size}"

    def map_write(self) -> str:
        if not self.model:
            return ""
        at = self.chance.randrange(len(self.model))
        data = self.data()[: len(self.model) - at]
        with mmap.mmap(self.fd(), len(self.model)) as view:
            view[at : at + len(data)] = data
            if self.chance.random() < 0.5:
                view.flush()
        self.put(at, data)
        return f"{at} {len(data)}"

    def map_read(self) -> str:
        if not self.model:
            return ""
        kind = self.chance.choice((mmap.MAP_SHARED, mmap.MAP_PRIVATE))
        with mmap.mmap(self.fd(), len(self.model), flags=kind, prot=mmap.PROT_READ) as view:
            self.equal(view[:], bytes(self.model), 0)
        return str(len(self.model))

    def copy_range(self) -> str:
        if not self.model:
            return ""
        size = min(self.chance.randrange(1, 50_000), len(self.model) // 2)
        at, to = self.chance.randrange(len(self.model)), len(self.model) + self.chance.randrange(100)
        done = 0
        while done < size and (step := os.copy_file_range(self.fd(), self.fd(), size - done, at + done, to + done)):
            self.put(to + done, bytes(self.model[at + done : at + done + step]))
            done += step
        return f"{at} {to} {size} {done}"

    def reopen(self) -> str:
        if len(self.fds) > 1 and self.chance.random() < 0.6:
            os.close(self.fds.pop(self.chance.randrange(len(self.fds))))
        else:
            self.fds.append(os.open(self.name, os.O_RDWR))
        return str(len(self.fds))

    def rename(self) -> str:
        new = f"{self.name[0]}{self.chance.randrange(5)}"
        os.rename(self.name, new)
        self.name = new
        return new

    def sync(self) -> str:
        self.chance.choice((os.fsync, os.fdatasync))(self.fd())
        return ""

    def whole(self) -> str:
        with open(self.name, "rb") as file:
            self.equal(file.read(), bytes(self.model), 0)
        for fd in self.fds:
            assert os.fstat(fd).st_size == os.stat(self.name).st_size == len(self.model)
        return hashlib.sha256(self.model).hexdigest()[:8]

    def equal(self, seen: bytes, wanted: bytes, at: int) -> None:
        if seen != wanted:
            where = next(
                (i for i, (a, b) in enumerate(zip(seen, wanted, strict=False)) if a != b), min(len(seen), len(wanted))
            )
            raise AssertionError(
                f"{self.name}: {len(seen)} bytes, {len(wanted)} wanted, first difference at {at + where}"
            )


def main() -> None:
    chance = random.Random(SEED)
    files = [File(name, chance) for name in ("a", "b", "c")]
    number = 0
    try:
        for number in range(STEPS):  # noqa: B007 - said when it fails
            chance.choice(files).step()
    except BaseException:
        print(f"step {number}", *(f"{file.name}: {' '.join(file.said[-24:])}\n" for file in files), sep="\n")
        raise
    for file in files:
        file.whole()
        with contextlib.ExitStack() as stack:
            for fd in file.fds:
                stack.callback(os.close, fd)
        file.fds = []
        print(file.name, len(file.model), file.whole())


main()
