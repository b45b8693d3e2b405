"""How paths and answers travel over HTTP: names as bytes that survive, JSON that any name fits into.

A name is bytes; where it is text, bytes that are no UTF-8 are lone surrogates (PEP 383). In a URL they are
percent-encoded bytes, in JSON the escapes \\udc80 to \\udcff. Nothing here touches a disk.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any
from urllib.parse import quote, unquote_to_bytes

from fastapi import Query, Request
from starlette.responses import Response

from gdah_volume.errors import BadMessage, InvalidName, NameTooLong
from gdah_volume.ids import check_name
from mountfs.ports import FileItem, PendingItem

PATH_MAX_BYTES = 4096


class Json(Response):
    """JSON in ASCII: a name that is no UTF-8 is an escape instead of an encoding error."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":")).encode()


def clean_path(text: str, *, root: bool = False) -> str:
    """A path relative to the volume's root, checked name by name. Raises InvalidName or NameTooLong (both 400).

    Slashes at the ends do not count. The root is "" and is allowed only with `root`.
    """
    path = text.strip("/")
    try:
        raw = path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidName("a path with half a character in it") from error
    if len(raw) > PATH_MAX_BYTES:
        raise NameTooLong(f"a path of {len(raw)} bytes; at most {PATH_MAX_BYTES} are possible")
    if not raw:
        if root:
            return ""
        raise InvalidName("a path is needed: ?path=folder/name")
    for name in raw.split(b"/"):
        check_name(name)
    return path


def query_bytes(request: Request, name: str) -> str:
    """The one value of a query parameter, every byte of it kept. Raises BadMessage if it is there twice."""
    found = [
        unquote_to_bytes(value.replace(b"+", b" "))
        for key, _, value in (part.partition(b"=") for part in request.scope["query_string"].split(b"&"))
        if unquote_to_bytes(key) == name.encode()
    ]
    if len(found) > 1:
        raise BadMessage(f"{name}= is there {len(found)} times; once is right")
    return found[0].decode("utf-8", "surrogateescape") if found else ""


def _path(
    request: Request,
    path: Annotated[str, Query(description="relative to the folder's root, '/' between names")],
) -> str:
    del path  # declared for /openapi.json; the framework's decoding would lose bytes
    return clean_path(query_bytes(request, "path"))


def _folder(
    request: Request,
    path: Annotated[str, Query(description="of a folder; empty: the root")] = "",
) -> str:
    del path
    return clean_path(query_bytes(request, "path"), root=True)


def _new_path(request: Request, to: Annotated[str, Query(description="the new path")]) -> str:
    del to
    return clean_path(query_bytes(request, "to"))


path_of, folder_of, new_path_of = _path, _folder, _new_path


def content_disposition(path: str) -> str:
    """`attachment` under the file's own name (RFC 6266): plain ASCII for old programs, every byte for the others."""
    raw = path.rpartition("/")[2].encode("utf-8", "surrogateescape")
    plain = "".join(chr(b) if 0x20 <= b < 0x7F and b not in b'"\\%;/' else "_" for b in raw)
    exact = quote(raw.decode("utf-8", "replace"), safe="")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{exact}"


def file_out(item: FileItem) -> dict[str, Any]:
    return {
        "path": item.path,
        "name": item.path.rpartition("/")[2],
        "is_dir": item.is_dir,
        "kind": item.kind,
        "size": item.size,
        "mtime_ms": item.mtime_ns // 1_000_000,
        "state": item.state,
    }


def pending_out(item: PendingItem) -> dict[str, Any]:
    out = {
        "id": item.id,
        "time_ms": item.time_ns // 1_000_000,
        "type": item.type,
        "path": item.path,
        "is_dir": item.is_dir,
        "bytes": item.bytes,
        "tries": item.tries,
        "last_error": item.last_error,
    }
    if item.dest is not None:
        out["dest"] = item.dest
    return out


def exactly(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """At most `size` bytes of `pieces`: what the header promised, if the file grows meanwhile."""
    left = size
    for piece in pieces:
        if not left:
            return
        yield piece[:left]
        left -= min(left, len(piece))
