"""The rows that the fold reads and writes, and what the rules may ask of them. Vocabulary only; knows no SQL.

A LINK is a name with an identity. Its row stays when it is dropped: then it is the last place, which is the trash.
What can be derived from the links is no row of its own: which link is at a place, the live links of a node, and the
live links that were asked for in a directory that has been merged into another (`via`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

import msgspec

from gdah_volume.content import Content
from gdah_volume.ids import LinkId, NodeId, OpId, Version
from gdah_volume.operations import Kind


class NodeRow(msgspec.Struct, frozen=True, array_like=True):
    """What never changes of a node. `forked`: made by a Write whose base was not the current version."""

    kind: Kind
    target: bytes = b""
    rdev: int = 0
    forked: bool = False


class AttrsRow(msgspec.Struct, frozen=True, array_like=True):
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    atime_ns: int
    ctime_ns: int
    xattrs: dict[bytes, bytes] = {}


class FileRow(msgspec.Struct, frozen=True, array_like=True):
    """The current version of a file; its content is that of the version's row."""

    version: Version
    size: int


class LinkRow(msgspec.Struct, frozen=True, array_like=True):
    """`want`: the name asked for; `rev`: the operation that last placed it; `via`: the parent as asked for;
    `merged`: its node became part of the one that had the place."""

    node: NodeId
    parent: NodeId
    name: bytes
    want: bytes
    rev: Version
    live: bool
    via: NodeId
    merged: bool = False


class VersionRow(msgspec.Struct, frozen=True, array_like=True):
    """Where a version landed, and its content (the canonical msgpack of `Content`)."""

    node: NodeId
    content: bytes


class Before(msgspec.Struct, array_like=True):
    """The rows that an operation changed, as they were before it (None: absent)."""

    nodes: dict[NodeId, NodeRow | None] = {}
    aliases: dict[NodeId, NodeId | None] = {}
    attrs: dict[NodeId, AttrsRow | None] = {}
    files: dict[NodeId, FileRow | None] = {}
    links: dict[LinkId, LinkRow | None] = {}
    versions: dict[Version, VersionRow | None] = {}
    last: dict[NodeId, LinkId | None] = {}


Key = tuple[str, str] | tuple[str, str, bytes]
"""What an operation touched: (table, id) or ("at", directory, name). Membership: ("in", directory) its entries,
("of", node) its live links, ("via", directory) the live links that were asked for there and are elsewhere."""

READ, WRITTEN, MEMBERS = 1, 2, 4
"""Modes of touching. MEMBERS: something joined or left a set, which READ lists. Two operations that touched a key
must keep their order if one has WRITTEN it, or one has read the set that the other joined; two that join do not
clash."""


class Source(Protocol):
    """The rows as they are, to be read. Sets come sorted by id, so that every replica means the same by 'the
    first'."""

    def node(self, node: NodeId) -> NodeRow | None: ...
    def alias(self, node: NodeId) -> NodeId | None: ...
    def attrs(self, node: NodeId) -> AttrsRow | None: ...
    def file(self, node: NodeId) -> FileRow | None: ...
    def link(self, link: LinkId) -> LinkRow | None: ...
    def version(self, version: Version) -> VersionRow | None: ...
    def last(self, node: NodeId) -> LinkId | None: ...
    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None: ...
    def links_of(self, node: NodeId) -> tuple[LinkId, ...]: ...
    def links_via(self, via: NodeId) -> tuple[LinkId, ...]: ...
    def has_entries(self, node: NodeId, ignoring: Mapping[LinkId, LinkRow | None]) -> bool:
        """Whether a live link lies in the directory, other than those in `ignoring`."""
        ...


class Rows(Protocol):
    """What the rules work on: reads that see the writes of this operation, and the writes."""

    def node(self, node: NodeId) -> NodeRow | None: ...
    def alias(self, node: NodeId) -> NodeId | None: ...
    def attrs(self, node: NodeId) -> AttrsRow | None: ...
    def file(self, node: NodeId) -> FileRow | None: ...
    def link(self, link: LinkId) -> LinkRow | None: ...
    def version(self, version: Version) -> VersionRow | None: ...
    def last(self, node: NodeId) -> LinkId | None: ...
    def link_at(self, parent: NodeId, name: bytes) -> LinkId | None: ...
    def links_of(self, node: NodeId) -> tuple[LinkId, ...]: ...
    def links_via(self, via: NodeId) -> tuple[LinkId, ...]: ...
    def has_entries(self, node: NodeId) -> bool: ...
    def put_node(self, node: NodeId, row: NodeRow) -> None: ...
    def put_alias(self, node: NodeId, into: NodeId | None) -> None: ...
    def put_attrs(self, node: NodeId, row: AttrsRow) -> None: ...
    def put_file(self, node: NodeId, row: FileRow) -> None: ...
    def put_link(self, link: LinkId, row: LinkRow) -> None: ...
    def put_version(self, version: Version, row: VersionRow) -> None: ...
    def put_last(self, node: NodeId, link: LinkId) -> None: ...
    def forget_writes(self) -> None:
        """Take back all that this operation has written."""
        ...


Order = tuple[int, str, OpId]
"""The place of an operation in the fold: clock, server, id."""

Table = Literal["nodes", "aliases", "attrs", "files", "links", "versions", "last"]

_content_encoder = msgspec.msgpack.Encoder()
_content_decoder: msgspec.msgpack.Decoder[Content] = msgspec.msgpack.Decoder(Content)


def pack_content(content: Content) -> bytes:
    """Equal contents give equal bytes, so contents are compared without being decoded."""
    return _content_encoder.encode(content)


def unpack_content(packed: bytes) -> Content:
    return _content_decoder.decode(packed)
