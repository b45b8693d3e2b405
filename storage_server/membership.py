"""Who keeps a volume: the configured peers, and those that peers tell of.

Pure bookkeeping of server ids and URLs, kept in the volume's database by whoever owns that. A server is known by its
id; a URL says where it can be dialled. When another id answers at the URL of a member, that member is gone (its disk
was emptied or replaced) and RETIRED: the new one takes its place. Threading: the event loop.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from gdah_volume.ids import ServerId

MEMBERS_MAX = 32


@dataclass(frozen=True, slots=True)
class News:
    """What a meeting changed."""

    added: tuple[ServerId, ...] = ()
    retired: tuple[ServerId, ...] = ()
    dial: tuple[str, ...] = ()
    changed: bool = False


@dataclass(slots=True)
class Membership:
    own: ServerId
    own_url: str
    configured: tuple[str, ...]
    urls: dict[ServerId, str] = field(default_factory=dict)
    """Members but for ourselves."""
    retired: set[str] = field(default_factory=set)

    def start(self) -> tuple[str, ...]:
        """The URLs to dial at first."""
        return tuple(dict.fromkeys([*self.configured, *filter(None, self.urls.values())]))

    def answered(self, server: ServerId, url: str) -> News:
        """The server that we dialled at `url` says that it is `server`."""
        if server == self.own:
            return News()
        gone = [other for other, there in self.urls.items() if other != server and there == url and url]
        for other in gone:
            del self.urls[other]
            self.retired.add(other)
        self.retired.discard(server)
        new = server not in self.urls
        changed = new or bool(gone) or self.urls[server] != url
        if new or url in self.configured or self.urls[server] not in self.configured:
            self.urls[server] = url
        return News(added=(server,) if new else (), retired=tuple(gone), changed=changed)

    def called(self, server: ServerId, url: str) -> News:
        """A server dialled us and says where it can be reached ('': it does not know)."""
        if server == self.own or server in self.urls or len(self.urls) >= MEMBERS_MAX:
            return News()
        if url and url in self.urls.values():
            # It says that it sits where we know another: our own call there decides who is right.
            return News(dial=(url,))
        self.urls[server] = url
        self.retired.discard(server)
        return News(added=(server,), dial=(url,) if url else (), changed=True)

    def told(self, members: Iterable[tuple[ServerId, str]]) -> News:
        """A peer names the members that it knows."""
        added: list[ServerId] = []
        dial: list[str] = []
        for server, url in members:
            known = server == self.own or server in self.urls or server in self.retired
            if known or not url or url == self.own_url or url in self.urls.values() or len(self.urls) >= MEMBERS_MAX:
                continue
            if url in self.configured:
                continue  # dialled anyway: who answers is the member
            self.urls[server] = url
            added.append(server)
            dial.append(url)
        return News(added=tuple(added), dial=tuple(dial), changed=bool(added))

    def listed(self) -> tuple[tuple[ServerId, str], ...]:
        """For a Welcome: all, ourselves included."""
        return ((self.own, self.own_url), *self.urls.items())
