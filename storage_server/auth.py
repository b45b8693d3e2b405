"""Who may talk to this server: whoever shows the bearer token. One door in front of every route and the WebSocket."""

from __future__ import annotations

import hmac
import json

from starlette.types import ASGIApp, Receive, Scope, Send

from gdah_volume.errors import Unauthorized
from storage_server.metrics import COUNTS

OPEN_PATHS = ("/healthz",)


class TokenDoor:
    """ASGI middleware. Invariant: behind it nothing runs for one who did not show the token."""

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._expected is None or scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        COUNTS.refused(Unauthorized.__name__)
        await _refuse(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["path"] in OPEN_PATHS:
            return True
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        assert self._expected is not None
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._expected)


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    body = json.dumps(
        {"error": "Unauthorized", "message": "wrong or missing token: send it as 'Authorization: Bearer TOKEN'"}
    ).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
    ]
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()  # the connect event
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "websocket.http.response"
    await send({"type": f"{kind}.start", "status": Unauthorized.http_status, "headers": headers})
    await send({"type": f"{kind}.body", "body": body})
