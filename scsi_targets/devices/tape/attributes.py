"""READ ATTRIBUTE and WRITE ATTRIBUTE: the cartridge's memory (SPC-5 6.16, 6.48, 7.4).

Host attributes are stored with the cartridge; device and medium attributes are made here from what is known, and are
those of real LTO media.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scsi_targets.devices.tape.part import TapePart
from scsi_targets.devices.unit.dispatch import CONFLICTS, READS, handles
from scsi_targets.devices.unit.parameter_data import parameter_list, reply
from scsi_targets.devices.unit.principal import Permission
from scsi_targets.t10 import mam, sense, ssc
from scsi_targets.t10.fields import TooShort, integers
from scsi_targets.t10.mam import MamAttribute, ascii_text, binary
from scsi_targets.t10.sense import CheckCondition
from vlib_images.cartridge.cartridge import Cartridge
from vlib_images.cartridge.mam import CAPACITY_BYTES, HOST, Attribute, AttributeFormat, MamError, host_definition
from vlib_images.cartridge.usage import MOUNTS_KEPT

if TYPE_CHECKING:
    from scsi_targets.devices.tape.alert import TapeAlerts
    from scsi_targets.devices.tape.transfer import TapeTransfers
    from scsi_targets.devices.unit.task import Response, Task
    from vlib_images.cartridge.usage import PartitionUsage, Usage

MEBIBYTE = 1 << 20  # the unit of capacities in attributes (SPC-5 7.4.2.2)
LIST_HEADER_BYTES = 4
DATA_MEDIUM, WORM_MEDIUM = 0x00, 0x80  # MEDIUM TYPE, 0408h
# LOGICAL POSITION OF FIRST ENCRYPTED BLOCK: there is none; it is not known (SPC-5 7.4.2.2.9).
NO_POSITION, UNKNOWN_POSITION = 0xFFFFFFFFFFFFFFFF, 0xFFFFFFFFFFFFFFFE


class MediumAuxiliaryMemory(TapePart):
    """The memory is readable whenever a data cartridge is in the drive, loaded or not."""

    def __init__(self, drive: TapeTransfers, alerts: TapeAlerts) -> None:
        super().__init__(drive)
        self._alerts = alerts

    # ---- READ ATTRIBUTE ------------------------------------------------------------------------------------------

    @handles(ssc.ReadAttributeValues, reservation=READS)
    def read_attribute_values(self, cdb: ssc.ReadAttributeValues, task: Task) -> Response:
        attributes = self._attributes_from(cdb)
        return _listed(b"".join(attribute.encode() for attribute in attributes), cdb.allocation_length)

    @handles(ssc.ReadAttributeList, reservation=READS)
    def read_attribute_list(self, cdb: ssc.ReadAttributeList, task: Task) -> Response:
        identifiers = (attribute.identifier for attribute in self._attributes_from(cdb))
        return _listed(integers(identifiers, 2), cdb.allocation_length)

    @handles(ssc.ReadSupportedAttributes, reservation=READS)
    def read_supported_attributes(self, cdb: ssc.ReadSupportedAttributes, task: Task) -> Response:
        cartridge = self._memory(cdb)
        known = {a.identifier for a in self._all_attributes(cartridge, cdb.partition_number)} | set(HOST)
        return _listed(integers(sorted(known), 2), cdb.allocation_length)

    @handles(ssc.ReadLogicalVolumeList, reservation=READS)
    def read_logical_volume_list(self, cdb: ssc.ReadLogicalVolumeList, task: Task) -> Response:
        self._memory(cdb)
        return reply(ssc.ListOfNumbers.encode(count=1), cdb.allocation_length)

    @handles(ssc.ReadPartitionList, reservation=READS)
    def read_partition_list(self, cdb: ssc.ReadPartitionList, task: Task) -> Response:
        return reply(ssc.ListOfNumbers.encode(count=self._memory(cdb).partition_count), cdb.allocation_length)

    def _memory(self, cdb: ssc.ReadAttributeCommand | ssc.WriteAttribute) -> Cartridge:
        cartridge = self._drive.cartridge
        if not isinstance(cartridge, Cartridge):
            raise CheckCondition(self._drive.not_ready_code())
        if cdb.logical_volume_number:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).logical_volume_number)
        if cdb.partition_number >= cartridge.partition_count:
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, type(cdb).partition_number)
        return cartridge

    def _attributes_from(self, cdb: ssc.ReadAttributeCommand) -> list[MamAttribute]:
        # The first attribute asked for must be there (SPC-5 6.16.2); the ones behind it follow.
        attributes = self._all_attributes(self._memory(cdb), cdb.partition_number)
        first = cdb.first_attribute_identifier
        if first and all(attribute.identifier != first for attribute in attributes):
            raise CheckCondition(sense.INVALID_FIELD_IN_CDB, ssc.ReadAttributeCommand.first_attribute_identifier)
        return [attribute for attribute in attributes if attribute.identifier >= first]

    # ---- WRITE ATTRIBUTE -----------------------------------------------------------------------------------------

    @handles(ssc.WriteAttribute, permission=Permission.WRITE_PARAMETERS, reservation=CONFLICTS)
    def write_attribute(self, cdb: ssc.WriteAttribute, task: Task) -> None:
        cartridge = self._memory(cdb)
        if not cdb.parameter_list_length:
            return
        field = ssc.WriteAttribute.parameter_list_length
        data = parameter_list(task, cdb.parameter_list_length, field, minimum=LIST_HEADER_BYTES)
        # LTFS counts the header in PARAMETER DATA LENGTH, so the list may end before that length does.
        end = LIST_HEADER_BYTES + int.from_bytes(data[:LIST_HEADER_BYTES], "big")
        try:
            attributes = mam.decode_attributes(data[LIST_HEADER_BYTES:end])
        except TooShort as error:
            raise CheckCondition(sense.PARAMETER_LIST_LENGTH_ERROR, field, field_in_cdb=True) from error
        self._check_attributes(attributes)
        if cartridge.storage.read_only:
            raise CheckCondition(sense.WRITE_PROTECTED)
        changes = [Attribute(a.identifier, AttributeFormat(a.format), False, a.value) for _, a in attributes]
        try:
            cartridge.mam.set(changes, cdb.partition_number)
        except MamError as error:
            raise CheckCondition(sense.AUXILIARY_MEMORY_OUT_OF_SPACE) from error

    @staticmethod
    def _check_attributes(attributes: list[tuple[int, MamAttribute]]) -> None:
        """Raises CheckCondition, which points at the field, before anything is changed (SPC-5 6.48): no attribute that
        an initiator may write, not in ascending order, its format or its length another than SPC-5 7.4.2.4 says."""
        previous = -1
        for offset, attribute in attributes:
            row = host_definition(attribute.identifier)
            at = LIST_HEADER_BYTES + offset
            if row is None or attribute.identifier <= previous:
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at)
            wrong_format = attribute.identifier in HOST and attribute.format != row.format
            if wrong_format or attribute.format not in set(AttributeFormat) or attribute.read_only:
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at + 2)
            if not row.takes_length(len(attribute.value)):
                raise CheckCondition(sense.INVALID_FIELD_IN_PARAMETER_LIST, at + 3)
            previous = attribute.identifier

    # ---- what there is -------------------------------------------------------------------------------------------

    def _all_attributes(self, cartridge: Cartridge, partition: int) -> list[MamAttribute]:
        host = [MamAttribute(a.identifier, a.format, a.value) for a in cartridge.mam.attributes(partition)]
        made = self._device_attributes(cartridge, partition) + _medium_attributes(cartridge)
        return sorted(made + host, key=lambda attribute: attribute.identifier)

    def _device_attributes(self, cartridge: Cartridge, partition: int) -> list[MamAttribute]:
        cartridge.settle_usage()
        usage, mount = cartridge.usage, cartridge.usage.mount
        drives = [f"{m.drive_vendor:8}{m.drive_serial}" for m in usage.mounts] + [""] * MOUNTS_KEPT
        mounts = [ascii_text(0x020A + n, drives[n], 40) for n in range(MOUNTS_KEPT)]
        encrypted = cartridge.encrypted_blocks(partition)
        return [
            binary(0x0000, cartridge.remaining_bytes(partition) // MEBIBYTE, 8),
            binary(0x0001, cartridge.partition_capacity_bytes(partition) // MEBIBYTE, 8),
            binary(0x0002, self._alerts.bits(), 8),
            binary(0x0003, usage.loads, 8),
            binary(0x0004, max(0, CAPACITY_BYTES - cartridge.mam.used_bytes), 8),
            ascii_text(0x0005, "LTO-CVE", 8),
            binary(0x0006, cartridge.medium.density_code, 1),
            binary(0x0007, usage.formats, 2),
            ascii_text(0x0008, cartridge.barcode, 32),
            binary(0x0009, cartridge.volume_change_reference() & 0x7FFFFFFF, 4),
            *mounts,
            # What went to and came from the medium, behind compression (SPC-5 7.4.2.2.7).
            binary(0x0220, usage.stored_bytes_written // MEBIBYTE, 8),
            binary(0x0221, usage.stored_bytes_read // MEBIBYTE, 8),
            binary(0x0222, mount.stored_bytes_written // MEBIBYTE, 8),
            binary(0x0223, mount.stored_bytes_read // MEBIBYTE, 8),
            binary(0x0224, UNKNOWN_POSITION if encrypted is None else _position(encrypted.first), 8),
            binary(0x0225, UNKNOWN_POSITION if encrypted is None else _position(encrypted.clear_behind), 8),
            MamAttribute(0x0340, mam.AttributeFormat.BINARY, _usage_history(usage, usage.partitions, 6), True),
            MamAttribute(0x0341, mam.AttributeFormat.BINARY, _usage_history(usage, [usage.settle(partition)], 4), True),
        ]


def _medium_attributes(cartridge: Cartridge) -> list[MamAttribute]:
    return [
        ascii_text(0x0400, "TAPEBAY", 8),
        ascii_text(0x0401, cartridge.uuid, 32),
        binary(0x0402, cartridge.medium.length_meters, 4),
        binary(0x0403, 127, 4),  # tenths of a millimetre
        ascii_text(0x0404, "LTO-CVE", 8),
        binary(0x0405, cartridge.medium.density_code, 1),
        ascii_text(0x0406, cartridge.created[:10].replace("-", ""), 8),
        binary(0x0407, CAPACITY_BYTES, 8),
        binary(0x0408, WORM_MEDIUM if cartridge.worm else DATA_MEDIUM, 1),
        binary(0x0409, 0, 2),
    ]


def _position(block: int | None) -> int:
    return NO_POSITION if block is None else block


def _usage_history(usage: Usage, partitions: list[PartitionUsage], width: int) -> bytes:
    # SPC-5 7.4.2.2.11 and 12: since the last format; amounts in MiB, each followed by its retries, of which there are
    # none. The counters saturate.
    amounts = [
        sum(getattr(partition, name) for partition in partitions) // MEBIBYTE
        for name in ("mount_written", "mount_read", "previous_written", "previous_read", "written", "read")
    ]
    numbers = [number for amount in amounts for number in (amount, 0)]
    numbers += [usage.loads_since_format, sum(p.entered for p in partitions), sum(p.erased for p in partitions)]
    return integers((min(number, (1 << width * 8) - 1) for number in numbers), width)


def _listed(body: bytes, allocation_length: int) -> Response:
    return reply(ssc.AttributeDataHeader.encode(available_data=len(body)) + body, allocation_length)
