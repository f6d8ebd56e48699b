"""What stands behind the gate: the drives, and devices that only grants show, in no target and no zone. A snapshot's
logical unit is one.

The LUNs there are the gate's own and are kept: a grant outlives a restart, and whatever is changed elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import count
from typing import Final

import structlog

from scsi_targets.devices.unit.device import Device
from vlib_images.library.state import LibraryState

log = structlog.get_logger(__name__)

NAMESPACE: Final = "gate"
KEY: Final = "luns"
FIRST_DRIVE: Final = 1
FIRST_OFFER: Final = 128  # up to 255 initiators show a LUN as we do (SAM-5 4.7.7.2, peripheral device addressing)


class Offers:
    """LUNs by name, and the units that only grants show."""

    def __init__(self, store: LibraryState) -> None:
        self._store = store
        found = store.get(NAMESPACE, KEY)
        self._luns = {str(name): int(str(lun)) for name, lun in found.items()} if isinstance(found, dict) else {}
        self.units: dict[str, Device] = {}

    def luns(self, drives: Collection[str]) -> dict[str, int]:
        """Of these drives and of what is offered now. A new drive whose LUN cannot be kept is left out for now."""
        new = [name for name in drives if name not in self._luns]
        if new:
            try:
                self._keep(self._numbered(new, FIRST_DRIVE))
            except OSError as error:
                log.error("new drives are not behind the gate yet", drives=new, reason=str(error))
        return {name: self._luns[name] for name in [*drives, *self.units.copy()] if name in self._luns}

    def add(self, name: str, unit: Device) -> int:
        """Its LUN. Raises ValueError, OSError; then nothing has changed."""
        if name in self.units:
            raise ValueError(f"there is a device {name}")
        if name not in self._luns:
            self._keep(self._numbered([name], FIRST_OFFER))
        self.units[name] = unit
        return self._luns[name]

    def remove(self, name: str) -> None:
        """Raises OSError."""
        self.units.pop(name, None)
        self._keep({other: lun for other, lun in self._luns.items() if other != name})

    def _numbered(self, names: Iterable[str], first: int) -> dict[str, int]:
        luns = dict(self._luns)
        for name in names:
            taken = set(luns.values())
            luns[name] = next(lun for lun in count(first) if lun not in taken)
        return luns

    def _keep(self, luns: dict[str, int]) -> None:
        self._store.put(NAMESPACE, KEY, dict(luns))
        self._luns = luns
