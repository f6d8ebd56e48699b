"""The library as the event loop of the API sees it: in this process (in_process.py), or behind a socket
(remote.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from appliance.access.tokens import Token
from appliance.web.job import VerbEnd, VerbJob, VerbProgress
from vlib_images.library.database.events import Event, RecordedEvent

VerbListener = Callable[[VerbProgress | VerbEnd], None]


class Backend(Protocol):
    """What the routes ask. Nothing of it blocks the loop."""

    def begin(self, job: VerbJob, told: VerbListener) -> Callable[[], None]:
        """Have it done. told() gets its progress and its end, in any thread; what is returned cancels it. Raises
        OperatorError BUSY."""

    async def token(self, digest: str) -> Token | None:
        """The token with that SHA-256, if it opens anything."""

    async def tell(self, actor: str, event: Event) -> None:
        """Write a line into the audit record; never raises."""

    def watch(self, told: Callable[[], None]) -> None:
        """Call told() when there is another event, in any thread."""

    async def ends(self) -> tuple[int, int]:
        """The numbers of the newest event, and of the newest that is no longer kept."""

    async def events_after(self, number: int, count: int, action: str = "", subject: str = "") -> list[RecordedEvent]:
        """Those that follow."""

    async def figures(self) -> bytes:
        """The library's, for Prometheus."""
