"""Which copies run, in a file beside the database: so the next start knows those that the process did not live to end.

A line when a copy begins and one when it ends, which wait for no disk: they tell after the process was killed. After a
power cut they may be missing; what is on a tape then is what was promised, copy or not.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from scsi_targets.devices.copying.records import CopyRecord
from scsi_targets.devices.unit.task import TASK_ABORTED, Nexus

log = structlog.get_logger(__name__)

FILE_NAME = "copies.running"
MOST_BYTES = 1 << 20  # then it is written anew
CUT_OFF = "the daemon ended in mid-copy; what was written before is there, and a tape ends at a whole block"


class CopyJournal:
    """Of one library. interrupted: (device, record) of the copies that the last process left. Thread-safe."""

    def __init__(self, directory: Path) -> None:
        """Raises OSError."""
        self._lock = threading.Lock()
        self._path = directory / FILE_NAME
        self._running: dict[int, bytes] = {}
        self._length = 0
        self.interrupted = list(_read(self._path))
        for device, record in self.interrupted:
            log.warning("a copy was cut off by the end of the last process", device=device, initiator=record.initiator,
                        list_identifier=record.list_identifier, began=record.began)  # fmt: skip
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self._path, flags, 0o640)

    def of(self, device: str) -> DeviceJournal:
        """What the copy manager of that device tells of its copies."""
        return DeviceJournal(self, device)

    def began(self, number: int, line: bytes) -> None:
        """A copy begins."""
        with self._lock:
            self._running[number] = line
            self._append(line)

    def ended(self, number: int) -> None:
        """A copy has ended, however."""
        with self._lock:
            if self._running.pop(number, None) is None:
                return
            # Not whenever nothing runs: a shorter file gives space back, and where the file system is mounted with
            # `discard` that waits for the disk behind all that the copy has written, and its initiator with it.
            if self._length > MOST_BYTES:
                self._rewrite()
            else:
                self._append(json.dumps({"ended": number}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        try:
            self._length += os.write(self._descriptor, line)
        except OSError as error:  # the copy is none the worse for it
            log.warning("a copy could not be noted; a crash will not be told of it", reason=str(error))

    def _rewrite(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._length = 0
        for line in self._running.values():
            self._append(line)

    def close(self) -> None:
        """Copies that still run are told of at the next start."""
        os.close(self._descriptor)


class DeviceJournal:
    """A copying.manager.CopyWatcher: the part of the journal that one device writes."""

    def __init__(self, journal: CopyJournal, device: str) -> None:
        self._journal = journal
        self._device = device

    def began(self, record: CopyRecord) -> None:
        """Before the first byte."""
        assert record.nexus is not None
        row = {
            "number": record.number,
            "device": self._device,
            "began": record.began,
            "list_identifier": record.list_identifier,
            "initiator": record.nexus.initiator_name,
            "isid": record.nexus.isid.hex(),
            "target": record.nexus.target_name,
        }
        self._journal.began(record.number, json.dumps(row).encode() + b"\n")

    def ended(self, record: CopyRecord) -> None:
        """After the last."""
        self._journal.ended(record.number)


def _read(path: Path) -> Iterator[tuple[str, CopyRecord]]:
    """Lines that cannot be read are passed over: the last may be cut off."""
    running: dict[int, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    for line in lines:
        try:
            row = json.loads(line)
            if "ended" in row:
                running.pop(row["ended"], None)
            else:
                running[row["number"]] = row
        except (ValueError, KeyError, TypeError):
            log.warning("a line of the running copies cannot be read", line=line[:200].decode(errors="replace"))
    for row in running.values():
        nexus = Nexus(row["initiator"], bytes.fromhex(row["isid"]), row["target"])
        record = CopyRecord(nexus, row["list_identifier"], began=row["began"], reason=CUT_OFF)
        record.status = TASK_ABORTED
        yield row["device"], record
