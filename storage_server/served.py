"""What the web edges work on: the volumes of this server by name, and who edits them."""

from __future__ import annotations

from typing import Any

from gdah_volume.errors import UnknownVolume
from gdah_volume.ids import check_volume
from storage_server.authoring import Editor
from storage_server.volumes import Volume


class Served:
    """`about`: what the status says of the server itself."""

    def __init__(self, volumes: dict[str, Volume], editors: dict[str, Editor], about: dict[str, Any]) -> None:
        self.volumes = volumes
        self.editors = editors
        self.about = about

    def volume(self, name: str) -> Volume:
        """Raises BadMessage, UnknownVolume."""
        volume = self.volumes.get(check_volume(name))
        if volume is None:
            raise UnknownVolume(f"there is no volume {name!r} here")
        return volume

    def editor(self, name: str) -> Editor:
        return self.editors[self.volume(name).name]
