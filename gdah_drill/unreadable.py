"""What a mount shows in the end and cannot give, while every server is in reach: content that nobody has any more.

Asked also of a cluster that does not come to rest: an operation that waits for ever for its content is how a loss looks
from outside. Threading: the runner's.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

import httpx

from gdah_drill.environment import Environment
from gdah_drill.final import FinalState, Finding
from gdah_drill.hands import Stuck

LOOK_S = 60.0


def look(env: Environment) -> dict[str, dict[str, int]]:
    """By mount the paths that cannot be read, with their errno; empty while some server cannot be asked."""
    with contextlib.suppress(httpx.HTTPError, OSError, EOFError, Stuck):
        if all(server.get("/healthz").status_code == 200 for server in env.servers):
            return {mount.name: mount.hands.call("unreadable", deadline_s=LOOK_S) for mount in env.mounts}
    return {}


def check_readable(final: FinalState) -> Iterator[Finding]:
    for mount, paths in final.unreadable.items():
        for path, number in sorted(paths.items()):
            error = errno.errorcode.get(number, str(number))
            what = f"{mount}: {path} cannot be read, with every server in reach: {error}"
            yield Finding(rule="lost", what=what)
