"""The state of a server in the words and keys that people and monitors rely on. Reads figures, decides nothing."""

from __future__ import annotations

from typing import Any

from gdah_volume.stamps import wall_clock_us
from storage_server.peer_state import Peer, Phase
from storage_server.volume_store import retired_words
from storage_server.volumes import Volume


def volume_status(volume: Volume) -> dict[str, Any]:
    """`volumes.{volume}` of `GET /status`."""
    figures, replication = volume.figures, volume.replication
    head = figures.head
    peers = sorted(replication.peers.values(), key=lambda peer: peer.server)
    return {
        "epoch": volume.epoch,
        "operations": figures.operations,
        "digest": figures.digest.hex(),
        "head": head,
        "first": figures.first,
        "stable_clock": figures.stable.clock,
        "role": "sequencer" if replication.sequencer == volume.server else f"passes on to {replication.sequencer}",
        "sequencer": replication.sequencer,
        "copies": (replication.here >= head) + sum(peer.held >= head and peer.connected for peer in peers),
        "of": replication.of,
        "everywhere": replication.everywhere,
        "waiting": replication.waiting,
        "wanted_chunks": len(volume.wanted),
        "lost_chunks": list(volume.wanted.given_up),
        "skipped_operations": [str(op) for op in volume.incoming.skipped[-100:]],
        "healed": {
            "entries": volume.incoming.caught_up,
            "entry_bytes": volume.incoming.caught_up_bytes,
            "chunks": volume.content.fetched,
            "chunk_bytes": volume.content.fetched_bytes,
        },
        "readers": volume.feeds.readers,
        "shown_late": volume.showing.waits.late,
        "shown_waited_for": volume.showing.waits.counted_on,
        "shown_passed_by": volume.showing.waits.passed_by,
        "locks": volume.locks.service.figures(),
        **{key: figures() for key, figures in volume.care.items()},
        "deletions_last_minute": volume.deletions.last_minute(),
        "retired": [{"server": gone, "url": url} for gone, url in volume.membership.retired.items()],
        "trouble": retired_words(volume.server) if volume.membership.is_retired else volume.trouble,
        "free_bytes": volume.free_bytes,
        "busy": round(volume.busy, 3),
        "writer_queue": volume.writer.queued,
        "peers": [_peer(volume, peer) for peer in peers]
        + [
            {
                "url": url,
                "server": "",
                "connected": False,
                "state": "not met yet",
                "lag_operations": head,
                "behind_operations": 0,
                "last_error": volume.link_error(url),
                "trouble": "",
            }
            for url in replication.unmet
        ],
    }


def _peer(volume: Volume, peer: Peer) -> dict[str, Any]:
    connected = peer.connected and peer.phase not in (Phase.AWAITED, Phase.DOWN)
    error = None if connected else peer.last_error or volume.link_error(peer.url) or "not reached yet"
    return {
        "url": peer.url,
        "server": peer.server,
        "connected": connected,
        "state": _state(peer, volume.figures.head),
        "lag_operations": max(0, volume.figures.head - peer.held),
        "behind_operations": max(0, peer.head - peer.cursor),
        "operations": peer.operations,
        "digest": peer.digest.hex(),
        "last_error": error,
        "last_trouble": peer.last_error,
        "trouble": peer.trouble,
        "clock_ahead_s": max(0, peer.clock_us - wall_clock_us()) // 1_000_000,
    }


def _state(peer: Peer, head: int) -> str:
    if peer.phase is Phase.CATCHING_UP:
        return f"catching up {min(peer.held, head)} of {head}"
    return str(peer.phase.value)


def server_status(server: dict[str, Any], volumes: dict[str, Volume]) -> dict[str, Any]:
    """The JSON of `GET /status`."""
    first = next(iter(volumes.values()))
    return {
        **server,
        "server": first.server,
        "epoch": first.epoch,
        "volumes": {name: volume_status(volume) for name, volume in volumes.items()},
    }


def not_ready(volumes: dict[str, Volume]) -> list[str]:
    """Why operations would be refused now; empty: they would not."""
    troubles = {
        name: retired_words(volume.server) if volume.membership.is_retired else volume.trouble
        for name, volume in volumes.items()
    }
    return [f"volume {name}: {trouble}" for name, trouble in troubles.items() if trouble]
