"""Mode parameters of the tape drive: block descriptor, device-specific parameter, pages (SSC-3 8.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scsi_targets.devices.tape.base import MAXIMUM_BLOCK_LENGTH
from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.mode import CHANGEABLE, DEFAULT, ModePages, SelectedPage
from scsi_targets.devices.unit.mode_header import ModeHeader
from scsi_targets.t10 import sense
from scsi_targets.t10.mode_pages import (
    ControlModePage,
    DisconnectReconnectModePage,
    InformationalExceptionsModePage,
    ModePage,
)
from scsi_targets.t10.sense import CheckCondition
from scsi_targets.t10.ssc_pages import (
    WRITE_MODE_APPEND_ONLY,
    BlockDescriptor,
    ControlDataProtectionPage,
    ControlExtensionPage,
    DataCompressionPage,
    DeviceConfigurationExtensionPage,
    DeviceConfigurationPage,
    DeviceSpecificParameter,
    MediumConfigurationPage,
    MediumPartitionPage2,
    MediumPartitionPage4,
    ProtocolSpecificLogicalUnitPage,
    ProtocolSpecificPortPage,
    ReadWriteErrorRecoveryPage,
)

MEGABYTE = 1_000_000
DEFAULT_DENSITY, NO_CHANGE_OF_DENSITY = 0x00, 0x7F  # MODE SELECT (SSC-3 8.3.1)
BUFFERED_MODES = (0, 1)
HP_WORM_MEDIUM = 0x01

_PAGES: list[type[ModePage]] = [
    ReadWriteErrorRecoveryPage,
    DisconnectReconnectModePage,
    ControlModePage,
    ControlExtensionPage,
    ControlDataProtectionPage,
    DataCompressionPage,
    DeviceConfigurationPage,
    DeviceConfigurationExtensionPage,
    ProtocolSpecificLogicalUnitPage,
    ProtocolSpecificPortPage,
    InformationalExceptionsModePage,
    MediumConfigurationPage,
]


class TapeModes(TapePart, ModeHeader):
    """What MODE SENSE shows follows the medium; what MODE SELECT sets governs reading and writing."""

    @property
    def partition_page(self) -> type[MediumPartitionPage2] | type[MediumPartitionPage4]:
        """The Medium Partition page of this generation."""
        return MediumPartitionPage2 if self._drive.model.native_medium.maximum_partitions == 2 else MediumPartitionPage4

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        maximum = {"maximum_additional_partitions": self._drive.model.native_medium.maximum_partitions - 1}
        return {page: {} for page in _PAGES} | {self.partition_page: maximum}

    # ---- header and block descriptor -----------------------------------------------------------------------------

    def medium_type(self) -> int:
        """IBM's and Quantum's codes tell the generation (88h: LTO-8, 8Ch: LTO-8 WORM); HP's tell WORM only."""
        if self._drive.medium is None:
            return 0
        if not self._drive.model.medium_type_tells_generation:
            return HP_WORM_MEDIUM if self._drive.medium.worm else 0
        code = self._drive.medium.medium.medium_type
        return code | 0x04 if self._drive.medium.worm else code

    def device_specific_parameter(self) -> int:
        raw = DeviceSpecificParameter.encode(
            write_protected=self._drive.write_protection() is not None, buffered_mode=self._drive.buffered_mode
        )
        return raw[0]

    def block_descriptor(self, page_control: int) -> bytes:
        if page_control == CHANGEABLE:
            return BlockDescriptor.encode(density_code=0xFF, block_length=0xFFFFFF)
        length = 0 if page_control == DEFAULT else self._drive.block_length
        return BlockDescriptor.encode(density_code=self.density_code, block_length=length)

    @property
    def density_code(self) -> int:
        """The loaded medium's density; 0 without one."""
        return self._drive.medium.medium.density_code if self._drive.medium is not None else 0

    def check_mode_select(self, header: dict[str, int], descriptor: bytes, offset: int) -> None:
        parameter = DeviceSpecificParameter(bytes([header["device_specific"]]))
        at = 2 if "long_lba" not in header else 3
        if parameter.buffered_mode not in BUFFERED_MODES or parameter.speed:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at)
        if descriptor:
            wanted = BlockDescriptor(descriptor)
            if not self._takes_density(wanted.density_code):
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset)
            if wanted.number_of_blocks:
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + 1)
            if wanted.block_length > MAXIMUM_BLOCK_LENGTH:
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + 5)

    def _takes_density(self, code: int) -> bool:
        # A medium has one density and cannot be given another; without a medium, any that the drive knows will do.
        if code in (DEFAULT_DENSITY, NO_CHANGE_OF_DENSITY):
            return True
        if self._drive.medium is not None:
            return code == self.density_code
        return any(code == medium.density_code for medium in self._drive.model.media)

    def apply_mode_select(self, header: dict[str, int], descriptor: bytes) -> bool:
        before = self._drive.buffered_mode, self._drive.block_length
        self._drive.buffered_mode = DeviceSpecificParameter(bytes([header["device_specific"]])).buffered_mode
        if descriptor:
            self._drive.block_length = BlockDescriptor(descriptor).block_length
        self._drive.watch_writes()
        return before != (self._drive.buffered_mode, self._drive.block_length)

    # ---- pages ---------------------------------------------------------------------------------------------------

    def check_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        for page, raw, offset in pages:
            if page is DeviceConfigurationExtensionPage:
                mode, field = DeviceConfigurationExtensionPage(raw).write_mode, page.write_mode
                if mode > WRITE_MODE_APPEND_ONLY:
                    raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + field.byte)

    def apply_mode_pages(self, mode: ModePages) -> None:
        """Takes over from the pages what governs writing."""
        configuration = mode.current(DeviceConfigurationPage)
        extension = mode.current(DeviceConfigurationExtensionPage)
        self._drive.synchronize_at_early_warning = bool(configuration.synchronize_at_early_warning)
        self._drive.software_write_protected = bool(configuration.software_write_protection)
        self._drive.append_only = extension.write_mode == WRITE_MODE_APPEND_ONLY
        if not self._drive.append_only:
            self._drive.overwrite_allowed_at, self._drive.format_allowed = None, False
        self._drive.programmable_early_warning_bytes = extension.programmable_early_warning_size * MEGABYTE
        self._drive.watch_writes()
        self._drive.decide_legality()

    def refresh_mode_pages(self, mode: ModePages) -> None:
        worm = self._drive.medium is not None and self._drive.medium.worm
        partition = self._drive.medium.position[0] if self._drive.medium is not None else 0
        mode.update(DeviceConfigurationPage, active_partition=partition)
        mode.update(MediumConfigurationPage, worm_mode=worm, worm_mode_filemarks_restrictions=3 if worm else 0)

    def show_partitions(self) -> None:
        """The Medium Partition page tells the medium's partitions; MODE SELECT overwrites it for FORMAT MEDIUM."""
        page, medium = self.partition_page, self._drive.medium
        if medium is None:
            self.forget_partitions()
            return
        unit = 9 if medium.capacity_bytes > 0xFFFE * MEGABYTE else 6
        sizes = [medium.partition_capacity_bytes(n) // 10**unit for n in range(medium.partition_count)]
        values: dict[str, Any] = {f"partition_size_{n}": size for n, size in enumerate(sizes)}
        values |= {
            f"partition_size_{n}": 0 for n in range(len(sizes), self._drive.model.native_medium.maximum_partitions)
        }
        self._drive.mode.update(
            page,
            maximum_additional_partitions=medium.medium.maximum_partitions - 1,
            additional_partitions_defined=medium.partition_count - 1,
            fixed_data_partitions=0, select_data_partitions=0, initiator_defined_partitions=0,
            partition_size_unit_of_measure=3, partition_units=unit, **values,
        )  # fmt: skip

    def forget_partitions(self) -> None:
        """The Medium Partition page tells what the drive can do, whatever was selected for the next format."""
        page = self.partition_page
        self._drive.mode.update(page, **page(self._drive.mode.encode([(page.page, page.subpage)], DEFAULT)).values())

    # ---- events --------------------------------------------------------------------------------------------------

    def on_loaded(self) -> None:
        self.show_partitions()

    def on_unloaded(self) -> None:
        # Settings for one mount: an application that forgets append-only mode must not lock the next cartridge's user
        # out, nor one that forgets its programmable early warning end that user's backup early (docs/drives.md).
        self._drive.mode.update(DeviceConfigurationExtensionPage, write_mode=0, programmable_early_warning_size=0)
        self.apply_mode_pages(self._drive.mode)
        self.forget_partitions()

    def on_reset(self) -> None:
        self._drive.block_length, self._drive.buffered_mode = 0, 1
        self._drive.watch_writes()
        self.show_partitions()
