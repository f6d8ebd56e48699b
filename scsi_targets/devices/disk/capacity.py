"""What a disk says of itself: READ CAPACITY, READ DEFECT DATA, VPD B0h to B2h, mode pages and block descriptors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from datamover.engine import LIMIT_TRANSFER_BYTES
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import ALLOWED, READS, REQUIRED, handles
from scsi_targets.devices.unit.mode import CHANGEABLE, ModePages, SelectedPage
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import vpd_page
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sbc, sbc_pages, sense
from scsi_targets.t10.mode_pages import (
    ControlModePage,
    DisconnectReconnectModePage,
    InformationalExceptionsModePage,
    ModePage,
)
from scsi_targets.t10.sense import CheckCondition

log = structlog.get_logger(__name__)

NON_ROTATING = 1
THIN_PROVISIONED = 2
# "Reads complete without error, with data as if zero had been written" after an erase (SBC-4 table 243).
ZEROS_AFTER_ERASE = 0b01
MAX_UNMAP_DESCRIPTORS = 4095  # what a parameter list of 65535 bytes holds
# MAXIMUM WRITE SAME LENGTH: what WRITE SAME (10) can say. Initiators that find no limit believe in transfers of as many
# blocks by the other commands too.
MAX_WRITE_SAME_BLOCKS = 0xFFFF
MAX_COMPARE_AND_WRITE_BLOCKS = 255
NO_LIMIT = 0xFFFFFFFF
OPTIMAL_TRANSFER_BYTES = 1 << 20


class BlockCapacity(BlockStorage):
    """Pages and parameter data of a disk."""

    # ---- capacity --------------------------------------------------------------------------------------------------

    @handles(sbc.ReadCapacity10, medium=REQUIRED, reservation=ALLOWED)
    def read_capacity_10(self, cdb: sbc.ReadCapacity10, task: Task) -> Response:
        self._refuse_partial_medium(cdb)
        data = sbc_pages.ReadCapacity10Data.encode(
            returned_logical_block_address=min(self.capacity - 1, NO_LIMIT), logical_block_length=self.block_length
        )
        return reply(data, len(data))

    @handles(sbc.ReadCapacity16, medium=REQUIRED, reservation=ALLOWED)
    def read_capacity_16(self, cdb: sbc.ReadCapacity16, task: Task) -> Response:
        self._refuse_partial_medium(cdb)
        ratio = self.physical_block_length // self.block_length
        data = sbc_pages.ReadCapacity16Data.encode(
            returned_logical_block_address=self.capacity - 1,
            logical_block_length=self.block_length,
            logical_blocks_per_physical_block_exponent=ratio.bit_length() - 1,
            provisioning_management_enabled=self.thin,
            provisioning_read_zeros=self.thin and self.read_zeros,
        )
        return reply(data, cdb.allocation_length)

    @staticmethod
    def _refuse_partial_medium(cdb: sbc.ReadCapacity10 | sbc.ReadCapacity16) -> None:
        # Without PMI the address must be zero (SBC-2 5.10); with it, there is no delay anywhere on this medium to tell.
        if cdb.logical_block_address and not cdb.partial_medium_indicator:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).logical_block_address)

    @handles(sbc.ReadDefectData10, medium=REQUIRED, reservation=READS)
    def read_defect_data_10(self, cdb: sbc.ReadDefectData10, task: Task) -> Response:
        return reply(bytes([0, self._list_flags(cdb)]) + bytes(2), cdb.allocation_length)

    @handles(sbc.ReadDefectData12, medium=REQUIRED, reservation=READS)
    def read_defect_data_12(self, cdb: sbc.ReadDefectData12, task: Task) -> Response:
        return reply(bytes([0, self._list_flags(cdb)]) + bytes(6), cdb.allocation_length)

    @staticmethod
    def _list_flags(cdb: sbc.ReadDefectData10 | sbc.ReadDefectData12) -> int:
        # The lists asked for are there and empty: an image has no defects that anyone mapped out.
        return cdb.request_primary_list << 4 | cdb.request_grown_list << 3 | cdb.defect_list_format

    # ---- VPD -------------------------------------------------------------------------------------------------------

    @vpd_page(0xB0)
    def block_limits(self, task: Task) -> bytes:
        """Block Limits (SBC-4 6.6.4)."""
        unit = self.image.allocation_unit if self.image is not None else self.physical_block_length
        granularity = max(self.physical_block_length, unit) // self.block_length
        atomic_bytes = self.image.max_atomic_bytes if self.image is not None else 0
        ratio = self.physical_block_length // self.block_length
        atomic_unit = ratio if atomic_bytes and ratio > 1 else 0
        return sbc_pages.BlockLimits.encode(
            maximum_compare_and_write_length=MAX_COMPARE_AND_WRITE_BLOCKS,
            optimal_transfer_length_granularity=granularity,
            maximum_transfer_length=LIMIT_TRANSFER_BYTES // self.block_length,
            optimal_transfer_length=OPTIMAL_TRANSFER_BYTES // self.block_length,
            maximum_unmap_lba_count=NO_LIMIT if self.thin else 0,
            maximum_unmap_block_descriptor_count=MAX_UNMAP_DESCRIPTORS if self.thin else 0,
            optimal_unmap_granularity=granularity if self.thin else 0,
            maximum_atomic_transfer_length=atomic_bytes // self.block_length,
            atomic_alignment=atomic_unit,
            atomic_transfer_length_granularity=atomic_unit,
            maximum_write_same_length=MAX_WRITE_SAME_BLOCKS,
        )[4:]

    @vpd_page(0xB1)
    def block_device_characteristics(self, task: Task) -> bytes:
        """Block Device Characteristics (SBC-4 6.6.2)."""
        return sbc_pages.BlockDeviceCharacteristics.encode(
            medium_rotation_rate=NON_ROTATING,
            write_after_block_erase_required=ZEROS_AFTER_ERASE,
            write_after_cryptographic_erase_required=ZEROS_AFTER_ERASE,
            verify_byte_check_unmapped_lba_supported=True,
        )[4:]

    @vpd_page(0xB2)
    def logical_block_provisioning(self, task: Task) -> bytes:
        """Logical Block Provisioning (SBC-4 6.6.7)."""
        return sbc_pages.LogicalBlockProvisioning.encode(
            unmap_supported=self.thin,
            write_same_16_unmap_supported=self.thin,
            write_same_10_unmap_supported=self.thin,
            read_zeros=self.thin and self.read_zeros,
            anchor_supported=self.thin,
            provisioning_type=THIN_PROVISIONED if self.thin else 0,
        )[4:]

    def extended_inquiry_fields(self) -> Mapping[str, Any]:
        return {"volatile_cache": True}

    # ---- mode pages ------------------------------------------------------------------------------------------------

    def mode_pages(self) -> Mapping[type[ModePage], Mapping[str, Any]]:
        pages: tuple[type[ModePage], ...] = (
            sbc_pages.ReadWriteErrorRecoveryModePage,
            DisconnectReconnectModePage,
            sbc_pages.CachingModePage,
            sbc_pages.BlockControlModePage,
            InformationalExceptionsModePage,
        )
        return {page: {} for page in pages}

    def apply_mode_pages(self, mode: ModePages) -> None:
        super().apply_mode_pages(mode)
        self.software_write_protect = bool(mode.current(ControlModePage).software_write_protect)
        self.writeback_cache = bool(mode.current(sbc_pages.CachingModePage).writeback_cache_enable)

    def prepare_mode_pages(self, pages: Sequence[SelectedPage]) -> None:
        super().prepare_mode_pages(pages)
        for page, raw, _ in pages:
            if page is sbc_pages.CachingModePage and not sbc_pages.CachingModePage(raw).writeback_cache_enable:
                self._end_caching()

    def on_reset(self) -> None:
        cached = self.writeback_cache
        super().on_reset()
        if cached and not self.writeback_cache:
            try:
                self._end_caching()
            except OSError as error:  # a reset has no status to tell it with; the next command that writes will
                log.error("the cache could not be written at a reset", disk=self.state_key, reason=str(error))

    def _end_caching(self) -> None:
        """What is cached now is written before anybody relies on WCE = 0 (SBC-4 6.5.6)."""
        if self.image is not None:
            self.image.synchronize()

    def device_specific_parameter(self) -> int:
        return sbc_pages.DeviceSpecificParameter.encode(write_protect=self.write_protected, dpo_and_fua=True)[0]

    def block_descriptor(self, page_control: int) -> bytes:
        return self._descriptor(sbc_pages.ShortBlockDescriptor, page_control, NO_LIMIT)

    def long_block_descriptor(self, page_control: int) -> bytes:
        return self._descriptor(sbc_pages.LongBlockDescriptor, page_control, (1 << 64) - 1)

    def _descriptor(self, descriptor: Any, page_control: int, limit: int) -> bytes:
        if page_control == CHANGEABLE:
            return bytes(descriptor.length)
        blocks = self.image.size_bytes // self.block_length if self.image is not None and self.loaded else 0
        encoded: bytes = descriptor.encode(
            number_of_logical_blocks=min(blocks, limit), logical_block_length=self.block_length
        )
        return encoded

    def check_mode_select(self, header: dict[str, int], descriptor: bytes, offset: int) -> None:
        if not descriptor:
            return
        kind = sbc_pages.LongBlockDescriptor if header.get("long_lba") else sbc_pages.ShortBlockDescriptor
        asked, own = kind(descriptor), kind(self._descriptor(kind, 0, (1 << kind.number_of_logical_blocks.width) - 1))
        # Zero asks for the current number, all ones for the maximum (SBC-4 6.5.2): both are what there is.
        same = (0, own.number_of_logical_blocks, (1 << kind.number_of_logical_blocks.width) - 1)
        if asked.number_of_logical_blocks not in same:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset)
        if asked.logical_block_length != self.block_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + kind.logical_block_length.byte)
