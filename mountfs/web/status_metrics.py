"""The mount's state for Prometheus: read from `MountView.status()` at each scrape, nothing kept beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mountfs.ports import MountView

_PENDING = {
    "operations": ("gdah_mount_pending_operations", "Operations that not every server has yet"),
    "bytes": ("gdah_mount_pending_bytes", "Bytes of content that not every server has yet"),
    "oldest_age_s": ("gdah_mount_pending_oldest_age_seconds", "Age of the oldest pending operation"),
}


class MountMetrics(Collector):
    def __init__(self, view: MountView, answers: Counter[str]) -> None:
        self._view = view
        self._answers = answers

    def collect(self) -> Iterable[Metric]:
        status = self._view.status()
        yield _gauge("gdah_mount_connected", "1 while a server answers", status.get("connected"))
        pending = status.get("pending", {})
        for key, (name, help_text) in _PENDING.items():
            yield _gauge(name, help_text, pending.get(key))
        brake = status.get("held", {})
        yield _gauge("gdah_mount_held_operations", "Operations that the brake holds", brake.get("operations"))
        yield _gauge("gdah_mount_held_age_seconds", "How long the brake has held something", brake.get("age_s"))
        copies, _, of = str(status.get("copies", "")).partition("/")
        if copies.isdigit() and of.isdigit():
            yield _gauge("gdah_mount_copies_held", "Least number of servers with what was written", int(copies))
            yield _gauge("gdah_mount_copies_wanted", "Servers of the volume", int(of))
        conflicts = status.get("conflicts", 0)
        yield _gauge("gdah_mount_conflicts", "Conflict copies in the folder", _count(conflicts))
        yield _gauge("gdah_mount_cache_bytes", "Clean content kept here", status.get("cache", {}).get("bytes"))
        yield from self._servers(status.get("servers", ()))
        answers = CounterMetricFamily("gdah_mount_http_answers", "Answers of the web app", labels=["class"])
        for kind, count in sorted(self._answers.items()):
            answers.add_metric([kind], count)
        yield answers

    @staticmethod
    def _servers(servers: Iterable[dict[str, Any]]) -> Iterable[Metric]:
        healthy = GaugeMetricFamily("gdah_mount_server_healthy", "1 if the server is well", labels=["url"])
        latency = GaugeMetricFamily("gdah_mount_server_latency_seconds", "Moving average", labels=["url"])
        for server in servers:
            url = str(server.get("url", ""))
            healthy.add_metric([url], float(bool(server.get("healthy"))))
            if server.get("latency_ms") is not None:
                latency.add_metric([url], float(server["latency_ms"]) / 1000)
        yield healthy
        yield latency


def _count(value: Any) -> float:
    return float(len(value)) if isinstance(value, list | tuple) else float(value or 0)


def _gauge(name: str, help_text: str, value: Any) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, help_text, value=float(value or 0))


def exposition(view: MountView, answers: Counter[str]) -> bytes:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(MountMetrics(view, answers))
    return generate_latest(registry)
