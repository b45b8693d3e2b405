"""The client and the polling server of the system that gdah replaces, as they behave on the wire. As simple, and as
careless, as they are there: whole files in base64, an empty answer empties the folder.
"""

from __future__ import annotations

import base64
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

Change = dict[str, Any]


def now() -> str:
    return datetime.now().isoformat(timespec="microseconds")


class OriginalSide:
    """A folder on the local disk and the way both of them apply what they are told."""

    def __init__(self, base: Path, server_url: str, host: str) -> None:
        self.base = base
        self.folder = base / "test_chamber"
        self.folder.mkdir(parents=True)
        self.host = host
        self.http = httpx.Client(base_url=server_url, timeout=10, trust_env=False)

    def close(self) -> None:
        self.http.close()

    def apply(self, change: Change) -> None:
        path = self.base / change["src"]
        match change["type"]:
            case "created" | "modified" if change["is_directory"]:
                path.mkdir(parents=True, exist_ok=True)
            case "created" | "modified":
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(change.get("content") or ""))
            case "deleted" if change["is_directory"]:
                shutil.rmtree(path, ignore_errors=True)
            case "deleted":
                path.unlink(missing_ok=True)
            case "moved":
                target = self.base / change["dest"]
                target.parent.mkdir(parents=True, exist_ok=True)
                if path.exists():
                    path.rename(target)

    def tree(self) -> dict[str, bytes | None]:
        return {
            str(path.relative_to(self.folder)): None if path.is_dir() else path.read_bytes()
            for path in self.folder.rglob("*")
        }


class OriginalClient(OriginalSide):
    def pull(self) -> None:
        state = self.http.get("/get_full_state").json()
        told = {item["path"] for item in state}
        for path in sorted(self.folder.rglob("*"), reverse=True):
            if str(path.relative_to(self.base)) not in told:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for item in state:
            self.apply({"type": "created", "src": item["path"], **item})

    def push(
        self, kind: str, src: str, *, content: bytes | None = None, dest: str = "", folder: bool = False
    ) -> Change:
        """Make the change here and tell the server; the server's answer."""
        change: Change = {"timestamp": now(), "type": kind, "src": f"test_chamber/{src}", "is_directory": folder}
        change["origin"] = f"user-{self.host}"
        if content is not None:
            change["content"] = base64.b64encode(content).decode()
        if dest:
            change["dest"] = f"test_chamber/{dest}"
        self.apply(change)
        answer = self.http.post("/push_change", json=change)
        answer.raise_for_status()
        told: Change = answer.json()
        return told


class OriginalServer(OriginalSide):
    """Polls its peer. A change of its own origin is skipped, or it would echo for ever."""

    def __init__(self, base: Path, server_url: str, host: str) -> None:
        super().__init__(base, server_url, host)
        self.since = datetime.fromtimestamp(0).isoformat(timespec="microseconds")
        self.applied: list[Change] = []
        self.skipped: list[Change] = []

    def poll(self) -> None:
        for change in self.http.get("/get_changes", params={"since": self.since}).json():
            self.since = max(self.since, change["timestamp"])
            if change["origin"] == self.host:
                self.skipped.append(change)
            else:
                self.applied.append(change)
                self.apply(change)
