"""How `gdah` finds a mount and talks to it: over its HTTP interface, never through the mounted folder, which may hang.

Knows no command and prints nothing. Errors are `GdahError`s that name the cause and the next step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from gdah_volume.errors import GdahError, InvalidArgument, NotFound, Unauthorized, Unreachable
from mountfs import registry
from mountfs.registry import MountRecord

ANSWER_LIMIT_S = 15.0


class MountClient:
    """A mount's web app. Raises Unreachable if nothing answers there, else what it refuses with."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # trust_env: a proxy of the environment is for the internet, not for this machine.
        self._http = httpx.Client(base_url=url, headers=headers, timeout=ANSWER_LIMIT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._http.close()

    def get(self, path: str, **params: Any) -> Any:
        return self._ask("GET", path, params, ANSWER_LIMIT_S)

    def post(self, path: str, *, limit_s: float = ANSWER_LIMIT_S, **params: Any) -> Any:
        return self._ask("POST", path, params, limit_s)

    def _ask(self, method: str, path: str, params: Mapping[str, Any], limit_s: float) -> Any:
        try:
            answer = self._http.request(method, path, params=params, timeout=limit_s)
            body = answer.json()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unreachable(
                f"no mount answers at {self.url}: mount the folder with 'gdah-mount DIR --server URL', "
                "or say where it is with --status-addr HOST:PORT"
            ) from error
        except httpx.TimeoutException as error:
            raise Unreachable(f"the mount at {self.url} gave no answer within {limit_s:.0f} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"talking to the mount at {self.url} failed ({error}); is it a gdah mount?") from error
        except ValueError as error:
            raise Unreachable(f"what answers at {self.url} is no gdah mount; give another --status-addr") from error
        if answer.status_code == 401:
            raise Unauthorized(f"the mount at {self.url} wants its token: give --token-file FILE")
        if answer.status_code >= 400:
            message = body.get("message") if isinstance(body, dict) else None
            error_type = Unreachable if answer.status_code == 502 else GdahError
            raise error_type(str(message or f"the mount at {self.url} answered {answer.status_code}"))
        return body


def choose(directory: str | None, status_addr: str | None) -> tuple[str, MountRecord | None]:
    """The URL of the mount that is meant, and its record if it is known here.

    By its folder; by its address; the one mount that runs; the one around the current folder; the default address.
    """
    if directory is not None:
        record = registry.find(directory)
        if record is None or not record.alive:
            raise NotFound(_nothing_there(registry.absolute(directory), record))
        if not record.status_url:
            raise InvalidArgument(f"the mount on {record.directory} has no status address (it was started without)")
        return record.status_url, record
    if status_addr:
        url = registry.status_url(status_addr)
        return url, next((record for record in registry.mounts() if record.alive and record.status_url == url), None)
    running = [record for record in registry.mounts() if record.alive and record.status_url]
    if len(running) > 1:
        running = [record for record in running if _around_here(record)] or running
    if len(running) > 1:
        listed = "".join(f"\n  {record.directory}  {record.status_url}" for record in running)
        raise InvalidArgument(f"several mounts run; name the folder of one:{listed}")
    if running:
        return running[0].status_url, running[0]
    return registry.status_url(registry.DEFAULT_STATUS_ADDR), None


def _around_here(record: MountRecord) -> bool:
    try:
        return Path.cwd().is_relative_to(record.directory)
    except OSError:
        return False


def _nothing_there(directory: str, record: MountRecord | None) -> str:
    if record is not None:
        return (
            f"the mount on {directory} has died (pid {record.pid} is gone); nothing is lost: "
            f"take the rest away with 'gdah unmount {directory}' and mount it again"
        )
    known = [known.directory for known in registry.mounts() if known.alive]
    others = f"; mounted are: {', '.join(known)}" if known else ""
    return f"gdah has no mount on {directory}{others}"
