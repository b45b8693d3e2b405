#: what    how programs save: tempfile and os.replace, fsync of file and folder, jupyter, write in place, truncate
#: what    and write, through a hard link, O_TMPFILE or what stands for it; shutil.copytree, move, rmtree; mmap and
#: what    pickle; shelve, dbm; zipapp; logging's rotation
#: needs   python3
#: fast
from __future__ import annotations

import contextlib
import dbm.dumb
import errno
import json
import logging.handlers
import mmap
import os
import pathlib
import pickle
import shelve
import shutil
import stat
import tempfile

HERE = pathlib.Path()


def atomic(path: str, text: str, *, sync: bool = True) -> None:
    fd, name = tempfile.mkstemp(dir=".", prefix=".~")
    with os.fdopen(fd, "w") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    if os.path.exists(path):
        shutil.copymode(path, name)
    os.replace(name, path)
    if sync:
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(folder)
        os.close(folder)


def notebook(path: str, cells: list[str]) -> None:
    """As jupyter does: the new one into .~name, renamed over; else a copy first, written in place."""
    between = f".~{path}"
    shutil.copyfile(path, between) if os.path.exists(path) else None
    with open(path, "w") as file:
        json.dump({"cells": cells}, file)
        file.flush()
        os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):
        os.remove(between)


for number in range(5):
    atomic("note.txt", f"round {number}\n" * 100)
    notebook("book.ipynb", ["x"] * number)
print(
    stat.S_IMODE(os.stat("note.txt").st_mode) == 0o600,
    open("note.txt").read(8),
    json.load(open("book.ipynb")),
    sorted(os.listdir()),
)

with open("place", "w+b") as file:
    file.write(bytes(100_000))
    file.flush()
    with mmap.mmap(file.fileno(), 0) as view:
        view[50_000:50_005] = b"hello"
        view.flush()
        print(os.pread(file.fileno(), 5, 50_000), view.find(b"hello"))
    os.ftruncate(file.fileno(), 10)
    print(os.fstat(file.fileno()).st_size)
try:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR)
    os.close(fd)
except OSError as error:
    assert error.errno == errno.EOPNOTSUPP, error
with tempfile.TemporaryFile(dir=".") as file:
    file.write(b"gone")
    file.seek(0)
    print(file.read(), sorted(os.listdir()))
with tempfile.TemporaryDirectory(dir=".") as folder:
    pathlib.Path(folder, "x").write_text("x")
with shelve.open("shelf") as shelf:
    shelf["key"] = {"a": 1}
with shelve.open("shelf") as shelf:
    print(dict(shelf))
with dbm.dumb.open("dumb", "c") as db:
    db[b"k"] = b"v"
pickle.dump(list(range(1000)), open("p", "wb"))
print(pickle.load(open("p", "rb"))[-1])

tree = HERE / "tree"
for folder in ("a/b/c", "d"):
    (tree / folder).mkdir(parents=True)
for number in range(20):
    (tree / "a" / f"f{number}").write_text(str(number))
(tree / "a/b/link").symlink_to("../f1")
os.utime(tree / "a" / "f1", ns=(1, 2_000_000_000_000_000_001))
shutil.copytree(tree, "copy", symlinks=True)
print(os.stat("copy/a/f1").st_mtime_ns, os.readlink("copy/a/b/link"), len(list(pathlib.Path("copy").rglob("*"))))
shutil.move("copy", "moved")
shutil.make_archive("arch", "zip", "moved")
shutil.unpack_archive("arch.zip", "unpacked")
print(sorted(path.name for path in pathlib.Path("unpacked/a").iterdir())[:3])
shutil.rmtree("moved")
shutil.rmtree("tree")
log = logging.handlers.RotatingFileHandler("log", maxBytes=500, backupCount=3)
for number in range(60):
    log.emit(logging.LogRecord("x", 20, "", 0, f"message {number:04}", (), None))
log.close()
print({name: os.path.getsize(name) for name in sorted(os.listdir()) if name.startswith("log")})
with open("appended", "a") as one, open("appended", "a") as two:
    for number in range(50):
        one.write(f"one {number}\n")
        one.flush()
        two.write(f"two {number}\n")
        two.flush()
print(len(open("appended").read().splitlines()), sorted(os.listdir()))
