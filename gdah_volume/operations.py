"""Operations: the only things that change a volume, and their form for people (JSON in the log).

An operation says what its author did and what he had seen when he did it (`version`, `rev`, `last`, `also`), so that
the fold can merge it with what others did meanwhile. It is immutable: the same id is the same operation on every
retry to any server. Times that people see come from the operation (`time_ns`, the author's wall clock),
never from a stamp.
"""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec

from gdah_volume.content import EMPTY, Chunk, Content, check_content
from gdah_volume.errors import BadMessage
from gdah_volume.ids import (
    LinkId,
    NodeId,
    OpId,
    Version,
    check_name,
    check_node_id,
    check_op_id,
    check_version,
)

Kind = Literal["file", "dir", "symlink", "fifo", "socket", "chardev", "blockdev"]

XATTR_NAME_MAX_BYTES = 255
XATTR_VALUE_MAX_BYTES = 64 << 10
XATTRS_MAX_BYTES = 256 << 10
SYMLINK_MAX_BYTES = 4095
ALSO_MAX = 1024
ORIGIN_MAX_CHARS = 255


class Attrs(msgspec.Struct, frozen=True):
    """Attributes of a node at its creation. `mode` holds the permission bits only (0o7777), never the type."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    rdev: int = 0
    xattrs: dict[bytes, bytes] = {}


class Base(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    id: OpId
    time_ns: int
    origin: str = ""
    """The machine that a change came from, if it was a program of the original interface; else empty."""


class Create(Base, frozen=True, kw_only=True, tag="create"):
    """A new node (its id is the operation's) and its first link (the same id). Strict: EEXIST, ENOENT, ENOTDIR."""

    kind: Kind
    parent: NodeId
    name: bytes
    attrs: Attrs
    content: Content = EMPTY
    target: bytes = b""
    """Of a symlink."""


class Write(Base, frozen=True, kw_only=True, tag="write"):
    """The whole new content of a file; `base` is the version its author edited (None: unknown).

    The new version is named by the operation. `name` is only a hint for a file whose node is unknown.
    """

    node: NodeId
    base: Version | None
    content: Content
    name: bytes
    mtime_ns: int
    clear_suid: bool = False


class SetAttr(Base, frozen=True, kw_only=True, tag="setattr"):
    """Fields that are None stay. Strict: ENOENT."""

    node: NodeId
    version: Version | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None
    xattrs: dict[bytes, bytes] = {}
    """To set."""
    xattrs_gone: tuple[bytes, ...] = ()


class Link(Base, frozen=True, kw_only=True, tag="link"):
    """Another name of a node that is no directory. The link's id is the operation's."""

    node: NodeId
    version: Version | None
    parent: NodeId
    name: bytes


class Unlink(Base, frozen=True, kw_only=True, tag="unlink"):
    """`rev`: the operation that last placed the link, as seen. `version`: of the file, as seen. `last`: he knew no
    other name of the file. `also`: nodes that were merged into this one in his view."""

    link: LinkId
    rev: Version
    node: NodeId
    version: Version | None
    last: bool
    also: tuple[NodeId, ...] = ()


class Rmdir(Base, frozen=True, kw_only=True, tag="rmdir"):
    link: LinkId
    rev: Version
    node: NodeId
    also: tuple[NodeId, ...] = ()


class Replaced(msgspec.Struct, frozen=True):
    """What a rename was seen to replace."""

    link: LinkId
    rev: Version
    node: NodeId
    version: Version | None
    last: bool
    is_dir: bool
    also: tuple[NodeId, ...] = ()


class Rename(Base, frozen=True, kw_only=True, tag="rename"):
    link: LinkId
    node: NodeId
    version: Version | None
    parent: NodeId
    name: bytes
    also: tuple[NodeId, ...] = ()
    replaces: Replaced | None = None


class SeenLink(msgspec.Struct, frozen=True):
    """A name as an author saw it: `rev` placed it last, `version` is that of a file."""

    link: LinkId
    rev: Version
    node: NodeId
    version: Version | None


class Exchange(Base, frozen=True, kw_only=True, tag="exchange"):
    """Two names change places, all or nothing: ignored unless both are as the author saw them. Strict: ENOENT,
    EINVAL."""

    link: LinkId
    rev: Version
    node: NodeId
    version: Version | None
    other: SeenLink


Operation = Create | Write | SetAttr | Link | Unlink | Rmdir | Rename | Exchange


def content_in(op: Operation) -> Content:
    """The content that an operation brings (EMPTY for most)."""
    return op.content if isinstance(op, Create | Write) else EMPTY


def chunks_in(op: Operation) -> tuple[Chunk, ...]:
    return content_in(op).chunks


def _check_also(also: tuple[NodeId, ...]) -> None:
    if len(also) > ALSO_MAX:
        raise BadMessage("too many merged nodes in one operation")
    for node in also:
        check_node_id(node)


def _check_mode(mode: int | None) -> None:
    if mode is not None and not 0 <= mode <= 0o7777:
        raise BadMessage(f"mode out of range: {mode}")


TIME_LIMIT_NS = 9_200_000_000 * 1_000_000_000
"""Times lie between the years 1678 and 2261: nanoseconds in 64 bits, with room to count on."""


def time_in_range(time_ns: int) -> int:
    """The nearest time that can be kept. Local file systems do the same (ext4 beyond the years 1901 and 2446)."""
    return max(-TIME_LIMIT_NS, min(time_ns, TIME_LIMIT_NS))


def _check_numbers(*values: int | None) -> None:
    for value in values:
        if value is not None and not -TIME_LIMIT_NS <= value <= TIME_LIMIT_NS:
            raise BadMessage("a number is out of range")


def _check_xattrs(xattrs: dict[bytes, bytes], gone: tuple[bytes, ...] = ()) -> None:
    total = 0
    for name in (*xattrs, *gone):
        if not 0 < len(name) <= XATTR_NAME_MAX_BYTES or b"\0" in name:
            raise BadMessage("malformed name of an extended attribute")
    for name, value in xattrs.items():
        total += len(name) + len(value)
        if len(value) > XATTR_VALUE_MAX_BYTES or total > XATTRS_MAX_BYTES:
            raise BadMessage("extended attributes too large")


def _check_version_or_none(version: Version | None) -> None:
    if version is not None:
        check_version(version)


def check_operation(op: Operation) -> Operation:
    """Everything that can be known without a tree. Raises BadMessage, InvalidName or NameTooLong.

    Called on each operation that arrives from outside, on both ends, before anything is stored; and on each own one
    before it is logged, as one that no server takes would hold back all that come after it.
    """
    check_op_id(op.id)
    _check_numbers(op.time_ns)
    if len(op.origin) > ORIGIN_MAX_CHARS:
        raise BadMessage("the name of an origin is too long")
    match op:
        case Create():
            check_node_id(op.parent)
            check_name(op.name)
            check_content(op.content)
            _check_mode(op.attrs.mode)
            _check_numbers(op.attrs.mtime_ns, op.attrs.atime_ns, op.attrs.uid, op.attrs.gid, op.attrs.rdev)
            _check_xattrs(op.attrs.xattrs)
            if op.kind != "file" and op.content != EMPTY:
                raise BadMessage("only a file has content")
            if len(op.target) > SYMLINK_MAX_BYTES or b"\0" in op.target or (op.kind == "symlink") != bool(op.target):
                raise BadMessage("a symlink needs a target of 1 to 4095 bytes, nothing else has one")
        case Write():
            check_op_id(op.node)
            _check_version_or_none(op.base)
            check_name(op.name)
            check_content(op.content)
            _check_numbers(op.mtime_ns)
        case SetAttr():
            check_node_id(op.node)
            _check_version_or_none(op.version)
            _check_mode(op.mode)
            _check_numbers(op.uid, op.gid, op.mtime_ns, op.atime_ns)
            _check_xattrs(op.xattrs, op.xattrs_gone)
        case Link():
            check_op_id(op.node)
            _check_version_or_none(op.version)
            check_node_id(op.parent)
            check_name(op.name)
        case Unlink() | Rmdir():
            check_op_id(op.link)
            check_version(op.rev)
            check_op_id(op.node)
            _check_also(op.also)
            if isinstance(op, Unlink):
                _check_version_or_none(op.version)
        case Rename():
            check_op_id(op.link)
            check_op_id(op.node)
            _check_version_or_none(op.version)
            check_node_id(op.parent)
            check_name(op.name)
            _check_also(op.also)
            if op.replaces is not None:
                check_op_id(op.replaces.link)
                check_version(op.replaces.rev)
                check_op_id(op.replaces.node)
                _check_version_or_none(op.replaces.version)
                _check_also(op.replaces.also)
        case Exchange():
            for seen in (op, op.other):
                check_op_id(seen.link)
                check_version(seen.rev)
                check_op_id(seen.node)
                _check_version_or_none(seen.version)
    return op


# The JSON form: names as text, hashes in hex, modes in octal, so that a person can read the log.
# Bytes that are no UTF-8 become lone surrogates (PEP 383), which JSON's \uXXXX escapes carry.

_NAME_FIELDS = ("name", "target")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _content_out(content: Content) -> dict[str, Any]:
    return {"size": content.size, "chunks": [[c.index, c.hash.hex(), c.length] for c in content.chunks]}


def _content_in(value: dict[str, Any]) -> list[Any]:
    return [value["size"], [[index, bytes.fromhex(name), length] for index, name, length in value["chunks"]]]


def _xattrs_out(xattrs: dict[bytes, bytes]) -> dict[str, str]:
    return {_text(name): value.hex() for name, value in xattrs.items()}


def _xattrs_in(value: dict[str, str]) -> dict[bytes, bytes]:
    return {_raw(name): bytes.fromhex(text) for name, text in value.items()}


def to_json(op: Operation) -> str:
    """One line of JSON that a person understands; `from_json` gives the same operation back."""
    out: dict[str, Any] = {"type": type(op).__struct_config__.tag}
    for field in op.__struct_fields__:
        value = getattr(op, field)
        if value is None or value == () or value == {} or (field == "origin" and not value):
            continue
        if field in _NAME_FIELDS:
            if value:
                out[field] = _text(value)
        elif field == "content":
            out[field] = _content_out(value)
        elif field == "mode":
            out[field] = f"{value:04o}"
        elif field == "xattrs":
            out[field] = _xattrs_out(value)
        elif field == "xattrs_gone":
            out[field] = [_text(name) for name in value]
        elif field == "attrs":
            attrs = {name: getattr(value, name) for name in value.__struct_fields__}
            attrs["mode"] = f"{value.mode:04o}"
            attrs["xattrs"] = _xattrs_out(value.xattrs)
            out[field] = {name: kept for name, kept in attrs.items() if kept != {} and (name != "rdev" or kept)}
        elif field in ("replaces", "other"):
            out[field] = msgspec.to_builtins(value)
        else:
            out[field] = value
    try:
        text = json.dumps(out, ensure_ascii=False, separators=(", ", ": "))
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(out, separators=(", ", ": "))
    return text


def from_json(text: str) -> Operation:
    """The inverse of `to_json`. Raises BadMessage on anything else."""
    try:
        raw: dict[str, Any] = json.loads(text)
        for field in _NAME_FIELDS:
            if field in raw:
                raw[field] = _raw(raw[field])
        if "content" in raw:
            raw["content"] = _content_in(raw["content"])
        if "mode" in raw:
            raw["mode"] = int(raw["mode"], 8)
        if "xattrs" in raw:
            raw["xattrs"] = _xattrs_in(raw["xattrs"])
        if "xattrs_gone" in raw:
            raw["xattrs_gone"] = tuple(_raw(name) for name in raw["xattrs_gone"])
        if "attrs" in raw:
            attrs = raw["attrs"]
            attrs["mode"] = int(attrs["mode"], 8)
            attrs["xattrs"] = _xattrs_in(attrs.get("xattrs", {}))
        kind = _BY_TAG[raw["type"]]
        if kind in (Write, Link, Unlink, Rename, Exchange):
            raw.setdefault("base" if kind is Write else "version", None)
        if not raw.keys() <= _FIELDS[kind]:
            raise BadMessage(f"not an operation: unknown fields in {sorted(raw)}")
        return msgspec.convert(raw, kind, builtin_types=(bytes,))
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadMessage(f"not an operation: {error}") from error


_BY_TAG: dict[str, type[Operation]] = {
    "create": Create,
    "write": Write,
    "setattr": SetAttr,
    "link": Link,
    "unlink": Unlink,
    "rmdir": Rmdir,
    "rename": Rename,
    "exchange": Exchange,
}
_FIELDS = {kind: {"type", *kind.__struct_fields__} for kind in _BY_TAG.values()}
