"""What is looked at after wrong input: the process runs, its log has no traceback, its state is as it was. Threading: the caller's."""

from __future__ import annotations

from pathlib import Path

from gdah_drill.cluster import Node, Server

WORDS = (
    "Traceback (most recent call last)",
    "fault of ours",
    "fault of this mount",
    "steering failed",
    "a job of the writer failed",
)


class Log:
    """What a process has written since it was last looked at."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._seen: dict[Path, int] = {}

    def check(self) -> None:
        self._node.process.must_run()
        for path in filter(None, (self._node.process.log, self._node.process.own_log)):
            if not path.exists() or path.stat().st_size == self._seen.get(path, 0):
                continue
            with path.open("rb") as file:
                file.seek(self._seen.get(path, 0))
                text = file.read().decode("utf-8", "replace")
            self._seen[path] = path.stat().st_size
            for word in WORDS:
                assert word not in text, f"{self._node.name} logged:\n{text[max(0, text.index(word) - 200) :][:12_000]}"


def state_of(server: Server) -> tuple[int, str]:
    volume = server.volume()
    return volume["operations"], volume["digest"]
