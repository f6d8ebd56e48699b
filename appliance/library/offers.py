"""Devices that only grants show: behind the gate, in no target and no zone. A snapshot's logical unit is one."""

from __future__ import annotations

from itertools import count
from typing import Final

from scsi_targets.devices.unit.device import Device
from vlib_images.library.state import LibraryState

NAMESPACE: Final = "gate"
KEY: Final = "offered"
# Drives and other devices of the library have low numbers. Up to 255 the initiator shows a LUN as we do (SAM-5 4.7.7.2,
# peripheral device addressing).
FIRST_LUN: Final = 128


class Offers:
    """Their units by name, and their LUNs, which are kept: a grant of one outlives a restart."""

    def __init__(self, store: LibraryState) -> None:
        self._store = store
        found = store.get(NAMESPACE, KEY)
        self._luns = {str(name): int(str(lun)) for name, lun in found.items()} if isinstance(found, dict) else {}
        self.units: dict[str, Device] = {}

    def luns(self) -> dict[str, int]:
        """Of those that are there now."""
        return {name: self._luns[name] for name in self.units.copy()}

    def add(self, name: str, unit: Device) -> int:
        """Its LUN. Raises ValueError, OSError; then nothing has changed."""
        if name in self.units:
            raise ValueError(f"there is a device {name}")
        if name not in self._luns:
            taken = set(self._luns.values())
            self._keep({**self._luns, name: next(lun for lun in count(FIRST_LUN) if lun not in taken)})
        self.units[name] = unit
        return self._luns[name]

    def remove(self, name: str) -> None:
        """Raises OSError."""
        self.units.pop(name, None)
        self._keep({other: lun for other, lun in self._luns.items() if other != name})

    def _keep(self, luns: dict[str, int]) -> None:
        self._store.put(NAMESPACE, KEY, dict(luns))
        self._luns = luns
