"""What the web edges work on: the volumes of this server by name, and who edits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gdah_volume.errors import UnknownVolume
from gdah_volume.ids import check_volume
from storage_server.authoring import Editor
from storage_server.collector import Collector
from storage_server.scrub import Scrub
from storage_server.volumes import Volume


@dataclass(frozen=True, slots=True)
class Care:
    """Who looks after what a volume has stored."""

    scrub: Scrub
    collector: Collector


class Served:
    """`about`: what the status says of the server itself."""

    def __init__(
        self, volumes: dict[str, Volume], editors: dict[str, Editor], care: dict[str, Care], about: dict[str, Any]
    ) -> None:
        self.volumes = volumes
        self.editors = editors
        self.care = care
        self.about = about

    def volume(self, name: str) -> Volume:
        """Raises BadMessage, UnknownVolume."""
        volume = self.volumes.get(check_volume(name))
        if volume is None:
            raise UnknownVolume(f"there is no volume {name!r} here")
        return volume

    def care_of(self, name: str) -> Care:
        return self.care[self.volume(name).name]

    def editor(self, name: str) -> Editor:
        return self.editors[self.volume(name).name]
