"""What the service counts, as Prometheus reads it."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Meter:
    """Requests by path and status with their durations; mentions by outcome, those that wait, and batches; CPU time and
    memory of the process."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter("mel_requests", "requests", ["path", "status"], registry=registry)
        self.seconds = Histogram("mel_request_seconds", "until an answer", ["path"], registry=registry)
        self.mentions = Counter("mel_mentions", "mentions by what became of them", ["outcome"], registry=registry)
        self.batches = Histogram("mel_batch_mentions", "linked at once", buckets=_SIZES, registry=registry)
        self.waiting = Gauge("mel_waiting_mentions", "mentions in the queue", registry=registry)
        for outcome in ("answered", "failed", "refused", "late"):
            self.mentions.labels(outcome)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count a request. path: of its route."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def mention(self, outcome: str, number: int) -> None:
        """Count mentions, see `linking.service.batching.Watch`."""
        if outcome == "batch":
            self.batches.observe(number)
        else:
            self.mentions.labels(outcome).inc(number)

    def read_waiting(self, number: Callable[[], float]) -> None:
        """Where the number of mentions that wait is read."""
        self.waiting.set_function(number)

    def text(self) -> bytes:
        """In Prometheus' format."""
        return generate_latest(self.registry)
