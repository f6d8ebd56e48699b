"""Compression of what is written (SSC-3 4.2.14, mode pages 0Fh and 10h): one switch with two handles.

What was written compressed is always decompressed: as in LTO drives, DDE is one and cannot be changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scsi_targets.devices.tape.mode import TapeModes
from scsi_targets.devices.unit.mode import ModePages
from scsi_targets.t10 import sense
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import DataCompressionPage, DeviceConfigurationPage
from vlib_images.cartridge.codec import Encoder

if TYPE_CHECKING:
    from scsi_targets.devices.unit.mode import SelectedPage
    from scsi_targets.t10.fields import Field
    from scsi_targets.t10.mode_pages import ModePage

# COMPRESSION ALGORITHM (SSC-3 table 84) and SELECT DATA COMPRESSION ALGORITHM (SSC-3 8.3.3).
NO_ALGORITHM, DEFAULT_ALGORITHM = 0, 1
ALGORITHM_FIELDS: dict[type[ModePage], Field] = {
    DataCompressionPage: DataCompressionPage.compression_algorithm,
    DeviceConfigurationPage: DeviceConfigurationPage.select_data_compression_algorithm,
}


class TapeCompression(TapeModes):
    """compression: whether it is on until an initiator decides (the default of DCE); compression_level: zstd's."""

    def __init__(self, *args: Any, compression: bool = False, compression_level: int = 1, **kwargs: Any) -> None:
        self.compression_by_default = compression
        self.compression_level = compression_level
        self.compressing: bool | None = None  # None: the saved pages decide
        self._encoder = Encoder(compression_level)
        super().__init__(*args, **kwargs)

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        on = self.compression_by_default
        return {
            **super().mode_pages(),
            DataCompressionPage: {"enable": on},
            DeviceConfigurationPage: {"select_data_compression_algorithm": on},
        }

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        super().check_mode_pages(pages)
        for page, raw, offset in pages:
            field = ALGORITHM_FIELDS.get(page)
            if field is not None and getattr(page(raw), field.name) not in (NO_ALGORITHM, DEFAULT_ALGORITHM):
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)

    def apply_mode_pages(self, mode: ModePages) -> None:
        super().apply_mode_pages(mode)
        compression = self.mode.current(DataCompressionPage)
        enabled = bool(compression.enable) and compression.compression_algorithm != NO_ALGORITHM
        selected = bool(self.mode.current(DeviceConfigurationPage).select_data_compression_algorithm)
        # The handle that differs from what is in force is the one that was turned; the other one follows it.
        on = enabled if enabled != self.compressing else selected
        if on != enabled:
            algorithm = DEFAULT_ALGORITHM if on else compression.compression_algorithm
            self.mode.update(DataCompressionPage, enable=on, compression_algorithm=algorithm)
        self.mode.update(DeviceConfigurationPage, select_data_compression_algorithm=on)
        self.compressing = on
        self.choose_encoder()

    def choose_encoder(self) -> None:
        """Tells the medium how to store what is written from now on."""
        if self.medium is not None:
            self.medium.encoder = self._encoder if self.compressing else None

    # ---- events --------------------------------------------------------------------------------------------------

    def on_loaded(self) -> None:
        super().on_loaded()
        self.choose_encoder()

    def on_unloaded(self) -> None:
        super().on_unloaded()
        self.loaded.encoder = None

    def on_mode_pages_restored(self) -> None:
        super().on_mode_pages_restored()
        self.compressing = None
