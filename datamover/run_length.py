"""How long the runs of a copy job are: blocks that go from a file to a tape in one call of the engine."""

from __future__ import annotations

# What is shorter is not worth a thread.
SHORTEST_RUN_BYTES = 4 << 20
LONGEST_RUN_BYTES = 64 << 20
# A job can be stopped, tells how far it is, and leaves the drive to other commands between two runs: they grow while
# they end sooner than half of this.
RUN_SECONDS = 0.03
# What is moved in the ordinary way before another run is tried where one was not possible, or the shortest took long.
NO_RUN_BYTES = 16 << 20


class RunLength:
    """Of one job.

    next_bytes: how much the next run shall move."""

    def __init__(self) -> None:
        self.next_bytes = 2 * SHORTEST_RUN_BYTES
        self._bytes_until_run = 0

    def suits(self, length: int) -> bool:
        """Whether a run may be tried where so many bytes are left."""
        return length >= SHORTEST_RUN_BYTES and self._bytes_until_run <= 0

    def ran(self, count: int, seconds: float) -> None:
        """A run has moved so many bytes in that time."""
        if not count or (seconds > RUN_SECONDS and self.next_bytes == SHORTEST_RUN_BYTES):
            self._bytes_until_run = NO_RUN_BYTES
        elif seconds > RUN_SECONDS:
            self.next_bytes = max(SHORTEST_RUN_BYTES, self.next_bytes // 2)
        elif 2 * count > self.next_bytes and seconds < RUN_SECONDS / 2:
            self.next_bytes = min(LONGEST_RUN_BYTES, self.next_bytes * 2)

    def did_not_run(self, count: int) -> None:
        """So many bytes were moved in the ordinary way."""
        self._bytes_until_run -= count
