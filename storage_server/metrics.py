"""What is counted and measured, in the form that Prometheus reads. Knows names of figures, not how they come about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Counts:
    """Events since the start. Threading: any thread."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._refused = Counter(
            "gdah_refused", "Requests, messages and operations that were refused, by error", ["code"],
            registry=self.registry,
        )  # fmt: skip
        self._conversations = Counter(
            "gdah_conversations", "Lanes that were opened, by who dialled", ["role"], registry=self.registry
        )
        self._chunks = Counter(
            "gdah_chunk_bytes", "Bytes of chunks on the data lane, by direction", ["direction"], registry=self.registry
        )
        self._repaired = Counter("gdah_repaired_chunks", "Damaged chunks that were replaced", registry=self.registry)

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def conversation(self, role: str) -> None:
        self._conversations.labels(role).inc()

    def chunk(self, direction: str, size: int) -> None:
        self._chunks.labels(direction).inc(size)

    def repaired(self) -> None:
        self._repaired.inc()


COUNTS = Counts()
"""Process-wide: a server process has one."""

_GAUGES = {
    "operations": "Operations that the log of the volume has ever held",
    "head": "Position of the newest entry of the log",
    "everywhere": "Position up to which every member holds the log",
    "copies": "Servers that hold everything, this one included",
    "of": "Servers that should",
    "waiting": "Operations on their way to an acknowledgement",
    "wanted_chunks": "Chunks that are named here and not yet here",
    "readers": "Mounts and peers that read the feed",
    "free_bytes": "Free space on the disk of the volume",
    "busy": "Share of its time that the writer is at work",
    "writer_queue": "Jobs that wait for the writer",
}
_PEER_GAUGES = {
    "connected": "Whether the peer can be reached, both ways",
    "lag_operations": "Operations of this server's log that the peer lacks",
}

_CARE_GAUGES = {
    "scrub": {
        "checked": "Chunks that the last pass, or the one under way, has verified",
        "bytes": "Their bytes",
        "damaged": "Chunks that it found damaged",
        "missing": "Chunks that should be here and were not",
        "repaired": "Of both, those that came from a peer",
        "hurt_chunks": "Chunks that no server has in order",
        "last_pass_at": "When a pass was last complete (seconds since 1970)",
    },
    "collector": {
        "taken": "Chunks that the last run put out of the way",
        "taken_bytes": "Their bytes",
        "deleted": "Chunks that it deleted",
        "deleted_bytes": "Their bytes",
        "waiting": "Chunks out of the way, that are deleted in a few days if nobody asks for them",
        "waiting_bytes": "Their bytes",
        "last_run_at": "When a run last came to its end (seconds since 1970)",
    },
}


class StatusCollector(Collector):
    """The numbers of the status, as gauges."""

    def __init__(self, volumes: Iterable[tuple[str, dict[str, Any]]]) -> None:
        self._volumes = list(volumes)

    def collect(self) -> Iterator[Metric]:
        for key, text in _GAUGES.items():
            gauge = GaugeMetricFamily(f"gdah_{key}", text, labels=["volume"])
            for name, status in self._volumes:
                gauge.add_metric([name], float(status[key]))
            yield gauge
        for who, figures in _CARE_GAUGES.items():
            for key, text in figures.items():
                gauge = GaugeMetricFamily(f"gdah_{who}_{key}", text, labels=["volume"])
                for name, status in self._volumes:
                    gauge.add_metric([name], float(status.get(who, {}).get(key) or 0))
                yield gauge
        for key, text in _PEER_GAUGES.items():
            gauge = GaugeMetricFamily(f"gdah_peer_{key}", text, labels=["volume", "peer"])
            for name, status in self._volumes:
                for peer in status["peers"]:
                    gauge.add_metric([name, peer["url"] or peer["server"]], float(peer[key]))
            yield gauge


def exposition(volumes: Iterable[tuple[str, dict[str, Any]]]) -> bytes:
    """The text of `GET /metrics`."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(volumes))
    return generate_latest(COUNTS.registry) + generate_latest(registry)
