"""A byte stream over a socket, plain or TLS, that one thread may read while another writes. An edge.

OpenSSL's connections may not be used by two threads at once, so TLS runs here on memory buffers under a lock,
and only the socket is used by both.

Threading: one receiver, one sender at a time (the sender's lock is its caller's).
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from typing import Protocol

_RECORD_BYTES = 64 << 10


class Stream(Protocol):
    """`send` sends all; `receive` gives b"" at the end; both raise OSError. `shut` wakes both up."""

    socket: socket.socket

    def send(self, data: bytes) -> None: ...
    def receive(self, limit: int) -> bytes: ...
    def blocking(self) -> None: ...
    def shut(self) -> None: ...
    def close(self) -> None: ...


def open_stream(raw: socket.socket, context: ssl.SSLContext | None, host: str) -> Stream:
    """Raises OSError (ssl.SSLError is one). The socket's timeout holds until `blocking`."""
    return _Plain(raw) if context is None else _Tls(raw, context, host)


class _Plain:
    def __init__(self, raw: socket.socket) -> None:
        self.socket = raw

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self, limit: int) -> bytes:
        return self.socket.recv(limit)

    def blocking(self) -> None:
        self.socket.settimeout(None)

    def shut(self) -> None:
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.socket.close()


class _Tls(_Plain):
    def __init__(self, raw: socket.socket, context: ssl.SSLContext, host: str) -> None:
        super().__init__(raw)
        self._lock = threading.Lock()
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._push()
                data = self.socket.recv(_RECORD_BYTES)
                if not data:
                    raise ConnectionResetError("the server hung up during the TLS handshake") from None
                self._in.write(data)
        self._push()

    def _push(self) -> None:
        with self._lock:
            data = self._out.read()
        if data:
            self.socket.sendall(data)

    def send(self, data: bytes) -> None:
        with self._lock:
            self._tls.write(data)
        self._push()

    def receive(self, limit: int) -> bytes:
        while True:
            with self._lock:
                try:
                    return self._tls.read(limit)
                except ssl.SSLWantReadError:
                    pass
                except ssl.SSLZeroReturnError:
                    return b""
            data = self.socket.recv(_RECORD_BYTES)
            if not data:
                return b""
            with self._lock:
                self._in.write(data)
