"""What the drive counts: over its life (kept in the state store) and for the cartridge that is or was loaded."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from scsi_targets.devices.tape.part import TapePart

if TYPE_CHECKING:
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from vlib_images.cartridge.cartridge import Cartridge


@dataclass(slots=True)
class DriveLife:
    """Counts over the drive's life. A crash loses what was counted since the second before the last load or unload."""

    loads: int = 0
    cleanings: int = 0
    power_cycles: int = 0
    power_on_seconds: float = 0.0
    hard_write_errors: int = 0
    hard_read_errors: int = 0

    @classmethod
    def from_state(cls, state: dict[str, Any] | None) -> DriveLife:
        """As asdict() gave it; what is missing or unknown is zero."""
        known = {name: value for name, value in (state or {}).items() if name in cls.__slots__}
        return cls(**known)


class Amounts(NamedTuple):
    """Bytes between initiator and medium: written and read as initiators see them, stored and
    fetched as they lie on the medium."""

    written: int = 0
    stored: int = 0
    read: int = 0
    fetched: int = 0

    @classmethod
    def of(cls, cartridge: Cartridge) -> Amounts:
        """Over the cartridge's life."""
        usage = cartridge.usage
        return cls(usage.bytes_written, usage.stored_bytes_written, usage.bytes_read, usage.stored_bytes_read)

    def plus(self, more: Amounts) -> Amounts:
        """Both together."""
        return Amounts(*(one + other for one, other in zip(self, more, strict=True)))

    def since(self, base: Amounts) -> Amounts:
        """What was added to `base`."""
        return Amounts(*(now - then for now, then in zip(self, base, strict=True)))


class DriveUsage(TapePart):
    """`life` counts for ever; amounts() and the errors of the mount since the load or the last LOG SELECT reset."""

    def __init__(self, drive: TapeTransfers) -> None:
        super().__init__(drive)
        self._powered_on = time.monotonic()
        self._base = Amounts()
        self._last = Amounts()  # of the last mount, when there is no medium
        self._earlier = Amounts()  # of mounts before, and before resets
        self.mount_write_errors = 0
        self.mount_read_errors = 0
        self.loads_since_reset = 0
        self.life = DriveLife.from_state(self._drive.store.get(self._life_key))
        self.life.power_cycles += 1

    @property
    def _life_key(self) -> str:
        return f"{self._drive.state_key}/life"

    def power_on_seconds(self) -> float:
        """Over the drive's life."""
        return self.life.power_on_seconds + time.monotonic() - self._powered_on

    def save_life(self) -> None:
        """Keeps the counts."""
        state = asdict(self.life) | {"power_on_seconds": self.power_on_seconds()}
        self._drive.store.put_soon(self._life_key, state)

    def amounts(self) -> Amounts:
        """Of this mount, or of the last one when nothing is loaded."""
        medium = self._drive.medium
        return Amounts.of(medium).since(self._base) if medium is not None else self._last

    def totals(self) -> Amounts:
        """Since the drive was made; these only grow."""
        return self._earlier.plus(self.amounts())

    def reset_amounts(self) -> None:
        """LOG SELECT with PCR."""
        self._earlier = self.totals()
        self._count_anew()

    def _count_anew(self) -> None:
        self._base = Amounts.of(self._drive.medium) if self._drive.medium is not None else Amounts()
        self._last = Amounts()
        self.mount_write_errors = self.mount_read_errors = 0

    # ---- events --------------------------------------------------------------------------------------------------

    def on_loaded(self) -> None:
        self._earlier = self._earlier.plus(self._last)
        self._count_anew()
        self.life.loads += 1
        self.loads_since_reset += 1
        self.save_life()

    def on_unloaded(self) -> None:
        self._last = self.amounts()
        self.save_life()

    def on_cleaned(self) -> None:
        self.life.cleanings += 1
        self.save_life()

    def on_write_error(self) -> None:
        self.life.hard_write_errors += 1
        self.mount_write_errors += 1

    def on_read_error(self) -> None:
        self.life.hard_read_errors += 1
        self.mount_read_errors += 1

    def close(self) -> None:
        self.save_life()
