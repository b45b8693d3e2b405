"""Uploads: the body of a request as the iterator that `MountView.write_file` wants, a few pieces in memory at a time.

A body that ends early (the client went away, a multipart body is cut) raises out of the iterator, so that the view
stores nothing of it. Threading: the event loop reads, a worker thread writes and asks for one piece after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from typing import Any

import anyio.from_thread
import anyio.to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect

from gdah_volume.errors import BadMessage, CutShort
from mountfs.ports import FileItem, MountView
from mountfs.web.status_words import clean_path

PART_HEADER_MAX_BYTES = 8 << 10
PARTS_MAX = 1000
BOUNDARY_MAX_BYTES = 200

NextPiece = Callable[[], Coroutine[Any, Any, bytes | None]]


async def store(view: MountView, path: str, next_piece: NextPiece) -> FileItem:
    """Write one file from pieces; None ends them."""

    def pieces() -> Iterator[bytes]:
        while (piece := anyio.from_thread.run(next_piece)) is not None:
            yield piece

    return await anyio.to_thread.run_sync(view.write_file, path, pieces())


async def store_raw(view: MountView, path: str, request: Request) -> FileItem:
    """The body is the file."""
    _refuse_encoding(request)
    stream = _body_of(request)

    async def next_piece() -> bytes | None:
        async for piece in stream:
            if piece:
                return piece
        return None

    return await store(view, path, next_piece)


async def store_parts(view: MountView, folder: str, request: Request) -> list[FileItem]:
    """Each part of a form that has a file name is a file in `folder`."""
    _refuse_encoding(request)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not 0 < len(boundary) <= BOUNDARY_MAX_BYTES:
        raise BadMessage("a form is needed (multipart/form-data); the bare file goes to PUT /api/file?path=")
    form = _Form(_body_of(request), boundary)
    stored: list[FileItem] = []
    for _ in range(PARTS_MAX):
        name = await form.next_file()
        if name is None:
            if not stored:
                raise BadMessage("no file is in the form")
            return stored
        path = clean_path(f"{folder}/{_one_name(name)}")
        stored.append(await store(view, path, form.next_piece))
    raise BadMessage(f"more than {PARTS_MAX} parts in one form")


async def _body_of(request: Request) -> AsyncIterator[bytes]:
    try:
        async for piece in request.stream():
            yield piece
    except ClientDisconnect:  # else it would be logged as a fault of ours
        raise CutShort("the body was cut short") from None


def _one_name(name: str) -> str:
    if "/" in name or not name:
        raise BadMessage(f"a part's file name must be one name without '/': {name[:80]!r}")
    return name


def _refuse_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise BadMessage(f"Content-Encoding {encoding[:40]!r} is not understood; send the plain bytes")


class _Form:
    """A multipart body read part by part. Invariant: `_events` are in order of the body."""

    def __init__(self, body: AsyncIterator[bytes], boundary: bytes) -> None:
        self._body = body
        self._events: deque[tuple[str, bytes]] = deque()
        self._field = b""
        self._header = b""
        self._disposition = b""
        self._header_bytes = 0
        self._finished = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
        )

    async def next_file(self) -> str | None:
        """The name of the next part that is a file; what is left of the part before it is skipped."""
        while True:
            kind, value = await self._event()
            if kind == "end":
                return None
            if kind == "headers":
                _, options = parse_options_header(value)
                if b"filename" in options:
                    name = options[b"filename"].replace(b"%22", b'"')
                    return name.decode("utf-8", "surrogateescape")

    async def next_piece(self) -> bytes | None:
        kind, value = await self._event()
        return value if kind == "data" else None

    async def _event(self) -> tuple[str, bytes]:
        while not self._events:
            if self._finished:
                return "end", b""
            try:
                piece = await anext(self._body)
                self._parser.write(piece)
            except StopAsyncIteration:
                raise BadMessage("the form ends before its last part is complete") from None
            except FormParserError as error:
                raise BadMessage(f"not a well-formed form: {error}") from error
        return self._events.popleft()

    def _on_part_begin(self) -> None:
        self._field = self._header = self._disposition = b""
        self._header_bytes = 0

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > PART_HEADER_MAX_BYTES:
            raise BadMessage("a part's headers are too long")

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._header += data[start:end]

    def _on_header_end(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._header
        self._field = self._header = b""

    def _on_headers_finished(self) -> None:
        self._events.append(("headers", self._disposition))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._events.append(("data", data[start:end]))

    def _on_part_end(self) -> None:
        self._events.append(("part_end", b""))

    def _on_end(self) -> None:
        self._finished = True
