"""What a media changer counts over its life, and its TapeAlert flags (SMC-3 7.2)."""

from __future__ import annotations

import threading

from scsi_targets.devices.unit.part import Part, log_page
from scsi_targets.devices.unit.state_store import StateStore
from scsi_targets.devices.unit.task import Nexus
from scsi_targets.t10.log_pages import LogParameter, TapeAlertFlag, counter

# Parameter codes of the media changer statistics log page.
MOVES, PICKS, PICK_RETRIES, PLACES, PLACE_RETRIES = range(5)
DOOR_OPENS, IMPORT_EXPORT_DOOR_OPENS, INVENTORY_SCANS, UNRECOVERED_ERRORS = 7, 8, 9, 10
COUNTED = (MOVES, PICKS, PICK_RETRIES, PLACES, PLACE_RETRIES, DOOR_OPENS, IMPORT_EXPORT_DOOR_OPENS, INVENTORY_SCANS,
           UNRECOVERED_ERRORS)  # fmt: skip

TAPE_ALERT_FLAGS = 64
LIBRARY_HARDWARE_A = 0x01  # "trouble communicating with the drive"


class ChangerStatistics(Part):
    """Counters that survive a restart, and their log pages. Thread-safe."""

    def __init__(self, store: StateStore, key: str) -> None:
        self._store, self._key = store, key
        self._lock = threading.Lock()
        kept = store.get(key) or {}
        self._counts = {code: int(kept.get(str(code), 0)) for code in COUNTED}
        self._alerts: set[int] = set()

    def counts(self) -> dict[int, int]:
        """By the parameter codes above."""
        with self._lock:
            return dict(self._counts)

    def moved(self, cartridges: int) -> None:
        """The robot moved that many cartridges in one command."""
        self._add({MOVES: 1, PICKS: cartridges, PLACES: cartridges})

    def failed(self) -> None:
        """A move ended in a drive that did not let go or did not load."""
        with self._lock:
            self._alerts.add(LIBRARY_HARDWARE_A)
        self._add({UNRECOVERED_ERRORS: 1})

    def opened(self, *, import_export: bool) -> None:
        """An operator reached into the library."""
        self._add({IMPORT_EXPORT_DOOR_OPENS if import_export else DOOR_OPENS: 1})

    def scanned(self) -> None:
        """An initiator asked for an inventory."""
        self._add({INVENTORY_SCANS: 1})

    @log_page(0x14)
    def media_changer_statistics(self, nexus: Nexus) -> list[LogParameter]:
        """Media changer statistics log page (SMC-3 7.2.2)."""
        with self._lock:
            return [counter(code, value, width=4) for code, value in self._counts.items()]

    @log_page(0x2E)
    def tape_alert(self, nexus: Nexus) -> list[LogParameter]:
        """TapeAlert log page (SMC-3 7.2.3); reading it clears the flags."""
        with self._lock:
            alerts, self._alerts = self._alerts, set()
        return [
            LogParameter(flag, TapeAlertFlag.encode(flag=flag in alerts)) for flag in range(1, TAPE_ALERT_FLAGS + 1)
        ]

    def reset_log_page(self, page: int, subpage: int) -> None:
        """LOG SELECT with PCR sets every counter to zero."""
        if page == 0x14:
            with self._lock:
                self._counts = dict.fromkeys(COUNTED, 0)
                self._save()

    def _add(self, amounts: dict[int, int]) -> None:
        with self._lock:
            for code, amount in amounts.items():
                self._counts[code] += amount
            self._save()

    def _save(self) -> None:
        self._store.put_soon(self._key, {str(code): value for code, value in self._counts.items()})
