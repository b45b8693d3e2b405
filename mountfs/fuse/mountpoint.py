"""The folder that is mounted over: is it fit, is something mounted on it, and how is that taken away.

Looks at /proc/self/mountinfo first: a mount whose process hangs or died would hang or fail whoever touches it. Knows
nothing of what is served there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import stat
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gdah_volume.errors import MountBusy, MountFailed

PROBE_S = 3.0
"""How long a mount that is there may take to say that it lives."""
FUSERMOUNT_S = 30.0
FUSE_CONF = Path("/etc/fuse.conf")
MAX_USERS_SHOWN = 4

MNT_FORCE, MNT_DETACH, UMOUNT_NOFOLLOW = 1, 2, 8

_ESCAPED = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Mounted:
    """A line of mountinfo: `type` as in "fuse.gdah", `source` as in "gdah", `device` as in "0:57"."""

    device: str
    type: str
    source: str


def find_mount(path: Path, mountinfo: str | None = None) -> Mounted | None:
    """What is mounted on `path`, the topmost; the path itself is not touched."""
    wanted = str(path.parent.resolve() / path.name)
    text = Path("/proc/self/mountinfo").read_text(errors="surrogateescape") if mountinfo is None else mountinfo
    found = None
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(more) > 1 and _plain(fields[4]) == wanted:
            found = Mounted(fields[2], more[0], _plain(more[1]))
    return found


def is_mounted(path: Path) -> bool:
    return find_mount(path) is not None


def _plain(field: str) -> str:
    """Spaces and the like are octal there."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)


def probe(path: Path) -> Literal["alive", "dead", "silent"]:
    """Asks the mount for its room: a question that the kernel never answers from its cache."""
    answer: list[Literal["alive", "dead"]] = []

    def ask() -> None:
        try:
            os.statvfs(path)
        except OSError as error:
            dead = error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
            answer.append("dead" if dead else "alive")
        else:
            answer.append("alive")

    thread = threading.Thread(target=ask, name="mount-probe", daemon=True)
    thread.start()
    thread.join(PROBE_S)
    return answer[0] if answer else "silent"


def prepare(path: Path, *, abandoned: bool = False) -> Path:
    """Make `path` fit to be mounted over and return it absolute. Creates it when it is missing, takes away a dead FUSE
    mount, and raises MountFailed, with the next step, for anything that a mount would hide or that is in use.
    `abandoned`: the process of the mount that is there was killed, so if it is silent nobody will ever answer."""
    path = path.parent.resolve() / path.name
    mounted = find_mount(path)
    if mounted is not None:
        _clear(path, mounted, abandoned=abandoned)
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise MountFailed(f"{path} is a symbolic link; name the folder itself")
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileExistsError:
        raise MountFailed(f"{path} is a file, not a folder; choose another name") from None
    except OSError as error:
        raise MountFailed(f"{path} cannot be used: {error.strerror}; choose a folder of your own") from error
    if first is not None:
        raise MountFailed(
            f"{path} holds files ({first.name!r}), which a mount would hide; move them away, mount, and copy them in"
        )
    _check_device()
    return path


def _clear(path: Path, mounted: Mounted, *, abandoned: bool) -> None:
    if not mounted.type.startswith("fuse"):
        raise MountFailed(f"{path} is already mounted ({mounted.type}); choose another folder")
    state = probe(path)
    if state == "alive":
        raise MountFailed(f"{path} is already mounted; unmount it first: gdah unmount {path}")
    if state == "silent" and not abandoned:
        raise MountFailed(
            f"{path} is mounted and its process does not answer; end that process, then: fusermount -uz {path}"
        )
    unmount(path, lazy=True, force=state == "silent")
    if is_mounted(path):
        raise MountFailed(f"a dead mount on {path} could not be taken away; try: fusermount -uz {path}")


def _check_device() -> None:
    device = Path("/dev/fuse")
    if not device.exists():
        raise MountFailed(
            "/dev/fuse is missing; load the module (modprobe fuse) or give the container --device /dev/fuse"
        )
    if not os.access(device, os.R_OK | os.W_OK):
        raise MountFailed("/dev/fuse may not be opened by this user; join the group that owns it")


def check_rights(*, allow_other: bool, privileged: bool, fuse_conf: Path = FUSE_CONF) -> None:
    """Raises MountFailed, with the next step, for what only root may ask for."""
    if os.geteuid() == 0:
        return
    if privileged:
        raise MountFailed("--privileged needs root: set-user-id programs and devices of the volume would work")
    if allow_other and not _allows_others(fuse_conf):
        raise MountFailed(
            f"--allow-other is not allowed to this user: {fuse_conf} has no line 'user_allow_other'; add it as root"
            f" (echo user_allow_other >> {fuse_conf}), or mount as root, or leave --allow-other out"
        )


def _allows_others(fuse_conf: Path) -> bool:
    try:
        lines = fuse_conf.read_text("utf-8", "replace").splitlines()
    except OSError:
        return False
    return any(line.partition("#")[0].strip() == "user_allow_other" for line in lines)


def unmount(path: Path, *, lazy: bool = False, force: bool = False) -> None:
    """Take away what is mounted on `path`. `lazy`: out of the tree now, the rest when its last user is gone; `force`:
    also end the session under its users, which only root may. Raises MountBusy and MountFailed; nothing mounted is
    fine."""
    if not is_mounted(path):
        return
    if os.geteuid() == 0:
        flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0) | (MNT_FORCE if force else 0)
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(path), flags) != 0:
            _explain(path, ctypes.get_errno())
        return
    command = shutil.which("fusermount") or shutil.which("fusermount3")
    if command is None:
        raise MountFailed("fusermount is missing; on Debian: apt-get install fuse")
    words = [command, "-u", *(["-z"] if lazy else []), "--", str(path)]
    result = subprocess.run(words, capture_output=True, text=True, timeout=FUSERMOUNT_S, check=False)
    if result.returncode != 0 and is_mounted(path):
        busy = "busy" in result.stderr.lower()
        _explain(path, errno.EBUSY if busy else errno.EPERM, result.stderr.strip())


def _explain(path: Path, number: int, said: str = "") -> None:
    if number == errno.EINVAL and not is_mounted(path):
        return
    if number == errno.EBUSY:
        users = ", ".join(f"{name} (pid {pid})" for pid, name in _some(users_of(path)))
        raise MountBusy(f"{path} is in use{' by ' + users if users else ''}; close it there and try again")
    raise MountFailed(f"{path} cannot be unmounted: {said or os.strerror(number)}")


def _some(users: Iterator[tuple[int, str]]) -> list[tuple[int, str]]:
    return [user for user, _ in zip(users, range(MAX_USERS_SHOWN), strict=False)]


def users_of(path: Path) -> Iterator[tuple[int, str]]:
    """Processes with a file open or their current folder below `path`, as far as this user may see; only reads links of
    /proc, so a dead mount cannot stop it."""
    below = (str(path), f"{path}/")
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and any(link == below[0] or link.startswith(below[1]) for link in _links(process)):
            try:
                yield int(process.name), (process / "comm").read_text().strip()
            except OSError:
                continue


def _links(process: Path) -> Iterator[str]:
    try:
        candidates = [process / "cwd", process / "root", *(process / "fd").iterdir()]
    except OSError:
        return
    for link in candidates:
        try:
            yield str(link.readlink())
        except OSError:
            continue
