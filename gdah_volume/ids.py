"""Identities: who made an operation, which node, which link. Vocabulary only; knows no storage.

An OPERATION ID is ``device-client-boot-sequence``, e.g. ``laptop-a1b2c3-9f3c-42``: made by the author once and
the same on every retry to any server. Everything before the last dash is the AUTHOR. The node that a Create
makes and the link that a Create, Link or forking Write makes carry the id of that operation, so ids of
different authors never collide.
"""

from __future__ import annotations

import re
import secrets
from typing import NewType

from gdah_volume.errors import BadMessage, InvalidName, NameTooLong

VolumeName = NewType("VolumeName", str)
ServerId = NewType("ServerId", str)
Epoch = NewType("Epoch", str)
Author = NewType("Author", str)
OpId = NewType("OpId", str)
NodeId = NewType("NodeId", str)
LinkId = NewType("LinkId", str)
Version = NewType("Version", str)
"""An operation id, or a sorted set of them joined by ``+`` (contents that were found identical)."""

DEFAULT_VOLUME = VolumeName("test_chamber")
ROOT = NodeId("root")
LOST = NodeId(".lost")
"""The hidden folder that receives what has no other place; always alive."""

NAME_MAX_BYTES = 255
ID_MAX_CHARS = 120
VERSION_MAX_CHARS = 4096
_OP_ID = re.compile(r"([a-z0-9_]{1,20})-([0-9a-f]{6})-([0-9a-f]{4,8})-([1-9][0-9]{0,14})")
_AUTHOR = re.compile(r"[a-z0-9_]{1,20}-[0-9a-f]{6}-[0-9a-f]{4,8}")
_VOLUME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}")
SERVER_PATTERN = r"[a-z0-9][a-z0-9-]{0,39}"
_SERVER = re.compile(SERVER_PATTERN)
EPOCH_PATTERN = r"[A-Za-z0-9-]{1,40}"


def new_client_id(device: str) -> str:
    """A client identity ``device-xxxxxx`` that lives as long as the client's cache folder."""
    clean = re.sub(r"[^a-z0-9_]", "_", device.lower())[:20] or "device"
    return f"{clean}-{secrets.token_hex(3)}"


def new_author(client_id: str) -> Author:
    """The author of one run (boot) of a client; sequences start at 1 in each."""
    return Author(f"{client_id}-{secrets.token_hex(4)}")


def new_server_id() -> ServerId:
    return ServerId("s" + secrets.token_hex(4))


def new_epoch() -> Epoch:
    return Epoch(secrets.token_hex(4))


def op_id(author: Author, sequence: int) -> OpId:
    return OpId(f"{author}-{sequence}")


def author_of(op: OpId) -> Author:
    return Author(op.rpartition("-")[0])


def client_of(op: OpId) -> str:
    """Who made it, whatever the run: one that was killed has left operations on which those of the next build."""
    return author_of(op).rpartition("-")[0]


def sequence_of(op: OpId) -> int:
    return int(op.rpartition("-")[2])


def device_of(op: OpId) -> str:
    return op.partition("-")[0]


def short_of(op: OpId) -> str:
    """The part of an operation id after the device, for conflict names."""
    return op.partition("-")[2]


def check_op_id(text: str) -> OpId:
    """Raises BadMessage unless `text` is a well-formed operation id."""
    if len(text) > ID_MAX_CHARS or not _OP_ID.fullmatch(text):
        raise BadMessage(f"not an operation id: {text[:80]!r}")
    return OpId(text)


def check_author(text: str) -> Author:
    if len(text) > ID_MAX_CHARS or not _AUTHOR.fullmatch(text):
        raise BadMessage(f"not an author: {text[:80]!r}")
    return Author(text)


def check_node_id(text: str) -> NodeId:
    """A node is the root, `.lost`, or named by the operation that made it."""
    if text not in (ROOT, LOST):
        check_op_id(text)
    return NodeId(text)


def check_server_id(text: str) -> ServerId:
    if not _SERVER.fullmatch(text):
        raise BadMessage(f"not a server id: {text[:80]!r}")
    return ServerId(text)


def check_volume(text: str) -> VolumeName:
    """Letters, digits, ``_.-``, at most 63; never a path. Raises BadMessage."""
    if not _VOLUME.fullmatch(text):
        raise BadMessage(f"not a volume name: {text[:80]!r} (letters, digits, '_', '.', '-', at most 63)")
    return VolumeName(text)


def check_version(text: str) -> Version:
    if len(text) > VERSION_MAX_CHARS:
        raise BadMessage("version too long")
    for part in text.split("+"):
        check_op_id(part)
    return Version(text)


def check_name(name: bytes) -> bytes:
    """A file name as ext4 takes it: 1 to 255 bytes, no ``/`` and no NUL, not ``.`` or ``..``.

    Raises NameTooLong or InvalidName.
    """
    if len(name) > NAME_MAX_BYTES:
        raise NameTooLong(f"a name of {len(name)} bytes; at most {NAME_MAX_BYTES} are possible")
    if not name or b"/" in name or b"\0" in name or name in (b".", b".."):
        raise InvalidName(f"not a file name: {name[:80]!r}")
    return name
