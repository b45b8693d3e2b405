"""Who keeps a volume: the configured peers, and those that peers tell of.

Pure bookkeeping of server ids and URLs, kept in the volume's database by whoever owns that. A server is known by its
id; a URL says where it can be dialled. When another id answers at the URL of a member, that member is gone (its disk
was emptied or replaced) and REPLACED: the new one takes its place, unless it is heard elsewhere. One that a person took
out is RETIRED for good: that travels from server to server and never ends; with a new id the machine may come again.
Threading: the event loop.
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
    replaced: set[str] = field(default_factory=set)
    retired: dict[ServerId, str] = field(default_factory=dict)
    """With the URL of each ('': unknown). Only grows."""

    def start(self) -> tuple[str, ...]:
        """The URLs to dial at first."""
        return tuple(dict.fromkeys([*self.configured, *filter(None, self.urls.values())]))

    def answered(self, server: ServerId, url: str) -> News:
        """The server that we dialled at `url` says that it is `server`."""
        if server == self.own or server in self.retired:
            return News()
        gone = [other for other, there in self.urls.items() if other != server and there == url and url]
        for other in gone:
            del self.urls[other]
            self.replaced.add(other)
        self.replaced.discard(server)
        new = server not in self.urls
        changed = new or bool(gone) or self.urls[server] != url
        if new or url in self.configured or self.urls[server] not in self.configured:
            self.urls[server] = url
        return News(added=(server,) if new else (), retired=tuple(gone), changed=changed)

    def called(self, server: ServerId, url: str) -> News:
        """A server dialled us and says where it can be reached ('': it does not know)."""
        if server == self.own or server in self.urls or server in self.retired or len(self.urls) >= MEMBERS_MAX:
            return News()
        if url and url in self.urls.values():
            # It says that it sits where we know another: our own call there decides who is right.
            return News(dial=(url,))
        self.urls[server] = url
        self.replaced.discard(server)
        return News(added=(server,), dial=(url,) if url else (), changed=True)

    def told(self, members: Iterable[tuple[ServerId, str]]) -> News:
        """A peer names the members that it knows."""
        added: list[ServerId] = []
        dial: list[str] = []
        for server, url in members:
            known = server == self.own or server in self.urls or server in self.replaced or server in self.retired
            if known or not url or url == self.own_url or url in self.urls.values() or len(self.urls) >= MEMBERS_MAX:
                continue
            if url in self.configured:
                continue  # dialled anyway: who answers is the member
            self.urls[server] = url
            added.append(server)
            dial.append(url)
        return News(added=tuple(added), dial=tuple(dial), changed=bool(added))

    def find(self, target: str) -> ServerId | None:
        """The member, or the retired one, with that id or URL."""
        wanted = target.rstrip("/")
        for known in (self.urls, self.retired):
            for server, url in known.items():
                if wanted in (server, url.rstrip("/")):
                    return server
        return None

    def retire(self, server: ServerId, url: str) -> str:
        """It is a member no more; the URL it had."""
        url = self.urls.pop(server, "") or url
        if url or server not in self.retired:
            self.retired[server] = url
        return url

    def is_expected(self, url: str) -> bool:
        """A configured URL at which some server should be, as nobody is retired that sat there."""
        return url not in self.retired.values()

    @property
    def is_retired(self) -> bool:
        return self.own in self.retired

    def listed(self) -> tuple[tuple[ServerId, str], ...]:
        """For a Welcome: all, ourselves included."""
        return ((self.own, self.own_url), *self.urls.items())
