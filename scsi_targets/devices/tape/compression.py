"""Compression of what is written (SSC-3 4.2.14, mode pages 0Fh and 10h): one switch with two handles.

What was written compressed is always decompressed: as in LTO drives, DDE is one and cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.mode import ModePages
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import DataCompressionPage, DeviceConfigurationPage
from vlib_images.cartridge.codec import Encoder

if TYPE_CHECKING:
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.mode import SelectedPage
    from scsi_targets.t10.fields import Field
    from scsi_targets.t10.mode_pages import ModePage

# COMPRESSION ALGORITHM (SSC-3 table 84) and SELECT DATA COMPRESSION ALGORITHM (SSC-3 8.3.3).
NO_ALGORITHM, DEFAULT_ALGORITHM = 0, 1
ALGORITHM_FIELDS: dict[type[ModePage], Field] = {
    DataCompressionPage: DataCompressionPage.compression_algorithm,
    DeviceConfigurationPage: DeviceConfigurationPage.select_data_compression_algorithm,
}


class Compression(TapePart):
    """by_default: whether it is on until an initiator decides (the default of DCE); level: zstd's. `on`: whether it is
    on now."""

    def __init__(self, drive: TapeTransfers, *, by_default: bool = False, level: int = 1) -> None:
        super().__init__(drive)
        self.level = level
        self.on = by_default
        self._by_default = by_default
        self._turned: bool | None = None  # what the last handle that was turned says; None: the saved pages decide
        self._encoder = Encoder(level)

    @property
    def encoder(self) -> Encoder | None:
        """How what is not encrypted is stored."""
        return self._encoder if self.on else None

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        on = self._by_default
        return {
            DataCompressionPage: {"enable": on},
            DeviceConfigurationPage: {"select_data_compression_algorithm": on},
        }

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        for page, raw, offset in pages:
            field = ALGORITHM_FIELDS.get(page)
            if field is not None and getattr(page(raw), field.name) not in (NO_ALGORITHM, DEFAULT_ALGORITHM):
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)

    def apply_mode_pages(self, mode: ModePages) -> None:
        compression = mode.current(DataCompressionPage)
        enabled = bool(compression.enable) and compression.compression_algorithm != NO_ALGORITHM
        selected = bool(mode.current(DeviceConfigurationPage).select_data_compression_algorithm)
        # The handle that differs from what is in force is the one that was turned; the other one follows it.
        on = enabled if enabled != self._turned else selected
        if on != enabled:
            algorithm = DEFAULT_ALGORITHM if on else compression.compression_algorithm
            mode.update(DataCompressionPage, enable=on, compression_algorithm=algorithm)
        mode.update(DeviceConfigurationPage, select_data_compression_algorithm=on)
        self.on = self._turned = on
        self._tell_medium()

    def _tell_medium(self) -> None:
        """How to store what is written from now on."""
        if self._drive.medium is not None:
            self._drive.medium.encoder = self.encoder

    # ---- events --------------------------------------------------------------------------------------------------

    def on_loaded(self) -> None:
        self._tell_medium()

    def on_unloaded(self) -> None:
        self._drive.loaded.encoder = None

    def on_mode_pages_restored(self) -> None:
        self._turned = None
