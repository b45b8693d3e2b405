"""The forms of HTTP answers and requests that all routes share. Vocabulary of the web edges; decides nothing."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gdah_volume.errors import BadMessage, CutShort, GdahError, MessageTooBig, StorageFailed
from storage_server.metrics import COUNTS

log = logging.getLogger("storage_server")


class AnyTextJSON(Response):
    """JSON for names that are no UTF-8 too: lone surrogates travel as escapes."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, ensure_ascii=True, separators=(",", ":")).encode()


def error_answer(error: GdahError) -> Response:
    COUNTS.refused(error.code)
    return AnyTextJSON({"error": error.code, "message": str(error)}, status_code=error.http_status)


def install_errors(app: FastAPI) -> None:
    """Every failure becomes a JSON answer with a reason; none shows a traceback."""

    async def ours(_request: Request, error: Exception) -> Response:
        assert isinstance(error, GdahError)
        return error_answer(error)

    async def malformed(_request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0] if error.errors() else {}
        where = ".".join(str(part) for part in first.get("loc", ()))
        return error_answer(BadMessage(f"{where}: {first.get('msg', 'malformed request')}"))

    async def plain(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        COUNTS.refused(f"HTTP{error.status_code}")
        return AnyTextJSON(
            {"error": f"HTTP{error.status_code}", "message": str(error.detail)},
            status_code=error.status_code,
            headers=error.headers,
        )

    async def unreadable(_request: Request, error: Exception) -> Response:
        failed = StorageFailed(f"what this server keeps cannot be read now: {error}")
        log.warning("a request was not answered: %s", failed)
        return error_answer(failed)

    app.add_exception_handler(GdahError, ours)
    app.add_exception_handler(sqlite3.Error, unreadable)
    app.add_exception_handler(RequestValidationError, malformed)
    app.add_exception_handler(HTTPException, plain)


async def stream_of(request: Request) -> AsyncIterator[bytes]:
    """The body as it comes. Raises CutShort when whoever sends it is gone."""
    try:
        async for part in request.stream():
            yield part
    except ClientDisconnect:
        raise CutShort("the body was cut short") from None


async def body_of(request: Request, limit: int) -> bytes:
    """The whole body, if it is not longer than `limit`. Raises CutShort when whoever sent it is gone."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise MessageTooBig(f"a body of {declared} bytes; at most {limit} are taken")
    parts: list[bytes] = []
    size = 0
    async for part in stream_of(request):
        size += len(part)
        if size > limit:
            raise MessageTooBig(f"a body of more than {limit} bytes")
        parts.append(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
