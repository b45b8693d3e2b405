"""What the parts of the mount ask of each other. Vocabulary only: frozen values and protocols.

The core (`filesystem`, `changelog`, `cache`, `servers`) is written against these; the edges (`fuse_ops`,
`link`, `transfer`, `status`) implement or call them; `cli` puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gdah_volume.content import ChunkHash
from gdah_volume.errors import GdahError
from gdah_volume.ids import Epoch, OpId, ServerId
from gdah_volume.lock_messages import OfMount, ToMount
from gdah_volume.locks import Range
from gdah_volume.operations import Kind, Operation
from gdah_volume.stamps import ZERO, Stamp
from gdah_volume.wire import Blob, Entry, Welcome

# --- between the kernel's edge and the file system -------------------------------------------------

LockDone = Callable[[Range | GdahError | None], None]
"""The answer to a lock call. None: done, or nothing stands in the way; a Range: that stands in the way."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, as the kernel says."""

    uid: int
    gid: int
    pid: int
    umask: int = 0o022


@dataclass(frozen=True, slots=True)
class Stat:
    """Attributes of a node as a program sees them. Times in nanoseconds, sizes in bytes, `mode` with the
    type."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0


@dataclass(frozen=True, slots=True)
class AttrChange:
    """What setattr asks to change; None: leave. `atime_ns`/`mtime_ns` may be the word "now"."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | Literal["now"] | None = None
    mtime_ns: int | Literal["now"] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """`keep_cache`: what the kernel has cached of the file is still what it holds."""

    handle: int
    keep_cache: bool = False
    direct_io: bool = False


@dataclass(frozen=True, slots=True)
class DirEntry:
    """`offset` is the cookie to continue after this entry; `mode` needs only the type bits."""

    name: bytes
    ino: int
    mode: int
    offset: int


@dataclass(frozen=True, slots=True)
class StatFs:
    """Honest numbers: of the server that has least room, in `block_size` blocks; the cache's disk without
    servers."""

    block_size: int
    blocks: int
    blocks_free: int
    files: int
    files_free: int
    name_max: int = 255


class FileSystemCalls(Protocol):
    """The file system as an object: what the kernel asks, by inode number (1 is the root).

    Every method raises `GdahError` whose class owns the errno. Threading: called from many threads at once.
    `lookup`, `mknod`, `mkdir`, `symlink`, `link`, `create` each count one kernel reference on the inode that
    they return, `forget` gives them back.
    """

    def lookup(self, parent: int, name: bytes) -> Stat: ...
    def forget(self, ino: int, count: int) -> None: ...
    def getattr(self, ino: int, handle: int | None = None) -> Stat: ...
    def setattr(self, ino: int, change: AttrChange, handle: int | None, caller: Caller) -> Stat: ...
    def readlink(self, ino: int) -> bytes: ...
    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Stat: ...
    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Stat: ...
    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Stat: ...
    def link(self, ino: int, new_parent: int, new_name: bytes) -> Stat: ...
    def unlink(self, parent: int, name: bytes) -> None: ...
    def rmdir(self, parent: int, name: bytes) -> None: ...
    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int = 0) -> None: ...
    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> tuple[Stat, Opened]: ...
    def open(self, ino: int, flags: int, caller: Caller) -> Opened: ...
    def read(self, ino: int, handle: int, offset: int, size: int) -> bytes: ...
    def write(
        self, ino: int, handle: int, offset: int, data: bytes | memoryview, *, killer: Caller | None = None
    ) -> int:
        """`killer`: who writes, if he may not leave set-user-id and set-group-id behind."""
        ...

    def seek(self, ino: int, handle: int, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE alone."""
        ...

    def allocate(self, ino: int, handle: int, mode: int, offset: int, length: int, caller: Caller) -> None:
        """`mode` as of fallocate(2)."""
        ...

    def copy_range(self, handle: int, offset: int, to_handle: int, to_offset: int, length: int, caller: Caller) -> int:
        """How much was copied: at least a byte, unless the source ends."""
        ...

    def flush(self, ino: int, handle: int, owner: int = 0) -> None:
        """One close(2). `owner`: whose posix locks on the file end with it."""
        ...

    def fsync(self, ino: int, handle: int, *, data_only: bool) -> None: ...
    def release(self, ino: int, handle: int) -> None: ...
    def opendir(self, ino: int) -> int: ...
    def readdir(self, ino: int, handle: int, offset: int) -> Iterator[DirEntry]: ...
    def releasedir(self, ino: int, handle: int) -> None: ...
    def fsyncdir(self, ino: int, handle: int) -> None: ...
    def statfs(self) -> StatFs: ...
    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int) -> None: ...
    def getxattr(self, ino: int, name: bytes) -> bytes: ...
    def listxattr(self, ino: int, caller: Caller) -> Sequence[bytes]: ...
    def removexattr(self, ino: int, name: bytes) -> None: ...

    # Locks. `done` is called once, perhaps before the call returns, perhaps much later from another thread; calling
    # what a call returns ends its wait (done gets Interrupted then). `owner`: the kernel's number for who asks.

    def getlk(self, ino: int, handle: int, owner: int, wanted: Range, done: LockDone) -> Callable[[], None]: ...
    def setlk(
        self,
        ino: int,
        handle: int,
        owner: int,
        wanted: Range,
        *,
        frees: bool,
        wait: bool,
        pid: int,
        done: LockDone,
    ) -> Callable[[], None]: ...
    def flock(
        self,
        ino: int,
        handle: int,
        owner: int,
        wanted: Range,
        *,
        frees: bool,
        wait: bool,
        pid: int,
        done: LockDone,
    ) -> Callable[[], None]: ...


class Telling(Protocol):
    """Who wants to know when the kernel is told of an inode. Both are called from the thread that tells, and must not
    wait."""

    def telling(self) -> None:
        """It is told from now on."""
        ...

    def told(self) -> bool:
        """It was told. False: tell it again, it was given something of before meanwhile."""
        ...


class KernelCache(Protocol):
    """What the kernel was told and must forget. Returns at once: a thread of its own notifies the kernel."""

    def invalidate_inode(self, ino: int, telling: Telling | None = None) -> None:
        """Attributes and cached pages."""
        ...

    def wait_told(self, ino: int, timeout_s: float) -> bool:
        """Wait until nothing is left to tell of an inode. False at the timeout. At once, where nothing is left."""
        ...

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """A name in a folder, also one that was cached as absent; and with it the folder's listing and
        attributes."""
        ...

    def invalidate_everything(self) -> None:
        """All names, present and absent. Inodes that programs hold open keep their attributes and pages."""
        ...

    def after_all(self, done: Callable[[], None]) -> None:
        """Call `done`, which must not wait, when the kernel was told of everything that was asked so far."""
        ...


# --- between the core and the servers ----------------------------------------------------------------


class LinkEvents(Protocol):
    """What a link to one server tells. Called from that link's receiving thread, in order of arrival."""

    def on_up(self, link: ServerLink, welcome: Welcome) -> None: ...
    def on_feed(self, link: ServerLink, entries: tuple[Entry, ...], everywhere: int, stable: Stamp) -> None: ...
    def on_ack(self, link: ServerLink, op: OpId, stamp: Stamp, position: int, copies: int, of: int) -> None: ...
    def on_refused(self, link: ServerLink, op: OpId, code: str, message: str) -> None: ...
    def on_want(self, link: ServerLink, ids: tuple[OpId, ...]) -> None: ...
    def on_handed_over(self, link: ServerLink, head: int) -> None: ...
    def on_snapshot_needed(self, link: ServerLink, first: int) -> None: ...
    def on_beat(self, link: ServerLink) -> None:
        """Figures are in `link.health`."""
        ...

    def on_lock(self, link: ServerLink, message: ToMount) -> None: ...
    def on_down(self, link: ServerLink, reason: str) -> None: ...


@dataclass(slots=True)
class ServerHealth:
    """What a link measured of its server; moving averages. Read by anyone, written by the link."""

    connected: bool = False
    latency_ms: float = 0.0
    errors: int = 0
    error_rate: float = 0.0
    last_error: str | None = None
    last_heard: float = 0.0
    """time.monotonic()"""
    lag_operations: int = 0
    free_bytes: int = 0
    busy: float = 0.0
    head: int = 0
    digest: str = ""
    operations: int = 0
    everywhere: int = 0
    """Every member holds the server's log up to this position, as of the beat that said `head`."""
    stable: Stamp = ZERO
    """As of the same beat."""
    behind: int = 0
    """Operations that the server knows to be missing there."""
    trouble: str = ""
    """Why the server cannot store anything now; empty: it can."""
    is_retired: bool = False
    """It says that it is no member any more."""
    retired: tuple[tuple[ServerId, str], ...] = ()
    """Servers that it says are no members any more, with their URLs."""


class ServerLink(Protocol):
    """The operation lane to one server: one connection. Once it is down it stays down (`on_up` brings a new
    one).

    Methods return at once; they raise Unreachable when it is down.
    """

    url: str
    server: ServerId | None
    epoch: Epoch | None
    health: ServerHealth

    def submit(self, op: Operation, floor: Stamp, blobs: tuple[Blob, ...], *, strict: bool, sync: bool) -> None: ...
    def subscribe(self, cursor: int | None, above: Stamp | None, last: str = "") -> None:
        """`last`: the operation at `cursor`, if known."""
        ...

    def offer(self, stamped: tuple[tuple[OpId, Stamp], ...]) -> None: ...
    def hand_over(self, entries: tuple[Entry, ...], *, last: bool) -> None: ...
    def shown(self, position: int) -> None:
        """Programs on this device see the server's log up to there."""
        ...

    def tell_lock(self, message: OfMount) -> None: ...
    def drop(self, reason: str) -> None:
        """Give this connection up (it is dialled again by itself)."""
        ...


class LockEvents(Protocol):
    """What the sync half tells who judges locks. Any thread; returns at once."""

    def up(self, send: Callable[[OfMount], None]) -> None:
        """A server that knows about locks is in use; `send` raises Unreachable when it is lost."""
        ...

    def down(self) -> None:
        """It is not any more."""
        ...

    def hear(self, message: ToMount) -> None: ...
    def stop(self) -> None: ...


class Transfer(Protocol):
    """The data lane: chunks by hash, from and to any server that has them. Blocking; called from any
    thread."""

    def fetch(self, chunk: ChunkHash, length: int) -> bytes:
        """The verified bytes; tries every healthy server. Raises ContentUnavailable (EIO)."""
        ...

    def store(self, server_url: str, chunk: ChunkHash, data: bytes, *, sync: bool) -> int:
        """PUT one chunk to a server, which forwards it to its peers; returns the copies. Raises
        Unreachable."""
        ...


# --- between the core and people -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FileItem:
    """A row of the page's listing. `path` is relative to the volume's root, '/'-separated,
    surrogateescaped."""

    path: str
    is_dir: bool
    kind: Kind
    size: int
    mtime_ns: int
    state: Literal["synced", "pending", "conflict"]


@dataclass(frozen=True, slots=True)
class PendingItem:
    id: OpId
    time_ns: int
    type: Literal["created", "modified", "deleted", "moved"]
    path: str
    is_dir: bool
    bytes: int
    tries: int
    last_error: str | None
    dest: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that the page shows without asking: `change` (paths), `peer_status`, `pending`,
    `conflict`."""

    kind: Literal["change", "peer_status", "pending", "conflict"]
    data: dict[str, Any] = field(default_factory=dict)


class MountView(Protocol):
    """The mount as people and monitors see it. Threading: any thread; all but `pull`/`push` are short."""

    def status(self) -> dict[str, Any]:
        """The JSON of `GET /status` of the mount, all keys of docs/PROTOCOL.md."""
        ...

    def files(self, path: str = "", *, recursive: bool = False) -> list[FileItem]:
        """Raises NotFound, NotADirectory."""
        ...

    def pending(self) -> list[PendingItem]: ...
    def conflicts(self) -> list[FileItem]: ...
    def read_file(self, path: str) -> tuple[FileItem, Iterator[bytes]]: ...
    def write_file(self, path: str, pieces: Iterator[bytes]) -> FileItem:
        """Create or replace a file, with missing parent folders, through the same calls that programs
        make."""
        ...

    def make_dir(self, path: str) -> None: ...
    def remove(self, path: str) -> None:
        """A file, or a folder with everything in it."""
        ...

    def move(self, path: str, new_path: str) -> None: ...
    def pull(self, timeout_s: float = 10.0) -> str:
        """Wait until the mirror has all that the server had at the call; the message for people. Raises
        Unreachable."""
        ...

    def push(self, timeout_s: float = 30.0) -> str:
        """Wait until nothing is only on this device, but for what the brake holds. Raises Unreachable."""
        ...

    def confirm_held(self) -> int:
        """Let what the brake holds go to the servers; how many operations. Raises Unavailable."""
        ...

    def discard_held(self) -> int:
        """Take the deletions back that the brake holds; how many."""
        ...

    def subscribe(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """`listener` is called from core threads and must return at once; the result ends the
        subscription."""
        ...
