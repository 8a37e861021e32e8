"""What ``/metrics`` counts, in Prometheus' text form."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
BATCH = (1, 2, 3, 4, 5, 6, 7, 8)


class Metrics:
    """Counters of one service, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "cliplet_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "cliplet_request_seconds", "Seconds from headers to the end of the answer.", ["path"],
            buckets=SECONDS, registry=self.registry,
        )  # fmt: skip
        self.refused = Counter(
            "cliplet_refused", "Requests refused before their body was read, by reason.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.photos = Counter("cliplet_photos", "Photos encoded.", registry=self.registry)
        self.texts = Counter("cliplet_texts", "Texts encoded.", registry=self.registry)
        self.failed = Counter("cliplet_rows_failed", "Captions without a score.", registry=self.registry)
        self.batch = Histogram(
            "cliplet_batch_requests", "Requests that a worker took together.", buckets=BATCH,
            registry=self.registry,
        )  # fmt: skip
        self.dropped = Counter(
            "cliplet_dropped", "Requests dropped from the queue, by reason.", ["reason"],
            registry=self.registry,
        )  # fmt: skip
        self.admitted = Gauge(
            "cliplet_admitted", "Requests that are read, wait or are worked on.", registry=self.registry
        )
        self.admitted_bytes = Gauge(
            "cliplet_admitted_bytes", "Bytes of their bodies.", registry=self.registry
        )
        self.registry.register(_Memory())

    def text(self) -> bytes:
        """All of them in Prometheus' text form."""
        return generate_latest(self.registry)


class _Memory(Collector):
    """Resident memory, read when it is asked for (Linux)."""

    def collect(self) -> list[GaugeMetricFamily]:
        try:
            with open("/proc/self/statm", encoding="ascii") as stream:
                pages = int(stream.read().split()[1])
        except (OSError, ValueError, IndexError):
            return []
        from resource import getpagesize

        family = GaugeMetricFamily("cliplet_resident_bytes", "Resident memory of the process.")
        family.add_metric([], pages * getpagesize())
        return [family]
