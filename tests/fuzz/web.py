"""HTTP of a server and of a mount: requests that follow the OpenAPI they publish, and bytes that are hardly requests at all.

No answer is a 500, none shows a traceback, each refusal is JSON with a reason, and what was refused changed nothing. Threading: the
caller's.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import GenerationMode

from gdah_drill.cluster import Mount, Node, Server
from tests.fuzz import hostile
from tests.fuzz.watched import Log, state_of

LIMIT_S = 30.0
LEFT_OUT = ("/api/unmount", "/api/events", "/logout")
"""One ends the mount, one never ends, one has no body."""
CHANGING = ("PUT", "POST", "DELETE", "PATCH")


class _Web:
    def __init__(self, node: Node, server: Server, token: str | None = None) -> None:
        self.tried = 0
        self.refused = 0
        self.node = node
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._server = server
        self._log = Log(node)

    def _check(self, method: str, http_status: int, body: bytes, kind: str, before: object) -> None:
        assert http_status != 500, body[:500]
        assert b"Traceback" not in body
        if http_status >= 400:
            self.refused += 1
            if kind.startswith("application/json") and body:
                assert json.loads(body)["message"], body
            if method in CHANGING:
                assert before == self._state(), f"{http_status} and yet something changed"

    def _state(self) -> object:
        pending = (
            self.node.status()["pending"]["operations"] if self.headers == {} and isinstance(self.node, Mount) else 0
        )
        return state_of(self._server), pending

    def sound(self) -> None:
        self._log.check()
        assert self.node.get("/healthz").status_code == 200


class Published(_Web):
    """Requests by schemathesis from /openapi.json, right ones and wrong ones."""

    def __init__(self, name: str, node: Node, server: Server, token: str | None = None) -> None:
        super().__init__(node, server, token)
        self.name = name
        spec = node.get("/openapi.json", headers=self.headers).json()
        spec["paths"] = {path: item for path, item in spec["paths"].items() if path not in LEFT_OUT}
        schema = schemathesis.openapi.from_dict(spec)
        cases = [
            operation.ok().as_strategy(generation_mode=mode)
            for operation in schema.get_all_operations()
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
        ]
        self.inputs: st.SearchStrategy[Any] = st.one_of(*cases)

    def try_one(self, given: Any) -> None:
        self.tried += 1
        before = self._state() if given.method in CHANGING else None
        if "volume" in (given.path_parameters or {}) and self.tried % 3:
            given.path_parameters["volume"] = "test_chamber"
        if "timeout_s" in (given.query or {}):
            given.query["timeout_s"] = 0.1
        answer = given.call(base_url=self.node.url, headers=self.headers, timeout=LIMIT_S)
        self._check(
            given.method, answer.status_code, answer.content, (answer.headers.get("content-type") or [""])[0], before
        )


_SEGMENTS = st.sampled_from(
    [b"test_chamber", b"v1", b"volumes", b"files", b"chunks", b"a", b"..", b"%2e%2e", b".", b"%00", b"%2f", b"%ff", b"%", b"%zz", b"\xff", b"", b"~",
     b"x" * 300, b"x" * 20_000, b"0" * 64, b"%2ffiles%2f", b"files%2ffiles", b"a b", b"?", b"#", b";", b"\\", b"%252e", b"%c0%ae%c0%ae", b"lane", b"\x00"]
)  # fmt: skip
_ROUTES = st.sampled_from(
    [b"/status", b"/metrics", b"/v1/volumes/test_chamber/files/", b"/v1/volumes/test_chamber/chunks/", b"/v1/volumes/test_chamber%2ffiles/",
     b"/v1/volumes/test_chamber/tree?path=", b"/v1/volumes/", b"/get_full_state?volume=", b"/get_changes?since=", b"/push_change", b"/docs",
     b"/api/file?path=", b"/api/files?path=", b"/api/upload?path=", b"/api/mkdir?path=", b"/api/move?path=a&to=", b"/api/pending?limit=", b"/page/",
     b"/login", b"/api/status", b"/change_log.json", b"/", b"", b"http://elsewhere/", b"*", b"/v1/volumes/test_chamber/files/a?sync="]
)  # fmt: skip
_METHODS = st.sampled_from(
    [
        b"GET",
        b"HEAD",
        b"PUT",
        b"POST",
        b"DELETE",
        b"OPTIONS",
        b"PATCH",
        b"TRACE",
        b"CONNECT",
        b"get",
        b"G\x00T",
        b"",
        b"X" * 5000,
    ]
)
_HEADERS = st.sampled_from(
    [b"Host: 127.0.0.1", b"Host: evil.example", b"Host:", b"Host: 127.0.0.1\r\nHost: x", b"Origin: http://evil.example", b"Origin: null",
     b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Site: none", b"Cookie: " + b"a=b; " * 4000, b"Cookie: gdah_session=\xff; =;;\"", b"Authorization: Bearer \xff",
     b"Authorization: Basic x", b"X: " + b"y" * 100_000, b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
     b"Content-Length: 3, 5", b"Content-Length: 0x5", b"Content-Length: \xb2", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding: x",
     b"Expect: 100-continue", b"Content-Encoding: gzip", b"Content-Type: multipart/form-data; boundary=b", b"Content-Type: multipart/form-data",
     b"Content-Type: multipart/form-data; boundary=" + b"b" * 500, b"Content-Type: application/json", b"Content-Type: \xff", b"Accept: text/html",
     b"Range: bytes=5-1", b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x",
     b"Connection: close", b"no colon", b": empty", b" folded", b"X\x00: y", b"If-None-Match: *", b"X-Forwarded-For: " + b"1," * 1000]
)  # fmt: skip
_CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["created", "modified", "deleted", "moved", "x", 1, None, []]),
        "src": st.sampled_from(["test_chamber/a", "test_chamber/../a", "test_chamber//a", "test_chamber", "/", "..", "", 5, None, [], "test_chamber/a\0", "x/a",
                                "test_chamber/" + "x" * 256, "test_chamber/" + "d/" * 3000, "test_chamber/\ud800", "test_chamber/a/b/c"]),
        "dest": st.sampled_from(["test_chamber/b", "other/b", "", None, "test_chamber/a/b", "test_chamber"]),
        "is_directory": st.sampled_from([True, False, 1, "true", None]),
        "content": st.sampled_from(["", "eA==", "eA=", "!!", "\xff", 5, [], {}, None, "A" * 200_000]),
        "origin": st.sampled_from(["me", "x" * 300, 5, "\ud800", "", "a\0b", "a\nb"]),
        "timestamp": st.sampled_from(["", 5, None]),
    },
)  # fmt: skip
_BODIES = st.one_of(
    st.binary(max_size=200),
    _CHANGES.map(lambda change: json.dumps(change).encode()),
    st.sampled_from(
        [b"5\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\nx", b"-1\r\nx\r\n", b"5\r\nhi\r\n0\r\n\r\n", b"zz\r\n", b"5;ext=" + b"x" * 20_000 + b"\r\nhello\r\n0\r\n\r\n",
         b"x" * ((1 << 20) + 1), b"{" * 100_000, b"[" * 1_000_000, b'{"type": "created"}', b"null", b"1e999", b"\xff\xfe", b"1" * 10_000,
         b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\ndata\r\n--b--\r\n', b'--b\r\nContent-Disposition: form-data; filename="../a"\r\n\r\nx\r\n--b--',
         b"--b\r\n" + b"X: y\r\n" * 5000, b"--b\r\nContent-Disposition: " + b";" * 9000, b"--b--", b"--b\r\n\r\n--b\r\n\r\n" * 2000,
         b'--b\r\nContent-Disposition: form-data; filename*=utf-8\'\'%ff%00\r\n\r\nx\r\n--b--\r\n', b"password=x", b"token=" + b"x" * 100_000]
    ),
)  # fmt: skip


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    path = draw(_ROUTES) + b"/".join(draw(st.lists(_SEGMENTS, max_size=4)))
    version = draw(
        hostile.mostly(
            st.just(b"HTTP/1.1"), st.sampled_from([b"HTTP/1.0", b"HTTP/9.9", b"HTTP/", b"", b"HTTP/1.1 x"]), 8
        )
    )
    headers = [
        draw(hostile.mostly(st.just(b"Host: 127.0.0.1"), st.just(b"X: x"), 8)),
        *draw(st.lists(_HEADERS, max_size=4)),
    ]
    body = draw(_BODIES)
    length = [b"Content-Length: %d" % len(body)] if draw(st.booleans()) else []
    whole = (
        draw(_METHODS) + b" " + path + b" " + version + b"\r\n" + b"\r\n".join([*headers, *length]) + b"\r\n\r\n" + body
    )
    return draw(hostile.mostly(st.just(whole), hostile.damaged(whole[:2000]), 8))


class Raw(_Web):
    """Bytes on a socket, which is then closed for writing."""

    def __init__(self, name: str, node: Node, server: Server, token: str | None = None) -> None:
        super().__init__(node, server, token)
        self.name = name
        shown = f"Authorization: Bearer {token}\r\n".encode() if token else b""
        self.inputs = _requests().map(lambda request: request.replace(b"\r\n", b"\r\n" + shown, 1))

    def try_one(self, given: bytes) -> None:
        self.tried += 1
        if b"/api/unmount" in given or b"/api/events" in given:
            return
        method = given.partition(b" ")[0].decode("latin-1")
        before = self._state() if method in CHANGING else None
        answer = self._exchange(given)
        if not answer:
            assert method not in CHANGING or before == self._state(), "no answer, and yet something changed"
            return
        found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
        assert found, answer[:200]
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Traceback" not in answer
        assert int(found[1]) != 500, answer[:1000]
        if b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n":  # one answer, and a whole one
            kind = "application/json" if b"content-type: application/json" in head.lower() else ""
            self._check(method, int(found[1]), body, kind, before)

    def _exchange(self, request: bytes) -> bytes:
        parts = []
        with socket.create_connection(("127.0.0.1", self.node.port), LIMIT_S) as raw:
            with contextlib.suppress(OSError):  # it may be cut off while it is still sending
                raw.sendall(request)
                raw.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while part := raw.recv(1 << 20):
                    parts.append(part)
        return b"".join(parts)
