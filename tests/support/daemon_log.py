"""What a daemon logs, in a file: it is there as soon as it was said, and nobody has to read along."""

import json
import os
import tempfile
import threading
from typing import IO, Any

from tests.support.prepared import Process
from tests.support.waiting import eventually


class DaemonLog:
    """A file for a daemon's standard error, read as entries; a line that is not JSON is one of level "unstructured"."""

    def __init__(self) -> None:
        self.file: IO[bytes] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - as long as this
        self._entries: list[dict[str, Any]] = []
        self._read_bytes = 0
        self._lock = threading.Lock()

    def entries(self) -> list[dict[str, Any]]:
        """All whole lines up to now."""
        with self._lock:
            size = os.fstat(self.file.fileno()).st_size
            read = os.pread(self.file.fileno(), size - self._read_bytes, self._read_bytes)  # moves nobody's position
            lines = read[: read.rfind(b"\n") + 1]
            self._read_bytes += len(lines)
            self._entries += [_entry(line) for line in lines.splitlines(keepends=True)]
            return self._entries

    def wait_for(self, event: str, process: Process, after: int = 0) -> dict[str, Any] | None:
        """The first such entry from number `after` on; None: the process has ended without."""

        def found() -> dict[str, Any] | bool:
            ended = process.poll() is not None
            return next((entry for entry in self.entries()[after:] if entry["event"] == event), ended)

        entry = eventually(found)
        return entry if isinstance(entry, dict) else None


def _entry(line: bytes) -> dict[str, Any]:
    try:
        entry: dict[str, Any] = json.loads(line)
    except ValueError:  # a traceback, or what was cut off by a kill
        return {"event": line.decode(errors="surrogateescape"), "level": "unstructured"}
    return entry
