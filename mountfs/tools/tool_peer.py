"""Another server, asked by `gdah fsck`: its figures, chunks, its whole log. Speaks HTTP; decides nothing.

Threading: one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryFile
from typing import Any

import httpx

from gdah_volume.content import CHUNK_SIZE, ChunkHash, hash_of
from gdah_volume.errors import BadMessage, Unauthorized, Unreachable
from gdah_volume.ids import VolumeName
from gdah_volume.snapshot_file import SnapshotFile

LIMIT_S = 30.0


class PeerClient:
    def __init__(self, url: str, volume: VolumeName, token: str | None) -> None:
        self.url = url.rstrip("/")
        self._volume = volume
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(headers=headers, timeout=LIMIT_S, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def _get(self, path: str) -> httpx.Response:
        try:
            answer = self._http.get(self.url + path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"{self.url} does not answer ({error}); start that server, or give another --peer"
            ) from error
        if answer.status_code == 401:
            raise Unauthorized(f"{self.url} wants its token: give --token-file FILE")
        return answer

    def status(self) -> dict[str, Any]:
        """Raises Unreachable, Unauthorized."""
        answer = self._get("/status")
        try:
            found = answer.json()
        except ValueError:
            found = None
        if answer.status_code != 200 or not isinstance(found, dict) or "volumes" not in found:
            raise Unreachable(f"what answers at {self.url} is no storage server")
        return found

    def chunk(self, name: ChunkHash) -> bytes | None:
        """The verified bytes, None if that server does not have them. Raises Unreachable, Unauthorized."""
        answer = self._get(f"/v1/volumes/{self._volume}/chunks/{name.hex()}?local=1")
        if answer.status_code == 200 and len(answer.content) <= CHUNK_SIZE and hash_of(answer.content) == name:
            return answer.content
        return None

    @contextmanager
    def snapshot(self) -> Iterator[SnapshotFile]:
        """The whole of its volume. Raises Unreachable, BadMessage."""
        with TemporaryFile() as file:
            try:
                with self._http.stream("GET", f"{self.url}/v1/volumes/{self._volume}/snapshot") as answer:
                    if answer.status_code != 200:
                        raise Unreachable(f"{self.url} gave no snapshot of {self._volume}: HTTP {answer.status_code}")
                    for piece in answer.iter_bytes():
                        file.write(piece)
            except httpx.HTTPError as error:
                raise Unreachable(f"{self.url} broke off its snapshot ({error}); try again") from error
            try:
                yield SnapshotFile(file)
            except BadMessage as error:
                raise BadMessage(f"the snapshot of {self.url} cannot be used: {error}") from error
