"""`gdah flush --wait`: as long as it takes, until every server has all that this device has made. What it waits for is
said whenever that is something else. Asks the mount over HTTP; `waits_for` decides, purely.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from gdah_volume.errors import Unreachable
from mountfs.tools.tool_client import MountClient
from mountfs.tools.tool_words import printable

ONCE_S = 10.0
ANSWER_S = 15.0
LOOK_S = 0.5


def waits_for(status: dict[str, Any]) -> str | None:
    """What keeps this device's changes from being on every server, in words; None: nothing does. What the brake holds
    is not waited for: whether others shall get it is not decided."""
    pending = status.get("pending", {})
    here, behind = int(pending.get("operations") or 0), int(pending.get("not_everywhere_operations") or 0)
    if not here and not behind:
        return None
    down = [str(server.get("url")) for server in status.get("servers", ()) if not server.get("healthy")]
    who = f"; no answer from {', '.join(down)}" if down else ""
    if here:
        error = pending.get("last_error")
        why = f" ({printable(str(error))})" if error and not down else ""
        return f"{here} changes are only on this device{why}{who}"
    return f"{behind} changes are on a server, and not on every one{who}"


def wait(client: MountClient) -> dict[str, Any]:
    """Returns the status at the end. Raises Unreachable when the mount itself is gone."""
    said = ""
    while True:
        try:
            client.post("/api/flush", timeout_s=ONCE_S, limit_s=ONCE_S + ANSWER_S)
        except Unreachable:
            status: dict[str, Any] = client.get("/status")  # raises if it is the mount that does not answer
        else:
            status = client.get("/status")
        waiting = waits_for(status)
        if waiting is None:
            return status
        kind = waiting.lstrip("0123456789")  # a figure that changes is no news
        if kind != said:
            print(f"gdah: waiting: {waiting}", file=sys.stderr, flush=True)
            said = kind
        time.sleep(LOOK_S)
