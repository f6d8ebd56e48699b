"""Mode parameter header and block descriptors of a disk (SBC-4 6.5.1, 6.5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.unit.mode import CHANGEABLE
from scsi_targets.devices.unit.mode_header import ModeHeader
from scsi_targets.t10 import sbc_pages, sense
from scsi_targets.t10.sense import CheckCondition

if TYPE_CHECKING:
    from scsi_targets.devices.disk.storage import BlockStorage

Descriptor = type[sbc_pages.ShortBlockDescriptor] | type[sbc_pages.LongBlockDescriptor]


class DiskModeHeader(ModeHeader):
    """The descriptors tell the medium's size; MODE SELECT cannot change it."""

    def __init__(self, disk: BlockStorage) -> None:
        self._disk = disk

    def device_specific_parameter(self) -> int:
        protected = self._disk.write_protected
        return sbc_pages.DeviceSpecificParameter.encode(write_protect=protected, dpo_and_fua=True)[0]

    def block_descriptor(self, page_control: int) -> bytes:
        return self._encode(sbc_pages.ShortBlockDescriptor, page_control)

    def long_block_descriptor(self, page_control: int) -> bytes:
        return self._encode(sbc_pages.LongBlockDescriptor, page_control)

    def _encode(self, kind: Descriptor, page_control: int) -> bytes:
        if page_control == CHANGEABLE:
            return bytes(kind.length)
        image = self._disk.image if self._disk.loaded else None
        blocks = image.size_bytes // self._disk.block_length if image is not None else 0
        limit = (1 << kind.number_of_logical_blocks.width) - 1
        return kind.encode(number_of_logical_blocks=min(blocks, limit), logical_block_length=self._disk.block_length)

    def check_mode_select(self, header: dict[str, int], descriptor: bytes, offset: int) -> None:
        if not descriptor:
            return
        kind: Descriptor = sbc_pages.LongBlockDescriptor if header.get("long_lba") else sbc_pages.ShortBlockDescriptor
        asked, own = kind(descriptor), kind(self._encode(kind, 0))
        # Zero asks for the current number, all ones for the maximum (SBC-4 6.5.2): both are what there is.
        same = (0, own.number_of_logical_blocks, (1 << kind.number_of_logical_blocks.width) - 1)
        if asked.number_of_logical_blocks not in same:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset)
        if asked.logical_block_length != self._disk.block_length:
            raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, offset + kind.logical_block_length.byte)
