"""Drives that keep their cartridge between the files of one restore: it is loaded once for all of them that lie on it.

An agent asks for one file after the other, since it holds each by a lease of its own and reads it back. Those of one
run find the drive as the one before left it; an agent that has gone away without a word loses it after a while.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import structlog

from appliance.backup.volume import MountedDrive
from scsi_targets.devices.disk.block_device import BlockDevice

log = structlog.get_logger(__name__)

KEPT_SECONDS: Final = 60.0  # who reads a large file back for longer has the cartridge loaded again

Units: TypeAlias = Sequence[BlockDevice]
DriveFor: TypeAlias = Callable[[str, str | None, Units], AbstractContextManager[MountedDrive]]


@dataclass(slots=True, eq=False)
class _Kept:
    """wanted: by which name, and with which units, it was asked for. closing: gives it back. over: it is kept no
    longer."""

    drive: MountedDrive
    wanted: tuple[str | None, Units]
    closing: ExitStack
    over: threading.Event = field(default_factory=threading.Event)


class KeptDrives:
    """Thread-safe. drive_for: BackupService's. seconds: for how long a drive is kept. A run has the name that whoever
    asks has made up for it."""

    def __init__(self, drive_for: DriveFor, seconds: float = KEPT_SECONDS) -> None:
        self._drive_for = drive_for
        self._seconds = seconds
        self._lock = threading.Lock()
        self._runs: dict[str, _Kept | None] = {}  # None: it is used now

    def close(self) -> None:
        """All are given back, and what is used now is when its use ends."""
        for run in list(self._runs):
            self.end(run)

    def end(self, run: str) -> bool:
        """What a run has is given back, or is when its use ends; whether there was any."""
        with self._lock:
            known, kept = run in self._runs, self._runs.pop(run, None)
        if kept is not None:
            _give_back(kept)
        return known

    @contextmanager
    def drive(self, run: str, barcode: str, name: str | None, units: Units) -> Iterator[MountedDrive]:
        """A drive for a file of a run, of which this is the first cartridge, as BackupService.drive_for() gives it. It
        is kept when the block ends well. Raises OperatorError."""
        kept = self._used(run)
        try:
            with ExitStack() if kept is None else kept.closing as closing:
                if kept is not None and kept.wanted == (name, units) and kept.drive.still_has(barcode):
                    drive = kept.drive
                else:
                    closing.close()
                    drive = closing.enter_context(self._drive_for(barcode, name, units))
                yield drive
                self._keep(run, drive, (name, units), closing)
        finally:
            self._forget(run)

    def _used(self, run: str) -> _Kept | None:
        with self._lock:
            kept, self._runs[run] = self._runs.get(run), None
        if kept is not None:
            kept.over.set()
        return kept

    def _forget(self, run: str) -> None:
        """Unless it is kept."""
        with self._lock:
            if self._runs.get(run) is None:
                self._runs.pop(run, None)

    def _keep(self, run: str, drive: MountedDrive, wanted: tuple[str | None, Units], closing: ExitStack) -> None:
        with self._lock:
            if run not in self._runs or self._runs[run] is not None:
                return  # it was ended meanwhile, or asked for twice at once
            self._runs[run] = kept = _Kept(drive, wanted, closing.pop_all())
        thread = threading.Thread(target=self._watch, args=(run, kept), name="kept drive", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # nobody would give it back
            self.end(run)

    def _watch(self, run: str, kept: _Kept) -> None:
        if kept.over.wait(self._seconds):
            return
        with self._lock:
            if self._runs.get(run) is not kept:
                return
            del self._runs[run]
        log.warning("a restore does not go on; its cartridge goes home", drive=kept.drive.name)
        _give_back(kept)


def _give_back(kept: _Kept) -> None:
    kept.over.set()
    try:
        kept.closing.close()
    except OSError as error:  # nobody waits for this
        log.error("a drive that was kept for a restore cannot be given back", reason=str(error))
