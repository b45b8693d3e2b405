"""`gdah retire`: asks a server to take another one out of a volume for good. Speaks HTTP; decides nothing."""

from __future__ import annotations

import re

import httpx

from gdah_volume.errors import GdahError, InvalidArgument, Unauthorized, Unreachable

ANSWER_LIMIT_S = 15.0


def retire(server_url: str, volume: str, target: str, token: str | None, *, force: bool) -> str:
    """The id of the one that went. `target`: its URL or id. Raises what the server refuses with, Unreachable."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    which = "url" if re.match(r"https?://", target) else "server"
    address = f"{server_url.rstrip('/')}/v1/volumes/{volume}/retire"
    try:
        answer = httpx.post(
            address,
            params={which: target, "force": int(force)},
            headers=headers,
            timeout=ANSWER_LIMIT_S,
            trust_env=False,
        )
        body = answer.json()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise Unreachable(f"no server answers at {server_url} ({error}); give the URL of one that stays") from error
    if answer.status_code == 401:
        raise Unauthorized(f"the server at {server_url} wants its token: give --token-file FILE")
    if answer.status_code >= 400:
        message = str(body.get("message") if isinstance(body, dict) else body)
        raise (InvalidArgument if answer.status_code < 500 else GdahError)(message)
    return str(body["retired"])
