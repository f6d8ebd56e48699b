"""What a disk says of itself: READ CAPACITY, READ DEFECT DATA, VPD pages B0h to B2h."""

from __future__ import annotations

from datamover.engine import LIMIT_TRANSFER_BYTES
from scsi_targets.devices.disk.storage import BlockStorage
from scsi_targets.devices.unit.dispatch import ALLOWED, READS, REQUIRED, handles
from scsi_targets.devices.unit.parameter_data import reply
from scsi_targets.devices.unit.part import Part, vpd_page
from scsi_targets.devices.unit.task import Response, Task
from scsi_targets.t10 import sbc, sbc_pages, sense
from scsi_targets.t10.sense import CheckCondition

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


class CapacityPages(Part):
    """Parameter data and VPD pages that tell what the disk is and can."""

    def __init__(self, disk: BlockStorage) -> None:
        self._disk = disk

    # ---- capacity --------------------------------------------------------------------------------------------------

    @handles(sbc.ReadCapacity10, medium=REQUIRED, reservation=ALLOWED)
    def read_capacity_10(self, cdb: sbc.ReadCapacity10, task: Task) -> Response:
        self._refuse_partial_medium(cdb)
        data = sbc_pages.ReadCapacity10Data.encode(
            returned_logical_block_address=min(self._disk.capacity - 1, NO_LIMIT),
            logical_block_length=self._disk.block_length,
        )
        return reply(data, len(data))

    @handles(sbc.ReadCapacity16, medium=REQUIRED, reservation=ALLOWED)
    def read_capacity_16(self, cdb: sbc.ReadCapacity16, task: Task) -> Response:
        self._refuse_partial_medium(cdb)
        ratio = self._disk.physical_block_length // self._disk.block_length
        data = sbc_pages.ReadCapacity16Data.encode(
            returned_logical_block_address=self._disk.capacity - 1,
            logical_block_length=self._disk.block_length,
            logical_blocks_per_physical_block_exponent=ratio.bit_length() - 1,
            provisioning_management_enabled=self._disk.thin,
            provisioning_read_zeros=self._disk.thin and self._disk.read_zeros,
        )
        return reply(data, cdb.allocation_length)

    @staticmethod
    def _refuse_partial_medium(cdb: sbc.ReadCapacity10 | sbc.ReadCapacity16) -> None:
        # Without PMI the address must be zero (SBC-2 5.10); with it, there is no delay anywhere on this medium to tell.
        if cdb.logical_block_address and not cdb.partial_medium_indicator:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).logical_block_address)

    @handles(sbc.ReadDefectData10, medium=REQUIRED, reservation=READS)
    def read_defect_data_10(self, cdb: sbc.ReadDefectData10, task: Task) -> Response:
        return reply(self._empty_list(sbc_pages.DefectListHeader10, cdb), cdb.allocation_length)

    @handles(sbc.ReadDefectData12, medium=REQUIRED, reservation=READS)
    def read_defect_data_12(self, cdb: sbc.ReadDefectData12, task: Task) -> Response:
        return reply(self._empty_list(sbc_pages.DefectListHeader12, cdb), cdb.allocation_length)

    @staticmethod
    def _empty_list(
        header: type[sbc_pages.DefectListHeader10] | type[sbc_pages.DefectListHeader12],
        cdb: sbc.ReadDefectData10 | sbc.ReadDefectData12,
    ) -> bytes:
        # The lists asked for are there and empty: an image has no defects that anyone mapped out.
        return header.encode(
            primary_list_valid=cdb.request_primary_list, grown_list_valid=cdb.request_grown_list,
            defect_list_format=cdb.defect_list_format,
        )  # fmt: skip

    # ---- VPD -------------------------------------------------------------------------------------------------------

    @vpd_page(0xB0)
    def block_limits(self, task: Task) -> bytes:
        """Block Limits (SBC-4 6.6.4)."""
        unit = self._disk.image.allocation_unit if self._disk.image is not None else self._disk.physical_block_length
        granularity = max(self._disk.physical_block_length, unit) // self._disk.block_length
        atomic_bytes = self._disk.image.max_atomic_bytes if self._disk.image is not None else 0
        ratio = self._disk.physical_block_length // self._disk.block_length
        atomic_unit = ratio if atomic_bytes and ratio > 1 else 0
        return sbc_pages.BlockLimits.encode(
            maximum_compare_and_write_length=MAX_COMPARE_AND_WRITE_BLOCKS,
            optimal_transfer_length_granularity=granularity,
            maximum_transfer_length=LIMIT_TRANSFER_BYTES // self._disk.block_length,
            optimal_transfer_length=OPTIMAL_TRANSFER_BYTES // self._disk.block_length,
            maximum_unmap_lba_count=NO_LIMIT if self._disk.thin else 0,
            maximum_unmap_block_descriptor_count=MAX_UNMAP_DESCRIPTORS if self._disk.thin else 0,
            optimal_unmap_granularity=granularity if self._disk.thin else 0,
            maximum_atomic_transfer_length=atomic_bytes // self._disk.block_length,
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
            unmap_supported=self._disk.thin,
            write_same_16_unmap_supported=self._disk.thin,
            write_same_10_unmap_supported=self._disk.thin,
            read_zeros=self._disk.thin and self._disk.read_zeros,
            anchor_supported=self._disk.thin,
            provisioning_type=THIN_PROVISIONED if self._disk.thin else 0,
        )[4:]
