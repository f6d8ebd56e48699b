"""What all sessions with a target have done since the server began, those that are over included."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import NamedTuple, Protocol

from scsi_targets.iscsi.session_record import SessionRecord

DISCOVERY = ""  # what discovery sessions are counted under


class TargetTotals(NamedTuple):
    """sessions: how many there have been."""

    sessions: int = 0
    commands: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Served(Protocol):
    """Who serves a session."""

    def record(self) -> SessionRecord | None: ...


class SessionTotals:
    """A session is counted as it stands until it is over, and once then: no count ever goes back.

    lock: held while a session leaves those that stand and is counted(); before the lock of its connection."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._over: dict[str, TargetTotals] = {}

    def counted(self, record: SessionRecord) -> None:
        """A session is over; the caller holds `lock`."""
        _add(self._over, record)

    def by_target(self, standing: Iterable[Served]) -> dict[str, TargetTotals]:
        """By target name, with the sessions that stand."""
        with self.lock:
            found = self._over.copy()
            for served in standing:
                if (record := served.record()) is not None:
                    _add(found, record)
        return found


def _add(totals: dict[str, TargetTotals], record: SessionRecord) -> None:
    name = record.target_name or DISCOVERY
    was = totals.get(name, TargetTotals())
    totals[name] = TargetTotals(
        was.sessions + 1,
        was.commands + record.commands,
        was.bytes_in + record.bytes_in,
        was.bytes_out + record.bytes_out,
    )
