"""What the API counts of itself."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class ApiFigures(Collector):
    """answers: by status. at_work: requests that are being answered. streams: asks how many event streams are open."""

    def __init__(self, streams: Callable[[], int] = lambda: 0) -> None:
        self._lock = threading.Lock()
        self.answers: Counter[int] = Counter()
        self.at_work = 0
        self.streams = streams
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def answered(self, status: int) -> None:
        """An answer has begun."""
        with self._lock:
            self.answers[status] += 1

    @contextmanager
    def working(self) -> Iterator[None]:
        """A request is being answered in the block."""
        with self._lock:
            self.at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self.at_work -= 1

    def collect(self) -> Iterator[Metric]:
        """As Prometheus wants them."""
        answers = CounterMetricFamily("tapebay_api_answers", "Answers of the API, by status.", labels=["status"])
        with self._lock:
            for status, count in sorted(self.answers.items()):
                answers.add_metric([str(status)], count)
        yield answers
        yield GaugeMetricFamily("tapebay_api_event_streams", "Event streams that are open.", value=self.streams())
        yield GaugeMetricFamily("tapebay_api_requests_at_work", "Requests being answered.", value=self.at_work)

    def content(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class Counted:
    """Counts the answers of an application."""

    def __init__(self, app: ASGIApp, figures: ApiFigures) -> None:
        self._app = app
        self._figures = figures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._figures.answered(message["status"])
            await send(message)

        with self._figures.working():
            await self._app(scope, receive, counted)
