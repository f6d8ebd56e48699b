"""How far a backup is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from appliance.backup.house import Instant

RENEW_SECONDS: Final = 20.0
_FILE_COST_BYTES: Final = 32 << 10  # what could be copied while a file's headers are made and written, or so


@dataclass(slots=True)
class BackupProgress:
    """How far a backup is; may be read while it runs. phase: "waiting", "counting", "comparing", "copying"."""

    phase: str = "waiting"
    files: int = 0
    content_bytes: int = 0
    total_files: int = 0
    total_bytes: int = 0
    cartridge: str = ""
    drive: str = ""
    began: float = field(default_factory=time.monotonic)
    copy_began: float | None = None
    copied_bytes: int = 0  # to tape, in this run
    files_before: int = 0  # on tape when this run began to write
    content_before: int = 0
    ended: float | None = None

    def copies(self) -> None:
        """From now on it writes to tape; on another drive than before, perhaps."""
        self.phase = "copying"
        if self.copy_began is None:
            self.copy_began = time.monotonic()
            self.files_before, self.content_before = self.files, self.content_bytes

    @property
    def seconds_left(self) -> float | None:
        """At the pace of this run so far; None before it has one, and when it has ended."""
        done = self.content_bytes - self.content_before + (self.files - self.files_before) * _FILE_COST_BYTES
        if self.copy_began is None or self.ended is not None or done <= 0:
            return None
        left = self.total_bytes - self.content_bytes + (self.total_files - self.files) * _FILE_COST_BYTES
        return round((time.monotonic() - self.copy_began) * left / done, 1)

    @property
    def megabytes_per_second(self) -> float | None:
        """Of what this run has written to tape; None before it writes."""
        if self.copy_began is None:
            return None
        seconds = (self.ended or time.monotonic()) - self.copy_began
        return round(self.copied_bytes / max(seconds, 1e-3) / 1e6, 1)


def renewing(instant: Instant, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The same, which renews the lease of an instant on the way."""
    renewed = [time.monotonic()]

    def both(done: int, total: int) -> None:
        if time.monotonic() - renewed[0] >= RENEW_SECONDS:
            renewed[0] = time.monotonic()
            instant.renew()
        progress(done, total)

    return both
